"""`AsyncSqliteStore`: the operator's `Store` over the embedded file, with one worker thread that alone touches it.

Folding: SQLite shows the last state of a row, not every one. The driver, having written version 7, waits to see 7 before it
believes what is newer. So each write of ours is told to the sink at its own version before `publish` answers, and `read` first
tells all that is new up to what it answers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from omnipam.core.allocator import Denied, Published, Version
from omnipam.core.drive import Publish
from omnipam.core.errors import Invalid, NotFound, OmnipamError, Unavailable
from omnipam.core.values import Finding, Held, Kept, Node, PoolSpec, Problem

from ..election import LostLease
from ..store import Sink
from .store import BUSY_S, SqliteStore
from .values import Changes, Deletion
from .watch import Watch
from .worker import Worker

POLL_S = 0.05
AWAY_POLL_S = 1.0
BATCH = 500
"""Most publishes in one transaction: others wait for it, about 50 ms."""


class AsyncSqliteStore:
    """Many publishes that wait at once share one commit; each is answered after it.

    reads_pools: the sink is told of pools, too. poll_s: how often to look for other processes' changes. The rest as for
    `SqliteStore`.
    gate: called before a grant is written; raises LostLease to forbid it. May be set later.
    """

    def __init__(
        self,
        url: str,
        *,
        author: str,
        lease: str = "",
        reads_pools: bool = False,
        gate: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
        busy_s: float = BUSY_S,
    ) -> None:
        self._open_store: Callable[[], SqliteStore] = lambda: SqliteStore(
            url, author=author, lease=lease, clock=clock, busy_s=busy_s
        )
        self.gate = gate
        self._reads_pools = reads_pools
        self._poll_s = poll_s
        self._worker = Worker(f"store {url}", tick=self._tick)
        # On the event loop:
        self._sink: Sink | None = None
        self._failed: asyncio.Future[None] | None = None
        self._known: dict[str, str] = {}
        self._findings: list[Finding] = []
        self._epoch = 0
        self._waiting: deque[tuple[Publish, asyncio.Future[Published]]] = deque()
        self._flush_queued = False
        # On the worker thread:
        self._store: SqliteStore | None = None
        self._watch: Watch | None = None
        self._following: int | None = None  # the epoch of who follows
        self._must_list = False
        self._away = False

    # -- the port

    async def open(self) -> None:
        if self._store is not None:
            return
        self._worker.start()
        try:
            await self._worker.call(self._open)
        except BaseException:
            await self._worker.stop()
            raise

    async def close(self) -> None:
        try:
            await self._worker.call(self._close)
        except Unavailable:
            pass  # closed already
        await self._worker.stop()

    async def follow(self, sink: Sink) -> None:
        """As the port says. Returns when the store is closed."""
        self._sink, self._known = sink, {}
        self._tell_findings()
        self._failed = failed = asyncio.get_running_loop().create_future()
        try:
            self._begin_list()
            done, _ = await asyncio.wait((failed, self._worker.ended), return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
        finally:
            self._sink = self._failed = None
            self._epoch += 1
            self._follow_from(None)

    def relist(self) -> None:
        self._epoch += 1  # what is on its way is older
        asyncio.get_running_loop().call_soon(self._begin_list)

    async def publish(self, publish: Publish) -> Published:
        self.gate()
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._waiting.append((publish, future))
        if not self._flush_queued:
            self._flush_queued = True
            try:
                self._worker.put(self._flush)
            except Unavailable as error:
                self._flush_queued = False
                while self._waiting:
                    _, waiting = self._waiting.popleft()
                    waiting.set_result(Denied(error.reason, str(error)))
        return await future

    async def read(self, name: str) -> Node | None:
        def job() -> Node | None:
            store = self._opened()
            with store.reading():
                self._look(force=True)
                return store.node(name)

        try:
            return await self._worker.call(job)
        except Invalid as error:  # a person must mend the file; until then the node cannot be read
            raise Unavailable(str(error)) from error

    async def remove(self, name: str, uid: str) -> None:
        def job() -> None:
            try:
                self._opened().delete_node(name, uid=uid)
            except NotFound:
                return
            self._look(force=True)

        await self._worker.call(job)

    async def kept(self) -> tuple[Kept, ...]:
        kept, findings = await self._worker.call(lambda: self._opened().readable_kept())
        self._findings.extend(findings)
        self._tell_findings()
        return kept

    async def keep(self, kept: Sequence[Kept]) -> None:
        await self._worker.call(lambda: self._opened().keep(kept))

    async def record(self, mode: str, pools: Sequence[PoolSpec]) -> None:
        await self._worker.call(lambda: self._opened().record(mode, pools))

    async def add_pool(self, spec: PoolSpec) -> bool:
        self.gate()

        def job() -> bool:
            store = self._opened()
            if any(pool.name == spec.name for pool in store.pools()):
                return False
            store.add_pool(spec)
            return True

        return await self._worker.call(job)

    async def report_pool(self, name: str, problem: Problem) -> None:
        self.gate()
        text = msgspec.structs.replace(problem, text=f"pool {name}: {problem.text}")
        await self._worker.call(lambda: self._opened().report("", text))

    async def report(self, node: Node | None, problem: Problem) -> None:
        self.gate()
        name = "" if node is None else node.name
        await self._worker.call(lambda: self._opened().report(name, problem))

    # -- on the event loop

    def _tell_findings(self) -> None:
        """To who follows; until somebody does they wait."""
        if self._sink is not None:
            for finding in self._findings:
                self._sink.finding(finding)
            self._findings.clear()

    def _begin_list(self) -> None:
        if self._sink is None:
            return
        self._epoch += 1
        self._sink.listed()
        self._follow_from(self._epoch)

    def _follow_from(self, epoch: int | None) -> None:
        def job() -> None:
            self._following, self._must_list = epoch, epoch is not None
            self._look()

        try:
            self._worker.put(job)
        except Unavailable:
            pass  # closed: nothing will be told any more

    def _tell(self, epoch: int, tell: Callable[[Sink], None]) -> None:
        if self._sink is None or epoch != self._epoch:
            return
        try:
            tell(self._sink)
        except Exception as error:  # noqa: BLE001 — a sink that fails ends `follow`, not only this callback
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)

    def _tell_list(self, sink: Sink, changes: Changes) -> None:
        before, self._known = self._known, {}
        for item in changes.items:
            assert isinstance(item, Node)  # a list has no deletions
            uid = before.pop(item.name, item.uid)
            if uid != item.uid:
                sink.gone(item.name, uid)
            self._known[item.name] = item.uid
            sink.seen(item)
        for name, uid in sorted(before.items()):
            sink.gone(name, uid)
        if changes.pools is not None:
            sink.pools(changes.pools)
        sink.synced()

    def _tell_changes(self, sink: Sink, changes: Changes) -> None:
        if changes.pools is not None:
            sink.pools(changes.pools)
        for item in changes.items:
            if isinstance(item, Deletion):
                self._known.pop(item.name, None)
                sink.gone(item.name, item.uid)
            else:
                self._known[item.name] = item.uid
                sink.seen(item)

    def _answer(self, publish: Publish, outcome: Published, future: asyncio.Future[Published]) -> None:
        if isinstance(outcome, Version) and outcome.version != publish.node.version:
            held = Held(publish.grant.blocks, publish.grant.error)
            node = msgspec.structs.replace(publish.node, version=outcome.version, holds=held)
            self._tell(self._epoch, lambda sink: sink.seen(node))
        if not future.done():
            future.set_result(outcome)

    # -- on the worker thread

    def _open(self) -> None:
        self._store = self._open_store()
        self._watch = Watch(self._store, reads_pools=self._reads_pools)

    def _close(self) -> None:
        self._following = None
        if self._store is not None:
            self._store.close()
            self._store = self._watch = None

    def _opened(self) -> SqliteStore:
        if self._store is None:
            raise Unavailable("the store is not open")
        return self._store

    def _tick(self) -> float:
        self._look()
        return AWAY_POLL_S if self._away else self._poll_s

    def _look(self, *, force: bool = False) -> None:
        epoch, watch = self._following, self._watch
        if epoch is None or watch is None:
            return
        must_list = self._must_list
        try:
            changes = watch.list() if must_list else watch.poll(force=force)
        except OmnipamError as error:
            if not self._away:
                self._away = True
                reason = str(error)
                self._worker.post(lambda: self._tell(epoch, lambda sink: sink.away(reason)))
            return
        if self._away:
            self._away = False
            self._worker.post(lambda: self._tell(epoch, lambda sink: sink.back()))
        if changes is None:  # we slept for longer than deletions are kept
            self._worker.post(self._begin_list)
        elif must_list:
            self._must_list = False
            self._worker.post(lambda: self._tell(epoch, lambda sink: self._tell_list(sink, changes)))
        elif changes.items or changes.pools is not None:
            self._worker.post(lambda: self._tell(epoch, lambda sink: self._tell_changes(sink, changes)))

    def _flush(self) -> None:
        self._flush_queued = False  # before the queue is emptied: who comes later asks for another flush
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            outcomes: list[Published] = [Denied("Unavailable", "the store is closed")] * len(batch)
            if self._store is not None:
                try:
                    outcomes = self._store.publish_all([publish for publish, _ in batch])
                except LostLease as error:
                    for _, future in batch:
                        self._worker.post(partial(_fail, future, error))
                    continue
            versions = {
                publish.node.name: outcome.version
                for (publish, _), outcome in zip(batch, outcomes, strict=True)
                if isinstance(outcome, Version) and outcome.version != publish.node.version
            }
            if self._watch is not None and versions:
                self._watch.wrote(versions)
            for (publish, future), outcome in zip(batch, outcomes, strict=True):
                self._worker.post(partial(self._answer, publish, outcome, future))


def _fail(future: asyncio.Future[Published], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
