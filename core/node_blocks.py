"""The blocks that a node has of its pools, what it needs of each, and which it gives up. Pure; the clock is passed in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from .addresses import Addresses
from .attachment import Given
from .cidr import Cidr, Family
from .demand import Pending, needed_ip_ceil, needed_ip_linear
from .pool_blocks import PoolBlocks
from .values import Block, Demand

LOW = 8
"""cluster-pool: a node with fewer free addresses says that its blocks are depleted; with twice as many to spare it gives one up.
From Cilium's cluster-pool-v2beta (`pod-cidr-allocation-threshold`, `pod-cidr-release-threshold`)."""


class PoolState(msgspec.Struct, frozen=True):
    """One pool and family on this node, in addresses. used: those kept for an owner who is away included."""

    pool: str
    family: Family
    blocks: tuple[Cidr, ...]
    used: int
    free: int
    cooling: int
    total: int


class NodeBlocks:
    """families: those that are enabled.

    pooled: pools have names, and demand is a number of addresses; else all blocks are one pool's, and a block is asked for by
    calling those that there are depleted. gateway: each block keeps its first usable address.
    pre_allocate: addresses to have ready, by pool. rounded: what is asked for is rounded up, so that it seldom changes; else it is
    exact, and blocks are given up by it though pools have no names.
    """

    def __init__(
        self,
        *,
        families: tuple[Family, ...],
        pooled: bool,
        gateway: bool,
        pre_allocate: Mapping[str, int] | None,
        rounded: bool,
    ) -> None:
        self.families, self.pooled = families, pooled
        self.pending = Pending()
        self._gateway = gateway
        self._needed_ip = needed_ip_ceil if rounded else needed_ip_linear
        self._by_demand = pooled or not rounded
        self._configured = dict(pre_allocate or {})
        self._pre_allocate = self._configured
        self._pools: dict[tuple[str, Family], PoolBlocks] = {}
        self._withheld: frozenset[Cidr] = frozenset()

    def _occupy(self, new: Collection[Addresses]) -> None:
        """Marks in blocks that are new what is in use there."""
        raise NotImplementedError

    # -- what there is

    def states(self, now: float) -> tuple[PoolState, ...]:
        """By pool, IPv4 first."""
        found = []
        for (pool, family), blocks in sorted(self._pools.items()):
            blocks.thaw(now)
            found.append(
                PoolState(pool, family, blocks.listed, blocks.held, blocks.free, blocks.cooling, blocks.total)
            )
        return tuple(found)

    def gateways(self) -> tuple[Given, ...]:
        """The gateway of each block that keeps one, in order."""
        return tuple(
            Given(family, each.gateway, each.block, each.gateway)
            for (_, family), blocks in sorted(self._pools.items())
            for each in (blocks.usable if self._gateway else ())
            if each.gateway is not None
        )

    # -- what the node's object shows

    def blocks_seen(self, blocks: Iterable[Block]) -> bool:
        """What the node's object shows now: all of it. Answers whether there may be more addresses than before."""
        shown: dict[tuple[str, Family], list[Block]] = {key: [] for key in self._pools}
        for block in blocks:
            if block.cidr.family in self.families:
                shown.setdefault((block.pool, block.cidr.family), []).append(block)
        grown, added = False, list[Addresses]()
        for key, those in shown.items():
            pool = self._pools.get(key)
            if pool is None:
                pool = self._blocks(key)
            before = pool.removed
            new = pool.update(those)
            added += new
            grown = grown or bool(new) or pool.removed != before
            if not pool.ranges and not pool.released:
                del self._pools[key]
        self._occupy(added)
        return grown

    def withhold(self, blocks: Collection[Cidr]) -> None:
        """Of exactly these blocks nothing new is given until this is called again without them; what is held stays."""
        self._withheld = frozenset(blocks)
        for each in self._pools.values():
            each.withhold(self._withheld)

    def pre_allocates(self, pool: str, number: int) -> None:
        """The node's object wants that many addresses of the pool to be ready; 0: as many as are configured."""
        self._pre_allocate = self._configured | ({pool: number} if number > 0 else {})

    # -- what it should show

    def demand(self, now: float) -> tuple[Demand, ...]:
        """What the node asks of each pool, in use included; zeros are left out."""
        self.pending.purge(now)
        keys = set(self._pools) | self.pending.pools()
        keys |= {(pool, family) for pool in self._pre_allocate for family in self.families}
        found = (
            Demand(pool, family, self._needed(pool, family, self._in_use(pool, family)))
            for pool, family in sorted(keys)
            if family in self.families
        )
        return tuple(each for each in found if each.needed > 0)

    def give_up(self, now: float) -> None:
        """Gives up blocks that are not needed, and takes back those that are and that nobody knows of."""
        for (pool, family), blocks in self._pools.items():
            blocks.thaw(now)
            before = set(blocks.listed)
            if self._by_demand:
                blocks.give_up(lambda n, p=pool, f=family: self._needed(p, f, n) - n)  # type: ignore[misc]  # bound now, not later
            elif len(blocks.usable) > 1 or blocks.released:
                need = self.pending.count(pool, family) + 2 * low(blocks)
                blocks.give_up(lambda _, n=need: n)  # type: ignore[misc]  # as above
            self._occupy([each for each in blocks.ranges if each.block.cidr not in before])

    def released(self) -> tuple[Block, ...]:
        """Blocks given up that the node's object shows still."""
        return tuple(
            Block(pool, cidr) for (pool, _), blocks in sorted(self._pools.items()) for cidr in blocks.released
        )

    def listed(self) -> tuple[Block, ...]:
        """Blocks that the node holds, those that were taken away while in use included."""
        return tuple(
            each.block for _, blocks in sorted(self._pools.items()) for each in sorted_ranges(blocks)
        )

    def told(self, released: Iterable[Block]) -> None:
        for block in released:
            self._blocks_of(block).told((block.cidr,))

    def untold(self, released: Iterable[Block]) -> None:
        for block in released:
            self._blocks_of(block).untold((block.cidr,))

    def resume_released(self, said: Iterable[Block]) -> None:
        """The node's object says of these blocks, which it shows, that we have given them up."""
        for block in said:
            self._blocks((block.pool, block.cidr.family)).resume(block)

    def forget_told(self, shown: Iterable[Block]) -> None:
        """The object, read after our last write, shows these blocks: whatever we had given up of them is ours anew."""
        for block in shown:
            self._blocks_of(block).forget_told((block.cidr,))

    def pod_cidr_states(self) -> dict[Cidr, str]:
        """cluster-pool: what `status.ipam.pod-cidrs` says of each block."""
        states: dict[Cidr, str] = {}
        for (pool, family), blocks in self._pools.items():
            free = sum(each.total - each.used - each.parked for each in blocks.usable)
            short = free - self.pending.count(pool, family) < low(blocks)
            states |= dict.fromkeys(blocks.listed, "depleted" if short else "in-use")
            states |= dict.fromkeys(blocks.released, "released")
        return states

    # -- within

    def _needed(self, pool: str, family: Family, in_use: int) -> int:
        return self._needed_ip(in_use + self.pending.count(pool, family), self._pre_allocate.get(pool, 0))

    def _in_use(self, pool: str, family: Family) -> int:
        blocks = self._pools.get((pool, family))
        return blocks.in_use if blocks is not None else 0

    def _blocks(self, key: tuple[str, Family]) -> PoolBlocks:
        """Those of a pool, which are made where there are none."""
        blocks = self._pools.get(key)
        if blocks is None:
            blocks = self._pools[key] = PoolBlocks(gateway=self._gateway)
            blocks.withhold(self._withheld)
        return blocks

    def _blocks_of(self, block: Block) -> PoolBlocks:
        return self._pools.get((block.pool, block.cidr.family)) or PoolBlocks(gateway=self._gateway)


def sorted_ranges(blocks: PoolBlocks) -> list[Addresses]:
    return sorted(blocks.ranges, key=lambda each: each.block.cidr)


def low(blocks: PoolBlocks) -> int:
    """With fewer free addresses than this the blocks count as depleted; of small blocks it is less than LOW."""
    return max(1, min(LOW, max((each.total for each in blocks.usable), default=0) // 4))
