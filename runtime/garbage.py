"""Which CiliumNodes are garbage: their Node is gone, nobody owns them, and it stayed so for a whole interval. Without I/O.

As Cilium's `cilium-node-gc`, with one trap mended: a node that came back is no candidate any more. And with one exception
more: what is marked `ipam.cilium.io/ignore` is nothing of ours, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec


class Orphan(msgspec.Struct, frozen=True, order=True):
    """A CiliumNode without its Node, without an owner, and marked neither to stay nor to be ignored.

    absence: differs each time that the Node vanishes, so that one which came back and left again starts over.
    """

    name: str
    uid: str
    absence: int = 0


class Yard(Protocol):
    """Where the orphans are: the Kubernetes store."""

    def orphans(self) -> list[Orphan]:
        """The orphans as of now. Empty while it is not known for sure which Nodes there are."""

    async def collect(self, orphan: Orphan) -> bool:
        """Delete one, unless its Node is there after all. Whether it was deleted. Raises what the store raises."""


class Garbage:
    """Remembers since when each orphan is one. `interval_s` 0 switches collection off."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self._since: dict[Orphan, float] = {}

    def tick(self, orphans: Iterable[Orphan], now: float) -> list[Orphan]:
        """Return what to delete, by name. One that is not deleted comes again; one that is no orphan now is forgotten."""
        if self.interval_s <= 0:
            return []
        since = self._since
        self._since = {orphan: since.get(orphan, now) for orphan in orphans}
        return sorted(orphan for orphan, start in self._since.items() if now - start >= self.interval_s)
