"""What others changed since the last look. Our own writes are left out: who wrote them has told of them."""

from __future__ import annotations

from omnipam.core.errors import OmnipamError
from omnipam.core.values import Node, PoolSpec

from .store import SqliteStore
from .values import Changes


class Watch:
    """One follower's place in the file, on the thread of its store. Raises what the store raises; then nothing is lost."""

    def __init__(self, store: SqliteStore, *, reads_pools: bool = False) -> None:
        self._store, self._reads_pools = store, reads_pools
        self._pools: tuple[PoolSpec, ...] | None = None
        self._since = 0
        self._outside = -1
        self._own: dict[str, str] = {}  # our writes after `_since`: node → version

    def list(self) -> Changes:
        """All there is; `poll` goes on from there."""
        outside = self._store.outside_changes()
        self._pools = None
        pools = self._new_pools()
        changes = self._store.changes(None)
        assert changes is not None  # with None it always answers
        self._since, self._outside = changes.revision, outside
        self._own.clear()
        return Changes(changes.revision, changes.items, pools)

    def poll(self, *, force: bool = False) -> Changes | None:
        """What changed, in order; None if that cannot be told any more: list. `force`: our own deletions, too."""
        outside = self._store.outside_changes()
        if outside == self._outside and not force:
            return Changes(self._since, ())
        changes = self._store.changes(self._since)
        if changes is None:
            return None
        pools = self._new_pools()
        own = self._own
        items = tuple(
            item
            for item in changes.items
            if not (isinstance(item, Node) and own.get(item.name) == item.version)
        )
        self._since, self._outside, self._own = changes.revision, outside, {}
        return Changes(changes.revision, items, pools)

    def _new_pools(self) -> tuple[PoolSpec, ...] | None:
        """All pools, if they are not those that were last told of."""
        if not self._reads_pools:
            return None
        pools = self._store.pools()
        if pools == self._pools:
            return None
        self._pools = pools
        return pools

    def wrote(self, versions: dict[str, str]) -> None:
        """We have written these nodes, and say so ourselves."""
        self._own.update(versions)
        try:
            outside = self._store.outside_changes()
        except OmnipamError:
            return  # the next poll meets it, and says so
        if outside == self._outside:  # nobody else wrote: all until here is ours, and need not be read
            self._since = max(self._since, *map(int, self._own.values()))
            self._own.clear()
