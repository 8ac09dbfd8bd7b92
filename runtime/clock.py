"""The machine's clocks, and the one that allocators see: the wall's time at start, moving on with the monotonic clock."""

from __future__ import annotations

import time


class SteadyClock:
    """Seconds since the epoch that never jump: a step of the wall clock neither ends a quarantine early nor prolongs it."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
