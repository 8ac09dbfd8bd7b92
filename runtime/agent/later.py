"""A result that comes later, and is told the moment it does: asyncio's Future without two turns of the loop in between.

Half of what a durable answer costs beyond the disk would be those turns. Callbacks run inside `set_result`, so whoever calls that
must have put its own house in order before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

Callback = Callable[["Later"], object]


class Later:
    """As an asyncio.Future, of which it has a part; it may be awaited."""

    __slots__ = ("_callbacks", "_cancelled", "_done", "_error", "_result")

    def __init__(self) -> None:
        self._callbacks: list[Callback] = []
        self._done = self._cancelled = False
        self._result: Any = None
        self._error: BaseException | None = None

    @classmethod
    def of(cls, result: object) -> Later:
        """One that is there already."""
        made = cls()
        made._done, made._result = True, result
        return made

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return self._cancelled

    def result(self) -> Any:
        """Raises what went wrong; CancelledError if it was cancelled."""
        if self._cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self) -> BaseException | None:
        return self._error

    def set_result(self, result: object) -> None:
        """Nothing happens if it is done already."""
        if not self._done:
            self._result = result
            self._end()

    def set_exception(self, error: BaseException) -> None:
        if not self._done:
            self._error = error
            self._end()

    def cancel(self) -> bool:
        """Whoever waits is told so; what was to come of it comes all the same."""
        if self._done:
            return False
        self._cancelled = True
        self._end()
        return True

    def add_done_callback(self, callback: Callback) -> None:
        """Called when it is done; at once if it is."""
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._done:
            waiting = asyncio.get_running_loop().create_future()

            def wake(_: Later) -> None:
                if not waiting.done():
                    waiting.set_result(None)

            self.add_done_callback(wake)
            try:
                yield from waiting
            except asyncio.CancelledError:
                self.cancel()
                raise
        return self.result()

    def _end(self) -> None:
        self._done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


def of_task(task: asyncio.Task[Any]) -> Later:
    """A task's result; cancelling it cancels the task."""
    later = Later()

    def ended(done: asyncio.Task[Any]) -> None:
        if done.cancelled():
            later.cancel()
        elif (error := done.exception()) is not None:
            later.set_exception(error)
        else:
            later.set_result(done.result())

    task.add_done_callback(ended)
    later.add_done_callback(lambda made: task.cancel() if made.cancelled() else None)
    return later
