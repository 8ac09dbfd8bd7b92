"""What stands in the way of Cilium's operator taking over: features beyond its own that are in use. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from omnipam.core.cidr import FAMILIES, Cidr
from omnipam.core.overlaps import Overlaps
from omnipam.core.values import Finding, PoolSpec

from .snapshot import Snapshot


def obstacles(snapshot: Snapshot, spec: PoolSpec, index: Overlaps, now: float) -> Iterator[Finding]:
    """Features beyond Cilium's that are in use: what its operator would do otherwise if it took over now."""
    several = [
        f"CiliumNode/{node.name}"
        for node in snapshot.nodes
        if any(
            sum(1 for block in node.holds.blocks if block.cidr.family == family) > 1 for family in FAMILIES
        )
    ]
    if several:
        yield _obstacle(
            "TakeoverSeveralBlocks",
            tuple(several),
            f"{len(several)} nodes have more than one block of a family; Cilium's agents use the first only",
            "replace those nodes, with cluster-pool-max-blocks-per-node 1",
        )
    if spec.reserved:
        yield _obstacle(
            "TakeoverReserved",
            tuple(f"CIDR/{cidr}" for cidr in spec.reserved),
            "cluster-pool-reserved is set, which Cilium's operator does not know: it would grant those ranges",
            "take them out of the pool's CIDRs first",
        )
    kept_here = [kept for kept in snapshot.kept if kept.pool == spec.name]
    waiting = [kept for kept in kept_here if not kept.owner and kept.until > now]
    if waiting:
        yield _obstacle(
            "TakeoverQuarantine",
            tuple(f"CIDR/{kept.cidr}" for kept in waiting),
            "blocks are in quarantine, which Cilium's operator does not know: it may grant them at once",
            f"wait {max(kept.until for kept in waiting) - now:.0f} s",
        )
    there = {node.name for node in snapshot.nodes}
    bereft = [kept for kept in kept_here if kept.owner in there]
    if bereft:
        yield _obstacle(
            "TakeoverKept",
            tuple(f"CIDR/{kept.cidr}" for kept in bereft),
            "blocks stay with nodes whose CiliumNode is missing or shows another; Cilium's operator would grant them to others",
            "restart the agents of those nodes so that their CiliumNodes come back, or put the blocks back into podCIDRs",
        )
    wide = [
        each.cidr for each in spec.ranges if each.cidr.family == "ipv6" and each.mask - each.cidr.length > 16
    ]
    if wide:
        yield _obstacle(
            "TakeoverSpan",
            tuple(f"CIDR/{cidr}" for cidr in wide),
            "more than 2^16 blocks in an IPv6 range: Cilium's operator does not start with it",
            "use narrower ranges or a smaller mask size",
        )
    shared = sorted(set(_sharing(snapshot, spec, index)))
    if shared:
        yield _obstacle(
            "TakeoverMasks",
            tuple(f"CIDR/{cidr}" for cidr in shared),
            "several nodes' blocks lie in what is one block by today's mask size: Cilium's operator takes all but one away",
            "replace those nodes, or set the mask size back",
        )


def pool_obstacles(snapshot: Snapshot, pools: Sequence[PoolSpec]) -> Iterator[Finding]:
    """The same, in multi-pool mode."""
    for spec in pools:
        pool = (f"CiliumPodIPPool/{spec.name}",)
        if spec.reserved:
            yield _obstacle(
                "TakeoverReserved",
                pool,
                f"pool {spec.name} reserves ranges by annotation, which Cilium's operator does not know: it would grant them",
                "take them out of the pool's CIDRs",
            )
        if spec.selector:
            yield _obstacle(
                "TakeoverSelector",
                pool,
                f"pool {spec.name} has a node selector, which Cilium's operator does not know: it serves every node that asks",
                "make sure by the agents' default pools that only those nodes ask",
            )
        if spec.max_blocks:
            yield _obstacle(
                "TakeoverLimit",
                pool,
                f"pool {spec.name} limits blocks a node, which Cilium's operator does not know: it gives what is asked",
                "lower what the agents pre-allocate",
            )
        if any(each.wider for each in spec.ranges):
            yield _obstacle(
                "TakeoverSizes",
                pool,
                f"pool {spec.name} gives blocks of several sizes; Cilium's operator keeps them, and gives small ones only",
                "nothing need be done",
            )
        wide = [
            each for each in spec.ranges if each.cidr.family == "ipv6" and each.mask - each.cidr.length > 16
        ]
        if wide:
            yield _obstacle(
                "TakeoverSpan",
                (*pool, *(f"CIDR/{each.cidr}" for each in wide)),
                "more than 2^16 blocks in an IPv6 range: Cilium's operator refuses the pool",
                "use narrower ranges or a smaller mask size",
            )
    there, names = {node.name for node in snapshot.nodes}, {spec.name for spec in pools}
    bereft = [kept for kept in snapshot.kept if kept.owner in there and kept.pool in names]
    if bereft:
        yield _obstacle(
            "TakeoverKept",
            tuple(f"CIDR/{kept.cidr}" for kept in bereft),
            "blocks stay with nodes whose CiliumNode is missing; Cilium's operator would grant them to others",
            "restart the agents of those nodes, so that their CiliumNodes come back",
        )


def _sharing(snapshot: Snapshot, spec: PoolSpec, index: Overlaps) -> Iterator[Cidr]:
    for node in snapshot.nodes:
        for block in node.holds.blocks:
            cidr = block.cidr
            for each in spec.ranges:
                if each.cidr.contains(cidr) and cidr.length > each.mask:
                    unit = cidr.widened(each.mask)
                    others = index.overlapping(unit, but=node.name)
                    if any(not other.overlaps(cidr) for _, other in others):
                        yield unit


def _obstacle(reason: str, objects: tuple[str, ...], cause: str, repair: str) -> Finding:
    return Finding(reason, objects, cause, f"before Cilium's operator takes over: {repair}", "info")
