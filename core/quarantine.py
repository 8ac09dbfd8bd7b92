"""Returned ranges that wait before they are granted again, and when the next one ends."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from .cidr import Cidr


class Quarantine:
    """Ends by range. Times are seconds since the epoch, since they must outlive a restart."""

    def __init__(self) -> None:
        self._until: dict[Cidr, float] = {}
        self._heap: list[tuple[float, Cidr]] = []
        self.changes = 0
        """Counts what was added and taken out."""

    def add(self, cidr: Cidr, until: float) -> None:
        """Keeps the range until then; a later end wins over an earlier one."""
        if until > self._until.get(cidr, 0.0):
            self._until[cidr] = until
            self.changes += 1
            heapq.heappush(self._heap, (until, cidr))

    def shorten(self, cidr: Cidr, until: float) -> None:
        """No range waits longer than its pool says now."""
        if until < self._until.get(cidr, 0.0):
            self._until[cidr] = until
            self.changes += 1
            heapq.heappush(self._heap, (until, cidr))

    def expired(self, now: float) -> list[Cidr]:
        """Takes out those whose time has come, in order."""
        ended = []
        while self._heap and self._heap[0][0] <= now:
            until, cidr = heapq.heappop(self._heap)
            if self._until.get(cidr) == until:
                del self._until[cidr]
                self.changes += 1
                ended.append(cidr)
        return ended

    def next_end(self) -> float | None:
        """When the next one ends."""
        while self._heap and self._until.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def ends(self) -> list[tuple[Cidr, float]]:
        """Every range and when it ends, sorted by range."""
        return sorted(self._until.items())

    def __iter__(self) -> Iterator[Cidr]:
        return iter(sorted(self._until))

    def __len__(self) -> int:
        return len(self._until)
