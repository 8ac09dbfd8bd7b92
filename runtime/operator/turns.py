"""The asyncio driver: `core.drive`'s turn with many writes under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from omnipam.core.allocator import Denied, Plan, Published, Unknown, Version
from omnipam.core.drive import Drive, Publish
from omnipam.core.errors import Denied as DeniedError
from omnipam.core.errors import OmnipamError
from omnipam.core.values import Grant, Kept, Node

from ..election import LostLease
from ..metrics import Metrics
from ..store import Store
from .telling import Telling
from .unwritten import NOT_WRITTEN, Unwritten

KEEP_RETRY_S = (1.0, 60.0)
MAKE_UP_S = 1.0


class Turns:
    """Runs turns whenever something changed or it is time. Writes of different nodes go on side by side, `limit` at most."""

    def __init__(
        self,
        drive: Drive,
        store: Store,
        *,
        clock: Callable[[], float],
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
        limit: int,
        found: Callable[[], None] = lambda: None,
    ) -> None:
        """found: called when there may be a new finding."""
        self._drive, self._store = drive, store
        self._clock, self._metrics, self._log = clock, metrics, log
        self._limit = limit
        self._event = asyncio.Event()
        self._writers: set[asyncio.Task[None]] = set()
        self._readers: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._kept: tuple[Kept, ...] = ()
        self._keep_delay = KEEP_RETRY_S[0]
        self._telling = Telling(store, metrics, log)
        self._teller: asyncio.Task[None] | None = None
        self.unwritten = Unwritten(drive)
        self._found = found
        self._asked = 0
        self._refused: set[str] = set()
        self._stopping = False
        self._broken: BaseException | None = None

    def changed(self) -> None:
        """Something may be due: the next turn begins as soon as the loop gets to it, once for all that changed."""
        self._event.set()

    def gone(self, name: str) -> None:
        """A node is no more."""
        self._telling.forget(name)
        self.unwritten.over(name)
        self._event.set()

    def restored(self, kept: tuple[Kept, ...]) -> None:
        """What the store keeps now."""
        self._kept = kept

    async def run(self) -> None:
        """Turns until cancelled. Raises LostLease where a write was no longer allowed to start."""
        drive = self._drive
        while True:
            self._event.clear()
            now = self._clock()
            plans = drive.plan(now)
            if plans:
                self._planned(plans)
            if drive.asked > self._asked:
                self._metrics.sync.request(now, drive.asked - self._asked)
                self._asked = drive.asked
            self._fill()
            self._tell_mute()
            self._keep()
            self._make_up()
            if self._broken is not None:
                raise self._broken
            wake = drive.wake(now)
            try:
                async with asyncio.timeout(None if wake is None else max(0.0, wake - self._clock())):
                    await self._event.wait()
            except TimeoutError:
                pass

    async def drain(self, seconds: float) -> None:
        """Starts nothing more, and waits that long for what is under way."""
        self._stopping = True
        if self._teller is not None:
            self._teller.cancel()  # it may sleep
        others = [task for task in (self._keeper, self._teller) if task is not None]
        under_way = {*self._writers, *self._readers, *others}
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _planned(self, plans: list[Plan]) -> None:
        whose = {"node": plans[0].node} if len(plans) == 1 else {"nodes": len(plans)}
        self._log.info("planned", **whose, actions=sum(len(plan.actions) for plan in plans))
        for plan in plans:
            self._log.debug(
                "planned for a node", node=plan.node, reasons=[each.reason for each in plan.actions]
            )

    def _fill(self) -> None:
        drive, now = self._drive, self._clock()
        while not self._stopping and len(self._writers) < self._limit:
            publish = drive.next_publish()
            if publish is None:
                break
            self._metrics.sync.begin(now)
            self._start(self._write(publish), self._writers)
        while not self._stopping and len(self._readers) < self._limit:
            name = drive.next_read()
            if name is None:
                break
            self._start(self._read(name), self._readers)

    def _start(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, tasks))

    def _ended(self, task: asyncio.Task[None], tasks: set[asyncio.Task[None]]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
        if not self._writers:
            self._metrics.sync.end(self._clock())
        self._event.set()

    async def _write(self, publish: Publish | None) -> None:
        """Writes one grant, then others as long as there are some: fewer tasks than writes."""
        drive, publishes = self._drive, self._metrics.publishes
        while publish is not None:
            outcome = await self._store.publish(publish)
            publishes[type(outcome).__name__] += 1
            drive.published(publish, outcome, self._clock())
            if not isinstance(outcome, Version):
                self._not_written(publish, outcome)
                if isinstance(outcome, Denied | Unknown):
                    await self._failed(publish.node, publish.grant, outcome.text)
                self._event.set()
            else:
                if self._refused:
                    self._refused.clear()
                node, grant = publish.node, publish.grant
                self._written(node.name)
                if self._telling.concerns(node, grant) and (news := self._telling.news(node, grant)):
                    await self._telling.report(node, news)
            publish = None if self._stopping else drive.next_publish()

    def _not_written(self, publish: Publish, outcome: Published) -> None:
        """Says so. Of refusals for one reason only the first, until something can be written: a missing right hits all nodes."""
        text = getattr(outcome, "text", "")
        line = self._log.debug
        if isinstance(outcome, Denied) and outcome.reason not in self._refused:
            self._refused.add(outcome.reason)
            line = self._log.warning
        line("grant not written", node=publish.node.name, outcome=type(outcome).__name__, why=text)

    async def _failed(self, node: Node, grant: Grant, why: str) -> None:
        """Where that was one try too many, it is told, and what its status would have said."""
        problem = self.unwritten.failed(node.name, why)
        if problem is not None:
            self._metrics.problems[problem.reason] += 1
            self._found()
            await self._telling.report(
                node, [problem, *self._telling.news(node, Grant(problems=grant.problems))]
            )

    def _written(self, name: str) -> None:
        if self.unwritten.over(name):
            self._telling.over(name, NOT_WRITTEN)
            self._found()

    def _tell_mute(self) -> None:
        """Nodes that nothing can be written on have problems, too."""
        allocator, mute = self._drive.allocator, self._drive.mute
        while mute and not self._stopping:
            node = allocator.node(mute[-1])
            if node is not None:
                grant = allocator.grant(node.name)
                if self._telling.concerns(node, grant) and (news := self._telling.news(node, grant)):
                    self._start(self._telling.report(node, news), self._readers)
            mute.pop()

    async def _read(self, name: str) -> None:
        try:
            node = await self._store.read(name)
        except OmnipamError as error:
            line = self._log.debug
            if isinstance(error, DeniedError) and "read" not in self._refused:
                self._refused.add("read")
                line = self._log.warning
            line("not read", node=name, why=str(error))
            self._drive.read_failed(name, self._clock())
            before = self._drive.allocator.node(name)
            if before is not None:
                await self._failed(before, self._drive.allocator.grant(name), str(error))
        else:
            self._drive.read(name, node, self._clock())

    def _make_up(self) -> None:
        """What could not be reported yet is, as soon as the store takes it."""
        if self._telling.owes and self._teller is None and not self._stopping:
            self._teller = asyncio.ensure_future(self._tell_owed())

    async def _tell_owed(self) -> None:
        try:
            while self._telling.owes:
                await asyncio.sleep(MAKE_UP_S)
                for name in self.unwritten.mended():
                    self._written(name)
                await self._telling.make_up()
        except LostLease as error:
            self._broken = error
            self._event.set()
        finally:
            self._teller = None

    def _keep(self) -> None:
        """Writes what must outlive us, one write at a time, the newest only."""
        kept = self._drive.allocator.kept()
        if kept is self._kept or self._keeper is not None or self._stopping:
            return
        if kept == self._kept:
            self._kept = kept
            return
        self._keeper = asyncio.ensure_future(self._write_kept(kept))

    async def _write_kept(self, kept: tuple[Kept, ...]) -> None:
        try:
            await self._store.keep(kept)
            self._kept, self._keep_delay, self.unwritten.kept = kept, KEEP_RETRY_S[0], ""
        except LostLease as error:
            self._broken = error
        except OmnipamError as error:
            self._log.warning(
                "what is kept from being granted could not be written; trying on",
                why=str(error),
                again_in_s=self._keep_delay,
            )
            self.unwritten.kept = str(error)
            self._found()
            await asyncio.sleep(self._keep_delay)
            self._keep_delay = min(KEEP_RETRY_S[1], 2 * self._keep_delay)
        finally:
            self._keeper = None
            self._event.set()
