"""Tasks that live and end together: the first error ends all, and is raised as it is, not in a group."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Together:
    """Use as `async with Together() as together`. On leaving, whatever still runs is cancelled and waited for."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[Any]] = []
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begins work beside the others; also from within one of them."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        task.add_done_callback(lambda _: self._ended.set())
        return task

    async def until(self, task: asyncio.Task[T]) -> T:
        """Its result; or the first error of any."""
        while not self._check(task):
            await self._ended.wait()
        return task.result()

    async def first_error(self) -> None:
        """Waits until one of them raises, and raises that. Returns when all have ended well."""
        while not self._check(None):
            await self._ended.wait()

    def _check(self, wanted: asyncio.Task[Any] | None) -> bool:
        """Whether `wanted`, or all, have ended. Raises the error of any that has."""
        self._ended.clear()
        for task in self._tasks:
            if task.done():
                task.result()
        self._tasks = [task for task in self._tasks if not task.done()]
        return wanted.done() if wanted is not None else not self._tasks
