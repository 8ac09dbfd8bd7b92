"""Nodes that wait for space, oldest first, each family's shortage apart."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .cidr import Family

Needs = tuple[Family, ...]


class Waiting:
    """Who waits for which families. Space that appears wakes as many as it can serve, and no one else."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, Needs]] = {}
        self._heaps: dict[Needs, list[tuple[float, str]]] = {}

    def add(self, name: str, created: float, needs: Needs) -> None:
        """The node waits until all of `needs` have space."""
        entry = (created, needs)
        if self._entries.get(name) == entry:
            return
        self._entries[name] = entry
        heap = self._heaps.setdefault(needs, [])
        heapq.heappush(heap, (created, name))
        if len(heap) > 2 * len(self._entries) + 16:  # mostly entries of those who wait no more
            heap[:] = sorted({one for one in heap if self._waits(one, needs)})

    def discard(self, name: str) -> None:
        """It waits no more."""
        self._entries.pop(name, None)

    def served(self, free: Callable[[Family], int]) -> list[str]:
        """Takes out those whom the free blocks can serve, oldest first. `free`: blocks of a family that could be taken now."""
        if not self._entries:
            self._heaps.clear()
            return []
        left: dict[Family, int] = {}
        heads: list[tuple[tuple[float, str], Needs]] = []

        def offer(needs: Needs) -> None:
            """The oldest of a group stands in line, if there is space for its kind."""
            heap = self._heaps[needs]
            while heap and not self._waits(heap[0], needs):
                heapq.heappop(heap)
            if not heap:
                del self._heaps[needs]
            elif all(left[family] > 0 for family in needs):
                heapq.heappush(heads, (heap[0], needs))

        for needs in list(self._heaps):
            for family in needs:
                if family not in left:
                    left[family] = free(family)
            offer(needs)
        woken = []
        while heads:
            (_, name), needs = heapq.heappop(heads)
            if all(left[family] > 0 for family in needs):
                del self._entries[name]
                woken.append(name)
                for family in needs:
                    left[family] -= 1
                offer(needs)
        return woken

    def _waits(self, one: tuple[float, str], needs: Needs) -> bool:
        return self._entries.get(one[1]) == (one[0], needs)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries
