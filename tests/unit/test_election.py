"""Leader election: the machine on skewed clocks with lost answers and pauses, and the shell on a clock moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omnipam.core.errors import Conflict, Denied, Invalid, NotFound, OmnipamError, OutcomeUnknown, Unavailable
from omnipam.runtime.election import (
    Election,
    Elector,
    Held,
    LostLease,
    Read,
    Record,
    Timing,
    Wait,
    Write,
    micro_time,
)

TIMING = Timing(15, 10, 2)
T = TypeVar("T")


def record(holder: str, renewed: str = "r", *, duration_s: int = 15, transitions: int = 0) -> Record:
    return Record(holder, duration_s, "a", renewed, transitions)


def test_no_lease_is_created() -> None:
    mine = Election("me", TIMING)
    assert mine.step(0, "t") == Read()
    mine.seen(None, 0)
    assert mine.step(0, "t") == Write(Record("me", 15, "t", "t", 0), None)


def test_a_released_lease_is_taken_at_once_and_counts_a_transition() -> None:
    mine = Election("me", TIMING)
    mine.seen(Held(record("", duration_s=1, transitions=4), "v"), 0)
    assert mine.step(0, "t") == Write(Record("me", 15, "t", "t", 5), "v")


@pytest.mark.parametrize(("theirs", "waits"), [(15, 15), (60, 60), (1, 15), (0, 15)])
def test_a_held_lease_is_taken_after_the_longer_duration_since_it_last_changed(
    theirs: int, waits: int
) -> None:
    mine = Election("me", TIMING)
    mine.seen(Held(record("other", "r1", duration_s=theirs), "1"), 100)
    mine.seen(Held(record("other", "r2", duration_s=theirs), "2"), 110)
    mine.seen(Held(record("other", "r2", duration_s=theirs), "3"), 119)  # its labels changed, not its record
    assert mine.step(110 + waits - 0.01, "t") == Wait()
    assert mine.step(110 + waits, "t") == Write(Record("me", 15, "t", "t", 1), "3")


def test_a_lease_that_somebody_deletes_is_free_when_it_would_have_run_out() -> None:
    mine = Election("me", TIMING)
    mine.seen(Held(record("other", "r1"), "1"), 100)
    mine.seen(None, 101)
    assert mine.step(101, "t") == Wait()
    mine.seen(None, 114)
    assert mine.step(114.99, "t") == Wait()
    assert mine.step(115, "t") == Write(Record("me", 15, "t", "t", 0), None)


def test_a_lease_that_was_given_back_and_then_deleted_is_free() -> None:
    mine = Election("me", TIMING)
    mine.seen(Held(record(""), "1"), 100)
    mine.seen(None, 101)
    assert mine.step(101, "t") == Write(Record("me", 15, "t", "t", 0), None)


@pytest.mark.parametrize("before", [2**31 - 2, 2**31 - 1, 2**40])
def test_transitions_end_where_the_field_does(before: int) -> None:
    """An int32 in the API: one more is refused (422) at every try, and nobody could ever lead again."""
    mine = Election("me", TIMING)
    mine.seen(Held(record("", transitions=before), "v"), 0)
    step = mine.step(0, "t")
    assert isinstance(step, Write)
    assert step.record.transitions == 2**31 - 1


def test_a_renewal_keeps_what_is_not_the_time() -> None:
    mine = Election("me", TIMING)
    mine.seen(None, 0)
    mine.written(Held(Record("me", 15, "t0", "t0", 3), "1"), 0, 0.1)
    assert mine.step(2, "t2") == Write(Record("me", 15, "t0", "t2", 3), "1")


def test_leading_lasts_from_the_start_of_the_request_not_from_its_answer() -> None:
    mine = Election("me", TIMING)
    assert not mine.may_start(0)
    mine.seen(None, 0)
    mine.written(Held(record("me"), "1"), 100, 104)
    assert mine.held_until_s == 110
    assert mine.may_start(109.99)
    assert not mine.may_start(110)
    with pytest.raises(LostLease, match="not renewed within 10 s"):
        mine.step(110, "t")
    mine.written(Held(record("me"), "2"), 109, 111)  # too late: lost is lost
    assert not mine.may_start(111)


def test_after_a_lost_answer_it_reads_and_then_writes_over_what_it_finds() -> None:
    mine = Election("me", TIMING)
    mine.seen(None, 0)
    mine.unsure()
    assert mine.step(1, "t") == Read()
    mine.seen(Held(record("me", "r1"), "7"), 1)  # it had happened
    assert not mine.may_start(1)
    assert mine.step(1, "t") == Write(Record("me", 15, "a", "t", 0), "7")


def test_another_holder_ends_it_at_once() -> None:
    mine = Election("me", TIMING)
    mine.seen(None, 0)
    mine.written(Held(record("me"), "1"), 0, 0)
    mine.unsure()
    mine.seen(Held(record("thief"), "2"), 1)
    with pytest.raises(LostLease, match="thief holds it now"):
        mine.step(1, "t")
    assert not mine.may_start(1)


def test_a_deleted_lease_is_created_again() -> None:
    mine = Election("me", TIMING)
    mine.seen(None, 0)
    mine.written(Held(record("me"), "1"), 0, 0)
    mine.unsure()
    mine.seen(None, 1)
    assert isinstance(mine.step(1, "t"), Write)


def test_release_keeps_transitions_and_nothing_starts_after_it() -> None:
    mine = Election("me", TIMING)
    mine.written(Held(record("me", transitions=3), "9"), 0, 0)
    mine.resign()
    assert not mine.may_start(0)
    assert mine.released(Held(record("me", transitions=3), "9"), "t") == Write(
        Record("", 1, "t", "t", 3), "9"
    )
    assert mine.released(Held(record("other"), "9"), "t") is None
    assert mine.released(None, "t") is None


@pytest.mark.parametrize(
    ("timing", "key"),
    [
        ((10, 10, 2), "leader-election-lease-duration 10s"),
        ((15, 2.4, 2), "leader-election-renew-deadline 2.4s"),
        ((15, 10, 0), "leader-election-retry-period 0s"),
    ],
)
def test_impossible_timings_are_refused(timing: tuple[float, float, float], key: str) -> None:
    with pytest.raises(Invalid, match=key):
        Timing(*timing)


def test_an_empty_identity_is_refused() -> None:
    with pytest.raises(Invalid):
        Election("", TIMING)


def test_micro_time_is_gos() -> None:
    assert micro_time(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"
    assert micro_time(1_700_000_000) == "2023-11-14T22:13:20.000000Z"


# N candidates, each with a clock of its own, one store. Time here is the world's; a candidate sees offset + rate × time.


class Store:
    """A lease with versions, and no mercy: a write over an old version is a conflict."""

    def __init__(self) -> None:
        self.held: Held | None = None
        self._versions = itertools.count(1)

    def put(self, new: Record, version: str | None) -> Held:
        if version != (self.held.version if self.held else None):
            raise Conflict("stale")
        self.held = Held(new, str(next(self._versions)))
        return self.held


@dataclass
class Candidate:
    """Drives one Election: a step, its effect some time later, its answer later still, or never."""

    name: str
    rate: float
    offset: float
    lives: int = 0
    out: bool = False

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As the process that a kubelet starts anew: by another identity, knowing nothing."""
        self.lives += 1
        self.election = Election(f"{self.name}-{self.lives}", TIMING)

    def now(self, world: float) -> float:
        return self.offset + self.rate * world


FATES = st.tuples(
    st.sampled_from(["fine", "fine", "fine", "fine", "answer lost", "request lost", "slow", "very slow"]),
    st.floats(0, 1),
)
QUIET_S = 150.0
"""When nothing more goes wrong, one leads after: a request and a pause under way (30 + 40), and a lease's end, with room."""
FINE = ("fine", 0.01)


@settings(max_examples=300, deadline=None)
@example(  # each one's first write is confirmed too late to lead on: they end, and start anew
    rates=[1.0, 1.125],
    offsets=[0.0] * 4,
    fates=[FINE, ("slow", 1.0), ("slow", 0.5), FINE, FINE, FINE, ("slow", 1.0)],
    pauses=[0.0, 8.0],
    releases=set(),
)
@given(
    rates=st.lists(st.floats(0.9, 1.2), min_size=2, max_size=4),
    offsets=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
    fates=st.lists(FATES, max_size=150),
    pauses=st.lists(st.floats(0, 30), max_size=10),
    releases=st.sets(st.integers(0, 80), max_size=3),
)
def test_never_two_may_start_at_once(
    rates: list[float],
    offsets: list[float],
    fates: list[tuple[str, float]],
    pauses: list[float],
    releases: set[int],
) -> None:
    """Clocks differ by anything and run apart by up to lease/renew = 1.5 (here at most 1.2/0.9).

    And when nothing more goes wrong, one of those that stayed leads.
    """
    store = Store()
    queue: list[tuple[float, int, Callable[[float], None]]] = []
    count = itertools.count()
    stamp = (str(i) for i in itertools.count())
    fate_of, pause_of = iter(fates), iter(pauses)
    turns = itertools.count()
    troubled = 0.0  # when the last of `fates` or `pauses` began

    def drawn(source: Iterator[T], world: float, default: T) -> T:
        nonlocal troubled
        found = next(source, None)
        if found is None:
            return default
        troubled = world
        return found

    def at(when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(queue, (when, next(count), what))

    def again(one: Candidate, world: float) -> None:
        at(world + 2 / one.rate + drawn(pause_of, world, 0.0), lambda t: turn(one, t))

    def turn(one: Candidate, world: float) -> None:
        if one.out:
            return
        if next(turns) in releases and one.election.may_start(one.now(world)):
            one.election.resign()
            if write := one.election.released(store.held, next(stamp)):
                store.put(write.record, write.version)
            one.out = True
            return
        try:
            step = one.election.step(one.now(world), next(stamp))
        except LostLease:
            one.begin()
            again(one, world)
            return
        if isinstance(step, Wait):
            one.election.waited()
            again(one, world)
            return
        fate, share = drawn(fate_of, world, FINE)
        there = {"slow": 4.0, "very slow": 40.0}.get(fate, 0.2) * share
        back = 20 * share if fate == "slow" else 0.2 * share
        started = one.now(world)

        def effect(t: float) -> None:
            answer: Held | OmnipamError | None
            if fate == "request lost":
                answer = Unavailable("lost")
            elif isinstance(step, Read):
                answer = store.held
            else:
                try:
                    answer = store.put(step.record, step.version)
                except Conflict as exc:
                    answer = exc
            if fate == "answer lost":
                answer = OutcomeUnknown("lost")
            at(t + back, lambda t: answered(answer, t))

        def answered(answer: Held | OmnipamError | None, t: float) -> None:
            if isinstance(answer, OmnipamError):
                one.election.unsure()
                again(one, t)
            elif isinstance(step, Read):
                one.election.seen(answer, one.now(t))
                at(t, lambda t: turn(one, t))
            else:
                assert answer is not None
                one.election.written(answer, started, one.now(t))
                again(one, t)

        if isinstance(step, Write):
            one.election.unsure()
        at(world + there, effect)

    everyone = [
        Candidate(f"c{i}", rate, offset) for i, (rate, offset) in enumerate(zip(rates, offsets, strict=False))
    ]
    for one in everyone:
        at(0, lambda t, one=one: turn(one, t))  # type: ignore[misc]
    led_at = -1.0
    while queue and queue[0][0] <= troubled + QUIET_S:
        world, _, what = heapq.heappop(queue)
        # Whoever may start just before the event, and just after it:
        for check in (world, None):
            leaders = [one.name for one in everyone if one.election.may_start(one.now(world))]
            assert len(leaders) <= 1, f"{leaders} at {world}"
            led_at = world if leaders else led_at
            if check is not None:
                what(world)
    assert led_at > troubled or all(one.out for one in everyone), "nobody leads in the end"


# The shell


@dataclass
class Lock:
    """A LeaseLock in memory that fails as told: `faults` are raised by the next calls, before or after the effect."""

    store: Store = field(default_factory=Store)
    faults: list[tuple[str, Exception]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    hang: bool = False

    async def _fault(self, when: str) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.faults and self.faults[0][0] == when:
            raise self.faults.pop(0)[1]

    async def get(self) -> Held | None:
        self.calls.append("get")
        await self._fault("before")
        return self.store.held

    async def create(self, record: Record) -> Held:
        self.calls.append("create")
        await self._fault("before")
        held = self.store.put(record, None)
        await self._fault("after")
        return held

    async def update(self, record: Record, version: str) -> Held:
        self.calls.append("update")
        await self._fault("before")
        held = self.store.put(record, version)
        await self._fault("after")
        return held


class Clock:
    """Moved by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps = 0
        self.last = 1 << 30
        """The sleep that does not end, and sets `stopped`."""
        self.stopped = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if self.sleeps == self.last:
            self.stopped.set()
            await asyncio.Event().wait()
        self.now += seconds
        self.sleeps += 1
        await asyncio.sleep(0)


def shell(lock: Lock, clock: Clock, name: str = "me", told: list[OmnipamError] | None = None) -> Elector:
    return Elector(
        Election(name, TIMING),
        lock,
        clock=clock,
        wall=lambda: 1_700_000_000 + clock.now,
        jitter=random.Random(1).random,
        sleep=clock.sleep,
        trouble=(told if told is not None else []).append,
    )


async def test_acquire_takes_two_requests_where_there_is_no_lease_and_renewals_one_each() -> None:
    lock, clock = Lock(), Clock()
    one = shell(lock, clock)
    await one.acquire()
    assert lock.calls == ["get", "create"]
    one.gate()
    clock.last = 5
    task = asyncio.create_task(one.renew())
    await clock.stopped.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert lock.calls[2:] == ["update"] * 5
    assert clock.now == 10
    one.gate()


async def test_a_dead_holder_is_replaced_soon_after_its_lease_ended() -> None:
    lock, clock = Lock(), Clock()
    lock.store.put(record("dead", duration_s=20, transitions=2), None)
    await shell(lock, clock).acquire()
    assert 20 <= clock.now < 20.3
    assert lock.store.held is not None
    assert lock.store.held.record.transitions == 3


async def test_faults_before_and_after_the_effect_are_told_once_and_survived() -> None:
    lock, clock, told = Lock(), Clock(), []
    lock.faults = [
        ("before", Unavailable("away")),
        ("before", Unavailable("away")),
        ("after", OutcomeUnknown("lost")),
    ]
    await shell(lock, clock, told=told).acquire()
    assert [str(error) for error in told] == ["away"]
    assert lock.store.held is not None
    assert lock.store.held.record.holder == "me"


@pytest.mark.parametrize("error", [Denied("no"), Invalid("bad"), NotFound("namespace kube-sys")])
async def test_what_a_person_must_mend_is_raised_at_acquire(error: OmnipamError) -> None:
    lock, clock = Lock(faults=[("before", error)]), Clock()
    if isinstance(error, NotFound):  # of a get it would mean: no lease
        lock.faults = [("after", error)]
    with pytest.raises(type(error)):
        await shell(lock, clock).acquire()


async def test_renewal_gives_up_at_the_deadline_and_says_why() -> None:
    lock, clock = Lock(), Clock()
    one = shell(lock, clock)
    await one.acquire()
    lock.faults = [("before", Denied("no more"))] * 50
    with pytest.raises(LostLease) as caught:
        await one.renew()
    assert clock.now == 10
    assert isinstance(caught.value.__cause__, Denied)
    with pytest.raises(LostLease):
        one.gate()


async def test_a_renewal_that_hangs_is_given_up_at_the_deadline() -> None:
    """On the loop's own clock, short: the request is cancelled when the deadline passes."""
    loop = asyncio.get_running_loop()
    lock = Lock()
    one = Elector(
        Election("me", Timing(0.5, 0.3, 0.05)), lock, clock=loop.time, wall=lambda: 0.0, jitter=lambda: 0.0
    )
    await one.acquire()
    began = loop.time()
    lock.hang = True
    with pytest.raises(LostLease):
        await one.renew()
    assert loop.time() - began < 2


async def test_release_after_a_renewal_cut_in_the_middle() -> None:
    """The renewal's write landed, its answer did not: the release reads first."""
    lock, clock = Lock(), Clock()
    one = shell(lock, clock)
    await one.acquire()
    lock.faults = [("after", OutcomeUnknown("lost"))]
    await one._try()
    await one.release()
    assert lock.store.held is not None
    assert lock.store.held.record == Record("", 1, micro_time(1_700_000_000), micro_time(1_700_000_000), 0)
    with pytest.raises(LostLease):
        one.gate()


async def test_release_never_touches_anothers_lease_and_asks_nothing_if_never_tried() -> None:
    lock, clock = Lock(), Clock()
    lock.store.put(record("other"), None)
    one = shell(lock, clock)
    await one.release()
    assert lock.calls == []
    assert lock.store.held == Held(record("other"), "1")


async def test_release_tells_errors_and_does_not_raise() -> None:
    lock, clock, told = Lock(), Clock(), []
    one = shell(lock, clock, told=told)
    await one.acquire()
    lock.faults = [("before", Unavailable("away"))]
    await one.release()
    assert [str(error) for error in told] == ["away"]


async def test_who_does_not_lead_may_not_start() -> None:
    with pytest.raises(LostLease, match="does not lead"):
        shell(Lock(), Clock()).gate()
