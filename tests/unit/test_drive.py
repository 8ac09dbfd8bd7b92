"""The turn: one write of a node at a time, what is seen meanwhile, lost answers, reads, back-off, lists anew."""

from __future__ import annotations

import msgspec
import pytest

from omnipam.core.allocator import Conflict, Denied, Gone, Settings, Unknown, Version
from omnipam.core.blocking import VirtualClock, run, settle
from omnipam.core.cidr import Cidr, parse
from omnipam.core.drive import BACKOFF_MOST_S, CATCH_UP_S, Drive, Publish
from omnipam.core.values import Agent, Held, Node, PoolRange, PoolSpec
from omnipam.fixtures.memory_store import Fault, MemoryStore
from omnipam.providers.cluster_pool import ClusterPool

POOL = PoolSpec(ranges=(PoolRange(parse("10.0.0.0/16"), 24),), max_blocks=2)
NOW = 1000.0


class Watched(ClusterPool):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.told: list[str] = []

    def seen(self, node: Node, now: float) -> None:
        self.told.append(node.version if node.present else "absent")
        super().seen(node, now)

    def gone(self, name: str, now: float) -> None:
        self.told.append("gone")
        super().gone(name, now)


@pytest.fixture
def allocator() -> Watched:
    watched = Watched()
    watched.restore((), [POOL], (), NOW)
    return watched


@pytest.fixture
def drive(allocator: Watched) -> Drive:
    return Drive(allocator)


def node(version: str, **changes: object) -> Node:
    return msgspec.structs.replace(Node("a", "uid-1", 1.0, version), **changes)


def sent(drive: Drive, state: Node) -> Publish:
    """The node is seen, and its first write is under way."""
    drive.seen(state, NOW)
    drive.plan(NOW)
    publish = drive.next_publish()
    assert publish is not None
    assert publish.node == state
    return publish


def written(publish: Publish, version: str, **changes: object) -> Node:
    """The object as the write left it."""
    return node(version, holds=Held(publish.grant.blocks, publish.grant.error), **changes)


def blocks(drive: Drive) -> list[Cidr]:
    return [block.cidr for block in drive.allocator.grant("a").blocks]


def test_only_one_write_of_a_node_runs(drive: Drive) -> None:
    publish = sent(drive, node("1"))
    drive.seen(node("2", agent=Agent(depleted=(parse("10.9.0.0/24"),))), NOW)
    drive.plan(NOW)
    assert drive.next_publish() is None
    assert drive.busy
    drive.published(publish, Conflict(), NOW)
    again = drive.next_publish()
    assert again is not None
    assert again.node.version == "2"
    assert again.grant == publish.grant


def test_what_is_seen_during_a_write_waits_for_its_outcome(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.seen(written(publish, "2"), NOW)
    drive.seen(written(publish, "3", instance="i-1"), NOW)
    assert allocator.told == ["1"]
    drive.published(publish, Version("2"), NOW)
    assert allocator.told == ["1", "3"]
    drive.plan(NOW)
    assert drive.next_publish() is None
    assert not drive.busy


def test_older_states_after_a_write_are_dropped_until_the_written_one(
    drive: Drive, allocator: Watched
) -> None:
    publish = sent(drive, node("5"))
    drive.published(publish, Version("7"), NOW)
    drive.seen(node("4"), NOW)
    drive.seen(node("6"), NOW)
    assert allocator.told == ["5"]
    drive.seen(written(publish, "7"), NOW)
    drive.seen(written(publish, "8", instance="i"), NOW)
    assert allocator.told == ["5", "7", "8"]


def test_our_own_write_need_not_be_read_unless_something_was_dropped(drive: Drive) -> None:
    publish = sent(drive, node("1"))
    assert not drive.expects("a", "2"), "its outcome is not known yet"
    drive.published(publish, Version("2"), NOW)
    assert not drive.expects("a", "3")
    assert drive.expects("a", "2")
    assert not drive.expects("a", "2"), "only once"
    # A machine's change that came with the object's older state is in the dropped state only.
    second = Drive(drive.allocator)
    second._expected["a"] = "9"
    second.seen(node("8"), NOW)
    assert not second.expects("a", "9")


def test_a_version_that_is_never_shown_is_read(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Version("2"), NOW)
    drive.seen(written(publish, "4", instance="i"), NOW)  # a store that polls has skipped 2 and 3
    assert drive.wake(NOW) == NOW + CATCH_UP_S
    drive.plan(NOW + CATCH_UP_S)
    assert drive.next_read() == "a"
    drive.read("a", written(publish, "4", instance="i"), NOW + CATCH_UP_S)
    assert allocator.told == ["1", "4"]
    drive.seen(written(publish, "5"), NOW + 2)
    assert allocator.told == ["1", "4", "5"], "it follows the watch again"


def test_a_write_that_changed_nothing_waits_for_nothing(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Version("1"), NOW)
    drive.seen(written(publish, "2"), NOW)
    assert allocator.told == ["1", "2"]


def test_a_conflict_reads_at_once_and_then_ever_more_slowly(drive: Drive) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Conflict(), NOW)
    assert drive.next_read() == "a"
    drive.read("a", node("2"), NOW)
    again = drive.next_publish()
    assert again is not None
    assert again.node.version == "2"
    drive.published(again, Conflict(), NOW)
    assert drive.next_read() is None
    assert drive.wake(NOW) == NOW + 1.0


def test_a_refused_write_is_not_repeated_on_what_it_was_based_on(drive: Drive) -> None:
    publish = sent(drive, node("1"))
    drive.seen(node("1", instance="its machine changed"), NOW)
    drive.published(publish, Conflict(), NOW)
    assert drive.next_publish() is None
    assert drive.next_read() == "a"


def test_states_read_ahead_of_the_watch_are_not_undone_by_it(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Conflict(), NOW)
    drive.read("a", node("4"), NOW)
    for version in ("2", "3", "4"):
        drive.seen(node(version), NOW)
    assert allocator.told == ["1", "4", "4"]
    drive.seen(node("5"), NOW)
    assert allocator.told[-1] == "5"


def test_a_read_that_is_older_than_what_was_seen_meanwhile_yields(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Unknown(), NOW)
    drive.plan(NOW + 1.0)
    assert drive.next_read() == "a"
    drive.seen(node("2", instance="i"), NOW)
    drive.read("a", node("1"), NOW)  # it was taken before that
    assert allocator.told == ["1", "2"]
    drive.seen(node("3"), NOW)
    assert allocator.told == ["1", "2", "3"]


def test_a_lost_answer_whose_write_has_landed_is_not_written_again(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Unknown(), NOW)
    drive.seen(written(publish, "2"), NOW)  # kept back: who knows what it is
    assert drive.next_read() is None
    drive.plan(NOW + 1.0)
    assert drive.next_read() == "a"
    drive.read("a", written(publish, "2"), NOW + 1.0)
    assert drive.next_publish() is None
    assert "a" not in drive.attempts
    drive.seen(written(publish, "3"), NOW + 1.0)
    assert allocator.told == ["1", "2", "3"]


@pytest.mark.parametrize("seen_before", [False, True])
def test_a_node_that_is_found_gone_after_a_write(drive: Drive, allocator: Watched, seen_before: bool) -> None:
    publish = sent(drive, node("1"))
    if seen_before:
        drive.gone("a", "uid-1", NOW)
        assert allocator.told == ["1"]
    drive.published(publish, Gone(), NOW)
    assert drive.next_read() == "a"
    drive.read("a", None, NOW)
    assert allocator.told == ["1", "gone"]
    assert drive.allocator.node("a") is None
    drive.seen(node("0", holds=Held(publish.grant.blocks)), NOW)
    if not seen_before:
        assert drive.allocator.node("a") is None, "a state from before its end"
        drive.gone("a", "uid-1", NOW)
    drive.seen(node("9", uid="uid-2"), NOW)
    assert allocator.told[-1] == "9"


def test_the_end_of_an_earlier_node_of_that_name_ends_nothing(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Gone(), NOW)
    drive.read("a", node("5", uid="uid-2"), NOW)
    drive.plan(NOW)
    again = drive.next_publish()
    assert again is not None
    drive.gone("a", "uid-1", NOW)  # during the write: kept back with its uid
    drive.published(again, Version("6"), NOW)
    assert "gone" not in allocator.told
    assert blocks(drive) == [parse("10.0.0.0/24")]
    drive.gone("a", "uid-1", NOW)
    assert "gone" not in allocator.told
    drive.seen(node("5", uid="uid-2"), NOW)
    drive.seen(written(again, "6", uid="uid-2"), NOW)
    drive.gone("a", "uid-2", NOW)
    assert allocator.told[-1] == "gone"


def test_the_end_that_we_read_ahead_of_is_checked_in_case_it_was_the_last(
    drive: Drive, allocator: Watched
) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Gone(), NOW)
    drive.read("a", node("5", uid="uid-2"), NOW)
    drive.gone("a", "uid-1", NOW)  # a store that polls never knew of the second, which is gone too
    drive.plan(NOW + CATCH_UP_S)
    assert drive.next_publish() is None, "it is being read"
    assert drive.next_read() == "a"
    drive.read("a", None, NOW + CATCH_UP_S)
    assert allocator.told[-1] == "gone"


def test_a_refusal_backs_off_up_to_a_minute(drive: Drive) -> None:
    publish, now, waits = sent(drive, node("1")), NOW, []
    for _ in range(12):
        drive.published(publish, Denied("Forbidden", "no"), now)
        wake = drive.wake(now)
        assert wake is not None
        waits.append(wake - now)
        drive.plan(wake - 0.01)
        assert drive.next_publish() is None
        now = wake
        drive.plan(now)
        again = drive.next_publish()
        assert again is not None
        publish = again
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == BACKOFF_MOST_S
    drive.published(publish, Version("2"), now)
    assert "a" not in drive.attempts


def test_a_refusal_passes_on_what_was_seen_meanwhile(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.seen(node("2"), NOW)
    drive.published(publish, Denied("Unavailable", "away"), NOW)
    assert allocator.told == ["1", "2"]
    publish = sent_again(drive, NOW + 10.0)
    drive.published(publish, Version("4"), NOW)
    drive.plan(NOW)
    # Ahead of the watch: what is older does not slip through after the next refusal either.
    drive.allocator.seen(written(publish, "4", agent=Agent(depleted=(parse("10.0.0.0/24"),))), NOW)
    publish = sent_again(drive, NOW + 10.0)
    drive.seen(node("3"), NOW)
    drive.published(publish, Denied("Unavailable", "away"), NOW)
    assert "3" not in allocator.told


def sent_again(drive: Drive, now: float) -> Publish:
    drive.plan(now)
    publish = drive.next_publish()
    assert publish is not None
    return publish


def test_a_read_that_fails_is_repeated_more_slowly(drive: Drive) -> None:
    publish, now = sent(drive, node("1")), NOW
    drive.published(publish, Gone(), now)
    for wait in (1.0, 2.0, 4.0):
        assert drive.next_read() == "a"
        drive.read_failed("a", now)
        assert drive.next_read() is None
        assert drive.wake(now) == now + wait
        now += wait
        drive.plan(now)


def test_a_new_list_is_believed(drive: Drive, allocator: Watched) -> None:
    publish = sent(drive, node("1"))
    drive.published(publish, Version("2"), NOW)
    drive.listed()
    drive.seen(written(publish, "7"), NOW)
    assert allocator.told == ["1", "7"]


def test_a_list_that_skips_a_running_write_delays_and_does_not_deafen(
    drive: Drive, allocator: Watched
) -> None:
    publish = sent(drive, node("1"))
    drive.listed()
    drive.seen(written(publish, "3"), NOW)  # someone wrote after us, before the list was taken
    drive.published(publish, Version("2"), NOW)
    drive.seen(written(publish, "4"), NOW)
    drive.plan(NOW + CATCH_UP_S)
    assert drive.next_read() == "a"
    drive.read("a", written(publish, "4"), NOW + CATCH_UP_S)
    assert allocator.told[-1] == "4"
    drive.seen(written(publish, "5"), NOW + 2.0)
    assert allocator.told[-1] == "5"


@pytest.mark.parametrize("change", [{"ignored": True}, {"present": False}])
def test_what_may_not_be_written_is_not_handed_out(drive: Drive, change: dict[str, object]) -> None:
    drive.seen(node("1"), NOW)
    drive.plan(NOW)
    drive.seen(node("2", **change), NOW)
    assert drive.next_publish() is None


def test_settle_takes_one_node_all_the_way() -> None:
    clock = VirtualClock()
    store = MemoryStore(clock.now)
    allocator = ClusterPool(Settings())
    allocator.restore((), [POOL], (), clock.now())
    store.faults.extend([Fault.BEFORE, Fault.AFTER, Fault.DENIED])
    grant = settle(allocator, store.add("a"), store, clock, until=clock.now() + 100.0)
    assert [str(block.cidr) for block in grant.blocks] == ["10.0.0.0/24"]
    assert store.objects["a"].holds.blocks == grant.blocks
    assert len(store.writes) == 1


def test_run_stops_when_nothing_is_left_and_says_its_plans() -> None:
    clock = VirtualClock()
    store = MemoryStore(clock.now)
    allocator = ClusterPool(Settings())
    allocator.restore((), [POOL], (), clock.now())
    drive = Drive(allocator)
    store.add("a")
    store.read_faults = 2
    store.faults.append(Fault.AFTER)
    store.deliver(drive)
    plans: list[str | None] = []
    run(drive, store, clock, each=lambda plan: plans.append(plan.node))
    assert plans == ["a"]
    assert clock.now() == 1_700_000_000.0, "without `until` it does not wait"
    run(drive, store, clock, until=clock.now() + 60.0)
    assert not drive.busy
    assert clock.now() > 1_700_000_000.0
