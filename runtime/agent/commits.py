"""Group commit: what came in while the disk was busy is written at once, and each answer waits for its own write.

On a disk that is fast, and for a lone change, the event loop writes itself, since a thread would cost more than the disk; else a
thread does, so that requests are read while the disk works. A write that fails undoes itself and everything decided since, latest first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from omnipam.core.errors import OmnipamError
from omnipam.core.reservations import Change

from ..sqlite.worker import Worker
from .later import Later

Undo = Callable[[], None]
QUICK_S = 0.001
SMOOTHING = 0.1
MOST_GATHERED = 64
"""Entries: a write waits for others while they come turn by turn of the loop, unless there are so many already."""


class _Entry:
    __slots__ = ("answer", "changes", "done", "undo")

    def __init__(
        self, changes: Sequence[Change], answer: object, done: Later | None, undo: Undo | None
    ) -> None:
        self.changes, self.answer, self.done, self.undo = changes, answer, done, undo


class Commits:
    """write: writes changes durably, all or none; heal: writes the whole state, after a write that failed. Both block.
    full: whether it is time to write the whole state anyway.

    quick_s: a disk is fast whose writes take no longer; inf: no thread is ever used. clock: monotonic seconds.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Change]], None],
        heal: Callable[[], None],
        *,
        full: Callable[[], bool] = lambda: False,
        quick_s: float = QUICK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write, self._heal, self._quick_s, self._clock = write, heal, quick_s, clock
        self._full = full
        self._takes_s = 0.0
        self._worker = Worker("agent state")
        self._waiting: list[_Entry] = []
        self._scheduled = self._busy = self._broken = self._whole = False
        self._gathered = self._crowd = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.alone: Callable[[], bool] = lambda: False
        """Whether nobody else can be on his way with a change, so that waiting for others is idle."""
        self.told: Callable[[OmnipamError | None], None] = lambda failure: None
        """Called when writes begin to fail, and when they do not any more."""
        self.failure: OmnipamError | None = None
        """Why the last write failed; None after one that did not."""

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker.start()

    async def stop(self) -> None:
        """What was handed in is written before."""
        await self._idle.wait()
        await self._worker.stop()

    def add(self, changes: Sequence[Change], answer: object, undo: Undo | None = None) -> Later:
        """Done, with the answer, when the changes and all before are on disk; with an error, once they are undone."""
        if not changes and not self._busy and not self._waiting:
            return Later.of(answer)
        done = Later()
        entry = _Entry(changes, answer, done, undo)
        if self.alone() and not self._busy and not self._waiting:
            self._ended([entry], self._attempt(changes, self._is_whole()))
        else:
            self._enqueue(entry)
        return done

    def note(self, changes: Sequence[Change]) -> None:
        """Writes what nobody waits for, with the next write or soon."""
        if changes:
            self._enqueue(_Entry(changes, None, None, None))

    def rewrite(self) -> None:
        """Writes the whole state soon: it says something new beside reservations, or the last write failed."""
        self._whole = True
        self._enqueue(_Entry((), None, None, None))

    def _is_whole(self) -> bool:
        whole, self._whole = self._broken or self._whole or self._full(), False
        return whole

    def _enqueue(self, entry: _Entry) -> None:
        self._waiting.append(entry)
        self._idle.clear()
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        count = len(self._waiting)
        if self._crowd > 1 and self._gathered < count < MOST_GATHERED:
            self._gathered = count  # others may be on their way, as they were for the last write
            self._loop.call_soon(self._flush)
            return
        self._gathered, self._crowd = 0, count
        self._scheduled = False
        batch, self._waiting = self._waiting, []
        if not batch:
            self._idle.set()
            return
        changes = [change for entry in batch for change in entry.changes]
        whole = self._is_whole()  # what must not change meanwhile
        if whole or len(batch) == 1 or self._takes_s <= self._quick_s:
            self._ended(batch, self._attempt(changes, whole))
        else:
            self._busy = True
            self._worker.put(partial(self._on_thread, batch, changes))

    def _on_thread(self, batch: list[_Entry], changes: list[Change]) -> None:
        self._worker.post(partial(self._ended, batch, self._attempt(changes, False)))

    def _attempt(self, changes: Sequence[Change], whole: bool) -> OmnipamError | None:
        begun = self._clock()
        try:
            if whole:
                self._heal()  # the state as it is, these changes included
            elif changes:
                self._write(changes)
        except OmnipamError as error:
            return error
        self._takes_s += (self._clock() - begun - self._takes_s) * SMOOTHING
        return None

    def _ended(self, batch: list[_Entry], failure: OmnipamError | None) -> None:
        self._busy = False
        if (failure is None) is not (self.failure is None):
            self.told(failure)
        self.failure = failure
        self._broken = failure is not None
        if failure is not None:
            batch = batch + self._waiting  # decided on top of what is undone now
            self._waiting = []
            for entry in reversed(batch):
                if entry.undo is not None:
                    entry.undo()
        if self._waiting:
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)
        else:
            self._idle.set()
        for entry in batch:
            if entry.done is not None:
                if failure is None:
                    entry.done.set_result(entry.answer)
                else:
                    entry.done.set_exception(failure)
