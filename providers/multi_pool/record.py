"""What multi-pool knows of one node: the blocks that it has, and those that it shows twice. No decisions."""

from __future__ import annotations

from collections.abc import Mapping

from omnipam.core.cidr import Cidr, Family
from omnipam.core.values import POD_CIDRS, Node, PoolSpec

from ..contest import Claimant
from .pools import Pools

Need = tuple[str, Family]
REMEMBERED = 4


class Record(Claimant):
    """One node. Every CIDR in `blocks` is recorded in the pools under the node's name.

    blocks: all that it has, with the pool whose name it goes by; whether that pool still has such a range is the pools' to say.
    taken: those that no object shows: fresh ones, or ones whose object is gone.
    asked: the needs that were last planned for, with the addresses missing. short: those for which there was no space then.
    past: the versions of its object before this one, the newest last: what has one of them is no news.
    """

    __slots__ = ("asked", "blocks", "past", "short", "taken")

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.blocks: dict[Cidr, str] = {}
        self.taken: frozenset[Cidr] = frozenset()
        self.asked: tuple[tuple[Need, int], ...] = ()
        self.short: tuple[Need, ...] = ()
        self.past: tuple[str, ...] = ()

    def is_unshown(self, cidr: Cidr) -> bool:
        return cidr in self.taken

    def holdings(self) -> tuple[Cidr, ...]:
        return tuple(self.blocks)

    def drop(self, cidr: Cidr) -> None:
        self.blocks.pop(cidr, None)
        if cidr in self.taken:
            self.taken -= {cidr}

    def take(self, blocks: Mapping[Cidr, str]) -> None:
        """Has blocks, each with its pool, that no object shows yet."""
        self.blocks.update(blocks)
        self.taken = self.taken.union(blocks)

    def is_older(self, node: Node) -> bool:
        """Whether this is a state of the same object from before the one we know."""
        return bool(node.version) and node.uid == self.node.uid and node.version in self.past

    def now(self, node: Node) -> None:
        """From now on this is its state."""
        if node.version != self.node.version and self.node.version:
            self.past = (*self.past[1 - REMEMBERED :], self.node.version)
        self.node = node

    def of(self, need: Need, pools: Pools) -> list[Cidr]:
        """Its blocks of a pool and family that count: those in a range that the pool has."""
        pool, family = need
        return [
            cidr
            for cidr, owner in self.blocks.items()
            if owner == pool and cidr.family == family and pools.inside(pool, cidr)
        ]


def usable(cidr: Cidr, spec: PoolSpec) -> int:
    """How many addresses of a block the agent can hand out."""
    if cidr.size <= 2:
        return cidr.size
    return cidr.size - (not spec.first_usable) - (not spec.last_usable)


def distinct(node: Node, pools: Pools) -> dict[Cidr, str]:
    """What an object shows, each address once: the wider block counts, and of two names the one whose pool it is of.

    A range wider than any block is nobody's grant: where it covers blocks of the same object those count, and it is taken out
    when the object is written. One that may not be written keeps all of it.
    """
    found: dict[Cidr, str] = {}
    named = sorted(
        (block for block in node.holds.blocks if block.pool != POD_CIDRS),
        key=lambda block: (block.cidr, not pools.inside(block.pool, block.cidr), block.pool),
    )
    frozen = node.ignored or node.unreadable
    wide = [] if frozen else [block for block in named if pools.excess(block.cidr)]
    left = set(wide)
    last: Cidr | None = None
    for block in named:
        if block not in left and (last is None or not last.contains(block.cidr)):
            last = block.cidr
            found[last] = block.pool
    for block in (*wide, *(block for block in node.holds.blocks if block.pool == POD_CIDRS)):
        if not any(block.cidr.overlaps(cidr) for cidr in found):
            found[block.cidr] = block.pool
    return found
