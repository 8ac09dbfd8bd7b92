"""How many addresses a node asks of each pool: what is in use, the pods that wait, and a buffer. Pure; the clock is passed in.

Source: Cilium's multi-pool manager (`neededIPCeil`, `pendingAllocationsPerPool`), which rounds nothing where a cloud is paid for it.
"""

from __future__ import annotations

from .cidr import Family

PENDING_S = 300.0
"""How long a pod that got nothing counts, unless it asks again."""

Waiting = tuple[str, Family, str]
"""Pool, family, and who waits."""


def needed_ip_ceil(number: int, pre_allocate: int) -> int:
    """The number with between `pre_allocate` and 2 × `pre_allocate` - 1 to spare, rounded so that it seldom changes."""
    if pre_allocate <= 0:
        return number
    whole, rest = divmod(number, pre_allocate)
    return (whole + (2 if rest else 1)) * pre_allocate


def needed_ip_linear(number: int, pre_allocate: int) -> int:
    """The number with exactly `pre_allocate` to spare."""
    return number + max(0, pre_allocate)


class Pending:
    """Who waits for an address of which pool and family, each until a time of its own."""

    def __init__(self) -> None:
        self._until: dict[Waiting, float] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def add(self, pool: str, family: Family, owner: str, now: float) -> bool:
        """Counts, or goes on counting, one that waits. Answers whether it is new."""
        key = (pool, family, owner)
        new = key not in self._until
        self._until.pop(key, None)
        self._until[key] = now + PENDING_S  # the order stays that of expiry
        return new

    def done(self, owner: str) -> bool:
        """It got its address, or wants none any more. Answers whether it was counted."""
        mine = [key for key in self._until if key[2] == owner] if self._until else []
        for key in mine:
            del self._until[key]
        return bool(mine)

    def purge(self, now: float) -> bool:
        """Forgets those whose time has come. Answers whether there were any."""
        gone = []
        for key, until in self._until.items():
            if until > now:
                break
            gone.append(key)
        for key in gone:
            del self._until[key]
        return bool(gone)

    def count(self, pool: str, family: Family) -> int:
        """How many wait there."""
        return sum(1 for key in self._until if key[0] == pool and key[1] == family)

    def pools(self) -> set[tuple[str, Family]]:
        """Where anybody waits."""
        return {(pool, family) for pool, family, _ in self._until}
