"""multi-pool on a real API server: the operator as a process, with the rights that the project ships and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.kube.admin import Admin, Json
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, EVENTS, MAPS, add_machine, error_of, events, operator, prepare

from omnipam.runtime.kube.podippool import POOLS

MODE = "--ipam=multi-pool"
NO_GC = "--nodes-gc-interval=0"
OFTEN = "--leader-election-retry-period=300ms"
PREFACE = "ipam-multi-pool-sync allocation failed: "
OURS = "ipam.omnipam.io"


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    prepare(cluster)
    return cluster


def pool(
    admin: Admin, name: str, *cidrs: str, mask: int = 28, ipv6: str = "", marks: dict[str, str] | None = None
) -> Json:
    """Makes a pool; ipv6: one range, cut into /120."""
    spec: dict[str, Any] = {}
    if cidrs:
        spec["ipv4"] = {"cidrs": list(cidrs), "maskSize": mask}
    if ipv6:
        spec["ipv6"] = {"cidrs": [ipv6], "maskSize": 120}
    metadata = {"name": name, "annotations": marks or {}}
    return admin.post(
        POOLS,
        {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool", "metadata": metadata, "spec": spec},
    )


def requested(**needed: int) -> list[Json]:
    """`mars=36`, `mars_ipv6=4`."""
    by_pool: dict[str, dict[str, int]] = {}
    for text, number in needed.items():
        name, _, family = text.partition("_")
        by_pool.setdefault(name, {})[f"{family or 'ipv4'}-addrs"] = number
    return [{"pool": name, "needed": addresses} for name, addresses in by_pool.items()]


def node(admin: Admin, name: str, labels: dict[str, str] | None = None, **needed: int) -> Json:
    """A CiliumNode as an agent makes it that asks for this."""
    return admin.post(
        CILIUM_NODES,
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {"ipam": {"pools": {"requested": requested(**needed)}}},
        },
    )


def ask(admin: Admin, name: str, **needed: int) -> None:
    admin.patch(f"{CILIUM_NODES}/{name}", {"spec": {"ipam": {"pools": {"requested": requested(**needed)}}}})


def allocated(admin: Admin, name: str) -> dict[str, list[str]]:
    spec = admin.get(f"{CILIUM_NODES}/{name}")["spec"]
    entries = spec.get("ipam", {}).get("pools", {}).get("allocated") or []
    return {entry["pool"]: entry.get("cidrs", []) for entry in entries}


def set_allocated(admin: Admin, name: str, entries: list[Json]) -> None:
    admin.patch(f"{CILIUM_NODES}/{name}", {"spec": {"ipam": {"pools": {"allocated": entries}}}})


def test_nodes_are_served_from_several_pools_by_one_write_each(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.20.0.0/16", ipv6="fd00:20::/104")
    pool(admin, "moon", "10.30.0.0/24", mask=26)
    with operator(kube, tmp_path, MODE, "--enable-ipv6=true", NO_GC, OFTEN) as op:
        op.until_leading().until_ready()
        before = kube.requests("ciliumnodes", "PATCH")
        node(admin, "a", mars=36, mars_ipv6=4, moon=1)
        wanted = {
            "mars": ["10.20.0.0/28", "10.20.0.16/28", "10.20.0.32/28", "fd00:20::/120"],
            "moon": ["10.30.0.0/26"],
        }
        op.until(lambda: allocated(admin, "a") == wanted, "served as Cilium's worked example")
        assert kube.requests("ciliumnodes", "PATCH") == before + 1
        # The agent has no more use for one, and gives it up; what it asks for is still met.
        ask(admin, "a", mars=20, mars_ipv6=4, moon=1)
        set_allocated(
            admin,
            "a",
            [
                {"pool": "mars", "cidrs": ["10.20.0.0/28", "10.20.0.32/28", "fd00:20::/120"]},
                {"pool": "moon", "cidrs": ["10.30.0.0/26"]},
            ],
        )
        node(admin, "b", mars=14 * 4094)  # all that is left
        op.until(lambda: len(allocated(admin, "b").get("mars", ())) == 4094, "all that is left")
        assert "10.20.0.16/28" in allocated(admin, "b")["mars"]
        assert allocated(admin, "a")["mars"] == ["10.20.0.0/28", "10.20.0.32/28", "fd00:20::/120"]
        metrics = op.metrics()
        assert metrics['omnipam_pool_blocks{family="ipv4",pool="mars",state="free"}'] == 0
        assert metrics['cilium_operator_ipam_multipool_total_blocks{family="ipv4",pool="moon"}'] == 4
        assert op.stop() == 0
    with operator(kube, tmp_path, MODE, "--enable-ipv6=true", NO_GC, OFTEN) as op:
        op.until_leading().until_ready()
        before, renewals = kube.requests("ciliumnodes", "PATCH"), kube.requests("leases", "PATCH")
        op.until(lambda: kube.requests("leases", "PATCH") >= renewals + 3, "three renewals")
        assert kube.requests("ciliumnodes", "PATCH") == before
        assert not op.lines("planned")


def test_a_missing_pool_is_said_and_served_as_soon_as_it_is_there(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading()
        node(admin, "a", venus=8, mars=8)
        missing = 'failed to allocate ipv4 address for node "a" from pool "venus": cannot allocate from non-existing pool: venus'
        op.until(lambda: missing in error_of(admin, "a"), "said in the status")
        assert error_of(admin, "a").startswith(
            f'{PREFACE}failed to allocate ipv4 address for node "a" from pool'
        )
        assert len(error_of(admin, "a").splitlines()) == 2
        op.until(lambda: events(admin, "PoolMissing"), "said in an event")
        pool(admin, "venus", "10.40.0.0/27")
        op.until(lambda: allocated(admin, "a") == {"venus": ["10.40.0.0/28"]}, "served without a touch of it")
        pool(admin, "mars", "10.50.0.0/28")
        op.until(lambda: "mars" in allocated(admin, "a"), "served")
        op.until(lambda: not error_of(admin, "a"), "cleared")
        # Exhaustion, and its end.
        node(admin, "b", venus=30)
        op.until(lambda: 'from pool "venus": pool empty — ' in error_of(admin, "b"), "said")
        assert allocated(admin, "b") == {"venus": ["10.40.0.16/28"]}
        admin.patch(f"{POOLS}/venus", {"spec": {"ipv4": {"cidrs": ["10.40.0.0/27", "10.41.0.0/24"]}}})
        op.until(lambda: len(allocated(admin, "b")["venus"]) == 3, "served by what was added")
        op.until(lambda: not error_of(admin, "b"), "cleared")


def test_a_pool_that_is_deleted_in_use_drains_and_heals(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.60.0.0/27")
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading()
        node(admin, "a", mars=14)
        op.until(lambda: allocated(admin, "a") == {"mars": ["10.60.0.0/28"]}, "served")
        admin.delete(f"{POOLS}/mars")
        orphan = "unable to find pool mars, prefix 10.60.0.0/28 is still allocated to the node but is marked as orphan"
        op.until(lambda: orphan in error_of(admin, "a"), "said")
        op.until(lambda: events(admin, "PoolDraining"), "said of the pool")
        # Another pool over the same range: what drains is nobody else's.
        pool(admin, "moon", "10.60.0.0/27")
        node(admin, "b", moon=28)
        op.until(lambda: allocated(admin, "b") == {"moon": ["10.60.0.16/28"]}, "the other half only")
        admin.delete(f"{POOLS}/moon")
        admin.delete(f"{CILIUM_NODES}/b")
        pool(admin, "mars", "10.60.0.0/27")
        op.until(lambda: not error_of(admin, "a"), "healed")
        node(admin, "c", mars=28)
        op.until(lambda: allocated(admin, "c") == {"mars": ["10.60.0.16/28"]}, "never twice")
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading().until_ready()
        admin.delete(f"{CILIUM_NODES}/a")
        op.until(lambda: len(allocated(admin, "c")["mars"]) == 2, "what a gone node had is free")


def test_what_is_refused_of_a_pool_says_so_in_its_event(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.70.0.0/27")
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading().until_ready()
        node(admin, "a", mars=1)
        op.until(lambda: allocated(admin, "a"), "served")
        admin.patch(f"{POOLS}/mars", {"spec": {"ipv4": {"maskSize": 29}}})
        text = 'cannot change IPv4 mask size in existing pool "mars"'
        op.until(lambda: text in str(events(admin, "PoolRefused")), "said of the pool")
        node(admin, "b", mars=1)
        op.until(lambda: allocated(admin, "b") == {"mars": ["10.70.0.16/28"]}, "as before")
        pool(admin, "moon", "10.70.0.0/16")
        op.until(
            lambda: "10.70.0.0/16 overlaps 10.70.0.0/27 of pool" in str(events(admin, "PoolRefused")), "said"
        )
        about = {event["involvedObject"]["name"] for event in events(admin, "PoolRefused")}
        assert about == {"mars", "moon"}
        assert {event["involvedObject"]["kind"] for event in events(admin, "PoolRefused", EVENTS)} == {
            "CiliumPodIPPool"
        }


def test_fields_of_others_survive_and_a_vanished_object_is_written_back(
    kube: Cluster, tmp_path: Path
) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.80.0.0/24")
    pool(admin, "moon", "10.81.0.0/24")
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading()
        add_machine(admin, "a")
        made = node(admin, "a", mars=1)
        admin.patch(f"{CILIUM_NODES}/a", {"spec": {"bootid": "b", "health": {"ipv4": "1.2.3.4"}}})
        op.until(lambda: allocated(admin, "a") == {"mars": ["10.80.0.0/28"]}, "served")
        ask(admin, "a", mars=1, moon=1)
        op.until(lambda: "moon" in allocated(admin, "a"), "served")
        now = admin.get(f"{CILIUM_NODES}/a")
        assert now["spec"]["bootid"] == "b"
        assert now["spec"]["health"] == {"ipv4": "1.2.3.4"}
        assert now["spec"]["ipam"]["pools"]["requested"] == requested(mars=1, moon=1)
        had = allocated(admin, "a")
        admin.delete(f"{CILIUM_NODES}/a")
        op.until(lambda: admin.exists(f"{MAPS}/omnipam-ipam-state"), "kept where it outlives us")
        op.kill()
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading().until_ready()
        assert node(admin, "a", mars=1)["metadata"]["uid"] != made["metadata"]["uid"]
        op.until(lambda: allocated(admin, "a") == had, "all that it had is its own again")


def test_pools_are_made_and_nodes_migrated(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "moon", "10.91.0.0/24")
    for name, cidr in (("a", "10.90.0.0/24"), ("b", "10.90.1.0/24")):
        admin.post(
            CILIUM_NODES,
            {
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNode",
                "metadata": {"name": name},
                "spec": {"ipam": {"podCIDRs": [cidr]}},
            },
        )
    made = (
        "--auto-create-cilium-pod-ip-pools="
        "mars=ipv4-cidrs:10.90.0.0/16;ipv4-mask-size:24,moon=ipv4-cidrs:10.92.0.0/16;ipv4-mask-size:24"
    )
    with operator(kube, tmp_path, MODE, NO_GC, made, "--ipam-default-ip-pool=mars") as op:
        op.until_leading().until_ready()
        assert admin.get(f"{POOLS}/mars")["spec"] == {"ipv4": {"cidrs": ["10.90.0.0/16"], "maskSize": 24}}
        assert admin.get(f"{POOLS}/moon")["spec"]["ipv4"]["cidrs"] == ["10.91.0.0/24"]
        node(admin, "c", mars=1)
        op.until(
            lambda: allocated(admin, "c") == {"mars": ["10.90.2.0/24"]}, "what podCIDRs show is occupied"
        )
        assert op.stop() == 0
    migrate = "--enable-cluster-pool-to-multi-pool-migration=true"
    with operator(kube, tmp_path, MODE, NO_GC, migrate, "--ipam-default-ip-pool=mars") as op:
        for name, cidr in (("a", "10.90.0.0/24"), ("b", "10.90.1.0/24")):
            op.until(lambda name=name, cidr=cidr: allocated(admin, name) == {"mars": [cidr]}, "migrated")
            assert not admin.get(f"{CILIUM_NODES}/{name}")["spec"]["ipam"].get("podCIDRs")


def test_annotations_beyond_cilium(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(
        admin,
        "mars",
        "10.100.0.0/16",
        marks={
            f"{OURS}/node-selector": "zone in (a,b),!spot",
            f"{OURS}/ipv4-mask-sizes": "24",
            f"{OURS}/reserved": "10.100.0.0-10.100.0.20",
            f"{OURS}/max-blocks-per-node": "3",
        },
    )
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading()
        node(admin, "small", {"zone": "a"}, mars=8)
        op.until(lambda: allocated(admin, "small") == {"mars": ["10.100.0.32/28"]}, "a small one")
        node(admin, "large", {"zone": "b"}, mars=200)
        op.until(lambda: allocated(admin, "large") == {"mars": ["10.100.1.0/24"]}, "one in place of sixteen")
        node(admin, "other", {"zone": "a", "spot": "true"}, mars=8)
        op.until(lambda: "node selector does not match" in error_of(admin, "other"), "not for it")
        admin.patch(f"{CILIUM_NODES}/other", {"metadata": {"labels": {"spot": None}}})
        op.until(lambda: allocated(admin, "other"), "for it now")
        ask(admin, "small", mars=60)
        op.until(lambda: len(allocated(admin, "small")["mars"]) == 3, "as many as it may have")
        op.until(lambda: "3 blocks, of 3" in error_of(admin, "small"), "and no more")
        admin.patch(f"{CILIUM_NODES}/other", {"metadata": {"annotations": {f"{OURS}/max-blocks": "mars=1"}}})
        ask(admin, "other", mars=40)
        op.until(lambda: "1 blocks, of 1" in error_of(admin, "other"), "its own limit")


def test_a_pool_that_reserves_all_says_so_everywhere(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.110.0.0/26", marks={f"{OURS}/reserved": "10.110.0.0-10.110.0.63"})
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading()
        node(admin, "a", mars=1)
        text = "pool empty — what pool mars reserves leaves no IPv4 block"
        op.until(lambda: text in error_of(admin, "a"), "said in the status")
        op.until(
            lambda: (
                {event["involvedObject"]["kind"] for event in events(admin, "PoolReserved", EVENTS)}
                == {"CiliumPodIPPool", "CiliumNode"}
            ),
            "said of the pool and of the node",
        )
        admin.patch(
            f"{POOLS}/mars", {"metadata": {"annotations": {f"{OURS}/reserved": "10.110.0.0-10.110.0.46"}}}
        )
        op.until(lambda: allocated(admin, "a") == {"mars": ["10.110.0.48/28"]}, "served by what is left")
        op.until(lambda: not error_of(admin, "a"), "cleared")


def test_a_pool_made_anew_with_another_mask_never_grants_what_drains(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.120.0.0/26")
    with operator(kube, tmp_path, MODE, NO_GC) as op:
        op.until_leading()
        node(admin, "a", mars=14)
        op.until(lambda: allocated(admin, "a") == {"mars": ["10.120.0.0/28"]}, "served")
        admin.delete(f"{POOLS}/mars")
        pool(admin, "mars", "10.120.0.0/26", mask=27)
        node(admin, "b", mars=60)
        op.until(lambda: allocated(admin, "b") == {"mars": ["10.120.0.32/27"]}, "only what nobody has")
        ask(admin, "a", mars=1)
        set_allocated(admin, "a", [])
        op.until(
            lambda: len([*allocated(admin, "a").get("mars", ()), *allocated(admin, "b")["mars"]]) == 2,
            "what was given up is granted in the new size",
        )
        assert "10.120.0.0/27" in [*allocated(admin, "a").get("mars", ()), *allocated(admin, "b")["mars"]]


def test_a_migration_that_fails_says_so_in_cilium_s_words(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    pool(admin, "mars", "10.130.0.0/16", mask=24)
    admin.post(
        CILIUM_NODES,
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {"name": "a"},
            "spec": {"ipam": {"podCIDRs": ["10.130.0.0/24", "10.130.1.0/240"]}},
        },
    )
    flags = ("--enable-cluster-pool-to-multi-pool-migration=true", "--ipam-default-ip-pool=mars")
    workers = "--multi-pool-migration-workers=4"
    with operator(kube, tmp_path, MODE, NO_GC, *flags, workers) as op:
        failed = "migration to multi-pool IPAM failed: invalid CIDR address: 10.130.1.0/240"
        op.until(lambda: error_of(admin, "a").startswith(failed), "said, with nothing before it")
        assert "multi-pool-migration-workers: does nothing here" in op.text()
        assert admin.get(f"{CILIUM_NODES}/a")["spec"]["ipam"]["podCIDRs"] == [
            "10.130.0.0/24",
            "10.130.1.0/240",
        ]
        admin.patch(f"{CILIUM_NODES}/a", {"spec": {"ipam": {"podCIDRs": ["10.130.0.0/24"]}}})
        op.until(lambda: allocated(admin, "a") == {"mars": ["10.130.0.0/24"]}, "migrated once it can be read")
        op.until(lambda: not error_of(admin, "a"), "cleared")
