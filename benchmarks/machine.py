"""The machine that a run is made on: ratios travel, seconds do not, and neither is worth much on a machine that others use."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def note() -> str:
    """Cores that we may use, Python, kernel, and how busy it was before we began."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = os.getloadavg()[0]
    return (
        f"{cores} cores, {platform.python_implementation()} {platform.python_version()},"
        f" {platform.system()} {platform.release()} {platform.machine()}, load {busy:.2f} at the start"
    )


def cpu_s(pid: int) -> float:
    """User and system time of a process up to now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


class Strangers:
    """Measures, from construction, how much of the machine went to processes that have no part in the run."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy, self._own = _busy_s(), _own_s()

    def share(self, parts_s: float) -> float:
        """Of all cores' time, 0 to 1. parts_s: CPU time of the run's parts that are not this process or an ended child."""
        seconds = (time.perf_counter() - self._began) * (os.cpu_count() or 1)
        return max(0.0, _busy_s() - self._busy - (_own_s() - self._own) - parts_s) / seconds


def _busy_s() -> float:
    """Time of all cores that was neither idle nor waiting (proc(5), /proc/stat: user nice system idle iowait irq softirq steal)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, *interrupts = map(int, words)
    return (user + nice + system + sum(interrupts)) * _TICK_S


def _own_s() -> float:
    ours = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in ours)
