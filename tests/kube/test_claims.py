"""What hands write into podCIDRs, on a real API server: whose claim stands, who is left alone, and who is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kube.cluster import Cluster
from tests.kube.operated import (
    CILIUM_NODES,
    MAPS,
    POOL,
    add,
    add_machine,
    all_cidrs,
    error_of,
    events,
    operator,
    pod_cidrs,
    prepare,
)

NO_GC = "--nodes-gc-interval=0"
STATE = f"{MAPS}/omnipam-ipam-state"


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    prepare(cluster)
    return cluster


def write(kube: Cluster, name: str, *cidrs: str) -> None:
    """A hand edits podCIDRs."""
    kube.admin.patch(f"{CILIUM_NODES}/{name}", {"spec": {"ipam": {"podCIDRs": list(cidrs)}}})


def kept(kube: Cluster) -> str:
    """What outlives the operator beside the objects."""
    return str(kube.admin.get(STATE).get("data", "")) if kube.admin.exists(STATE) else ""


def test_a_wide_range_in_an_older_object_touches_nobody(kube: Cluster, tmp_path: Path) -> None:
    add(kube.admin, "typo")
    with operator(kube, tmp_path, *POOL, NO_GC) as op:
        op.until_ready()
        op.until(lambda: pod_cidrs(kube.admin, "typo"), "the older node's block")
        for number in range(20):
            add(kube.admin, f"n{number}")
        op.until(lambda: all(all_cidrs(kube.admin).values()), "everybody's block")
        before = all_cidrs(kube.admin)
        write(kube, "typo", "10.1.0.0/16")
        op.until(lambda: pod_cidrs(kube.admin, "typo") == before["typo"], "its own block again")
        op.until(lambda: events(kube.admin, "AlreadyAllocated"), "the event that says why")
        assert all_cidrs(kube.admin) == before
        (event,) = events(kube.admin, "AlreadyAllocated")
        assert event["involvedObject"]["name"] == "typo"
        assert "requested CIDR (10.1.0.0/16) is already allocated" in event["message"]
        assert "and 17 more" in event["message"]
    with operator(kube, tmp_path / "again", *POOL, NO_GC) as op:
        write(kube, "typo", "10.1.0.0/16")
        op.until_ready()
        op.until(lambda: pod_cidrs(kube.admin, "typo") != ["10.1.0.0/16"], "a block of its own")
        after = all_cidrs(kube.admin)
        assert {name: after[name] for name in after if name != "typo"} == {
            name: before[name] for name in before if name != "typo"
        }


def test_a_block_that_moves_to_the_older_claim_is_an_event_a_log_line_and_a_metric(
    kube: Cluster, tmp_path: Path
) -> None:
    with operator(kube, tmp_path, *POOL, NO_GC) as op:
        op.until_ready()
        for name in ("old", "young"):
            add(kube.admin, name)
            op.until(lambda name=name: pod_cidrs(kube.admin, name), "a block")
        (lost,) = pod_cidrs(kube.admin, "young")
        write(kube, "old", *pod_cidrs(kube.admin, "old"), lost)
        op.until(lambda: pod_cidrs(kube.admin, "young") not in ([lost], []), "another block")
        op.until(lambda: events(kube.admin, "AlreadyAllocated"), "the event")
        (event,) = events(kube.admin, "AlreadyAllocated")
        assert (event["involvedObject"]["name"], event["type"]) == ("young", "Warning")
        assert f"node old has {lost}" in event["message"]
        assert error_of(kube.admin, "young") == ""
        (line,) = [line for line in op.lines() if line["event"] == "unmet demand"]
        assert (line["node"], line["reason"]) == ("young", "AlreadyAllocated")


def test_a_replaced_block_is_kept_for_its_node_across_a_restart(kube: Cluster, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *POOL, NO_GC) as op:
        op.until_ready()
        add(kube.admin, "a")
        op.until(lambda: pod_cidrs(kube.admin, "a"), "a block")
        (granted,) = pod_cidrs(kube.admin, "a")
        write(kube, "a", "10.1.77.0/24")
        op.until(lambda: granted in error_of(kube.admin, "a"), "the status that names it")
        op.until(lambda: granted in kept(kube), "it among what is kept")
    said = error_of(kube.admin, "a")
    writes = kube.requests("ciliumnodes", "PATCH")
    with operator(kube, tmp_path / "again", *POOL, NO_GC) as op:
        op.until_ready()
        add_machine(kube.admin, "b")
        add(kube.admin, "b")
        op.until(lambda: pod_cidrs(kube.admin, "b"), "a block")
        assert pod_cidrs(kube.admin, "b") not in ([granted], ["10.1.77.0/24"])
        assert (pod_cidrs(kube.admin, "a"), error_of(kube.admin, "a")) == (["10.1.77.0/24"], said)
        assert kube.requests("ciliumnodes", "PATCH") == writes + 1, "b only"
        write(kube, "a", granted)
        op.until(lambda: error_of(kube.admin, "a") == "", "all well again")
        op.until(lambda: granted not in kept(kube), "nothing kept")
