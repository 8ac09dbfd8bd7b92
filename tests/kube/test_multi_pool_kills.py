"""Killed at any moment, while agents ask and give up: no block is ever shown by two nodes, and in the end all is as asked."""

from __future__ import annotations

import random
from pathlib import Path

from tests.kube.admin import Admin, ApiError, Json
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, Witness, operator, prepare
from tests.kube.test_multi_pool import MODE, NO_GC, pool, requested
from tests.operator_process import SHORT_LEASE

NODES = 12
ROUNDS = 5
POOLS = {"mars": 28, "moon": 29}


def shows(node: Json) -> list[str]:
    entries = node["spec"].get("ipam", {}).get("pools", {}).get("allocated") or []
    return [cidr for entry in entries for cidr in entry.get("cidrs", ())]


def an_agent_acts(admin: Admin, name: str, rng: random.Random, *amounts: int) -> None:
    """It asks for something else, and gives up what it has too much of, on top of what it sees now."""
    node = admin.get(f"{CILIUM_NODES}/{name}")
    needed = {pool: rng.choice(amounts) for pool in POOLS}
    entries = node["spec"]["ipam"]["pools"].get("allocated") or []
    kept = []
    for entry in entries:
        keep = -(-needed[entry["pool"]] // (2 ** (32 - POOLS[entry["pool"]]) - 2))
        cidrs = entry["cidrs"]
        dropped = set(rng.sample(cidrs, max(0, len(cidrs) - keep)))
        if len(dropped) < len(cidrs):
            kept.append({**entry, "cidrs": [cidr for cidr in cidrs if cidr not in dropped]})
    pools = {"requested": requested(**needed), "allocated": kept}
    patch = {
        "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
        "spec": {"ipam": {"pools": pools}},
    }
    try:
        admin.patch(f"{CILIUM_NODES}/{name}", patch)
    except ApiError as error:
        if error.status != 409:  # the operator was faster: then another time
            raise


def is_served(node: Json) -> bool:
    """Whether its blocks cover what it asks for."""
    have = dict.fromkeys(POOLS, 0)
    for entry in node["spec"]["ipam"]["pools"].get("allocated") or ():
        have[entry["pool"]] += len(entry["cidrs"]) * (2 ** (32 - POOLS[entry["pool"]]) - 2)
    return all(
        have[entry["pool"]] >= entry["needed"].get("ipv4-addrs", 0)
        for entry in node["spec"]["ipam"]["pools"]["requested"]
    )


def test_killed_at_any_moment(cluster: Cluster, tmp_path: Path) -> None:
    prepare(cluster)
    admin, rng = cluster.admin, random.Random(4)
    pool(admin, "mars", "10.110.0.0/24", mask=28)
    pool(admin, "moon", "10.111.0.0/24", mask=29)
    for number in range(NODES):
        body = {"ipam": {"pools": {"requested": requested(mars=1, moon=1)}}}
        admin.post(
            CILIUM_NODES,
            {
                "apiVersion": "cilium.io/v2",
                "kind": "CiliumNode",
                "metadata": {"name": f"n{number}"},
                "spec": body,
            },
        )
    with Witness(cluster, shows) as witness:
        for _ in range(ROUNDS):
            with operator(cluster, tmp_path, MODE, NO_GC, *SHORT_LEASE) as op:
                op.until_leading()
                for _ in range(rng.randrange(5, 60)):
                    an_agent_acts(admin, f"n{rng.randrange(NODES)}", rng, 0, 1, 9, 20, 40)
                op.kill()
        with operator(cluster, tmp_path, MODE, NO_GC, *SHORT_LEASE) as op:
            op.until_leading()

            def all_are_served() -> bool:
                """Agents want little now, and have given up what is too much."""
                for number in range(NODES):
                    an_agent_acts(admin, f"n{number}", rng, 1)
                return all(map(is_served, admin.get(CILIUM_NODES)["items"]))

            op.until(all_are_served, "all are served")
            assert op.stop() == 0
    assert witness.conflicts == []
    assert witness.versions > NODES * 2
