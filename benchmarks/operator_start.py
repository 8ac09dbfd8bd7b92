"""From the operator's process start until the last of N CiliumNodes has its podCIDRs, over as many bare PATCH requests.

When the last was written is told by etcd: its revision is looked at every 20 ms from outside, which the API server does not
notice, and afterwards each object's resourceVersion says at which revision it was written. The floor is taken right before
and right after each start, on the same nodes, with the same rights and the same kind of patch (preconditions included), over
32 connections that are already open; in between the nodes are emptied. The ratio is the median of the rounds'.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from types import MappingProxyType

from .cluster import BenchmarkServer
from .machine import Strangers
from .raw import Done
from .runs import Operator, RunFailed, note_of, operator, raw
from .table import Row

LOOK_S = 0.02
AFTER_S = 0.5
"""Between the sides, for the server to finish what it does behind its answers; and after the last, for a second write to show."""
PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Size:
    """A cluster's size with its targets. ratio: over the floor. peak_mb: memory of the operator, MB."""

    nodes: int
    ratio: float
    peak_mb: float
    rounds: int


SIZES = (Size(2_000, 1.5, 80.0, 5), Size(5_000, 1.35, 90.0, 3))


@dataclass(frozen=True, slots=True)
class Start:
    """One start. seconds: until the last node was served. writes: of CiliumNodes."""

    seconds: float
    writes: int
    peak_mb: float


def rows() -> list[Row]:
    """The rows of all sizes, each on a server of its own."""
    return [row for size in SIZES for row in measure(size)]


def measure(
    size: Size, name: str = "operator start", pools: Mapping[str, str] = MappingProxyType({})
) -> list[Row]:
    """The three rows of one size. pools: names and ranges of pools that every node asks; the mode is multi-pool then."""
    flags = ("--ipam=multi-pool",) if pools else ()
    with BenchmarkServer() as server:
        for pool, cidr in pools.items():
            server.make_pool(pool, cidr)
        raw(server, "create", count=size.nodes, pools=tuple(pools))
        time.sleep(AFTER_S)
        floors = [_floor(server, size.nodes, 0, tuple(pools))]
        starts = []
        for turn in range(1, size.rounds + 1):
            _empty(server, tuple(pools))
            starts.append(_start(server, size.nodes, flags))
            _empty(server, tuple(pools))
            floors.append(_floor(server, size.nodes, turn, tuple(pools)))
    around = [fmean((before.seconds, after.seconds)) for before, after in pairwise(floors)]
    ratios = [start.seconds / floor for start, floor in zip(starts, around, strict=True)]
    name = f"{name}, {size.nodes:,} nodes"
    seconds = median(start.seconds for start in starts)
    writes = max(start.writes for start in starts) / size.nodes
    return [
        Row.over(name, seconds, median(around), size.ratio, ratio=median(ratios)),
        Row.most(f"{name}: writes a node", writes, 1.0),
        Row.most(f"{name}: peak memory, MB", max(start.peak_mb for start in starts), size.peak_mb),
    ]


def _empty(server: BenchmarkServer, pools: Sequence[str]) -> None:
    """No node has blocks any more, and the server has come to rest."""
    raw(server, "clear", pools=pools)
    time.sleep(AFTER_S)


def _floor(server: BenchmarkServer, nodes: int, turn: int, pools: Sequence[str]) -> Done:
    strangers, spent = Strangers(), server.cpu_s()
    floor = raw(server, "grant", turn=turn, pools=pools)
    spent = server.cpu_s() - spent
    if floor.requests != nodes:
        raise RunFailed(f"the floor patched {floor.requests} nodes, not {nodes}")
    note_of("floor", floor.seconds, floor.cpu_s, spent, strangers.share(spent))
    return floor


def _start(server: BenchmarkServer, nodes: int, flags: Sequence[str]) -> Start:
    before, first, strangers, spent = server.writes(), server.revision(), Strangers(), server.cpu_s()
    with operator(server, *flags) as running:
        looks = until_served(server, running, first, nodes)
        cpu_s, spent = running.cpu_s, server.cpu_s() - spent
        others = strangers.share(cpu_s + spent)
        writes, peak_mb = server.writes() - before, running.peak_mb
    served, last = server.newest()
    if served != nodes:
        raise RunFailed(f"{served} of {nodes} nodes were served")
    seconds = crossed(looks, last) - running.began
    note_of("operator", seconds, cpu_s, spent, others)
    return Start(seconds, writes, peak_mb)


Look = tuple[float, int]
"""When we looked (perf_counter), and the revision that was seen."""


def until_served(server: BenchmarkServer, running: Operator, first: int, nodes: int) -> list[Look]:
    """Look at the revision until it has stood still for a while, after at least a write a node."""
    looks: list[Look] = []
    end = running.began + PATIENCE_S
    while True:
        revision, now = server.revision(), time.perf_counter()
        if not looks or revision != looks[-1][1]:
            moved = now
        looks.append((now, revision))
        if revision - first >= nodes and now - moved >= AFTER_S:
            return looks
        running.check()
        if now > end:
            raise RunFailed(f"not all nodes were served within {PATIENCE_S:g} s")
        time.sleep(LOOK_S)


def crossed(looks: list[Look], revision: int) -> float:
    """When a revision was reached: halfway between the look that did not see it yet and the one that did."""
    for (earlier, _), (later, seen) in pairwise(looks):
        if seen >= revision:
            return fmean((earlier, later))
    raise RunFailed("the last write came after we looked away")
