"""What stands in the way of Cilium's operator: only what is of the pools that are served, and of nodes that there are."""

from __future__ import annotations

from tests.unit.cli.console import pool

from omnipam.core.cidr import parse
from omnipam.core.overlaps import Overlaps
from omnipam.core.values import Kept, Node, PoolRange, PoolSpec
from omnipam.runtime.snapshot import Snapshot
from omnipam.runtime.takeover import obstacles, pool_obstacles

KEPT = (
    Kept("default", parse("10.0.1.0/24"), owner="bereft"),
    Kept("default", parse("10.0.2.0/24"), until=200.0),
    Kept("mars", parse("10.9.1.0/24"), owner="bereft"),
    Kept("mars", parse("10.9.2.0/24"), until=200.0),
    Kept("gone", parse("10.8.1.0/24"), owner="bereft"),
    Kept("mars", parse("10.9.3.0/24"), owner="deleted"),
)
SNAPSHOT = Snapshot("here", nodes=(Node("bereft", present=False),), kept=KEPT)


def test_in_cluster_pool_mode() -> None:
    found = obstacles(SNAPSHOT, pool(("10.0.0.0/16", 24)), Overlaps(), 100.0)
    assert {each.reason: each.objects for each in found} == {
        "TakeoverKept": ("CIDR/10.0.1.0/24",),
        "TakeoverQuarantine": ("CIDR/10.0.2.0/24",),
    }


def test_in_multi_pool_mode() -> None:
    mars = PoolSpec("mars", (PoolRange(parse("10.9.0.0/16"), 24),), max_blocks=0)
    found = pool_obstacles(SNAPSHOT, (mars,))
    assert {each.reason: each.objects for each in found} == {"TakeoverKept": ("CIDR/10.9.1.0/24",)}
