"""Pacing of requests: so many a second, some of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class TokenBucket:
    """Lets `qps` requests a second start, `burst` of them at once; in the order they came."""

    def __init__(
        self,
        qps: float,
        burst: int,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        self._gap, self._depth = 1.0 / qps, (max(burst, 1) - 1) / qps
        self._clock, self._sleep = clock, sleep
        self._next = float("-inf")  # when the next request would start if there were no burst

    async def take(self) -> None:
        now = self._clock()
        self._next = max(self._next, now) + self._gap
        wait = self._next - self._gap - self._depth - now
        if wait > 0:
            await self._sleep(wait)
