"""What a node's demand comes to: what is missing, in blocks of which size, and why it cannot be met. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from omnipam.core.cidr import Cidr, Family
from omnipam.core.overlaps import Overlaps
from omnipam.core.selector import matches
from omnipam.core.space import Space
from omnipam.core.values import Demand, PoolSpec, Problem

from .pools import Pools
from .record import Need, Record, usable

MOST_BLOCKS = 4096
"""Of a pool and family on one node: more would not fit into a Kubernetes object (etcd takes 1.5 MB)."""

Wanted = tuple[tuple[Need, int], ...]
"""Pools and families from which blocks must be taken, with the addresses that are missing."""


class Asked:
    """One demand of a node that its blocks do not meet. why_not: what stands in the way whatever space there is."""

    def __init__(self, record: Record, demand: Demand, pools: Pools) -> None:
        self.need: Need = (demand.pool, demand.family)
        self.needed = demand.needed
        spec = pools.specs.get(demand.pool)
        self.blocks = record.of(self.need, pools) if spec is not None else []
        have = sum(usable(cidr, spec) for cidr in self.blocks) if spec is not None else 0
        self.have = have
        self.missing = max(0, demand.needed - have)
        self.why_not: Problem | None = None
        if self.missing:
            self.why_not = _obstacle(record, demand, spec, pools, len(self.blocks))


def asked(record: Record, families: tuple[Family, ...], pools: Pools) -> Iterator[Asked]:
    """What its agent asks for and does not have, in the order in which it asks."""
    for demand in record.node.demand:
        if demand.family in families:
            one = Asked(record, demand, pools)
            if one.missing:
                yield one


def wanted(record: Record, families: tuple[Family, ...], pools: Pools) -> Wanted:
    """What must be taken for it."""
    if not record.node.demand or not record.writable:
        return ()
    return tuple((one.need, one.missing) for one in asked(record, families, pools) if one.why_not is None)


def room(record: Record, need: Need, pools: Pools) -> int:
    """How many blocks of a pool and family it may have, in all."""
    limits = [limit for pool, limit in record.node.limits if pool == need[0]]
    spec = pools.specs.get(need[0])
    if spec is not None and spec.max_blocks:
        limits.append(spec.max_blocks)
    return min(limits, default=MOST_BLOCKS)


def size(missing: int, sizes: Iterable[int], spec: PoolSpec, bits: int) -> Iterator[int]:
    """The prefix lengths to try for so many addresses, the best first: the widest block of which half is wanted, else narrower."""
    narrowest = max(sizes)
    for length in sorted(sizes):
        if length == narrowest or 2 * missing >= usable(Cidr(bits, 0, length), spec):
            yield length


def foreseen(space: Space, need: Need, missing: int, most: int) -> Iterator[Cidr]:
    """The blocks that would be taken now for so many addresses, `most` at most; fewer where there is no more space."""
    family = need[1]
    sizes = space.sizes(family)
    if not sizes:
        return
    bits = 32 if family == "ipv4" else 128
    coming = {length: space.foresee(family, length) for length in sizes}
    taken = Overlaps()  # each by its size: of one size none comes twice
    while missing > 0 and most > 0:
        for length in size(missing, sizes, space.spec, bits):
            cidr = next((one for one in coming[length] if not taken.overlapping(one, but=str(length))), None)
            if cidr is not None:
                break
        else:
            return
        taken.add(str(length), cidr)
        yield cidr
        missing -= usable(cidr, space.spec)
        most -= 1


def exhausted(record: Record, need: Need) -> Problem:
    """There is no block left."""
    pool, family = need
    return Problem(
        "PoolExhausted",
        _failed(record, need, "pool empty"),
        f"add an {_spelt(family)} range to pool {pool}, or delete nodes that are no more; "
        "it is served as soon as space appears",
    )


def _obstacle(
    record: Record, demand: Demand, spec: PoolSpec | None, pools: Pools, blocks: int
) -> Problem | None:
    need = (demand.pool, demand.family)
    if spec is None:
        return Problem(
            "PoolMissing",
            _failed(record, need, f"cannot allocate from non-existing pool: {demand.pool}"),
            f"make pool {demand.pool}, or look at its events if it is there; it is served then",
        )
    if not matches(spec.selector, dict(record.node.facts.labels)):
        return Problem(
            "PoolNotForNode",
            _failed(record, need, "the pool's node selector does not match the node's labels"),
            "label the node, or choose another pool for its pods",
        )
    if not pools.space(demand.pool).has_ranges(demand.family):
        return Problem(
            "PoolLacksFamily",
            _failed(record, need, "pool empty"),
            f"pool {demand.pool} has no {_spelt(demand.family)} range: use one that has",
        )
    if pools.is_barren(*need):
        return Problem(
            "PoolReserved",
            _failed(record, need, "pool empty"),
            f"what pool {demand.pool} reserves leaves no {_spelt(demand.family)} block of it: reserve less, or add a range",
        )
    most = room(record, need, pools)
    if blocks >= most:
        return Problem(
            "BlockLimit",
            _failed(record, need, f"the node has {blocks} blocks, of {most} that it may have"),
            "raise the limit, or give the pool larger blocks",
        )
    return None


def _failed(record: Record, need: Need, cause: str) -> str:
    pool, family = need
    return f'failed to allocate {family} address for node "{record.name}" from pool "{pool}": {cause}'


def _spelt(family: Family) -> str:
    return f"IPv{family[-1]}"
