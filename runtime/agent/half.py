"""The agent's half of its node's object, where a mode grants blocks: what is taken in from the object, and what it should say.

A block that is given up is ours to take back until a write begins that says so. From then on only the object, read after that
write, tells whose it is: what the watch shows meanwhile may be older.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import POD_CIDRS, Node

from .side import Report


class Half(Protocol):
    """What a publisher asks. Nothing here waits."""

    @property
    def is_waited_for(self) -> bool:
        """Whether, after what was seen last, somebody waits for a write."""

    def seen(self, node: Node) -> bool:
        """Takes in what the object shows now. Answers whether there may be more addresses than before."""

    def reread(self, node: Node) -> None:
        """Before `seen`: this was read after our last write, whose outcome it shows."""

    def report(self, node: Node | None) -> Report:
        """What the object should say; None: there is none, and it is to be made."""

    def begins(self, report: Report) -> None:
        """A write of it begins: from here on somebody may learn of it."""

    def undone(self, report: Report) -> None:
        """That write surely did nothing."""

    def written(self, report: Report, before: Node | None) -> None:
        """That write is done. before: the object that it was written into."""

    def matured(self) -> bool:
        """To be called now and then: whether there may be more addresses, only because time has passed."""


class Blocks:
    """cluster-pool, kubernetes, multi-pool. clock: seconds since the epoch that do not jump.

    reports: whether anybody reads how full the node's blocks are; in kubernetes mode nobody does, and nothing is written.
    """

    def __init__(self, agent: NodeAgent, *, clock: Callable[[], float], reports: bool = True) -> None:
        self._agent, self._clock, self._reports = agent, clock, reports
        self._readded: set[tuple[str, str]] = set()

    @property
    def is_waited_for(self) -> bool:
        return False

    def seen(self, node: Node) -> bool:
        blocks = [block for block in node.holds.blocks if block.pool != POD_CIDRS]
        self._readded.intersection_update({(block.pool, str(block.cidr)) for block in self._agent.listed()})
        if node.agent.released:
            said = node.agent.released
            self._agent.resume_released(block for block in blocks if block.cidr in said)
        return self._agent.blocks_seen(blocks)

    def reread(self, node: Node) -> None:
        """What it shows is ours, unless it also says that we have given it up."""
        said = node.agent.released
        self._agent.forget_told(block for block in node.holds.blocks if block.cidr not in said)

    def report(self, node: Node | None) -> Report:
        agent = self._agent
        if node is None:
            return Report(agent.pooled, agent.demand(self._clock()), agent.listed())
        if self._reports:
            agent.give_up(self._clock())
        if not agent.pooled:
            states = sorted(agent.pod_cidr_states().items()) if self._reports else ()
            return Report(False, states=tuple(states))
        held = tuple(block for block in agent.listed() if (block.pool, str(block.cidr)) not in self._readded)
        shown = {(block.pool, block.cidr) for block in node.holds.blocks}
        given_up = tuple(block for block in agent.released() if (block.pool, block.cidr) in shown)
        return Report(True, agent.demand(self._clock()), held, given_up)

    def begins(self, report: Report) -> None:
        self._agent.told(report.given_up)

    def undone(self, report: Report) -> None:
        self._agent.untold(report.given_up)

    def written(self, report: Report, before: Node | None) -> None:
        """A block in use that was taken away is shown once more, once: whoever takes it away again means it."""
        if before is not None:
            self._readded.update((block.pool, str(block.cidr)) for block in report.lacking(before))

    def matured(self) -> bool:
        return False
