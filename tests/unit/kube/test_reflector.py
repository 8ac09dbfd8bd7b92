"""The reflector against a small collection over HTTP that forgets, breaks, lies and stays silent."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.kube.collection import Collection
from tests.unit.kube.model import following, truth
from tests.unit.kube.wire import drops, gives, hangs, says, tears

from omnipam.core.errors import Denied, Invalid, NotFound
from omnipam.runtime.kube.reflector import Away, Back, Changed, Deleted, Listed
from omnipam.runtime.kube.watch import Unreadable


async def test_lists_then_follows() -> None:
    things = Collection()
    for i in range(5):
        await things.put(f"t{i}", size=i)
    async with following(things, page=2) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        assert model.things == truth(things)
        assert [len(event.objects) for event in model.of(Listed)] == [2, 2, 1]
        assert model.syncs[0].version == "105"
        await things.put("t1", size=11)
        await things.put("new", size=1)
        await things.remove("t0")
        await model.until(lambda: model.things == truth(things))
        assert len(model.of(Changed)) == 2
        assert model.of(Deleted) == [Deleted("", "t0", "uid-1")]
    assert len(things.watches) == 1
    assert things.watches[0]["allowWatchBookmarks"] == "true"
    assert 300 <= int(things.watches[0]["timeoutSeconds"]) <= 600


async def test_an_empty_collection_syncs() -> None:
    async with following(Collection()) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        assert model.things == {}


async def test_metadata_only_asks_for_it_in_both_requests() -> None:
    things = Collection()
    async with following(things, metadata_only=True) as (model, _, _, _):
        await model.until(lambda: bool(things.watches))
    assert things.accepts[0].startswith("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,")
    assert things.accepts[1].startswith("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,")


async def test_one_unreadable_object_sinks_no_other() -> None:
    things = Collection()
    for i in range(4):
        await things.put(f"t{i}", size="large" if i == 1 else i)
    async with following(things, page=3) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        assert model.things == truth(things)
        (bad,) = model.of(Unreadable)
        assert (bad.name, bad.uid, bad.version) == ("t1", "uid-2", "102")
        assert "$.size" in bad.why
        await things.put("t1", size=1)  # mended
        await model.until(lambda: model.things == truth(things))
        await things.put("t2", size=None)  # spoilt
        await model.until(lambda: len(model.of(Unreadable)) == 2)
        await things.remove("t2")
        await model.until(lambda: model.things == truth(things))


async def test_a_stream_that_breaks_is_resumed_from_the_last_event_or_bookmark() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        await things.put("a", size=2)
        await model.until(lambda: model.things == truth(things))
        await things.break_off()
        await things.put("b", size=1)
        await model.until(lambda: model.things == truth(things))
        assert len(things.lists) == 1
        assert [watch["resourceVersion"] for watch in things.watches] == ["101", "102"]
        assert model.of(Away) == []  # a broken stream is no news


async def test_it_says_once_that_the_server_is_away_and_once_that_it_is_back() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        things.watch_faults = [drops, drops]
        await things.break_off()
        await model.until(lambda: bool(model.of(Back)))
        assert len(model.of(Away)) == 1
        await things.put("a", size=3)
        await model.until(lambda: model.things == truth(things))


async def test_away_at_start_is_waited_for() -> None:
    things = Collection()
    things.list_faults = [says(503, "ServiceUnavailable"), drops, tears, gives(b"<html>")]
    await things.put("a", size=1)
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(model.of(Back)))
        assert model.things == truth(things)
        assert len(model.of(Away)) == 1
        first, longest = model.slept[0], max(model.slept)
        assert 0.25 <= first <= 0.5
        assert longest <= 4


@pytest.mark.parametrize(("code", "error"), [(403, Denied), (404, NotFound), (400, Invalid)])
async def test_a_refusal_of_the_first_list_is_the_callers(code: int, error: type[Exception]) -> None:
    things = Collection()
    things.list_faults = [says(code, "No", "not you")]
    async with following(things) as (_, _, task, _):
        with pytest.raises(error, match="not you"):
            await asyncio.wait_for(task, 10)


async def test_a_refusal_of_the_first_watch_is_the_callers_too() -> None:
    things = Collection()
    things.watch_faults = [says(403, "Forbidden")]
    async with following(things) as (_, _, task, _):
        with pytest.raises(Denied):
            await asyncio.wait_for(task, 10)


async def test_a_refusal_later_is_said_and_waited_out() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things) as (model, _, task, _):
        await model.until(lambda: bool(things.watches) and bool(model.syncs))
        await things.bookmark()
        await things.put("a", size=2)
        await model.until(lambda: model.things == truth(things))
        things.watch_faults = [says(403, "Forbidden")] * 6
        await things.break_off()
        await model.until(lambda: bool(model.of(Back)))
        assert not task.done()
        assert len(things.lists) == 1  # rights have nothing to do with the version


async def test_a_version_the_server_keeps_refusing_is_given_up_for_a_list() -> None:
    """After a restore of etcd the server's versions may be behind ours; it answers 504 or 400 for ever."""
    things = Collection()
    await things.put("gone", size=1)
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(things.watches) and bool(model.syncs))
        await things.bookmark()
        await things.put("gone", size=2)
        await model.until(lambda: model.things == truth(things))
        things.watch_faults = [says(504, "Timeout", "Too large resource version")] * 4
        await things.break_off()
        things.objects.clear()
        await model.until(lambda: len(model.syncs) == 2)
        assert model.things == {}


async def test_retry_after_is_obeyed() -> None:
    things = Collection()
    things.list_faults = [says(429, "TooManyRequests", headers={"Retry-After": "17"})]
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        assert 17 < model.slept[0] < 18
        assert model.of(Away) == []


async def test_backoff_grows_is_jittered_and_ends() -> None:
    things = Collection()
    things.list_faults = [says(500)] * 12
    async with following(things, rng=random.Random(1)) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        bounds = [min(30, 0.5 * 2**i) for i in range(12)]
        assert len(model.slept) == 12
        assert all(bound / 2 <= slept <= bound for slept, bound in zip(model.slept, bounds, strict=True))
        assert len({slept / bound for slept, bound in zip(model.slept, bounds, strict=True)}) == 12


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered() -> None:
    things = Collection()
    things.watch_faults = [gives(b"")] * 6
    async with following(things) as (model, _, _, _):
        await model.until(lambda: len(model.slept) >= 6)
        assert model.slept[4] > model.slept[0]


async def test_restart_lists_afresh_from_anywhere() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things) as (model, reflector, _, _):
        await model.until(lambda: bool(things.watches) and bool(model.syncs))
        loop = asyncio.get_running_loop()
        things.silent = True  # even if the watch says nothing
        await things.remove("a")
        await things.put("b", size=1)
        asked = loop.time()
        reflector.restart()
        await model.until(lambda: len(model.syncs) == 2)
        assert model.syncs[1].begun_s >= asked
        assert model.things == truth(things)
        # in the middle of a list that hangs
        things.list_faults = [hangs]
        reflector.restart()
        await model.until(lambda: len(things.lists) == 3)
        reflector.restart()
        await model.until(lambda: len(model.syncs) == 3)


async def test_what_the_sink_raises_ends_the_run() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things) as (model, reflector, task, _):
        await model.until(lambda: bool(model.syncs))
        model.sink = None  # type: ignore[assignment]

        def broken(event: object) -> None:
            raise ZeroDivisionError

        reflector._sink = broken
        await things.put("a", size=2)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(task, 10)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdef"), st.one_of(st.integers(0, 99), st.just("bad"))),
        st.tuples(st.just("remove"), st.sampled_from("abcdef")),
        st.tuples(st.just("bookmark")),
        st.tuples(st.just("break")),
        st.tuples(st.just("forget")),
        st.tuples(st.just("restart")),
        st.tuples(
            st.just("fault"),
            st.sampled_from(["list", "watch"]),
            st.sampled_from([drops, tears, says(500), says(429)]),
        ),
        st.tuples(st.just("410")),
        st.tuples(st.just("catch up")),
        st.tuples(st.just("catch up")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_whatever_happens_the_sink_ends_with_the_truth(steps: list[tuple]) -> None:
    async def run() -> None:
        things = Collection()
        await things.put("a", size=1)
        await things.put("c", size=1)
        async with following(things, page=2) as (model, reflector, task, _):
            for step in steps:
                match step:
                    case ("put", name, size):
                        await things.put(name, size=size)
                    case ("remove", name):
                        if name in things.objects:
                            await things.remove(name)
                    case ("bookmark",):
                        await things.bookmark()
                    case ("break",):
                        await things.break_off()
                    case ("forget",):
                        things.forget()
                    case ("restart",):
                        reflector.restart()
                    case ("fault", "list", fault):
                        things.list_faults.append(fault)
                    case ("fault", _, fault):
                        things.watch_faults.append(fault)
                    case ("410",):
                        things.forget()
                        await things.break_off()
                    case _:
                        await model.until(lambda: bool(model.syncs) and model.things == truth(things))
            things.list_faults.clear()
            things.watch_faults.clear()
            await things.put("end", size=len(steps))
            await model.until(lambda: bool(model.syncs) and model.things == truth(things))
            assert not task.done()

    asyncio.run(run())
