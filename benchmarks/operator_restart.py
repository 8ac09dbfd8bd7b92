"""A restart with 5,000 settled nodes: from the operator's first list request to /readyz, over the same lists read raw.

The floor asks for the same pages with the same Accept headers over an open connection, one after the other as the operator
does, and decodes them to the same structs. When the operator's first list came in is told by the API server's audit log, when
it was ready by asking /readyz every 10 ms. Both begin with the server's caches warm, and take turns.
"""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import fmean, median

from .cluster import BenchmarkServer
from .machine import Strangers
from .operator_start import until_served
from .runs import RunFailed, note_of, operator, raw
from .table import Row

NODES = 5_000
ROUNDS = 6
FLOORS = 2
TARGET = 1.5
LOOK_S = 0.01
AFTER_S = 1.0
"""With the operator ready, for a write to show that should not be; the server is idle again by then."""
PATIENCE_S = 60.0


def rows() -> list[Row]:
    """The two rows."""
    with BenchmarkServer(audit=True) as server:
        raw(server, "create", count=NODES)
        first = server.revision()
        with operator(server) as running:
            until_served(server, running, first, NODES)
        floors = [_floors(server)]
        restarts = []
        for _ in range(ROUNDS):
            restarts.append(_restart(server))
            floors.append(_floors(server))
    around = [fmean((*before, *after)) for before, after in pairwise(floors)]
    ratio = median(seconds / floor for (seconds, _), floor in zip(restarts, around, strict=True))
    measured, writes = median(seconds for seconds, _ in restarts), max(writes for _, writes in restarts)
    name = f"operator restart, {NODES:,} settled nodes"
    return [
        Row.over(f"{name}: first list to ready", measured, median(around), TARGET, ratio=ratio),
        Row.most(f"{name}: writes", writes, 0.0),
    ]


def _floors(server: BenchmarkServer) -> list[float]:
    """The floor, twice: one for one, the server's garbage collection falls on the same side every time, and doubles it."""
    taken = []
    for _ in range(FLOORS):
        strangers, spent = Strangers(), server.cpu_s()
        floor = raw(server, "list")
        spent = server.cpu_s() - spent
        note_of("floor", floor.seconds, floor.cpu_s, spent, strangers.share(spent))
        taken.append(floor.seconds)
    return taken


def _restart(server: BenchmarkServer) -> tuple[float, int]:
    """Seconds from the first list to ready, and how many writes there were."""
    before, strangers, spent = server.writes(), Strangers(), server.cpu_s()
    since = time.time()
    with operator(server) as running:
        end, looked = time.monotonic() + PATIENCE_S, since
        while not running.is_ready():
            running.check()
            if time.monotonic() > end:
                raise RunFailed(f"the operator was not ready within {PATIENCE_S:g} s")
            looked = time.time()
            time.sleep(LOOK_S)
        ready = fmean((looked, time.time()))
        cpu_s, spent = running.cpu_s, server.cpu_s() - spent
        others = strangers.share(cpu_s + spent)
        time.sleep(AFTER_S)
        writes = server.writes() - before
    seconds = ready - server.first_list(since)
    note_of("operator", seconds, cpu_s, spent, others)
    return seconds, writes
