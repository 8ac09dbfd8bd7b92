"""When the node's object is read and written: at once while a pod waits, else seldom; and whose view of it is the newer.

A block that is given up is ours to take back until a write begins that says so. From then on only the object, read after that
write, tells whose it is: what the watch shows meanwhile may be older.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from omnipam.core.errors import Conflict, NotFound, OmnipamError, OutcomeUnknown
from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import POD_CIDRS, Node

from .side import NodeSide, Report

SPACING_S = 15.0
LOOK_S = 60.0
RETRY_S = (0.2, 15.0)
LOOK_AGAIN_S = 1.0
SETTLE_S = 0.02
"""How long an urgent write waits for others' demand to join it."""


class Publisher:
    """changed: called when the node may have more addresses than before, or its object says something else of it. clock: seconds since the epoch that do not jump.

    reports: whether anybody reads how full the node's blocks are; in kubernetes mode nobody does, and nothing is written.
    """

    def __init__(
        self,
        agent: NodeAgent,
        side: NodeSide,
        *,
        changed: Callable[[], None],
        clock: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
        spacing_s: float = SPACING_S,
        reports: bool = True,
    ) -> None:
        self._agent, self._side, self._changed, self._clock = agent, side, changed, clock
        self._log, self._spacing_s, self._reports = log, spacing_s, reports
        self._node: Node | None = None
        self.seen = asyncio.Event()
        """Set once the object has been seen."""
        self._urgent = asyncio.Event()
        self._later = asyncio.Event()
        self._writing = False
        self._kept_back: list[Node | None] = []  # what the watch said last while a write was under way
        self._expected = ""  # the version of our last write: until the watch shows it, it shows what is older
        self._readded: set[tuple[str, str]] = set()
        self.error = ""
        """Why the last write failed; empty if it did not."""

    @property
    def node(self) -> Node | None:
        """The object as last seen."""
        return self._node

    def demanded(self, urgent: bool) -> None:
        """The node needs more, or less."""
        (self._urgent if urgent else self._later).set()

    async def follow(self) -> None:
        """Takes in what the object shows, until cancelled."""
        await self._side.follow(self._told)

    async def write(self) -> None:
        """Writes what is to be written, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        delay = RETRY_S[0]
        while True:
            urgent = await self._due(due)
            if urgent:
                await asyncio.sleep(SETTLE_S)
            self._urgent.clear()
            self._later.clear()
            try:
                wrote = await self._publish()
            except OmnipamError as error:
                if str(error) != self.error:
                    self._log.warning("the node's object cannot be written", why=str(error))
                self.error = str(error)
                await asyncio.sleep(delay)
                delay = min(RETRY_S[1], delay * 2)
                self._urgent.set()
                continue
            self.error = ""
            delay = RETRY_S[0]
            # Looking costs little, but not nothing: not after each of a thousand allocations.
            due = loop.time() + (self._spacing_s if wrote else min(self._spacing_s, LOOK_AGAIN_S))

    async def _due(self, due: float) -> bool:
        """Waits until something is to be looked at. Answers whether a pod waits."""
        loop = asyncio.get_running_loop()
        urgent = asyncio.ensure_future(self._urgent.wait())
        later = asyncio.ensure_future(self._patiently(due))
        try:
            await asyncio.wait(
                (urgent, later),
                return_when=asyncio.FIRST_COMPLETED,
                timeout=max(LOOK_S, due - loop.time()),
            )
            return urgent.done()
        finally:
            for task in (urgent, later):
                task.cancel()
            await asyncio.gather(urgent, later, return_exceptions=True)

    async def _patiently(self, due: float) -> None:
        await self._later.wait()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    async def _publish(self) -> bool:
        """Writes once, if the object does not say it already. Answers whether it did."""
        if not self.seen.is_set():
            return False
        if self._node is None:
            await self._make()
            return True
        if self._reports:
            self._agent.give_up(self._clock())
        node, report = self._node, self._report(self._node)
        if report.shown_by(node):
            return False
        self._agent.told(report.given_up)
        self._writing = True
        try:
            written = await self._side.write(node, report)
        except OutcomeUnknown:
            await self._reread(unless=node.version)
            raise
        except (Conflict, NotFound):
            self._agent.untold(report.given_up)
            await self._reread()
            self._urgent.set()
            return False
        except OmnipamError:
            self._agent.untold(report.given_up)
            raise
        else:
            self._note_readded(report, node)
            self._expected = written.version
            self._adopt(written)
        finally:
            self._writing = False
            while self._kept_back:
                self._told(self._kept_back.pop(0))
        return True

    def _report(self, node: Node) -> Report:
        agent = self._agent
        if not agent.pooled:
            states = sorted(agent.pod_cidr_states().items()) if self._reports else ()
            return Report(False, states=tuple(states))
        held = tuple(block for block in agent.listed() if (block.pool, str(block.cidr)) not in self._readded)
        shown = {(block.pool, block.cidr) for block in node.holds.blocks}
        given_up = tuple(block for block in agent.released() if (block.pool, block.cidr) in shown)
        return Report(True, agent.demand(self._clock()), held, given_up)

    def _note_readded(self, report: Report, node: Node) -> None:
        """A block in use that was taken away is shown once more, once: whoever takes it away again means it."""
        self._readded.update((block.pool, str(block.cidr)) for block in report.lacking(node))

    async def _make(self) -> None:
        agent = self._agent
        held = agent.listed()
        report = Report(agent.pooled, agent.demand(self._clock()), held)
        made = await self._side.create(report)
        if made is None:
            await self._reread()
            if self._node is None:
                await asyncio.sleep(1.0)
                self._urgent.set()
            return
        self._log.info("the node's object is made", blocks=[str(block.cidr) for block in held])
        self._expected = made.version
        self._adopt(made)
        self._urgent.set()

    async def _reread(self, *, unless: str = "") -> None:
        """What the object shows now is what counts. unless: in this version a write whose answer was lost may yet arrive."""
        fresh = await self._side.read()
        self._expected = fresh.version if fresh is not None else ""
        if fresh is not None:
            if fresh.version != unless:
                self._forget_told(fresh)
            self._adopt(fresh)
        else:
            self._node = None

    def _told(self, node: Node | None) -> None:
        """The watch: it may be behind our own last write."""
        if self._writing:
            self._kept_back[:] = [node]
            return
        if node is None:
            self._node = None
            self._expected = ""
            self.seen.set()
            self._urgent.set()
            return
        if self._expected and not self._is_newer(node):
            return
        if self._expected == node.version:
            self._expected = ""
            if self._node is not None and self._node.version == node.version:
                return
        else:
            self._forget_told(node)
        self._expected = ""
        self._adopt(node)

    def _forget_told(self, node: Node) -> None:
        """What it shows is ours, unless it also says that we have given it up."""
        said = node.agent.released
        self._agent.forget_told(block for block in node.holds.blocks if block.cidr not in said)

    def _is_newer(self, node: Node) -> bool:
        """Whether this is our last write, or later. Versions are whole numbers that grow, in both stores."""
        try:
            return int(node.version) >= int(self._expected)
        except ValueError:
            return node.version == self._expected

    def _adopt(self, node: Node) -> None:
        before, self._node = self._node, node
        blocks = [block for block in node.holds.blocks if block.pool != POD_CIDRS]
        self._readded.intersection_update({(block.pool, str(block.cidr)) for block in self._agent.listed()})
        if node.agent.released:
            said = node.agent.released
            self._agent.resume_released(block for block in blocks if block.cidr in said)
        grown = self._agent.blocks_seen(blocks)
        first = not self.seen.is_set()
        self.seen.set()
        other = before is None or (before.facts, before.default_pool) != (node.facts, node.default_pool)
        if grown or first or other:
            self._changed()
        self._later.set()
        if first:
            self._urgent.set()
