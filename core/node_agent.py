"""The node's side as a state machine: attachments get addresses and give them back; and who holds, or is to get, which. Pure.

Nothing here is durable or waits: `drain` answers what is to be written down before the outside may see an answer, and the clock is
passed in. An address is given only once, whatever blocks overlap: who holds what is known apart from the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from .addresses import Addresses
from .attachment import (
    INFRASTRUCTURE,
    AddressInUse,
    Allocation,
    BlockTooSmall,
    Given,
    Key,
    NoAddress,
    NotYours,
    PoolMismatch,
    Request,
    Stored,
    UnknownPool,
    Want,
)
from .cidr import BITS, Cidr, Family, format_address
from .errors import Conflict
from .node_blocks import NodeBlocks
from .pool_blocks import PoolBlocks
from .values import DEFAULT_POOL

Place = tuple[int, int]


class Change(msgspec.Struct, frozen=True, gc=False):
    """What is to be written down. stored None: the row is no more."""

    id: int
    stored: Stored | None


class NodeAgent(NodeBlocks):
    """One node; its blocks and demand as `NodeBlocks`. cool_down_s: before a released address is given again, while others are free.

    default_pool: what blocks are of that belong to no named pool.
    """

    def __init__(
        self,
        *,
        families: tuple[Family, ...],
        pooled: bool,
        gateway: bool = True,
        cool_down_s: float = 30.0,
        default_pool: str = DEFAULT_POOL,
        pre_allocate: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(families=families, pooled=pooled, gateway=gateway, pre_allocate=pre_allocate)
        self.default_pool = default_pool
        self.known_pools: Mapping[str, frozenset[Family]] | None = None
        self._cool_down_s = cool_down_s
        self._held: dict[Key, Allocation] = {}
        self._holders: dict[Place, Allocation] = {}
        self._excluded: frozenset[Place] = frozenset()
        self._doubled: set[Place] = set()  # once marked in a block beside that of who held it
        self._parked: dict[str, Allocation] = {}  # by owner
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
            *(Stored(each, each.since, parked=True) for each in self._parked.values()),
            *(Stored(each, until - self._cool_down_s) for each, until in self._cooling.values()),
        )

    def drain(self) -> list[Change]:
        """What has changed since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    # -- what was, and what the node has

    def load(self, rows: Iterable[Stored], now: float, *, booted: bool = False) -> tuple[Allocation, ...]:
        """What was on disk, before anything else. booted: the machine has started anew since: containers are gone, and only
        sticky and infrastructure reservations survive. Answers those that cannot be: an address of theirs is held by another."""
        doubles: list[Allocation] = []
        later: list[Stored] = []
        for row in sorted(rows, key=lambda row: row.allocation.id):
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
                    self._home(given)
        for row in sorted(later, key=lambda row: (row.released or 0.0, row.allocation.id)):
            taken = any(given.place in self._holders for given in row.allocation.given)
            if row.parked and not taken and row.allocation.owner not in self._parked:
                self._parked[row.allocation.owner] = row.allocation
            elif not row.parked and (row.released or 0.0) + self._cool_down_s > now:
                self._cooling[row.allocation.id] = (row.allocation, (row.released or 0.0) + self._cool_down_s)
            else:
                self._changes.append(Change(row.allocation.id, None))
        for blocks in self._pools.values():
            for each in blocks.ranges:
                self._occupy(each)
        return tuple(doubles)

    def pools_seen(self, pools: Mapping[str, frozenset[Family]]) -> None:
        """Which pools there are, with the families that they have ranges of: others are refused at once."""
        self.known_pools = pools

    def exclude(self, addresses: Iterable[Cidr]) -> None:
        """The machine's own addresses: never given to anybody."""
        self._excluded = frozenset((each.bits, each.first) for each in addresses)

    # -- attachments

    def allocate(self, request: Request, now: float) -> tuple[Allocation, bool]:
        """The addresses of the key, and whether they are new. All families or none.

        Raises NoAddress, and then counts it as waiting for all families; PoolMismatch, AddressInUse, BlockTooSmall, UnknownPool;
        Conflict where the key has others already.
        """
        held = self._held.get(request.key)
        if held is not None:
            self._compare(held, request)
            return held, False
        chosen = self._returning(request) or self._choose(request, now)
        given = tuple(
            Given(each.block.cidr.family, address, each.block, each.gateway) for each, address in chosen
        )
        for each, address in chosen:
            if each.is_parked(address):
                self._unpark((each.block.cidr.bits, address))
            if not each.is_free(address):
                each.release(address)  # it was kept for this very owner
            each.take(address)
        allocation = Allocation(
            self._next_id, request.key, request.owner, given, now, request.sticky, request.expires
        )
        self._next_id += 1
        self._hold(allocation)
        self._changes.append(Change(allocation.id, Stored(allocation)))
        self.pending.done(waiting(request.key))
        return allocation, True

    def release(self, key: Key, now: float, owner: str | None = None) -> Allocation | None:
        """Gives the key's addresses back, to cool or to wait for their owner. None: it has none. Raises NotYours."""
        self.pending.done(waiting(key))
        allocation = self._held.get(key)
        if allocation is None:
            return None
        if owner is not None and owner != allocation.owner:
            raise NotYours(f"{'/'.join(key)} is held by {allocation.owner}, not by {owner}")
        self._let_go(allocation)
        if allocation.sticky:
            before = self._parked.pop(allocation.owner, None)
            if before is not None:
                self._cool(before, now)
            self._parked[allocation.owner] = allocation
            for given in allocation.given:
                for each in self._blocks_with(given):
                    each.park(given.address)
            self._note(allocation, now, parked=True)
        else:
            self._cool(allocation, now)
        for blocks in self._pools.values():
            blocks.prune()
        return allocation

    def undo_allocate(self, allocation: Allocation) -> None:
        """It could not be written down: as if it had not been asked for."""
        self._let_go(allocation)
        for given in allocation.given:
            for each in self._blocks_with(given):
                each.release(given.address)

    def undo_release(self, allocation: Allocation) -> None:
        """It could not be written down: it is held as before."""
        self._cooling.pop(allocation.id, None)
        if self._parked.get(allocation.owner) is allocation:
            del self._parked[allocation.owner]
        self._hold(allocation)
        for given in allocation.given:
            self._home(given)

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
        return self.pending.purge(now)

    # -- within

    def _compare(self, held: Allocation, request: Request) -> None:
        has = {given.family: given for given in held.given}
        for want in request.wants:
            given = has.pop(want.family, None)
            same = given is not None and (want.address is None or want.address == given.address)
            if given is None or not same or (want.family in request.named and want.pool != given.pool):
                break
        else:
            if not has:
                return
        addresses = ", ".join(map(str, held.given))
        raise Conflict(
            f"{'/'.join(request.key)} has {addresses} already, which is not what is asked for now: release it first"
        )

    def _returning(self, request: Request) -> list[tuple[Addresses, int]] | None:
        """The addresses that are kept for this owner, if they are what it asks for."""
        parked = self._parked.get(request.owner) if request.sticky else None
        if parked is None or len(parked.given) != len(request.wants):
            return None
        chosen = []
        for want in request.wants:
            given = next((each for each in parked.given if each.family == want.family), None)
            if given is None or given.pool != want.pool or want.address not in (None, given.address):
                return None
            blocks = self._pools.get((want.pool, want.family))
            each = blocks.find(given.address) if blocks is not None else None
            if blocks is None or each is None or blocks.is_removed(each) or not each.is_parked(given.address):
                return None
            chosen.append((each, given.address))
        return chosen

    def _choose(self, request: Request, now: float) -> list[tuple[Addresses, int]]:
        chosen = []
        for want in request.wants:
            self._check_pool(want)
            found = (
                self._exactly(want, want.address, now) if want.address is not None else self._any(want, now)
            )
            if found is None:
                for each in request.wants:
                    self.pending.add(each.pool, each.family, waiting(request.key), now)
                raise self._no_address(want)
            chosen.append(found)
        return chosen

    def _check_pool(self, want: Want) -> None:
        if self.known_pools is None or (want.pool, want.family) in self._pools:
            return
        families = self.known_pools.get(want.pool)
        if families is None:
            raise UnknownPool(
                f"there is no pool {want.pool}: make it, or name another", want.pool, want.family
            )
        if want.family not in families:
            raise UnknownPool(f"pool {want.pool} has no {want.family} range", want.pool, want.family)

    def _any(self, want: Want, now: float) -> tuple[Addresses, int] | None:
        blocks = self._pools.get((want.pool, want.family))
        if blocks is None:
            return None
        while (found := blocks.choose(now)) is not None:
            each, address = found
            if self._gateway and each.too_small:
                raise BlockTooSmall(
                    f"pool {want.pool}: {each.block.cidr} has no room for a gateway beside pods: use larger blocks"
                )
            place = each.block.cidr.bits, address
            if place not in self._holders and place not in self._excluded:
                return found
            each.take(address)  # an overlapping block, or the machine itself, has it: it is not met again
            self._doubled.add(place)
        return None

    def _exactly(self, want: Want, address: int, now: float) -> tuple[Addresses, int] | None:
        text = format_address(address, BITS[want.family])
        blocks = self._pools.get((want.pool, want.family))
        each = blocks.find(address) if blocks is not None else None
        if blocks is None or not blocks.usable:
            return None
        if each is None or blocks.is_removed(each):
            raise PoolMismatch(f"{text} is outside pool {want.pool} on this node")
        if self._gateway and each.too_small:
            raise BlockTooSmall(f"pool {want.pool}: {each.block.cidr} has no room for a gateway beside pods")
        each.thaw(now)
        holder = self._holders.get((each.block.cidr.bits, address))
        if holder is not None:
            raise AddressInUse(f"{text} is in use by {holder.owner}")
        if not each.is_free(address) or (each.block.cidr.bits, address) in self._excluded:
            whose = "kept for an owner who is away" if each.is_parked(address) else "not for pods"
            raise AddressInUse(f"{text} is {whose}")
        return each, address

    def _no_address(self, want: Want) -> NoAddress:
        blocks = self._pools.get((want.pool, want.family))
        used = sum(each.used + each.parked for each in blocks.usable) if blocks is not None else 0
        requested = self._needed(want.pool, want.family, self._in_use(want.pool, want.family))
        total = blocks.total if blocks is not None else 0
        return NoAddress(want.pool, want.family, used, total, requested if self.pooled else 0)

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

    def _home(self, given: Given) -> None:
        """Marks a held address used, in a block that is kept for its sake if the node shows none."""
        blocks = self._pools.setdefault((given.pool, given.family), PoolBlocks(gateway=self._gateway))
        each = blocks.get(given.block.cidr)
        if each is None:
            each = blocks.keep(given.block)
            self._occupy(each)
        self._force(each, given.address)

    def _occupy(self, each: Addresses) -> None:
        """Marks in a block that is new to us what is held, cooling or parked there."""
        for allocation in self._held.values():
            for given in self._inside(each, allocation):
                self._force(each, given.address)
        for allocation, until in self._cooling.values():
            for given in self._inside(each, allocation):
                if each.is_free(given.address):
                    self._force(each, given.address)
                    each.release(given.address, until)
        for allocation in self._parked.values():
            for given in self._inside(each, allocation):
                each.park(given.address)

    def _inside(self, each: Addresses, allocation: Allocation) -> list[Given]:
        """What of it lies in that block, which may not be the one that it was taken from."""
        block = each.block
        found = [
            given
            for given in allocation.given
            if given.bits == block.cidr.bits and each.contains(given.address)
        ]
        self._doubled.update(
            given.place for given in found if (given.pool, given.block.cidr) != (block.pool, block.cidr)
        )
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

    def _unpark(self, place: Place) -> None:
        """Whoever this address was kept for has lost it."""
        for owner, allocation in list(self._parked.items()):
            if any(given.place == place for given in allocation.given):
                del self._parked[owner]
                self._changes.append(Change(allocation.id, None))
                for given in allocation.given:
                    for each in self._blocks_with(given):
                        if each.is_parked(given.address):
                            each.release(given.address)

    def _blocks_with(self, given: Given) -> list[Addresses]:
        """The block that an address was taken from, and others that it is marked in."""
        if given.place in self._doubled:
            return [
                each
                for blocks in self._pools.values()
                for each in blocks.ranges
                if each.block.cidr.bits == given.bits and each.contains(given.address)
            ]
        blocks = self._pools.get((given.pool, given.family))
        each = blocks.get(given.block.cidr) if blocks is not None else None
        return [each] if each is not None else []


def waiting(key: Key) -> str:
    """How an attachment is called among those that wait."""
    return "/".join(key)
