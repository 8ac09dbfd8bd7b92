"""The machine's clocks, and the one that allocators see: the wall's time at start, moving on with the monotonic clock."""

from __future__ import annotations

import time

_BOOT = getattr(time, "CLOCK_BOOTTIME", None)


def since_boot() -> float:
    """Monotonic seconds that go on while the machine is suspended: a lease runs out meanwhile, and its holder must know."""
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


def wall() -> float:
    """Seconds since the epoch, as the machine has it; it may jump."""
    return time.time()


class SteadyClock:
    """Seconds since the epoch that never jump: a step of the wall clock neither ends a quarantine early nor prolongs it."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return self._offset + time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
