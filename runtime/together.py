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
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begins work beside the others."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        return task

    async def until(self, task: asyncio.Task[T]) -> T:
        """Its result; or the first error of any."""
        await self._wait({task})
        return task.result()

    async def first_error(self) -> None:
        """Waits until one of them raises, and raises that. Returns when all have ended well."""
        await self._wait(set())

    async def _wait(self, wanted: set[asyncio.Task[T]]) -> None:
        while True:
            ended = [task for task in self._tasks if task.done()]
            for task in ended:
                task.result()
            pending = self._tasks - set(ended)
            if not pending or (wanted and wanted <= set(ended)):
                return
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
