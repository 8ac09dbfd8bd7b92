"""The port to the node's own object: what it shows comes in, what the node needs goes out. Kubernetes and SQLite fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from omnipam.core.cidr import Cidr
from omnipam.core.values import POD_CIDRS, Block, Demand, Node


class Report(msgspec.Struct, frozen=True):
    """The agent's half as it should be.

    demand: multi-pool's `requested`. held: blocks that the node holds. given_up: of those that the object shows, the ones that it
    does not hold any more. states: cluster-pool's `status.ipam.pod-cidrs`.
    """

    pooled: bool
    demand: tuple[Demand, ...] = ()
    held: tuple[Block, ...] = ()
    given_up: tuple[Block, ...] = ()
    states: tuple[tuple[Cidr, str], ...] = ()

    def shown_by(self, node: Node) -> bool:
        """Whether the object says so already."""
        if self.pooled:
            return self.demand == node.demand and not self.given_up and not self.lacking(node)
        return self._said("depleted") == node.agent.depleted and self._said("released") == node.agent.released

    def is_lost_in(self, written: Node) -> bool:
        """Whether the object, as answered to a write of this, does not keep it, so that it is of no use to write it again."""
        return False

    def lacking(self, node: Node) -> tuple[Block, ...]:
        """What the node holds and the object does not show."""
        shown = {(block.pool, block.cidr) for block in node.holds.blocks}
        return tuple(block for block in self.held if (block.pool, block.cidr) not in shown)

    def shown_blocks(self, node: Node) -> tuple[Block, ...]:
        """The blocks that the object should show."""
        gone = {(block.pool, block.cidr) for block in self.given_up}
        kept = (
            block
            for block in node.holds.blocks
            if (block.pool, block.cidr) not in gone and block.pool != POD_CIDRS
        )
        return (*kept, *self.lacking(node))

    def _said(self, word: str) -> tuple[Cidr, ...]:
        return tuple(sorted(cidr for cidr, state in self.states if state == word))


class NodeSide(Protocol):
    """One node's object. Both calls raise what a store raises; OutcomeUnknown where a write may have happened."""

    async def follow(self, seen: Callable[[Node | None], None]) -> None:
        """Tells the object now and after each change, until cancelled; None where there is none."""

    async def read(self) -> Node | None:
        """The object as it is now."""

    async def create(self, report: Report) -> Node | None:
        """Makes the object, with what the node holds. None: there is no such machine, or somebody was faster: read."""

    async def write(self, node: Node, report: Report) -> Node:
        """Writes the agent's half into this version of the object. Answers it as written. Raises Conflict where it moved on."""
