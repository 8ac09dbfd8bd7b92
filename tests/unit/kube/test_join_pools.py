"""The join where pools are followed, too: they are told before the nodes are complete, and whenever one changes."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.unit.kube.test_join import Told, cilium_node

from omnipam.core.values import Finding, PoolSpec
from omnipam.runtime.kube.join import Following
from omnipam.runtime.kube.podippool import PodIPPool
from omnipam.runtime.kube.poolednode import Pooled
from omnipam.runtime.kube.reflector import Changed, Deleted, Listed, Synced, Unreadable


class Pools(Told):
    def pools(self, specs: tuple[PoolSpec, ...]) -> None:
        self.calls.append(("pools", [spec.name for spec in specs]))


def pool(name: str, **spec: Any) -> PodIPPool:
    ipv4 = {"cidrs": ["10.0.0.0/16"], "maskSize": 28}
    tree = {"metadata": {"name": name, "uid": f"u-{name}"}, "spec": {"ipv4": ipv4} | spec}
    return msgspec.convert(tree, PodIPPool)


def started(*pools: PodIPPool, ends: bool = True) -> tuple[Following, Pools]:
    told = Pools()
    following = Following(
        told,
        owed=frozenset(),
        reads_machines=False,
        clock=float,
        form=Pooled(),
        reads_pools=True,
        ends=ends,
    )
    following.machine_event(Synced("1", 1.0))
    following.node_event(Listed([cilium_node("a")]))
    following.node_event(Synced("1", 1.0))
    assert "synced" not in told.calls
    following.pool_event(Listed(list(pools)))
    following.pool_event(Synced("1", 1.0))
    return following, told


def test_pools_are_told_before_the_list_ends() -> None:
    following, told = started(pool("b"), pool("a"))
    assert told.take()[-2:] == [("pools", ["a", "b"]), "synced"]
    following.pool_event(Changed(pool("c")))
    following.pool_event(Deleted("", "a", "u-a"))
    assert told.take() == [("pools", ["a", "b", "c"]), ("pools", ["b", "c"])]
    assert (following.pool_uid("b"), following.pool_uid("a")) == ("u-b", "")


def test_a_pool_that_does_not_decode_is_told_as_such() -> None:
    following, told = started()
    told.take()
    following.pool_event(Unreadable("", "x", "u", "1", "Expected `int`", b"{}"))
    assert told.take() == [("pools", ["x"])]
    assert following._pools["x"].unreadable[0].text == "Expected `int`"


def test_a_new_list_waits_for_pools_too() -> None:
    following, told = started(pool("a"))
    told.take()
    following.relist()
    following.machine_event(Synced("2", 2.0))
    following.node_event(Synced("2", 2.0))
    assert told.take() == ["listed"]
    following.pool_event(Synced("2", 2.0))
    assert told.take() == [("pools", ["a"]), "synced"]


def test_flags_that_the_served_definition_cannot_say_are_not_used() -> None:
    following, told = started(pool("a", allowFirstIP=True), pool("b", allowLastIP=True), ends=False)
    assert not following._pools["a"].first_usable
    (finding,) = [call for call in told.calls if isinstance(call, Finding)]
    assert finding.reason == "SchemaLacksField"
