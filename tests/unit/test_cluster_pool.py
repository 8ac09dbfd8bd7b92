"""cluster-pool, decision by decision: Cilium's behaviour and texts, its traps mended, and what goes beyond it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from omnipam.core.allocator import Settings
from omnipam.core.blocking import VirtualClock, run
from omnipam.core.cidr import Family, parse, parse_address
from omnipam.core.drive import Drive
from omnipam.core.errors import Invalid
from omnipam.core.values import Agent, Block, Facts, Held, Kept, Node, PoolRange, PoolSpec, Problem
from omnipam.fixtures.memory_store import Fault, MemoryStore
from omnipam.providers.cluster_pool import ClusterPool

DUAL: tuple[Family, Family] = ("ipv4", "ipv6")
TEN = "10.0.0.0/8 24"
BROKEN = Problem("Unreadable", "invalid CIDR address: junk", "correct spec.ipam.podCIDRs of CiliumNode a")


def spec(
    *ranges: str, reserved: Iterable[str] = (), quarantine_s: float = 0.0, max_blocks: int = 1
) -> PoolSpec:
    return PoolSpec(
        ranges=tuple(PoolRange(parse(text.split()[0]), int(text.split()[1])) for text in ranges),
        reserved=tuple(map(parse, reserved)),
        quarantine_s=quarantine_s,
        max_blocks=max_blocks,
    )


def held(*cidrs: str) -> Held:
    return Held(tuple(Block("default", parse(cidr)) for cidr in cidrs))


class Operator:
    """A store, a clock, and cluster-pool following it."""

    def __init__(self, *ranges: str, families: tuple[Family, ...] = ("ipv4",), **options: object) -> None:
        self.settings = Settings(families=families, services=options.pop("services", ()))  # type: ignore[arg-type]  # test shorthand
        self.spec = spec(*ranges, **options)  # type: ignore[arg-type]  # test shorthand
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock.now)
        self.restart()

    def restart(self) -> None:
        self.allocator = ClusterPool(self.settings)
        self.drive = Drive(self.allocator)
        self.allocator.restore(self.store.nodes(), [self.spec], self.store.kept, self.clock.now())
        self.store.skip()
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        until = self.clock.now() + seconds
        for _ in range(20):
            self.store.deliver(self.drive)
            run(self.drive, self.store, self.clock, until=until)
            self.store.kept = self.allocator.kept()
            if self.store.pending == (0, 0):
                break
        else:
            raise AssertionError("never quiet")
        self.clock.sleep(max(0.0, until - self.clock.now()))
        run(self.drive, self.store, self.clock)
        self.store.kept = self.allocator.kept()

    def add(self, *names: str, blocks: Iterable[str] = (), **options: object) -> None:
        for name in names:
            self.clock.sleep(1.0)
            self.store.add(name, blocks=list(map(parse, blocks)), **options)  # type: ignore[arg-type]  # test shorthand
        self.turn()

    def pool(self, *ranges: str, **options: object) -> None:
        self.spec = spec(*ranges, **options)  # type: ignore[arg-type]  # test shorthand
        self.allocator.pools([self.spec], self.clock.now())
        self.turn()

    def write(self, name: str, *blocks: str) -> None:
        """A hand edits podCIDRs."""
        self.store.change(name, blocks=list(map(parse, blocks)))
        self.turn()

    def report(self, name: str, *, depleted: Iterable[str] = (), released: Iterable[str] = ()) -> None:
        """The agent writes status.ipam.pod-cidrs."""
        self.store.change(name, agent=Agent(tuple(map(parse, depleted)), tuple(map(parse, released))))
        self.turn()

    def has(self, name: str) -> list[str]:
        return [str(block.cidr) for block in self.store.objects[name].holds.blocks]

    def error(self, name: str) -> str:
        return self.store.objects[name].holds.error

    def reasons(self) -> list[str]:
        return [finding.reason for finding in self.allocator.findings()]


# -- Cilium's own behaviour (spec section 3)


def test_the_object_that_cilium_writes_is_what_we_write() -> None:
    # data/cilium/ciliumnode-cluster-pool.json: 10.0.0.0/8 in /30, fd00::/104 in /120, no error.
    operator = Operator("10.0.0.0/8 30", "fd00::/104 120", families=DUAL)
    operator.add("a-1")
    assert operator.has("a-1") == ["10.0.0.0/30", "fd00::/120"]
    assert operator.error("a-1") == ""
    assert [write.part for write in operator.store.writes] == ["spec"]


def test_dual_stack_ipv4_comes_first_whatever_the_order_of_families() -> None:
    operator = Operator("fd00::/104 120", TEN, families=("ipv6", "ipv4"))
    operator.add("a")
    assert operator.has("a") == ["10.0.0.0/24", "fd00::/120"]


def test_a_new_dual_stack_node_gets_both_families_or_none() -> None:
    operator = Operator("10.0.0.0/23 24", "fd00::/120 120", families=DUAL)
    operator.add("a", "b")
    assert operator.has("b") == []
    assert operator.error("b").startswith("allocator full — add a range to cluster-pool-ipv6-cidr")
    assert operator.allocator.capacity().pools[0].free == 1, "the IPv4 block was put back"
    operator.pool("10.0.0.0/23 24", "fd00::/120 120", "fd01::/120 120")
    assert operator.has("b") == ["10.0.1.0/24", "fd01::/120"]
    assert operator.error("b") == ""


def test_several_ranges_are_used_up_in_their_order() -> None:
    operator = Operator("10.9.0.0/24 25", "10.1.0.0/24 25")
    operator.add("a", "b", "c")
    assert [operator.has(name) for name in "abc"] == [["10.9.0.0/25"], ["10.9.0.128/25"], ["10.1.0.0/25"]]


def test_next_fit_reuses_a_freed_block_only_after_the_cursor_has_wrapped() -> None:
    operator = Operator("10.0.0.0/22 24")
    operator.add("a", "b")
    operator.store.remove("a")
    operator.add("c", "d", "e")
    assert [operator.has(name) for name in "cde"] == [["10.0.2.0/24"], ["10.0.3.0/24"], ["10.0.0.0/24"]]


def test_occupied_blocks_do_not_move_the_cursor() -> None:
    operator = Operator(TEN)
    operator.add("a", blocks=["10.0.5.0/24"])
    operator.add("b")
    assert operator.has("b") == ["10.0.0.0/24"]


def test_host_bits_do_not_matter_to_a_claim() -> None:
    assert parse("10.0.5.7/24") == parse("10.0.5.0/24")


def test_a_settled_node_costs_no_write_at_restart() -> None:
    operator = Operator(TEN)
    operator.add("a", "b")
    operator.store.writes.clear()
    operator.restart()
    assert operator.store.writes == []


def test_exhausted_is_said_in_ciliums_words_and_cleared() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a", "b")
    assert operator.error("b").split(" — ")[0] == "allocator full"
    operator.store.remove("a")
    operator.turn()
    assert operator.has("b") == ["10.0.0.0/24"]
    assert operator.error("b") == ""


def test_a_range_outside_of_the_pool_is_kept_and_said() -> None:
    operator = Operator(TEN)
    operator.add("a", blocks=["192.168.0.0/24"])
    assert operator.has("a") == ["192.168.0.0/24"]
    assert (
        operator.error("a").split(" — ")[0]
        == "allocator not configured for the requested CIDR 192.168.0.0/24"
    )
    assert operator.reasons() == ["OutsidePool"]
    assert operator.allocator.capacity().pools[0].outside == 1
    operator.pool(TEN, "192.168.0.0/16 24")
    assert operator.error("a") == ""
    assert operator.reasons() == []


def test_a_disabled_family_is_kept_and_said() -> None:
    operator = Operator(TEN)
    operator.add("a", blocks=["10.0.0.0/24", "fd00::/120"])
    assert operator.has("a") == ["10.0.0.0/24", "fd00::/120"]
    assert (
        operator.error("a").split(" — ")[0]
        == "unable to allocate CIDR [fd00::/120] since allocator for IPv6 addresses does not exist"
    )


def test_a_missing_family_of_a_known_node_is_added() -> None:
    operator = Operator(TEN, "fd00::/104 120", families=DUAL)
    operator.add("a", blocks=["10.0.0.0/24"])
    assert operator.has("a") == ["10.0.0.0/24", "fd00::/120"]


def test_replaced_ranges_are_left_alone_and_said() -> None:
    operator = Operator(TEN)
    operator.add("a", "b")
    operator.write("a", "10.0.9.0/24")
    assert operator.has("a") == ["10.0.9.0/24"]
    assert (
        operator.error("a").split(" — ")[0]
        == "node has CIDRs allocated ([10.0.0.0/24]) that conflict with requested CIDRs [10.0.9.0/24]"
    )
    operator.write("a", "10.0.0.0/24")
    assert operator.error("a") == ""
    assert operator.allocator.capacity().pools[0].used == 2


@pytest.mark.parametrize("left", [[], ["fd00::/120"], ["10.0.0.0/24"]])
def test_a_list_that_shrank_is_written_back(left: list[str]) -> None:
    operator = Operator(TEN, "fd00::/104 120", families=DUAL)
    operator.add("a")
    operator.write("a", *left)
    assert operator.has("a") == ["10.0.0.0/24", "fd00::/120"]
    assert operator.error("a") == ""


# -- conflicts (T1, T2, T4)


def test_t1_a_node_that_lost_its_only_block_gets_a_fresh_one() -> None:
    operator = Operator(TEN)
    operator.store.add("a", blocks=[parse("10.0.0.0/24")])
    operator.clock.sleep(1.0)
    operator.store.add("b", blocks=[parse("10.0.0.0/24")])
    operator.restart()
    assert operator.has("a") == ["10.0.0.0/24"], "the older keeps it"
    assert operator.has("b") == ["10.0.1.0/24"]
    assert operator.error("b") == ""


def test_of_equally_old_nodes_the_name_decides() -> None:
    operator = Operator(TEN)
    for name in ("b", "a"):
        operator.store.add(name, blocks=[parse("10.0.0.0/24")])
    operator.restart()
    assert operator.has("a") == ["10.0.0.0/24"]
    assert operator.has("b") == ["10.0.1.0/24"]


def test_a_lost_block_is_said_while_there_is_no_fresh_one() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a", blocks=["10.0.0.0/24"])
    operator.add("b", blocks=["10.0.0.0/24"])
    assert operator.has("b") == []
    assert "allocator full" in operator.error("b")
    operator.store.remove("a")
    operator.turn()
    assert operator.has("b") == ["10.0.0.0/24"]
    assert operator.error("b") == ""


def test_a_lost_block_in_one_family_leaves_the_other_alone() -> None:
    operator = Operator(TEN, "fd00::/104 120", families=DUAL)
    operator.add("a", blocks=["10.0.0.0/24", "fd00::/120"])
    operator.add("b", blocks=["10.0.0.0/24", "fd00::100/120"])
    assert operator.has("b") == ["10.0.1.0/24", "fd00::100/120"]


def test_what_an_object_still_shows_is_not_given_to_a_third_when_its_rival_goes() -> None:
    operator = Operator("10.0.0.0/23 24")
    operator.add("a", blocks=["10.0.0.0/24"])
    operator.store.add("b", blocks=[parse("10.0.0.0/24")])
    operator.store.faults.extend([Fault.DENIED] * 3)
    operator.turn()
    assert operator.has("b") == ["10.0.0.0/24"], "its conflict could not be written yet"
    operator.store.remove("a")
    operator.store.faults.extend([Fault.DENIED])
    operator.add("c")
    assert operator.has("c") != ["10.0.0.0/24"]
    operator.turn(600.0)
    assert operator.has("b") != operator.has("c")
    assert sorted([operator.has("b"), operator.has("c")]) == [["10.0.0.0/24"], ["10.0.1.0/24"]]


def test_t2_nothing_new_is_granted_before_restore_has_ended() -> None:
    allocator = ClusterPool(Settings(families=DUAL))
    allocator.seen(Node("a", "u", 1.0, "1"), 0.0)
    assert (allocator.due(0.0), allocator.stale()) == ([], [])
    # A node with one family that is replayed first must not take what a later one shows.
    nodes = [
        Node("half", "u1", 1.0, "1", holds=held("10.0.0.0/24")),
        Node("whole", "u2", 2.0, "2", holds=held("10.0.1.0/24", "fd00::/120")),
    ]
    allocator = ClusterPool(Settings(families=DUAL))
    allocator.restore(nodes, [spec(TEN, "fd00::/104 120")], (), 0.0)
    for name in allocator.due(0.0):
        allocator.start(allocator.plan(name, 0.0), 0.0)
    assert [str(block.cidr) for block in allocator.grant("half").blocks] == ["10.0.0.0/24", "fd00::100/120"]


def test_t3_a_waiting_node_is_served_without_a_touch_oldest_first() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("z", "y", "x")
    operator.store.remove("z")
    operator.store.writes.clear()
    operator.turn()
    assert operator.has("y") == ["10.0.0.0/24"]
    assert {write.name for write in operator.store.writes} == {"y"}


def test_t4_partial_overlaps_are_seen_and_refused() -> None:
    operator = Operator("10.0.0.0/16 24")
    operator.add("a", blocks=["10.0.4.0/24"])
    operator.add("wide", blocks=["10.0.0.0/20"])
    operator.add("narrow", blocks=["10.0.4.128/26"])
    assert operator.has("a") == ["10.0.4.0/24"]
    assert operator.has("wide") == ["10.0.0.0/24"]
    assert operator.has("narrow") == ["10.0.1.0/24"]


def test_a_wide_range_of_the_older_keeps_all_of_it() -> None:
    operator = Operator("10.0.0.0/16 24")
    operator.add("wide", blocks=["10.0.0.0/20"])
    operator.add("a")
    assert operator.has("a") == ["10.0.16.0/24"]


def test_an_unpublished_taking_yields_to_what_an_object_shows() -> None:
    operator = Operator(TEN)
    operator.store.faults.append(Fault.DENIED)
    operator.add("a")
    assert operator.has("a") == []
    operator.add("b", blocks=["10.0.0.0/24"])
    operator.turn(60.0)
    assert operator.has("b") == ["10.0.0.0/24"]
    assert operator.has("a") == ["10.0.1.0/24"]


# -- ignored, unreadable, vanished


def test_an_ignored_node_is_occupied_and_never_written() -> None:
    operator = Operator(TEN)
    operator.add("a")
    operator.store.change("a", blocks=[parse("10.0.0.0/24"), parse("10.0.1.0/24")], ignored=True)
    operator.add("b")
    assert operator.has("b") == ["10.0.2.0/24"]
    operator.write("a", "10.0.2.0/24")  # it takes another's, and that one gives way
    assert operator.has("a") == ["10.0.2.0/24"]
    assert operator.has("b") == ["10.0.3.0/24"]
    operator.store.change("a", ignored=False)
    operator.turn()
    assert operator.has("a") == ["10.0.2.0/24"]


def test_an_ignored_node_keeps_what_it_was_granted_though_it_shows_it_no_more() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a")
    operator.store.change("a", ignored=True, blocks=[])
    operator.add("b")
    assert operator.has("b") == []
    assert [finding.reason for finding in operator.allocator.findings()] == ["BlockNotShown"]
    operator.restart()
    assert operator.has("b") == []
    operator.store.remove("a")
    operator.turn()
    assert operator.has("b") == ["10.0.0.0/24"]


def test_a_malformed_node_gets_nothing_until_it_is_readable() -> None:
    operator = Operator(TEN)
    operator.store.add("a", blocks=[parse("10.0.0.0/24")])
    operator.store.change("a", unreadable=[BROKEN])
    operator.store.add("empty")
    operator.store.change("empty", unreadable=[BROKEN])
    operator.add("b")
    assert operator.has("a") == ["10.0.0.0/24"]
    assert operator.has("empty") == []
    assert operator.allocator.capacity().unserved == 1, "empty"
    assert operator.has("b") == ["10.0.1.0/24"]
    assert operator.error("a") == str(BROKEN)
    assert operator.reasons() == ["Unreadable", "Unreadable"]
    for name in ("a", "empty"):
        operator.store.change(name, unreadable=[])
    operator.turn()
    assert operator.has("empty") == ["10.0.2.0/24"]
    assert operator.error("a") == operator.error("empty") == ""
    assert operator.reasons() == []


def test_a_vanished_object_keeps_its_block_across_a_restart() -> None:
    operator = Operator("10.0.0.0/23 24")
    operator.add("a", "b")
    operator.store.remove_object("a")
    operator.turn()
    assert operator.store.kept == (Kept("default", parse("10.0.0.0/24"), owner="a"),)
    assert operator.reasons() == ["ObjectMissing"]
    operator.restart()
    operator.add("c")
    assert operator.has("c") == []
    operator.add("a")  # its agent makes it again
    assert operator.has("a") == ["10.0.0.0/24"]
    assert operator.store.kept == ()
    operator.store.remove_object("a")
    operator.store.remove_machine("a")
    operator.turn()
    assert operator.has("c") == ["10.0.0.0/24"]


def test_a_vanished_node_whose_machine_went_while_nobody_looked_gives_its_block_back() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a")
    operator.store.remove_object("a")
    operator.turn()
    operator.store.remove_machine("a")
    operator.restart()
    operator.add("b")
    assert operator.has("b") == ["10.0.0.0/24"]
    assert operator.store.kept == ()


def test_a_drained_block_stays_with_a_vanished_node_too() -> None:
    operator = Operator("10.0.0.0/24 24", "10.1.0.0/24 24")
    operator.add("a")
    operator.pool("10.1.0.0/24 24")
    operator.store.remove_object("a")
    operator.turn()
    operator.restart()
    operator.pool("10.0.0.0/24 24", "10.1.0.0/24 24")
    operator.add("b")
    assert operator.has("b") == ["10.1.0.0/24"]
    operator.add("a")
    assert operator.has("a") == ["10.0.0.0/24"]


def test_a_new_object_of_the_same_name_gets_the_same_block() -> None:
    operator = Operator(TEN)
    operator.add("x", "a")
    operator.store.remove_object("a")
    operator.store.add("a")
    operator.store.coalesce()  # only the new one is shown, with another uid
    operator.turn()
    assert operator.has("a") == ["10.0.1.0/24"]


# -- pools that change


def test_a_range_added_is_used_at_once_and_waiting_nodes_are_served() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a", "b", "c")
    operator.store.writes.clear()
    operator.pool("10.0.0.0/24 24", "10.7.0.0/23 24")
    assert [operator.has(name) for name in "abc"] == [["10.0.0.0/24"], ["10.7.0.0/24"], ["10.7.1.0/24"]]
    assert {write.name for write in operator.store.writes} == {"b", "c"}


def test_a_drained_range_is_never_handed_out_and_its_nodes_are_found() -> None:
    operator = Operator("10.0.0.0/23 24", "10.1.0.0/23 24")
    operator.add("a", "b")
    operator.store.remove("b")
    operator.pool("10.1.0.0/23 24")
    assert operator.has("a") == ["10.0.0.0/24"]
    assert operator.reasons() == ["OutsidePool"]
    assert [pool.outside for pool in operator.allocator.capacity().pools] == [1]
    operator.add("c")
    assert operator.has("c") == ["10.1.0.0/24"]
    operator.store.remove("a")
    operator.turn()
    assert [pool.outside for pool in operator.allocator.capacity().pools] == [0]
    operator.add("d", "e")
    assert (operator.has("d"), operator.has("e")) == (["10.1.1.0/24"], [])


def test_a_changed_mask_is_for_new_blocks_only() -> None:
    operator = Operator("10.0.0.0/23 24")
    operator.add("a")
    operator.pool("10.0.0.0/23 26")
    operator.add("b", "c")
    assert [operator.has(name) for name in "abc"] == [["10.0.0.0/24"], ["10.0.1.0/26"], ["10.0.1.64/26"]]
    operator.store.remove("b")
    operator.turn()
    assert operator.has("c") == ["10.0.1.64/26"], "two /26 of different nodes in one old /24 are no conflict"
    operator.pool("10.0.0.0/23 24")
    operator.add("d")
    assert operator.has("d") == [], "c's /26 keeps the whole /24"
    operator.store.remove("c")
    operator.turn()
    assert operator.has("d") == ["10.0.1.0/24"]


def test_a_block_on_its_way_while_its_range_is_drained_is_not_given_twice() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.store.add("a")
    operator.store.deliver(operator.drive)
    operator.drive.plan(operator.clock.now())
    publish = operator.drive.next_publish()
    assert publish is not None
    now = operator.clock.now()
    for ranges in (("10.1.0.0/24 24",), ("10.0.0.0/24 24",)):
        operator.allocator.pools([spec(*ranges)], now)
    operator.store.add("b")
    operator.store.deliver(operator.drive)
    operator.drive.plan(now)
    operator.drive.published(publish, operator.store.publish(publish), now)
    operator.turn(60.0)
    assert not set(operator.has("a")) & set(operator.has("b"))


def test_the_same_pool_again_changes_nothing() -> None:
    operator = Operator(TEN)
    operator.add("a")
    operator.pool(TEN)
    assert operator.allocator.due(0.0) == []
    assert operator.allocator.stale() == []


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ([], "exactly one pool"),
        ([PoolSpec("other")], "exactly one pool"),
        (
            [spec("10.0.0.0/8 24", "10.1.0.0/16 24")],
            "requested CIDR 10.1.0.0/16 collides with clusterCIDR: 10.0.0.0/8, nodeMask: 24",
        ),
        ([spec("10.0.0.0/24 16")], "mask size 16"),
        ([spec("10.0.0.0/24 33")], "SubNetMask is invalid"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused_whole(pools: list[PoolSpec], said: str) -> None:
    operator = Operator("10.0.0.0/23 24")
    operator.add("a")
    with pytest.raises(Invalid, match=said):
        operator.allocator.pools(pools, 0.0)
    operator.add("b")
    assert operator.has("b") == ["10.0.1.0/24"]


# -- further blocks, release, reserved, quarantine


def test_a_node_that_runs_full_gets_further_blocks_up_to_the_most() -> None:
    operator = Operator(TEN, max_blocks=2)
    operator.add("a")
    operator.report("a", depleted=["10.0.0.0/24"])
    assert operator.has("a") == ["10.0.0.0/24", "10.0.1.0/24"]
    operator.turn()
    assert len(operator.has("a")) == 2, "the second is not full yet"
    operator.report("a", depleted=["10.0.0.0/24", "10.0.1.0/24"])
    assert len(operator.has("a")) == 2
    operator.pool(TEN, max_blocks=3)
    assert operator.has("a") == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]


def test_depleted_in_one_family_is_answered_in_that_one() -> None:
    operator = Operator(TEN, "fd00::/104 120", families=DUAL, max_blocks=2)
    operator.add("a")
    operator.report("a", depleted=["fd00::/120"])
    assert operator.has("a") == ["10.0.0.0/24", "fd00::/120", "fd00::100/120"]


def test_a_released_block_comes_back_only_after_the_object_shows_it_no_more() -> None:
    operator = Operator("10.0.0.0/23 24", max_blocks=2)
    operator.add("a")
    operator.report("a", depleted=["10.0.0.0/24"])
    operator.store.faults.extend([Fault.DENIED] * 4)
    operator.report("a", released=["10.0.1.0/24"])
    operator.add("b")
    assert operator.has("a") == ["10.0.0.0/24", "10.0.1.0/24"]
    assert operator.has("b") == []
    operator.turn(60.0)
    assert operator.has("a") == ["10.0.0.0/24"]
    assert operator.has("b") == ["10.0.1.0/24"]


def test_a_stale_word_of_release_neither_loops_nor_takes_a_block_in_use() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a")
    operator.report("a", released=["10.0.0.0/24"])
    writes = len(operator.store.writes)
    assert operator.has("a") == []
    assert operator.error("a").startswith("the agent calls 10.0.0.0/24 released")
    operator.turn(600.0)
    assert len(operator.store.writes) == writes
    operator.report("a")
    assert operator.has("a") == ["10.0.0.0/24"]
    assert operator.error("a") == ""


def test_a_block_that_touches_a_reserved_range_is_not_granted() -> None:
    operator = Operator("10.0.0.0/22 24", reserved=["10.0.0.0/30", "10.0.2.77/32"])
    operator.add("a", "b", "c")
    assert [operator.has(name) for name in "abc"] == [["10.0.1.0/24"], ["10.0.3.0/24"], []]
    operator.pool("10.0.0.0/22 24", reserved=["10.0.0.0/30"])
    assert operator.has("c") == ["10.0.2.0/24"]


def test_quarantine_holds_across_a_restart_by_what_is_kept() -> None:
    operator = Operator("10.0.0.0/24 24", quarantine_s=300.0)
    operator.add("a")
    operator.store.remove("a")
    operator.add("b")
    end = operator.store.kept[0].until
    assert operator.store.kept == (Kept("default", parse("10.0.0.0/24"), until=end),)
    assert operator.allocator.capacity().pools[0].quarantined == 1
    operator.turn(100.0)
    operator.restart()
    assert operator.has("b") == []
    assert operator.allocator.wake(operator.clock.now()) == end
    operator.turn(400.0)
    assert operator.has("b") == ["10.0.0.0/24"]
    assert operator.store.kept == ()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_shorter_quarantine_is_for_those_that_wait_already(restarts: bool) -> None:
    operator = Operator("10.0.0.0/24 24", quarantine_s=3600.0)
    operator.add("a", "b")
    operator.store.remove("a")
    operator.turn()
    if restarts:
        operator.spec = spec("10.0.0.0/24 24", quarantine_s=60.0)
        operator.restart()
    else:
        operator.pool("10.0.0.0/24 24", quarantine_s=60.0)
    operator.turn(59.0)
    assert operator.has("b") == []
    operator.turn(2.0)
    assert operator.has("b") == ["10.0.0.0/24"]


def test_a_block_that_a_hand_wrote_twice_is_written_once() -> None:
    operator = Operator(TEN)
    operator.add("a")
    operator.write("a", "10.0.0.0/24", "10.0.0.0/24")
    assert operator.has("a") == ["10.0.0.0/24"]


def test_a_quarantined_range_that_an_object_shows_is_that_nodes() -> None:
    operator = Operator("10.0.0.0/24 24", quarantine_s=300.0)
    operator.add("a")
    operator.store.remove("a")
    operator.turn()
    operator.add("b", blocks=["10.0.0.0/24"])
    operator.turn(1000.0)
    operator.add("c")
    assert (operator.has("b"), operator.has("c")) == (["10.0.0.0/24"], [])


def test_quarantine_covers_a_drained_range_that_comes_back() -> None:
    operator = Operator("10.0.0.0/24 24", "10.1.0.0/24 24", quarantine_s=300.0)
    operator.add("a")
    operator.pool("10.1.0.0/24 24", quarantine_s=300.0)
    operator.store.remove("a")
    operator.turn()
    operator.pool("10.0.0.0/24 24", quarantine_s=300.0)
    operator.add("b")
    assert operator.has("b") == []


# -- what is told


def test_kept_is_the_same_object_while_nothing_changes() -> None:
    operator = Operator(TEN, quarantine_s=60.0)
    operator.add("a", "b", "c")
    operator.store.remove("a")
    operator.store.remove_object("b")
    operator.turn()
    kept = operator.allocator.kept()
    assert [entry.owner for entry in kept] == ["", "b"]
    operator.store.add_machine("b")  # its heartbeat
    operator.store.change("c")
    operator.turn()
    assert operator.allocator.kept() is kept


def test_overlaps_of_the_pool_are_found_once_with_the_two_ranges() -> None:
    operator = Operator(TEN, "11.0.0.0/8 24", services=(parse("10.96.0.0/12"),))
    for number in range(3):
        operator.add(f"n{number}", facts=Facts(addresses=(parse_address(f"10.5.0.{number}"),)))
    found = {finding.reason: finding.objects for finding in operator.allocator.findings()}
    assert found == {
        "PoolOverlapsNodes": ("CIDR/10.0.0.0/8", "CIDR/10.5.0.0/32"),
        "PoolOverlapsServices": ("CIDR/10.0.0.0/8", "CIDR/10.96.0.0/12"),
    }
    assert len(operator.allocator.findings()) == 2


def test_reserving_what_overlaps_ends_the_warning() -> None:
    operator = Operator(TEN, services=(parse("10.96.0.0/12"),), reserved=["10.96.0.0/12", "10.5.0.0/16"])
    operator.add("a", facts=Facts(addresses=(parse_address("10.5.0.1"),)))
    assert operator.reasons() == []


def test_capacity_counts_every_block_once() -> None:
    operator = Operator("10.0.0.0/21 24", reserved=["10.0.7.0/24"], quarantine_s=60.0)
    operator.add("a", "b", "c")
    operator.store.remove("a")
    operator.add("d", blocks=["172.16.0.0/24"])
    (pool,) = operator.allocator.capacity().pools
    assert (pool.total, pool.used, pool.quarantined, pool.free, pool.outside) == (8, 2, 1, 4, 1)
    assert (operator.allocator.capacity().nodes, operator.allocator.capacity().unserved) == (3, 0)


def test_space_wakes_no_more_nodes_than_it_can_serve() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("first", *(f"w{number:03}" for number in range(200)))
    assert operator.allocator.capacity().unserved == 200
    operator.store.remove("first")
    operator.store.deliver(operator.drive)
    assert [plan.node for plan in operator.drive.plan(operator.clock.now())] == ["w000"]
    operator.allocator.pools([spec("10.0.0.0/24 24", "10.1.0.0/23 24")], operator.clock.now())
    assert operator.allocator.due(operator.clock.now()) == ["w001", "w002"]


def test_a_quiet_pool_plans_nobody() -> None:
    operator = Operator(TEN)
    operator.add("a", "b")
    operator.store.change("a")
    operator.store.deliver(operator.drive)
    assert operator.allocator.due(operator.clock.now()) == []
    assert operator.allocator.wake(operator.clock.now()) is None


def test_a_plan_says_what_it_would_take_and_why() -> None:
    operator = Operator("10.0.0.0/24 24", "fd00::/120 120", families=DUAL)
    operator.store.add("a")
    operator.store.deliver(operator.drive)
    plan = operator.allocator.plan("a", operator.clock.now())
    assert [(planned.action.expected, planned.reason) for planned in plan.actions] == [
        (parse("10.0.0.0/24"), "ipv4: the node has no block"),
        (parse("fd00::/120"), "ipv6: the node has no block"),
    ]


def test_an_old_plan_is_made_good_when_it_starts() -> None:
    operator = Operator("10.0.0.0/24 24")
    for name in "ab":
        operator.store.add(name)
    operator.store.deliver(operator.drive)
    allocator, now = operator.allocator, operator.clock.now()
    plans = [allocator.plan(name, now) for name in allocator.due(now)]
    for plan in plans:  # both were promised the one block
        allocator.start(plan, now)
    assert [len(allocator.grant(name).blocks) for name in "ab"] == [1, 0]
    assert [problem.reason for problem in allocator.grant("b").problems] == ["PoolExhausted"]
    full = allocator.plan("b", now)
    allocator.gone("a", now)
    allocator.start(full, now)  # made when there was no space
    for name in allocator.due(now):
        allocator.start(allocator.plan(name, now), now)
    assert [str(block.cidr) for block in allocator.grant("b").blocks] == ["10.0.0.0/24"]


def test_a_lost_block_that_is_won_back_is_held_once() -> None:
    operator = Operator("10.0.0.0/24 26", max_blocks=2)
    operator.add("a", "b")
    operator.store.change("a", blocks=[parse("10.0.0.64/28")])
    operator.store.remove_object("a")
    operator.store.change("b", agent=Agent(depleted=(parse("10.0.0.64/26"),)))
    operator.turn()
    assert operator.has("b") == ["10.0.0.64/26", "10.0.0.128/26"]


def test_what_is_kept_for_a_name_stays_kept_until_its_object_shows_it_again() -> None:
    operator = Operator("10.0.0.0/24 24")
    operator.add("a", "b")
    operator.store.remove_object("a")
    operator.turn()
    operator.store.faults.append(Fault.DENIED)
    operator.store.add("a")
    operator.store.deliver(operator.drive)
    operator.drive.plan(operator.clock.now())
    operator.store.kept = operator.allocator.kept()
    operator.restart()  # killed before it was written
    operator.turn(60.0)
    assert (operator.has("a"), operator.has("b")) == (["10.0.0.0/24"], [])
    assert operator.store.kept == ()


def test_a_drained_block_that_the_agent_gives_up_leaves_the_object() -> None:
    operator = Operator("10.0.0.0/24 24", "10.1.0.0/24 24")
    operator.add("a")
    operator.pool("10.1.0.0/24 24")
    operator.report("a", released=["10.0.0.0/24"])
    assert operator.has("a") == []
    operator.report("a")
    assert operator.has("a") == ["10.1.0.0/24"]


# -- a claim that is nobody's grant: wider than any block, or of an object that may not be written


WIDE = "10.1.0.0/16"
FROZEN = {
    "ignored": {"ignored": True},
    "malformed": {"unreadable": [BROKEN]},
}


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("frozen", [None, *FROZEN])
@pytest.mark.parametrize("older", [True, False])
def test_a_wide_claim_touches_nobody_who_has_a_block_in_it(
    frozen: str | None, older: bool, restarts: bool
) -> None:
    operator = Operator("10.1.0.0/16 24", "10.2.0.0/16 24")
    if older:
        operator.store.add("typo")
        operator.store.change("typo", ignored=True)
    operator.add("a", "b", "c")
    if not older:
        operator.store.add("typo")
    operator.store.change("typo", ignored=False)
    if frozen:
        operator.store.change("typo", **FROZEN[frozen])  # type: ignore[arg-type]  # test shorthand
    writes = len(operator.store.writes)
    operator.store.change("typo", blocks=[parse(WIDE)])
    (operator.restart if restarts else operator.turn)()
    assert [operator.has(name) for name in "abc"] == [["10.1.0.0/24"], ["10.1.1.0/24"], ["10.1.2.0/24"]]
    assert {write.name for write in operator.store.writes[writes:]} <= {"typo"}
    operator.add("d")
    if frozen is None:
        assert operator.has("typo") == ["10.1.3.0/24"]
        assert operator.has("d") == ["10.1.4.0/24"]
        assert operator.reasons() == []
    else:
        assert operator.has("typo") == [WIDE]
        assert operator.has("d") == ["10.2.0.0/24"], "what an object shows is not given to others"
        (found,) = [each for each in operator.allocator.findings() if each.reason == "CIDRClaimedTwice"]
        assert found.text == (
            f"node typo shows {WIDE}, and node a has 10.1.0.0/24, node b has 10.1.1.0/24, node c has 10.1.2.0/24"
        )


@pytest.mark.parametrize("frozen", list(FROZEN))
def test_a_later_claim_of_an_object_that_may_not_be_written_moves_nobody(frozen: str) -> None:
    operator = Operator(TEN)
    operator.add("a", "typo")
    operator.store.change("typo", blocks=[parse("10.0.0.0/24")], **FROZEN[frozen])  # type: ignore[arg-type]  # test shorthand
    for act in (operator.turn, operator.restart):
        act()
        assert (operator.has("a"), operator.has("typo")) == (["10.0.0.0/24"], ["10.0.0.0/24"])
        assert "CIDRClaimedTwice" in operator.reasons()
    operator.store.change("typo", ignored=False, unreadable=[])
    operator.turn()
    assert (operator.has("a"), operator.has("typo")) == (["10.0.0.0/24"], ["10.0.1.0/24"])
    assert operator.reasons() == []


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("frozen", [None, *FROZEN])
def test_a_claim_of_a_wider_mask_moves_none_of_the_blocks_of_the_narrower_one(
    frozen: str | None, restarts: bool
) -> None:
    operator = Operator("10.1.0.0/16 24")
    operator.add("typo")
    operator.add(*(f"n{number:02}" for number in range(14)))
    before = {name: operator.has(name) for name in operator.store.objects if name != "typo"}
    operator.pool("10.1.0.0/16 20")
    if frozen:
        operator.store.change("typo", **FROZEN[frozen])  # type: ignore[arg-type]  # test shorthand
    operator.store.change("typo", blocks=[parse("10.1.0.0/20")])
    (operator.restart if restarts else operator.turn)()
    assert {name: operator.has(name) for name in before} == before
    own = "10.1.16.0/20" if restarts else "10.1.0.0/24"  # what it had is not known to who was not there
    assert operator.has("typo") == (["10.1.0.0/20"] if frozen else [own])
    operator.restart()
    assert {name: operator.has(name) for name in before} == before


def test_what_its_own_agent_gave_up_takes_nothing_from_anybody() -> None:
    operator = Operator("10.1.0.0/23 24")
    operator.add("a", "b")
    operator.report("a", released=["10.1.0.0/24"])
    operator.store.remove("b")
    operator.turn()
    operator.add("c", "d")
    assert sorted(operator.has("c") + operator.has("d")) == ["10.1.0.0/24", "10.1.1.0/24"]
    shown = operator.has("c"), operator.has("d")
    operator.write("a", "10.1.0.0/24")
    assert (operator.has("c"), operator.has("d")) == shown
    assert operator.has("a") == []


@pytest.mark.parametrize("frozen", [None, *FROZEN])
def test_a_range_around_the_pool_is_said_to_occupy_it(frozen: str | None) -> None:
    operator = Operator("10.1.0.0/16 24")
    operator.store.add("typo", blocks=[parse("10.0.0.0/8")])
    if frozen:
        operator.store.change("typo", **FROZEN[frozen])  # type: ignore[arg-type]  # test shorthand
    operator.add("a")
    assert operator.has("a") == []
    (found,) = [each for each in operator.allocator.findings() if each.reason == "RangeTooWide"]
    assert found.objects == ("CIDR/10.0.0.0/8", "CiliumNode/typo")
    if frozen is None:
        assert "take it out of spec.ipam.podCIDRs" in operator.error("typo")


def test_a_wide_claim_over_a_drained_range_moves_nobody() -> None:
    operator = Operator("10.1.0.0/16 24")
    operator.store.add("typo")
    operator.store.change("typo", ignored=True)
    operator.add("a", "b")
    operator.pool("10.2.0.0/16 24")
    operator.write("typo", WIDE)
    assert [operator.has(name) for name in "ab"] == [["10.1.0.0/24"], ["10.1.1.0/24"]]


def test_a_block_lost_to_the_older_claim_is_said_once_with_the_right_reason() -> None:
    operator = Operator(TEN)
    operator.add("old", "young")
    operator.store.change("old", blocks=[parse("10.0.0.0/24"), parse("10.0.1.0/24")])
    operator.store.deliver(operator.drive)
    (plan,) = operator.drive.plan(operator.clock.now())
    assert [planned.reason for planned in plan.actions] == [
        "ipv4: the node shows 10.0.1.0/24, and node old has 10.0.1.0/24"
    ]
    (notice,) = operator.allocator.grant("young").notices
    assert (notice.reason, notice.text) == (
        "AlreadyAllocated",
        "requested CIDR (10.0.1.0/24) is already allocated",
    )
    assert "node old has 10.0.1.0/24" in notice.hint
    operator.turn()
    assert operator.has("young") == ["10.0.2.0/24"]
    assert operator.error("young") == ""
    assert operator.allocator.grant("young").notices == ()


# -- what an object shows no more


def test_a_block_that_was_replaced_stays_with_its_node_over_a_restart() -> None:
    operator = Operator("10.0.0.0/23 24")
    operator.add("a")
    operator.write("a", "10.0.1.0/24")
    said = operator.error("a")
    assert "conflict with requested CIDRs [10.0.1.0/24]" in said
    assert operator.reasons() == ["CIDRReplaced"]
    operator.restart()
    operator.add("b")
    assert operator.has("b") == []
    assert (operator.has("a"), operator.error("a")) == (["10.0.1.0/24"], said)
    operator.write("a", "10.0.0.0/24")
    assert operator.error("a") == ""
    assert operator.store.kept == ()
    assert operator.has("b") == ["10.0.1.0/24"]


def test_a_node_whose_object_was_made_anew_with_another_block_keeps_the_one_that_runs() -> None:
    operator = Operator("10.0.0.0/22 24")
    operator.add("a", "b")
    operator.store.remove("a")
    operator.turn()
    operator.store.remove_object("b")
    operator.turn()
    operator.add("b", blocks=["10.0.0.0/24"], machine=False)
    operator.restart()
    operator.add("c", "d", "e")
    given = [cidr for name in "cde" for cidr in operator.has(name)]
    assert "10.0.1.0/24" not in given
    assert operator.has("b") == ["10.0.0.0/24"]
