"""The eight rules that a Kubernetes client for an operator must keep, one test or more each, named by the rule."""

from __future__ import annotations

import asyncio
import json
import random
import typing
from itertools import pairwise

import msgspec
import pytest
from tests.unit.kube.collection import Collection
from tests.unit.kube.model import following, truth
from tests.unit.kube.wire import drops, gives, hangs, says, serving, tears

from omnipam.core.errors import OutcomeUnknown
from omnipam.runtime.election import Election, Elector, Held, LostLease, Record, Timing
from omnipam.runtime.kube import rest
from omnipam.runtime.kube.lease import KubeLease
from omnipam.runtime.kube.reflector import Away, Deleted, Reflector
from omnipam.runtime.kube.rest import Api

THING = "/apis/x.io/v1/things/a"


def test_rule_1_there_is_no_put() -> None:
    assert set(typing.get_args(rest.Method)) == {"GET", "POST", "PATCH", "DELETE"}


async def test_rule_1_writes_carry_their_fields_and_the_version_only() -> None:
    answer = b'{"metadata":{"resourceVersion":"8","labels":{"theirs":"1"}},"spec":{"holderIdentity":"me"}}'
    async with serving(gives(answer)) as wire, wire.api() as api:
        held = await KubeLease(api, "ns", "l", timeout_s=5).update(Record("me", 15, "a", "r", 2), "7")
    assert held.version == "8"
    (patch,) = wire.seen
    assert (patch.method, patch.headers["Content-Type"]) == ("PATCH", "application/merge-patch+json")
    assert json.loads(patch.body) == {
        "metadata": {"resourceVersion": "7"},
        "spec": {
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "acquireTime": "a",
            "renewTime": "r",
            "leaseTransitions": 2,
        },
    }


async def test_rule_2_resume_from_the_list_then_the_last_event_or_bookmark() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(things.watches) and bool(model.syncs))
        await things.put("a", size=2)
        await model.until(lambda: model.things == truth(things))
        await things.break_off()
        await model.until(lambda: len(things.watches) == 2)
        things.version += 50  # elsewhere in the cluster
        await things.bookmark()
        await things.put("b", size=0)
        await model.until(lambda: model.things == truth(things))
        await things.remove("b")
        things.version += 50
        await things.bookmark()
        await things.put("c", size=0)
        await model.until(lambda: model.things == truth(things))
        await things.break_off()
        await model.until(lambda: len(things.watches) == 3)
    assert [watch["resourceVersion"] for watch in things.watches] == ["101", "102", "205"]


async def test_rule_2_a_bookmark_alone_moves_the_version() -> None:
    things = Collection()
    async with following(things, idle_s=0.3) as (model, _, _, _):
        await model.until(lambda: bool(things.watches) and bool(model.syncs))
        things.version += 50
        await things.bookmark()  # and then silence, until the stream is given up
        await model.until(lambda: len(things.watches) == 2)
    assert things.watches[1]["resourceVersion"] == "150"


@pytest.mark.parametrize("how", ["at the start of a watch", "inside the stream"])
async def test_rule_2_410_means_relist_and_deletions_are_reported(how: str) -> None:
    things = Collection()
    for name in ("gone", "stays", "reborn"):
        await things.put(name, size=1)
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(things.watches) and bool(model.syncs))
        things.silent = True
        await things.remove("gone")
        await things.remove("reborn")
        await things.put("reborn", size=2)
        things.forget()
        things.silent = False
        if how == "inside the stream":
            things.history.clear()
            await things.say("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
        else:
            await things.break_off()
        await model.until(lambda: len(model.syncs) == 2)
        assert model.things == truth(things)
        assert sorted(event.uid for event in model.of(Deleted)) == ["uid-1", "uid-3"]
        assert model.of(Away) == []
        assert all(slept > 0 for slept in model.slept)


async def test_rule_3_lists_are_paged_at_500() -> None:
    things = Collection()
    for i in range(501):
        things.objects[f"t{i:03}"] = {"metadata": {"name": f"t{i:03}", "uid": f"{i}"}, "size": i}
    async with following(things) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        assert len(model.things) == 501
    assert [page["limit"] for page in things.lists] == ["500", "500"]


async def test_rule_3_a_continue_token_that_expires_starts_over_and_skips_nothing() -> None:
    things = Collection()
    for i in range(7):
        await things.put(f"t{i}", size=i)
    things.list_faults = [None, None, says(410, "Expired", "continue parameter is too old")]  # type: ignore[list-item]
    async with following(things, page=3) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        assert model.things == truth(things)
        assert model.of(Away) == []
    assert ["continue" in page for page in things.lists] == [False, True, True, False, True, True]


async def test_rule_4_a_silent_stream_is_dead() -> None:
    things = Collection()
    await things.put("a", size=1)
    async with following(things, idle_s=0.2) as (model, _, _, _):
        await model.until(lambda: bool(model.syncs))
        things.silent = True
        await model.until(lambda: len(things.watches) == 2)
        things.silent = False
        await things.put("a", size=2)
        await model.until(lambda: model.things == truth(things))
    assert len(things.lists) == 1


async def test_rule_4_the_server_is_asked_to_end_streams_after_random_times() -> None:
    asked = set()
    for seed in range(8):
        things = Collection()
        async with following(things, rng=random.Random(seed)) as (model, _, _, _):
            await model.until(lambda things=things: bool(things.watches))  # type: ignore[misc]
        asked.add(int(things.watches[0]["timeoutSeconds"]))
    assert len(asked) > 1
    assert all(300 <= seconds <= 600 for seconds in asked)


@pytest.mark.parametrize("fault", [drops, tears, hangs, says(500), says(504)])
async def test_rule_5_a_lost_reply_is_an_unknown_outcome_and_nothing_is_sent_again(fault) -> None:
    async with serving(fault) as wire, wire.api(timeout_s=0.3) as api:
        with pytest.raises(OutcomeUnknown):
            await api.merge_patch(THING, b"{}")
        with pytest.raises(OutcomeUnknown):
            await api.delete(THING, uid="u")
        assert [seen.method for seen in wire.seen] == ["PATCH", "DELETE"]


class Never:
    """A lock that never answers again after the first time."""

    async def get(self) -> Held | None:
        return None

    async def create(self, record: Record) -> Held:
        return Held(record, "1")

    async def update(self, record: Record, version: str) -> Held:
        await asyncio.Event().wait()
        raise AssertionError


async def test_rule_6_no_request_starts_after_the_deadline_and_losing_it_cancels_all_at_once() -> None:
    loop = asyncio.get_running_loop()
    elector = Elector(
        Election("me", Timing(0.6, 0.4, 0.1)), Never(), clock=loop.time, wall=lambda: 0.0, jitter=lambda: 0.0
    )
    cancelled = []

    async def work(api: Api) -> None:
        while True:
            await api.merge_patch(THING, b"{}")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    starts: list[float] = []

    async def answer(request):
        starts.append(loop.time())
        return await gives(b"{}")(request)

    async with serving(answer) as wire, wire.api(gate=elector.gate) as api:
        with pytest.raises(LostLease):
            await api.merge_patch(THING, b"{}")  # before we lead
        assert starts == []
        await elector.acquire()
        until = elector.election.held_until_s

        async def lead() -> None:
            async with asyncio.TaskGroup() as leading:
                leading.create_task(elector.renew())
                leading.create_task(work(api))
                leading.create_task(wait())

        with pytest.raises(ExceptionGroup) as caught:
            await lead()
        assert caught.group_contains(LostLease)
        assert cancelled == [True]
        assert len(starts) > 3
        assert max(starts) < until + 0.05  # when it arrived; it was started before


async def test_rule_6_asked_for_each_request_not_once() -> None:
    asked = []
    async with serving(gives(b"{}")) as wire, wire.api(gate=lambda: asked.append(1)) as api:
        for _ in range(3):
            await api.merge_patch(THING, b"{}")
        await api.get(THING)
    assert len(asked) == 2 * 3  # before it connects, and before its first byte


async def test_rule_7_a_user_agent_and_a_bucket_for_reads_and_one_for_mutations() -> None:
    """An empty bucket of one class holds up nothing of the other."""
    async with serving(gives(b"{}")) as wire, wire.api(qps=0.01, burst=1) as api:
        await api.get(THING)
        waiting = asyncio.create_task(api.get(THING))
        await api.merge_patch(THING, b"{}")
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert [seen.method for seen in wire.seen] == ["GET", "PATCH"]
        assert {seen.headers["User-Agent"] for seen in wire.seen} == {"omnipam/test (unit)"}


async def test_rule_8_others_get_their_turn_between_two_pages() -> None:
    """Even if every page is there at once, as from a server faster than we are."""

    class Item(msgspec.Struct):
        metadata: msgspec.Raw = msgspec.Raw(b"{}")

    class Instant:
        """An API whose answers take no turn of the loop."""

        left = 20

        async def get(self, path: str, query: str, accept: str | None = None) -> bytes:
            self.left -= 1
            more = {"continue": "x"} if self.left else {}
            return json.dumps({"metadata": {"resourceVersion": "1", **more}, "items": []}).encode()

    pages = 0
    turns = []

    def sink(event: object) -> None:
        nonlocal pages
        pages += 1

    reflector = Reflector(typing.cast(Api, Instant()), "/x", Item, sink)  # type: ignore[type-var]
    listing = asyncio.create_task(reflector._list())
    while not listing.done():
        turns.append(pages)
        await asyncio.sleep(0)
    steps = [b - a for a, b in pairwise(turns)]
    assert max(steps) <= 2  # a page; with the last one comes Synced
