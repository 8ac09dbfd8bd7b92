"""Taking and returning a block at every fill level, against one `set.add` + `set.discard` of an int."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import TypedDict

from omnipam.core.cidr import parse
from omnipam.core.ledger import Ledger

_TIMES_FLOOR = 60.0
_FLAT = 1.3
_ROUNDS = 20
_LOOPS = 2000
_OWNER = "node-17.example"
_SPACES = (("/8 in /24s", "10.0.0.0/8", 24), ("/16 in addresses", "10.0.0.0/16", 32))
_FILLS = (0.0, 0.5, 0.9999)
_PATTERNS = ("solid", "random holes")


class Row(TypedDict):
    """One line of the table. measured, floor: seconds an operation; ratio, target: measured over floor, and the most it may be."""

    name: str
    measured: float
    floor: float
    ratio: float
    target: float
    ok: bool


def _filled(cidr: str, mask: int, fill: float, pattern: str) -> Ledger:
    """A ledger of which the first blocks, or random ones, are taken by as many owners as there are blocks."""
    ledger = Ledger(parse(cidr), mask)
    taken = [
        (owner, block)
        for owner in map("node-{}".format, range(ledger.total))
        if (block := ledger.take(owner))
    ]
    if pattern != "solid":
        random.Random(7).shuffle(taken)
    for owner, block in taken[round(ledger.total * fill) :]:
        ledger.free(owner, block)
    return ledger


def _take_and_return(ledger: Ledger) -> float:
    take, free = ledger.take, ledger.free
    begun = time.perf_counter()
    for _ in range(_LOOPS):
        block = take(_OWNER)
        if block is not None:
            free(_OWNER, block)
    return (time.perf_counter() - begun) / _LOOPS


def _add_and_discard(numbers: set[int]) -> float:
    add, discard = numbers.add, numbers.discard
    begun = time.perf_counter()
    for number in range(65536, 65536 + _LOOPS):
        add(number)
        discard(number)
    return (time.perf_counter() - begun) / _LOOPS


def _alternating(jobs: list[Callable[[], float]]) -> Iterator[float]:
    """The best round of every job, all run in turn so that a busy moment of the machine meets all of them."""
    gc.collect()
    gc.disable()
    try:
        rounds = [[job() for job in jobs] for _ in range(_ROUNDS)]
    finally:
        gc.enable()
    return (min(times) for times in zip(*rounds, strict=True))


def rows() -> list[Row]:
    """The table's rows: each fill level over the floor, then the dearest over the cheapest."""
    result: list[Row] = []
    numbers = set(range(32768))
    for space, cidr, mask in _SPACES:
        for pattern in _PATTERNS:
            ledgers = [_filled(cidr, mask, fill, pattern) for fill in _FILLS]
            jobs = [
                lambda: _add_and_discard(numbers),
                *(lambda ledger=each: _take_and_return(ledger) for each in ledgers),
            ]
            floor, *measured = _alternating(jobs)
            for fill, seconds in zip(_FILLS, measured, strict=True):
                name = f"ledger take+return, {space}, {fill:.2%} full, {pattern}"
                result.append(_row(name, seconds, floor, _TIMES_FLOOR))
            result.append(
                _row(
                    f"ledger dearest over cheapest fill, {space}, {pattern}",
                    max(measured),
                    min(measured),
                    _FLAT,
                )
            )
    return result


def _row(name: str, measured: float, floor: float, target: float) -> Row:
    ratio = measured / floor
    return Row(name=name, measured=measured, floor=floor, ratio=ratio, target=target, ok=ratio <= target)


if __name__ == "__main__":
    for row in rows():
        verdict = "ok" if row["ok"] else "MISSED"
        print(
            f"{row['name']:72} {row['measured'] * 1e9:7.0f} ns  {row['floor'] * 1e9:6.0f} ns"
            f"  {row['ratio']:6.2f} × of {row['target']:g}  {verdict}"
        )
