"""The machine that a run is made on, in one line: ratios travel, seconds do not."""

from __future__ import annotations

import os
import platform


def note() -> str:
    """Cores that we may use, Python, kernel, and how busy it was before we began."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    busy = os.getloadavg()[0]
    return (
        f"{cores} cores, {platform.python_implementation()} {platform.python_version()},"
        f" {platform.system()} {platform.release()} {platform.machine()}, load {busy:.2f} at the start"
    )
