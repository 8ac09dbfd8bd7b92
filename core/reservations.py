"""Who holds which addresses of a node, for whom some are kept, and which cool; and how that is marked in its blocks. Pure.

Nothing here is durable: `drain` answers what is to be written down before the outside may see an answer, and what could not be
written is undone. An address is given only once, whatever blocks overlap: who holds what is known apart from the blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from .addresses import Addresses
from .attachment import INFRASTRUCTURE, Allocation, Given, Key, Stored
from .cidr import Family
from .errors import Conflict
from .node_blocks import NodeBlocks

Place = tuple[int, int]
PARKED_S = 86400.0
"""How long an address is kept for an owner who is away. It is no demand meanwhile, and goes to others if nothing else is left."""
LONGEST_LAPSE_S = 600.0
"""The longest that a reservation may be told to last before it lapses."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """What is to be written down. stored None: the row is no more."""

    id: int
    stored: Stored | None


class Reservations(NodeBlocks):
    """cool_down_s: before a released address is given again, while others are free."""

    def __init__(
        self,
        *,
        families: tuple[Family, ...],
        pooled: bool,
        gateway: bool,
        cool_down_s: float,
        pre_allocate: Mapping[str, int] | None,
        rounded: bool,
    ) -> None:
        super().__init__(
            families=families, pooled=pooled, gateway=gateway, pre_allocate=pre_allocate, rounded=rounded
        )
        self._cool_down_s = cool_down_s
        self._held: dict[Key, Allocation] = {}
        self._holders: dict[Place, Allocation] = {}
        self._doubled: set[Place] = set()  # once marked in a block beside that of who held it
        self._parked: dict[str, Allocation] = {}  # by owner
        self._parked_at: dict[int, float] = {}  # by id
        self._expiring: dict[Key, float] = {}
        self._cooling: dict[int, tuple[Allocation, float]] = {}  # by id; in the order of their times
        self._changes: list[Change] = []
        self._next_id = 1

    # -- what there is

    @property
    def allocations(self) -> Iterable[Allocation]:
        return self._held.values()

    @property
    def parked(self) -> Iterable[Allocation]:
        return self._parked.values()

    @property
    def recorded(self) -> int:
        """How many reservations there are on disk."""
        return len(self._held) + len(self._parked) + len(self._cooling)

    def get(self, key: Key) -> Allocation | None:
        return self._held.get(key)

    def holder(self, bits: int, address: int) -> Allocation | None:
        return self._holders.get((bits, address))

    def stored(self) -> tuple[Stored, ...]:
        """All that must be on disk."""
        return (
            *(Stored(each) for each in self._held.values()),
            *(Stored(each, self._parked_at[each.id], parked=True) for each in self._parked.values()),
            *(Stored(each, until - self._cool_down_s) for each, until in self._cooling.values()),
        )

    def drain(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    # -- what was

    def load(self, rows: Iterable[Stored], now: float, *, booted: bool = False) -> tuple[Allocation, ...]:
        """What was on disk, before anything else. booted: the machine has started anew since: containers are gone, and only
        sticky and infrastructure reservations survive. Answers those that cannot be: an address of theirs is held by another."""
        doubles: list[Allocation] = []
        later: list[Stored] = []
        for row in sorted(rows, key=lambda row: row.allocation.id):
            row = _not_later(row, now)
            allocation = row.allocation
            self._next_id = max(self._next_id, allocation.id + 1)
            if row.parked or row.released is not None:
                later.append(row)
            elif booted and not allocation.outlives_boot:
                self._note(allocation, now)
                later.append(Stored(allocation, now))
            elif booted and allocation.sticky and allocation.owner not in INFRASTRUCTURE:
                self._note(allocation, now, parked=True)
                later.append(Stored(allocation, now, parked=True))
            elif allocation.key in self._held or any(
                given.place in self._holders for given in allocation.given
            ):
                doubles.append(allocation)
                self._changes.append(Change(allocation.id, None))
            else:
                self._hold(allocation)
                for given in allocation.given:
                    self._keep_block(given)
        for row in sorted(later, key=lambda row: (row.released or 0.0, row.allocation.id)):
            taken = any(given.place in self._holders for given in row.allocation.given)
            if row.parked and not taken:
                before = self._parked.get(row.allocation.owner)
                if before is not None:  # the newer one is its owner's
                    self._changes.append(Change(before.id, None))
                self._park(row.allocation, row.released or now)
            elif not row.parked and (row.released or 0.0) + self._cool_down_s > now:
                self._cooling[row.allocation.id] = (row.allocation, (row.released or 0.0) + self._cool_down_s)
            else:
                self._changes.append(Change(row.allocation.id, None))
        self._occupy([each for blocks in self._pools.values() for each in blocks.ranges])
        return tuple(doubles)

    # -- what changes by itself, or could not be written down

    def undo_allocate(self, allocation: Allocation, displaced: Iterable[Allocation] = ()) -> None:
        """It could not be written down: as if it had not been asked for. displaced: what it took from those it was kept for."""
        self._let_go(allocation)
        for given in allocation.given:
            for each in self._blocks_with(given):
                each.release(given.address, self._cools_until(given.place))
        self._keep_again(displaced)

    def undo_release(self, allocation: Allocation, displaced: Iterable[Allocation] = ()) -> None:
        """It could not be written down: it is held as before. displaced: what it was to take the place of."""
        self._cooling.pop(allocation.id, None)
        if self._parked.get(allocation.owner) is allocation:
            del self._parked[allocation.owner]
        self._hold(allocation)
        for given in allocation.given:
            self._home(given)
        self._keep_again(displaced)

    def _cools_until(self, place: Place) -> float | None:
        """When an address has cooled; None: it does not cool."""
        ends = [
            until
            for allocation, until in self._cooling.values()
            if any(given.place == place for given in allocation.given)
        ]
        return max(ends, default=None)

    def _keep_again(self, displaced: Iterable[Allocation]) -> None:
        for kept in displaced:
            self._cooling.pop(kept.id, None)
            self._park(kept, self._parked_at.get(kept.id, kept.since))
            for given in kept.given:
                for each in self._blocks_with(given):
                    each.park(given.address)

    def undo_keep(self, before: Allocation) -> None:
        """It could not be written down: it expires as before."""
        self._let_go(self._held[before.key])
        self._hold(before)

    def expired(self, now: float) -> list[Key]:
        """Reservations whose own time is over."""
        return [key for key, until in self._expiring.items() if until <= now]

    def keep(self, key: Key) -> Allocation | None:
        """From now on it does not expire."""
        allocation = self._held.get(key)
        if allocation is None or allocation.expires is None:
            return None
        kept = msgspec.structs.replace(allocation, expires=None)
        self._let_go(allocation)
        self._hold(kept)
        self._changes.append(Change(kept.id, Stored(kept)))
        return kept

    def tidy(self, now: float) -> bool:
        """What has cooled for long enough is forgotten. Answers whether pods that waited have given up."""
        while self._cooling:
            id_, (_, until) = next(iter(self._cooling.items()))
            if until > now:
                break
            del self._cooling[id_]
            self._changes.append(Change(id_, None))
        for allocation in [
            each for each in self._parked.values() if now - self._parked_at[each.id] >= PARKED_S
        ]:
            for given in allocation.given:
                self._unpark(given.place)
        self._parked_at = {each.id: self._parked_at[each.id] for each in self._parked.values()}
        return self.pending.purge(now)

    # -- marks in the blocks

    def _hold(self, allocation: Allocation) -> None:
        self._held[allocation.key] = allocation
        for given in allocation.given:
            self._holders[given.place] = allocation
        if allocation.expires is not None:
            self._expiring[allocation.key] = allocation.expires

    def _let_go(self, allocation: Allocation) -> None:
        del self._held[allocation.key]
        for given in allocation.given:
            self._holders.pop(given.place, None)
        self._expiring.pop(allocation.key, None)

    def _park(self, allocation: Allocation, since: float) -> None:
        self._parked[allocation.owner] = allocation
        self._parked_at[allocation.id] = since

    def _home(self, given: Given) -> None:
        """Marks a held address used, in a block that is kept for its sake if the node shows none."""
        new = self._keep_block(given)
        if new is not None:
            self._occupy((new,))
        for each in self._blocks_with(given):
            self._force(each, given.address)

    def _keep_block(self, given: Given) -> Addresses | None:
        """Answers the block if it is new."""
        blocks = self._blocks((given.pool, given.family))
        return None if blocks.get(given.block.cidr) is not None else blocks.keep(given.block)

    def _occupy(self, new: Collection[Addresses]) -> None:
        """Marks in blocks that are new to us what is held, cooling or parked there."""
        if not new:
            return
        among = frozenset(new)
        for allocation in self._held.values():
            for each, given in self._inside(among, allocation):
                self._force(each, given.address)
        for allocation, until in self._cooling.values():
            for each, given in self._inside(among, allocation):
                if each.is_free(given.address):
                    self._force(each, given.address)
                    each.release(given.address, until)
        for allocation in self._parked.values():
            for each, given in self._inside(among, allocation):
                each.park(given.address)

    def _inside(self, among: frozenset[Addresses], allocation: Allocation) -> list[tuple[Addresses, Given]]:
        """What of it lies in those blocks, which may not be the ones that it was taken from."""
        found = []
        for given in allocation.given:
            for (_, family), blocks in self._pools.items():
                if family != given.family:
                    continue
                for each in blocks.holding(given.address):
                    if each in among:
                        found.append((each, given))
                        if (given.pool, given.block.cidr) != (each.block.pool, each.block.cidr):
                            self._doubled.add(given.place)
        return found

    @staticmethod
    def _force(each: Addresses, address: int) -> None:
        try:
            each.take(address)
        except Conflict:
            pass  # marked already; or the block's own gateway, in use by somebody from before

    def _cool(self, allocation: Allocation, now: float) -> None:
        until = now + self._cool_down_s
        for given in allocation.given:
            for each in self._blocks_with(given):
                each.release(given.address, until if self._cool_down_s > 0 else None)
        self._cooling[allocation.id] = (allocation, until)
        self._note(allocation, now)

    def _note(self, allocation: Allocation, now: float, *, parked: bool = False) -> None:
        self._changes.append(Change(allocation.id, Stored(allocation, now, parked)))

    def _unpark(self, place: Place) -> list[Allocation]:
        """Whoever this address was kept for has lost it. Answers what was kept."""
        lost = [
            allocation
            for allocation in self._parked.values()
            if any(given.place == place for given in allocation.given)
        ]
        for allocation in lost:
            del self._parked[allocation.owner]
            self._changes.append(Change(allocation.id, None))
            for given in allocation.given:
                for each in self._blocks_with(given):
                    if each.is_parked(given.address):
                        each.release(given.address)
        return lost

    def _blocks_with(self, given: Given) -> list[Addresses]:
        """The block that an address was taken from, and others that it is marked in."""
        if given.place in self._doubled:
            return [
                each
                for (_, family), blocks in self._pools.items()
                if family == given.family
                for each in blocks.holding(given.address)
            ]
        blocks = self._pools.get((given.pool, given.family))
        each = blocks.get(given.block.cidr) if blocks is not None else None
        return [each] if each is not None else []


def _not_later(row: Stored, now: float) -> Stored:
    """The row, with no time that lies ahead: the machine's clock was wrong when it was written."""
    allocation = row.allocation
    expires = None if allocation.expires is None else min(allocation.expires, now + LONGEST_LAPSE_S)
    if allocation.since > now or expires != allocation.expires:
        allocation = msgspec.structs.replace(allocation, since=min(allocation.since, now), expires=expires)
    released = None if row.released is None else min(row.released, now)
    return Stored(allocation, released, row.parked)
