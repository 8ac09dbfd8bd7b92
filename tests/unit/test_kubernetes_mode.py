"""kubernetes mode: the machines' pod CIDRs become the nodes', written only where nothing is, and what is wrong is said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnipam.core.allocator import Settings
from omnipam.core.blocking import VirtualClock, run
from omnipam.core.cidr import Family, parse
from omnipam.core.drive import Drive
from omnipam.core.values import Facts, Problem
from omnipam.fixtures.memory_store import Fault, MemoryStore
from omnipam.providers.kubernetes import KubernetesMode


class Operator:
    """A store, a clock, and kubernetes mode following it."""

    def __init__(self, *families: Family, grace_s: float = 60.0) -> None:
        self.settings = Settings(families=families or ("ipv4",), grace_s=grace_s)
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock.now)
        self.restart()

    def restart(self) -> None:
        self.allocator = KubernetesMode(self.settings)
        self.drive = Drive(self.allocator)
        self.allocator.restore(self.store.nodes(), (), self.store.kept, self.clock.now())
        self.store.skip()
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        until = self.clock.now() + seconds
        for _ in range(20):
            self.store.deliver(self.drive)
            run(self.drive, self.store, self.clock, until=until)
            if self.store.pending == (0, 0):
                break
        self.clock.sleep(max(0.0, until - self.clock.now()))
        run(self.drive, self.store, self.clock)

    def add(self, name: str, *cidrs: str, shows: tuple[str, ...] = ()) -> None:
        self.clock.sleep(1.0)
        self.store.add(name, facts=Facts(pod_cidrs=tuple(map(parse, cidrs))), blocks=list(map(parse, shows)))
        self.turn()

    def machine(self, name: str, *cidrs: str) -> None:
        self.store.add_machine(name, facts=Facts(pod_cidrs=tuple(map(parse, cidrs))))
        self.turn()

    def restarted(self) -> KubernetesMode:
        """What one that starts now would decide."""
        fresh = KubernetesMode(self.settings)
        fresh.restore(self.store.nodes(), (), self.allocator.kept(), self.clock.now())
        fresh.stale()
        return fresh

    def assert_a_restart_decides_the_same(self) -> None:
        fresh = self.restarted()
        for node in self.store.nodes():
            assert self.allocator.grant(node.name) == fresh.grant(node.name)
        assert self.allocator.kept() == fresh.kept()
        assert self.allocator.findings() == fresh.findings()
        assert self.allocator.capacity() == fresh.capacity()

    def has(self, name: str) -> list[str]:
        return [str(block.cidr) for block in self.store.objects[name].holds.blocks]

    def error(self, name: str) -> str:
        return self.store.objects[name].holds.error

    def reasons(self, name: str) -> list[str]:
        return [problem.reason for problem in self.allocator.grant(name).problems]

    def found(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(finding.reason, finding.objects) for finding in self.allocator.findings()]


def test_the_machines_range_is_written_where_there_is_none() -> None:
    operator = Operator("ipv4", "ipv6")
    operator.add("a", "fd00:1::/64", "10.1.0.0/24")
    assert operator.has("a") == ["10.1.0.0/24", "fd00:1::/64"]
    assert operator.error("a") == ""
    assert operator.found() == []
    assert [pool.used for pool in operator.allocator.capacity().pools] == [1, 1]


def test_what_the_agent_wrote_costs_no_write() -> None:
    operator = Operator()
    operator.add("a", "10.1.0.0/24", shows=("10.1.0.0/24",))
    operator.restart()
    assert operator.store.writes == []


def test_a_differing_value_is_a_finding_and_never_a_write() -> None:
    operator = Operator()
    operator.add("a", "10.1.0.0/24", shows=("10.2.0.0/24",))
    operator.turn(600.0)
    operator.restart()
    assert operator.store.writes == []
    assert operator.found() == [("CIDRsDiffer", ("CiliumNode/a", "Node/a"))]
    operator.store.change("a", blocks=[parse("10.1.0.0/24")])
    operator.turn()
    assert operator.found() == []


def test_both_families_are_awaited_since_a_list_once_written_stays() -> None:
    operator = Operator("ipv4", "ipv6")
    operator.add("a", "10.1.0.0/24")
    assert operator.has("a") == []
    operator.machine("a", "10.1.0.0/24", "fd00:1::/64")
    assert operator.has("a") == ["10.1.0.0/24", "fd00:1::/64"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10.1.0.0/24", "10.1.0.0/24"),
        ("10.1.0.0/16", "10.1.7.0/24"),
        ("10.1.7.128/25", "10.0.0.0/8"),
        ("0.0.0.0/0", "10.1.7.5/32"),
        ("fd00::/48", "fd00:0:0:7::/64"),
    ],
)
def test_of_two_overlapping_nodes_the_younger_is_given_nothing(first: str, second: str) -> None:
    operator = Operator(parse(first).family)
    operator.add("old", first)
    operator.add("young", second)
    assert (operator.has("old"), operator.has("young")) == ([first], [])
    assert operator.found() == [("CIDRsOverlap", ("Node/old", "Node/young"))]
    assert operator.error("young").startswith(f"{second} overlaps {first} of node old — ")
    assert operator.error("old").startswith(f"{first} overlaps {second} of node young — ")
    assert operator.allocator.capacity().unserved == 2
    operator.store.remove("old")
    operator.turn()
    assert operator.has("young") == [second]
    assert operator.error("young") == ""
    assert operator.found() == []


def test_an_older_node_is_given_nothing_that_a_younger_shows() -> None:
    operator = Operator()
    operator.add("old")
    operator.add("young", "10.1.0.0/24")
    operator.machine("old", "10.1.0.0/24")
    assert (operator.has("old"), operator.has("young")) == ([], ["10.1.0.0/24"])
    operator.restart()
    assert (operator.has("old"), operator.has("young")) == ([], ["10.1.0.0/24"])


def test_a_grant_on_its_way_to_a_younger_node_counts_as_shown() -> None:
    operator = Operator()
    operator.add("old")
    operator.store.faults.append(Fault.LATE)
    operator.add("young", "10.1.0.0/24")
    operator.machine("old", "10.1.0.0/24")
    operator.store.land()
    operator.turn(60.0)
    assert (operator.has("old"), operator.has("young")) == ([], ["10.1.0.0/24"])


def test_when_both_show_it_both_keep_it() -> None:
    operator = Operator()
    operator.add("a", "10.1.0.0/24", shows=("10.1.0.0/24",))
    operator.add("b", "10.1.0.0/24", shows=("10.1.0.0/24",))
    operator.turn(600.0)
    assert operator.has("a") == operator.has("b") == ["10.1.0.0/24"]
    assert {write.part for write in operator.store.writes} == {"status"}


def test_no_range_is_said_after_the_grace_time_and_not_before() -> None:
    operator = Operator("ipv4", "ipv6", grace_s=60.0)
    operator.add("a")
    operator.turn(59.0)
    assert operator.reasons("a") == []
    operator.turn(2.0)
    assert operator.reasons("a") == ["NoPodCIDR", "NoPodCIDR"]
    assert operator.error("a").startswith(
        "no ipv4 pod CIDR: the Node has none, or is not there — run kube-controller-manager with --allocate-node-cidrs"
    )
    operator.machine("a", "10.1.0.0/24", "fd00:1::/64")
    assert operator.error("a") == ""
    assert operator.has("a") == ["10.1.0.0/24", "fd00:1::/64"]
    assert operator.allocator.wake(operator.clock.now()) is None


def test_a_node_made_anew_has_its_own_grace_time() -> None:
    operator = Operator(grace_s=60.0)
    operator.add("a")
    operator.turn(50.0)
    operator.store.remove("a")
    operator.add("a")
    operator.turn(30.0)
    assert operator.reasons("a") == []
    operator.turn(40.0)
    assert operator.reasons("a") == ["NoPodCIDR"]


def test_many_events_within_the_grace_time_wake_once() -> None:
    operator = Operator(grace_s=60.0)
    operator.add("a")
    for _ in range(50):
        operator.store.change("a")
        operator.turn()
    wake = operator.allocator.wake(operator.clock.now())
    assert wake is not None
    operator.allocator.due(wake)
    assert operator.allocator.wake(wake) is None


def test_a_range_of_a_wrong_family_is_said_and_not_written() -> None:
    operator = Operator("ipv4")
    operator.add("a", "fd00:1::/64")
    assert operator.has("a") == []
    assert operator.reasons("a") == ["WrongFamily"]


def test_a_range_more_than_the_enabled_families_need_is_not_written_and_no_problem() -> None:
    """A dual-stack cluster whose Cilium is IPv4 only is no fault of its nodes."""
    operator = Operator("ipv4")
    operator.add("a", "10.1.0.0/24", "fd00:1::/64")
    assert operator.has("a") == ["10.1.0.0/24"]
    assert operator.reasons("a") == []
    assert operator.found() == [], "what was written is all that the enabled family has"


def test_a_vanished_object_is_written_anew_when_it_comes_back() -> None:
    operator = Operator()
    operator.add("a", "10.1.0.0/24")
    operator.store.remove_object("a")
    operator.turn()
    operator.add("b", "10.1.0.0/24")
    assert operator.has("b") == [], "a's machine still has it"
    operator.add("a", "10.1.0.0/24")
    assert operator.has("a") == ["10.1.0.0/24"]
    assert operator.allocator.kept() == ()


def test_an_unreadable_machine_is_said_and_given_nothing() -> None:
    operator = Operator()
    broken = Problem("Unreadable", "invalid CIDR address: x", "correct spec.podCIDRs of Node a")
    operator.store.add("a", facts=Facts(pod_cidrs=(parse("10.1.0.0/24"),)))
    operator.store.change("a", unreadable=[broken])
    operator.turn()
    assert operator.has("a") == []
    assert operator.error("a") == str(broken)


def test_only_the_nodes_concerned_are_looked_at_again() -> None:
    operator = Operator()
    for number in range(30):
        operator.add(f"n{number}", f"10.1.{number}.0/24")
    operator.store.add("late", facts=Facts(pod_cidrs=(parse("10.1.7.0/25"),)))
    operator.store.deliver(operator.drive)
    assert operator.allocator.stale() == ["late", "n7"]


@pytest.mark.parametrize("first", ["aa", "bb"])
def test_two_nodes_never_wait_for_each_other(first: str) -> None:
    """With its object a node is as old as that: who goes first changes, and the other must hear of it."""
    operator = Operator()
    second = "bb" if first == "aa" else "aa"
    for name in ("aa", "bb"):
        operator.clock.sleep(1.0)
        operator.machine(name, "10.0.0.0/24")
    operator.add(first, "10.0.0.0/24")
    operator.assert_a_restart_decides_the_same()
    operator.add(second, "10.0.0.0/24")
    assert [operator.has(first), operator.has(second)].count(["10.0.0.0/24"]) == 1
    assert operator.has("bb") == (["10.0.0.0/24"] if first == "bb" else [])
    operator.assert_a_restart_decides_the_same()


def test_a_node_that_shows_a_shared_range_no_more_lets_the_next_one_know() -> None:
    operator = Operator()
    operator.add("old", "10.1.0.0/24")
    operator.add("young", "10.2.0.0/24", shows=("10.1.0.0/24",))
    operator.store.change("old", blocks=())
    operator.turn()
    assert operator.has("old") == [], "young shows it"
    operator.store.change("young", blocks=())
    operator.turn()
    assert (operator.has("old"), operator.has("young")) == (["10.1.0.0/24"], ["10.2.0.0/24"])


def test_what_a_vanished_object_had_stays_its_nodes_across_a_restart() -> None:
    operator = Operator()
    operator.add("old")
    operator.add("young", "10.1.0.0/24")
    operator.machine("old", "10.1.0.0/24")
    operator.store.remove_object("young")
    operator.turn()
    for _ in range(2):
        assert operator.has("old") == [], "young's pods run"
        assert [(kept.owner, str(kept.cidr)) for kept in operator.allocator.kept()] == [
            ("young", "10.1.0.0/24")
        ]
        operator.assert_a_restart_decides_the_same()
        operator.store.kept = operator.allocator.kept()
        operator.restart()
    operator.add("young", "10.1.0.0/24")
    assert operator.has("young") == ["10.1.0.0/24"]
    assert operator.allocator.kept() == ()


def test_an_ignored_node_whose_grant_is_never_written_does_not_go_before_an_older_one() -> None:
    operator = Operator()
    operator.add("old")
    operator.add("young")
    operator.store.change("young", ignored=True)
    operator.machine("young", "10.1.0.0/24")
    operator.machine("old", "10.1.0.0/24")
    assert (operator.has("old"), operator.has("young")) == (["10.1.0.0/24"], [])
    operator.assert_a_restart_decides_the_same()


@pytest.mark.parametrize("shows", [(), ("fd00::/64",)])
def test_a_range_of_a_family_that_is_not_enabled_denies_nobody(shows: tuple[str, ...]) -> None:
    operator = Operator("ipv4")
    operator.add("a", "10.0.0.0/24", "fd00::/64", shows=shows)
    operator.add("b", "10.0.1.0/24", "fd00::/64")
    assert operator.has("b") == ["10.0.1.0/24"]
    assert operator.reasons("a") == operator.reasons("b") == []
    assert operator.error("a") == operator.error("b") == ""
    assert ("CIDRsOverlap", ("Node/a", "Node/b")) not in operator.found()
    assert operator.allocator.capacity().unserved == 0


def test_an_enabled_family_is_not_shown_by_a_range_of_another() -> None:
    operator = Operator("ipv4")
    operator.add("old")
    operator.add("young", "10.0.0.0/24", shows=("fd00::/64",))
    operator.machine("old", "10.0.0.0/24")
    assert operator.has("old") == ["10.0.0.0/24"]


def test_a_fresh_object_of_an_old_machine_has_its_own_grace_time() -> None:
    operator = Operator(grace_s=60.0)
    operator.machine("a")
    operator.turn(61.0)
    assert operator.reasons("a") == ["NoPodCIDR"]
    assert operator.allocator.capacity().unserved == 1
    operator.add("a")
    assert operator.reasons("a") == []
    assert operator.error("a") == ""
    assert operator.allocator.capacity().unserved == 0
    operator.turn(61.0)
    assert operator.reasons("a") == ["NoPodCIDR"]
    assert operator.allocator.capacity().unserved == 1


def test_a_node_that_grows_older_with_its_object_gone_is_late_in_time() -> None:
    operator = Operator(grace_s=60.0)
    operator.machine("a")
    operator.clock.sleep(30.0)
    operator.store.add("a")
    operator.restart()
    operator.store.remove_object("a")
    operator.turn(31.0)
    assert operator.reasons("a") == ["NoPodCIDR"]
    assert operator.allocator.capacity().unserved == 1


NAMES = st.sampled_from(["aa", "bb", "cc"])
RANGES = st.sampled_from(["10.0.0.0/24", "10.0.0.0/24", "10.0.0.0/16", "10.0.1.0/24"])
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["machine", "shows"]), NAMES, st.none() | RANGES),
    st.tuples(
        st.sampled_from(["object", "object goes", "machine goes", "ignored", "wait"]), NAMES, st.none()
    ),
)


@settings(max_examples=300, deadline=None)
@given(machines=st.lists(RANGES, min_size=3, max_size=3), events=st.lists(EVENTS, min_size=4, max_size=14))
def test_a_restart_decides_what_the_running_one_did(
    machines: list[str], events: list[tuple[str, str, str | None]]
) -> None:
    """Whatever came before, with every write done: who has what, who waits for whom, and who is late."""
    operator = Operator("ipv4", grace_s=20.0)
    store = operator.store
    born = [("machine", name, cidr) for name, cidr in zip(("aa", "bb", "cc"), machines, strict=True)]
    for event, name, cidr in [*born, *events]:
        cidrs = [] if cidr is None else [parse(cidr)]
        there = store.objects.get(name)
        operator.clock.sleep(1.0)
        match event:
            case "machine":
                store.add_machine(name, facts=Facts(pod_cidrs=(*cidrs, parse("fd00::/64"))))
            case "object":
                store.add(name, machine=False)
            case "shows" if there is not None:
                store.change(name, blocks=cidrs)
            case "ignored" if there is not None:
                store.change(name, ignored=not there.ignored)
            case "object goes":
                store.remove_object(name)
            case "machine goes":
                store.remove_machine(name)
            case "wait":
                operator.clock.sleep(15.0)
        operator.turn()
        operator.assert_a_restart_decides_the_same()
        for node in store.objects.values():
            assert node.ignored or operator.allocator.grant(node.name).shown_by(node.holds)
