"""One thread that does blocking work for the event loop: jobs in order, and something to do while there is none."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from omnipam.core.errors import Unavailable

T = TypeVar("T")


class Worker:
    """Runs jobs one at a time, in the order in which they came, and tells the event loop in that order, too.

    tick: called between jobs when its time has come; answers in how many seconds to call it again. None: no ticks.
    """

    def __init__(self, name: str, *, tick: Callable[[], float] | None = None) -> None:
        self._name = name
        self._tick = tick
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def start(self) -> None:
        """On the event loop that it shall tell. After `stop`, it may be started again."""
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when the thread has ended; with its exception, if it died of one."""
        # A daemon: whoever forgets `stop` can still exit, and what was answered is done.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Ends when all jobs have. Stopping twice is fine."""
        if self._thread is None:
            return
        if not self._stopping:
            self._stopping = True
            self._jobs.put(None)
        await asyncio.wait([self.ended])
        self._thread.join()

    def put(self, job: Callable[[], None]) -> None:
        """Runs a job that tells its outcome itself, by `post`, and does not raise. Raises Unavailable once stopped."""
        if self._thread is None or self._stopping or self.ended.done():
            raise Unavailable(f"{self._name} is closed")
        self._jobs.put(job)

    async def call(self, job: Callable[[], T]) -> T:
        """What the job answers or raises. Cancelling does not undo it. Raises Unavailable once stopped."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def run() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 — whoever awaits it gets it
                self.post(partial(_fail, future, error))
            else:
                self.post(partial(_answer, future, result))

        self.put(run)
        return await future

    def post(self, callback: Callable[[], object]) -> None:
        """From the thread: has the event loop call this, after all that was posted before."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: nobody is left to tell
            self._stopping = True
            self._jobs.put(None)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 — whoever follows gets it
            self.post(partial(self._end, error))
        else:
            self.post(partial(self._end, None))

    def _work(self) -> None:
        due = time.monotonic()
        while True:
            if self._tick is not None and time.monotonic() >= due:
                due = time.monotonic() + self._tick()
            try:
                job = self._jobs.get(timeout=None if self._tick is None else max(0.0, due - time.monotonic()))
            except queue.Empty:
                continue
            if job is None:
                return
            job()

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
            self.ended.exception()  # it is known, whether or not anybody follows


def _answer(future: asyncio.Future[T], result: T) -> None:
    if not future.done():  # nobody waits any more
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
