"""What the two collections together say: who is there, who is gone, and only when that is known for sure."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from omnipam.core.cidr import parse
from omnipam.core.errors import Unavailable
from omnipam.core.values import Finding, Node
from omnipam.runtime.garbage import Orphan
from omnipam.runtime.kube.ciliumnode import CiliumNode, Marks
from omnipam.runtime.kube.join import Following
from omnipam.runtime.kube.machine import Machine
from omnipam.runtime.kube.meta import HasIdentity, Identity
from omnipam.runtime.kube.reflector import Away, Back, Listed, Synced
from omnipam.runtime.kube.watch import Changed, Deleted, Unreadable

SYNCED = Synced("1", 0.0)


class Told:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.skip: set[tuple[str, str]] = set()

    def listed(self) -> None:
        self.calls.append("listed")

    def seen(self, node: Node) -> None:
        self.calls.append(node)

    def gone(self, name: str, uid: str) -> None:
        self.calls.append(("gone", name, uid))

    def synced(self) -> None:
        self.calls.append("synced")

    def expects(self, name: str, version: str) -> bool:
        return (name, version) in self.skip

    def away(self, reason: str) -> None:
        self.calls.append(("away", reason))

    def back(self) -> None:
        self.calls.append("back")

    def finding(self, finding: Finding) -> None:
        self.calls.append(finding)

    def take(self) -> list[Any]:
        calls, self.calls = self.calls, []
        return calls


def cilium_node(name: str, uid: str = "u", version: str = "1", **spec: Any) -> CiliumNode:
    metadata = {
        "name": name,
        "uid": uid,
        "resourceVersion": version,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return msgspec.json.decode(json.dumps({"metadata": metadata, "spec": spec}), type=CiliumNode)


def name_only(name: str) -> HasIdentity:
    return HasIdentity(metadata=Identity(name=name, uid=f"m-{name}"))


def whole(name: str, *pod_cidrs: str) -> Machine:
    tree = {"metadata": {"name": name, "uid": f"m-{name}"}, "spec": {"podCIDRs": pod_cidrs}}
    return msgspec.json.decode(json.dumps(tree), type=Machine)


def started(
    nodes: list[CiliumNode],
    machines: list[Any],
    *,
    whole: bool = False,
    owed: frozenset[str] = frozenset(),
    now: float = 0.0,
) -> tuple[Following, Told]:
    """Both lists told."""
    told = Told()
    following = Following(told, owed=owed, reads_machines=whole, clock=lambda: now)
    following.machine_event(Listed(machines))
    following.machine_event(SYNCED)
    following.node_event(Listed(nodes))
    following.node_event(SYNCED)
    return following, told


def names(calls: list[Any]) -> list[Any]:
    return [(call.name, call.present) if isinstance(call, Node) else call for call in calls]


def test_synced_comes_when_both_lists_are_complete() -> None:
    _, told = started([cilium_node("a"), cilium_node("b")], [name_only("a")])
    assert names(told.take()) == [("a", True), ("b", True), "synced"]


def test_nothing_is_complete_while_the_machines_are_not() -> None:
    told = Told()
    following = Following(told, owed=frozenset(), reads_machines=False, clock=float)
    following.node_event(Listed([cilium_node("a")]))
    following.node_event(SYNCED)
    assert names(told.take()) == [("a", True)]
    following.machine_event(SYNCED)
    assert told.take() == ["synced"]


def test_a_cilium_node_that_vanished_while_its_machine_is_there_stays_without_object() -> None:
    following, told = started([cilium_node("a")], [name_only("a")])
    told.take()
    following.node_event(Deleted("", "a", "u"))
    (alone,) = told.take()
    assert (alone.name, alone.present, alone.version, alone.uid) == ("a", False, "", "u")
    following.machine_event(Deleted("", "a", "m-a"))
    assert told.take() == [("gone", "a", "u")]


def test_a_cilium_node_without_machine_is_gone_at_once() -> None:
    following, told = started([cilium_node("a")], [])
    told.take()
    following.node_event(Deleted("", "a", "u"))
    assert told.take() == [("gone", "a", "u")]


def test_a_machine_that_never_had_a_cilium_node_is_no_node_in_pool_modes() -> None:
    following, told = started([], [name_only("a")])
    following.machine_event(Changed(name_only("b")))
    following.machine_event(Deleted("", "a", "m-a"))
    assert told.take() == ["synced"]
    assert following.without_object("b") is None


def test_the_delete_of_an_earlier_namesake_is_nothing() -> None:
    following, told = started([cilium_node("a", uid="u2")], [])
    told.take()
    following.node_event(Deleted("", "a", "u1"))
    assert told.take() == []


def test_what_vanishes_while_the_machines_are_unknown_is_decided_later() -> None:
    following, told = started([cilium_node("a"), cilium_node("b")], [name_only("a")])
    told.take()
    following.machine_event(Away(Unavailable("down")))
    for name in "ab":
        following.node_event(Deleted("", name, "u"))
    assert told.take() == [("away", "down")]
    following.machine_event(Back(1.0))
    assert names(told.take()) == ["back", ("a", False), ("gone", "b", "u")]


def test_a_node_that_comes_back_while_undecided_is_simply_there() -> None:
    following, told = started([cilium_node("a")], [])
    following.machine_event(Away(Unavailable("down")))
    following.node_event(Deleted("", "a", "u"))
    following.node_event(Changed(cilium_node("a", uid="u2")))
    told.take()
    following.machine_event(Back(1.0))
    assert told.take() == ["back"]


def test_away_and_back_are_said_once_for_both() -> None:
    following, told = started([], [])
    told.take()
    following.machine_event(Away(Unavailable("one")))
    following.node_event(Away(Unavailable("two")))
    following.node_event(Back(1.0))
    following.machine_event(Back(1.0))
    following.node_event(Back(1.0))
    assert told.take() == [("away", "one"), "back"]


def test_our_own_write_is_not_even_read() -> None:
    following, told = started([cilium_node("a")], [])
    told.take()
    told.skip.add(("a", "2"))
    following.node_event(Changed(cilium_node("a", version="2")))
    following.node_event(Changed(cilium_node("a", version="3")))
    assert [node.version for node in told.take()] == ["3"]


def test_a_list_that_the_reflector_began_by_itself_is_announced() -> None:
    following, told = started([cilium_node("a")], [])
    told.take()
    following.node_event(Listed([cilium_node("a", version="2")]))
    following.node_event(Listed([cilium_node("b")]))
    following.node_event(SYNCED)
    assert names(told.take()) == ["listed", ("a", True), ("b", True), "synced"]


def test_a_relist_says_everything_again_those_without_object_too() -> None:
    following, told = started([cilium_node("a"), cilium_node("b")], [name_only("a")])
    following.node_event(Deleted("", "a", "u"))
    told.take()
    following.relist()
    following.machine_event(Listed([name_only("a")]))
    following.machine_event(SYNCED)
    following.node_event(Listed([cilium_node("b")]))
    following.node_event(SYNCED)
    assert names(told.take()) == ["listed", ("b", True), ("a", False), "synced"]


def test_a_list_that_began_before_it_was_asked_for_does_not_count() -> None:
    following, told = started([], [], now=5.0)
    told.take()
    following.relist()
    following.machine_event(Synced("2", 6.0))
    following.node_event(Synced("2", 4.9))
    assert told.take() == ["listed"]
    following.node_event(Synced("3", 5.1))
    assert told.take() == ["synced"]


def test_what_something_is_kept_for_is_told_before_and_after_synced() -> None:
    owed = frozenset(("a", "b", "c"))
    _, told = started([cilium_node("c")], [name_only("a"), name_only("c")], owed=owed)
    assert names(told.take()) == [("c", True), ("a", False), "synced", ("gone", "b", "")]


def test_an_unreadable_node_is_there_and_keeps_its_blocks() -> None:
    following, told = started([], [])
    told.take()
    raw = b'{"metadata": {"name": "a", "uid": "u"}, "spec": {"ipam": {"podCIDRs": ["10.0.0.0/24", 7]}}}'
    following.node_event(Unreadable("", "a", "u", "1", "why", raw))
    (node,) = told.take()
    assert node.unreadable
    assert [block.cidr for block in node.holds.blocks] == [parse("10.0.0.0/24")]
    following.node_event(Deleted("", "a", "u"))
    assert told.take() == [("gone", "a", "u")]


def test_an_unreadable_node_without_a_name_is_a_finding() -> None:
    following, told = started([], [])
    told.take()
    following.node_event(Unreadable("", "", "", "", "why", b"[]"))
    (finding,) = told.take()
    assert finding.reason == "Unreadable"


# kubernetes mode


def test_machines_say_the_facts() -> None:
    following, told = started(
        [cilium_node("a")], [whole("a", "10.1.0.0/24"), whole("b", "10.2.0.0/24")], whole=True
    )
    a, b, last = told.take()
    assert (a.facts.pod_cidrs, a.present) == ((parse("10.1.0.0/24"),), True)
    assert (b.facts.pod_cidrs, b.present) == ((parse("10.2.0.0/24"),), False)
    assert last == "synced"
    following.machine_event(Changed(whole("a", "10.1.0.0/24")))
    assert told.take() == []  # a heartbeat
    following.machine_event(Changed(whole("a", "10.3.0.0/24")))
    (a,) = told.take()
    assert (a.facts.pod_cidrs, a.present, a.uid) == ((parse("10.3.0.0/24"),), True, "u")
    following.node_event(Changed(cilium_node("b", uid="v")))
    (b,) = told.take()
    assert (b.present, b.facts.pod_cidrs) == (True, (parse("10.2.0.0/24"),))


def test_an_unreadable_machine_is_there() -> None:
    following, told = started([], [], whole=True)
    told.take()
    following.machine_event(Unreadable("", "a", "m-a", "1", "status is wrong", b"{}"))
    (node,) = told.take()
    assert not node.present
    assert "Node a cannot be read: status is wrong" in node.unreadable[0].text


# Garbage


def test_orphans_are_nodes_without_machine_and_owner() -> None:
    following, _ = started([cilium_node("a"), cilium_node("b")], [name_only("a")])
    assert following.orphans() == [Orphan("b", "u")]
    following.machine_event(Deleted("", "a", "m-a"))
    assert following.orphans() == [Orphan("a", "u", 1), Orphan("b", "u")]
    following.machine_event(Changed(name_only("a")))
    assert following.orphans() == [Orphan("b", "u")]
    following.machine_event(Deleted("", "a", "m-a"))
    assert following.orphans()[0] == Orphan("a", "u", 2)
    following.node_event(Deleted("", "a", "u"))
    assert following.orphans() == [Orphan("b", "u")]


def test_an_ignored_node_is_no_orphan() -> None:
    """Nothing of it is ever written, and so it is not deleted; once the mark is gone, it is garbage like others."""
    ignored = cilium_node("a")
    marks = msgspec.structs.replace(ignored.metadata, annotations=Marks(ignore="TRUE"))
    ignored = msgspec.structs.replace(ignored, metadata=marks)
    following, _ = started([ignored], [])
    assert following.orphans() == []
    following.node_event(Changed(cilium_node("a")))
    assert following.orphans() == [Orphan("a", "u")]


def test_there_are_no_orphans_while_the_machines_are_unknown() -> None:
    following, _ = started([cilium_node("a")], [])
    assert following.orphans()
    following.machine_event(Away(Unavailable("down")))
    assert following.orphans() == []
    following.machine_event(Back(1.0))
    assert following.orphans()
    following.relist()
    assert following.orphans() == []
