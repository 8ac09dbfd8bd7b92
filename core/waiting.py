"""Nodes that wait for space, oldest first, each family's shortage apart."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from .cidr import Family

Needs = tuple[Family, ...]


class Waiting:
    """Who waits for which families. Space that appears wakes as many as it can serve, and no one else."""

    def __init__(self) -> None:
        self._needs: dict[str, Needs] = {}
        self._heaps: dict[Needs, list[tuple[float, str]]] = {}

    def add(self, name: str, created: float, needs: Needs) -> None:
        """The node waits until all of `needs` have space."""
        if self._needs.get(name) != needs:
            self._needs[name] = needs
            heapq.heappush(self._heaps.setdefault(needs, []), (created, name))

    def discard(self, name: str) -> None:
        """It waits no more."""
        self._needs.pop(name, None)

    def served(self, free: Callable[[Family], int]) -> list[str]:
        """Takes out those whom the free blocks can serve, oldest first. `free`: blocks of a family that could be taken now."""
        if not self._needs:
            return []
        woken = []
        left: dict[Family, int] = {}
        for needs in sorted(self._heaps):
            heap = self._heaps[needs]
            for family in needs:
                left.setdefault(family, free(family))
            while heap and all(left[family] > 0 for family in needs):
                created, name = heapq.heappop(heap)
                if self._needs.get(name) == needs:
                    del self._needs[name]
                    woken.append((created, name))
                    for family in needs:
                        left[family] -= 1
            if not heap:
                del self._heaps[needs]
        return [name for _, name in sorted(woken)]

    def __len__(self) -> int:
        return len(self._needs)

    def __contains__(self, name: str) -> bool:
        return name in self._needs
