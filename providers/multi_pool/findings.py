"""What a person should know of pools and their nodes that is no single node's unmet demand, and how full pools are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from omnipam.core.cidr import FAMILIES, Cidr
from omnipam.core.values import POD_CIDRS, Finding, PoolCapacity, PoolSpec, Problem

from ..findings import of_node
from .pools import Pools
from .record import Record

NAMED = 3
"""Orphans of a pool that a status names: a node may have thousands, and a status has its limits."""
DRAINS = "its agent gives it up once nothing uses it; evict its pods, or replace the node, to hasten that"


def orphaned(record: Record, pools: Pools) -> list[Problem]:
    """Blocks that the node has and no pool of theirs has any more, with Cilium's words: the first of each pool, and how many more."""
    orphans: dict[str, list[Cidr]] = {}
    for cidr, pool in sorted(record.blocks.items()):
        if pool != POD_CIDRS and cidr not in record.taken and not pools.inside(pool, cidr):
            orphans.setdefault(pool, []).append(cidr)
    found = []
    for pool, cidrs in sorted(orphans.items()):
        if pool in pools:
            reason, hint = "RangeDrained", DRAINS
            where, one = f"unable to reuse from pool {pool}:", "is not part of the requested pool"
            listed = [f"{where} cidr {cidr} {one}" for cidr in cidrs[:NAMED]]
            rest = f"{where} {len(cidrs) - NAMED} cidrs more"
        else:
            reason = "PoolDrained"
            hint = f"make the pool again to keep it, or see its events if it is there, else {DRAINS}"
            where, one = (
                f"unable to find pool {pool},",
                "is still allocated to the node but is marked as orphan",
            )
            listed = [f"{where} prefix {cidr} {one}" for cidr in cidrs[:NAMED]]
            rest = f"{where} {len(cidrs) - NAMED} prefixes more are orphans"
        if len(cidrs) > NAMED:
            listed.append(rest)
        found += [Problem(reason, text, hint) for text in listed]
    return found


def reserved_elsewhere(specs: Iterable[PoolSpec]) -> list[Finding]:
    """What pools reserve outside of their ranges: a slip of the hand there leaves what was meant to be granted."""
    return [
        Finding(
            "ReservedElsewhere",
            (f"CIDR/{cidr}", f"CiliumPodIPPool/{spec.name}"),
            f"pool {spec.name} reserves {cidr}, which is in no range of it",
            "correct the annotation ipam.omnipam.io/reserved of the pool",
        )
        for spec in specs
        for cidr in spec.reserved
        if not any(each.cidr.overlaps(cidr) for each in spec.ranges)
    ]


def all_reserved(pools: Pools) -> list[Finding]:
    """Pools that can give nothing, because they reserve it all: meant, to have one drain, or a slip of the hand."""
    return [
        Finding(
            "PoolReserved",
            (f"CiliumPodIPPool/{pool}",),
            f"pool {pool} reserves all blocks of its IPv{family[-1]} ranges: none is granted",
            "reserve less, or add a range, unless it is meant to drain",
            severity="info",
        )
        for pool, family in pools.barren()
    ]


def is_notable(record: Record, pools: Pools) -> bool:
    """Whether a person should hear of this node."""
    node = record.node
    return bool(
        record.lost
        or not record.writable
        or (node.default_pool and node.default_pool not in pools)
        or any(not pools.inside(pool, cidr) for cidr, pool in record.blocks.items())
    )


def standing(records: Iterable[Record], pools: Pools) -> list[Finding]:
    """What stands of these nodes."""
    found: list[Finding] = []
    drained: set[str] = set()
    for record in records:
        drained.update(pool for cidr, pool in record.blocks.items() if not pools.inside(pool, cidr))
        found += of_node(record, sorted(record.blocks), pools)
        default = record.node.default_pool
        if default and default not in pools:
            found.append(
                Finding(
                    "DefaultPoolMissing",
                    (f"CiliumNode/{record.name}", f"CiliumPodIPPool/{default}"),
                    f"the default pool of node {record.name} is {default}, which is not served",
                    f"make pool {default}, or correct the node's annotation ipam.omnipam.io/default-pool",
                )
            )
    return found + [_draining(pool, pools) for pool in sorted(drained)]


def _draining(pool: str, pools: Pools) -> Finding:
    if pool == POD_CIDRS:
        return Finding(
            "PodCIDRsLeft",
            ("CiliumNode",),
            "nodes show spec.ipam.podCIDRs of a time in cluster-pool mode; nothing of them is given to others",
            "set enable-cluster-pool-to-multi-pool-migration, once no agent uses them in the old way",
        )
    if pool in pools:
        text = f"CIDR from pool still in use by node: ranges were taken out of pool {pool}, and nodes have blocks there"
    else:
        text = f"pool still in use by node: pool {pool} is not served, and nodes have blocks of it"
    return Finding(
        "PoolDraining",
        (f"CiliumPodIPPool/{pool}",),
        text,
        f"nothing of it is given to others until they are gone: omnipam pool show {pool} lists them",
        severity="info",
    )


def capacities(records: Mapping[str, Record], pools: Pools) -> tuple[PoolCapacity, ...]:
    """Per pool and family. outside: blocks in no range of any pool, by the pool whose name they go by."""
    strays: dict[str, Counter[str]] = defaultdict(Counter)
    for owner, cidr in pools.strays():
        pool = records[owner].blocks.get(cidr, POD_CIDRS)
        strays[pool][cidr.family] += 1
    found = []
    for space in pools:
        name = space.spec.name
        there = strays.pop(name, Counter())
        found += [
            msgspec.structs.replace(each, outside=there[each.family])
            for each in space.capacity()
            if space.has_ranges(each.family) or there[each.family]
        ]
    for pool, families in strays.items():
        found += [
            PoolCapacity(pool, family, outside=families[family]) for family in FAMILIES if families[family]
        ]
    return tuple(sorted(found, key=lambda each: (each.pool, each.family)))
