"""When the node's object is read and written: at once while a pod waits, else seldom; and whose view of it is the newer.

What is read and written of it is its `Half`'s affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from omnipam.core.errors import Conflict, NotFound, OmnipamError, OutcomeUnknown
from omnipam.core.values import Node

from .half import Half
from .side import NodeSide, Report

SPACING_S = 15.0
LOOK_S = 60.0
RETRY_S = (0.2, 15.0)
LOOK_AGAIN_S = 1.0
SETTLE_S = 0.02
"""How long an urgent write waits for others' demand to join it."""


class Publisher:
    """changed: called when the node may have more addresses than before, or its object says something else of it."""

    def __init__(
        self,
        half: Half,
        side: NodeSide,
        *,
        changed: Callable[[], None],
        log: structlog.typing.FilteringBoundLogger,
        spacing_s: float = SPACING_S,
    ) -> None:
        self._half, self._side, self._changed = half, side, changed
        self._log, self._spacing_s = log, spacing_s
        self._node: Node | None = None
        self.seen = asyncio.Event()
        """Set once the object has been seen."""
        self._urgent = asyncio.Event()
        self._later = asyncio.Event()
        self._writing = False
        self._kept_back: list[Node | None] = []  # what the watch said last while a write was under way
        self._expected = ""  # the version of our last write: until the watch shows it, it shows what is older
        self._not_kept: Report | None = None  # what the object does not show though it was written
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
        node, report = self._node, self._half.report(self._node)
        if report.shown_by(node) or report == self._not_kept:
            return False
        self._half.begins(report)
        self._writing = True
        try:
            written = await self._side.write(node, report)
        except OutcomeUnknown:
            await self._reread(unless=node.version)
            raise
        except (Conflict, NotFound):
            self._half.undone(report)
            await self._reread()
            self._urgent.set()
            return False
        except OmnipamError:
            self._half.undone(report)
            raise
        else:
            self._half.written(report, node)
            self._expected = written.version
            self._not_kept = report if report.is_lost_in(written) else None
            self._adopt(written)
        finally:
            self._writing = False
            while self._kept_back:
                self._told(self._kept_back.pop(0))
        return True

    async def _make(self) -> None:
        report = self._half.report(None)
        self._half.begins(report)
        made = await self._side.create(report)
        if made is None:
            await self._reread()
            if self._node is None:
                await asyncio.sleep(1.0)
                self._urgent.set()
            return
        self._half.written(report, None)
        self._not_kept = None
        self._log.info("the node's object is made", blocks=[str(block.cidr) for block in report.held])
        self._expected = made.version
        self._adopt(made)
        self._urgent.set()

    async def _reread(self, *, unless: str = "") -> None:
        """What the object shows now is what counts. unless: in this version a write whose answer was lost may yet arrive."""
        fresh = await self._side.read()
        self._expected = fresh.version if fresh is not None else ""
        if fresh is not None:
            if fresh.version != unless:
                self._half.reread(fresh)
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
            self._half.reread(node)
        self._expected = ""
        self._adopt(node)

    def _is_newer(self, node: Node) -> bool:
        """Whether this is our last write, or later. Versions are whole numbers that grow, in both stores."""
        try:
            return int(node.version) >= int(self._expected)
        except ValueError:
            return node.version == self._expected

    def _adopt(self, node: Node) -> None:
        before, self._node = self._node, node
        grown = self._half.seen(node)
        first = not self.seen.is_set()
        self.seen.set()
        other = before is None or (before.facts, before.default_pool) != (node.facts, node.default_pool)
        if grown or first or other:
            self._changed()
        self._later.set()
        if first or self._half.is_waited_for:
            self._urgent.set()
