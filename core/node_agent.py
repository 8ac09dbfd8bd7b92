"""The node's side as a state machine: attachments get addresses and give them back. Pure; nothing waits, the clock is passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from .addresses import Addresses
from .attachment import (
    AddressInUse,
    Allocation,
    BlockTooSmall,
    Given,
    Key,
    NoAddress,
    NotForPods,
    NotYours,
    NoUplink,
    PoolMismatch,
    Request,
    Stored,
    UnknownPool,
    Want,
)
from .cidr import BITS, Cidr, Family, format_address
from .errors import Conflict
from .reservations import Change, Place, Reservations
from .uplink import Uplink, Uplinks
from .values import DEFAULT_POOL


class NodeAgent(Reservations):
    """One node; its blocks and demand as `NodeBlocks`, who holds what as `Reservations`.

    gateway: each block keeps its first usable address; False: addresses belong to the node's interfaces, and one whose interface
    is not known is given to nobody.
    cool_down_s: before a released address is given again, while others are free.
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
        rounded: bool = True,
    ) -> None:
        super().__init__(
            families=families,
            pooled=pooled,
            gateway=gateway,
            cool_down_s=cool_down_s,
            pre_allocate=pre_allocate,
            rounded=rounded,
        )
        self.default_pool = default_pool
        self.known_pools: Mapping[str, frozenset[Family]] | None = None
        self._excluded: frozenset[Place] = frozenset()
        self.uplinks = Uplinks()
        """The node's interfaces, as its object shows them."""
        self._last_uplinks: dict[Place, Uplink] = {}  # of addresses whose interface is shown no more
        self.displaced: tuple[Allocation, ...] = ()
        """By the last new allocation, or release: what had been kept for an owner, be it for this very one."""

    def pools_seen(self, pools: Mapping[str, frozenset[Family]]) -> None:
        """Which pools there are, with the families that they have ranges of: others are refused at once."""
        self.known_pools = pools

    def exclude(self, addresses: Iterable[Cidr]) -> None:
        """The machine's own addresses: never given to anybody."""
        self._excluded = frozenset((each.bits, each.first) for each in addresses)

    def uplinks_seen(self, uplinks: Iterable[Uplink]) -> None:
        """The node's interfaces, as its object shows them now: all of them. Of what is held the one last known is kept."""
        seen = Uplinks(uplinks)
        cooling = (allocation for allocation, _ in self._cooling.values())
        gone: dict[Place, Uplink] = {}
        for allocation in chain(self._held.values(), self._parked.values(), cooling):
            for given in allocation.given:
                if seen.of(Cidr(given.bits, given.address, given.bits)) is None:
                    last = self.uplink(given)
                    if last is not None:
                        gone[given.place] = last
        self.uplinks, self._last_uplinks = seen, gone

    def uplink(self, given: Given) -> Uplink | None:
        """The interface that an address belongs to, or did when it was last shown; None: it is not known, or it belongs to none."""
        if self._gateway:
            return None
        shown = self.uplinks.of(Cidr(given.bits, given.address, given.bits))
        return shown or self._last_uplinks.get(given.place)

    def allocate(self, request: Request, now: float) -> tuple[Allocation, bool]:
        """The addresses of the key, and whether they are new. All families or none.

        Raises NoAddress, and then counts it as waiting for all families; PoolMismatch, AddressInUse, BlockTooSmall, UnknownPool;
        NoUplink where the interface of an address is not known, be it held already; Conflict where the key has others already.
        """
        held = self._held.get(request.key)
        if held is not None:
            self._compare(held, request)
            self._check_uplinks(held.given)
            return held, False
        chosen = self._returning(request) or self._choose(request, now)
        given = tuple(
            Given(each.block.cidr.family, address, each.block, each.gateway) for each, address in chosen
        )
        self._check_uplinks(given)
        displaced: list[Allocation] = []
        for each, address in chosen:
            if each.is_parked(address):
                displaced += self._unpark((each.block.cidr.bits, address))
            if not each.is_free(address):
                each.release(address)  # it was kept for this very owner
            each.take(address)
        allocation = Allocation(
            self._next_id, request.key, request.owner, given, now, request.sticky, request.expires
        )
        self._next_id += 1
        self._hold(allocation)
        self._changes.append(Change(allocation.id, Stored(allocation)))
        self.pending.done(waiting(request))
        self.displaced = tuple(displaced)
        return allocation, True

    def release(self, key: Key, now: float, owner: str | None = None) -> Allocation | None:
        """Gives the key's addresses back, to cool or to wait for their owner. None: it has none. Raises NotYours."""
        allocation = self._held.get(key)
        if allocation is not None and owner is not None and owner != allocation.owner:
            raise NotYours(f"{'/'.join(key)} is held by {allocation.owner}, not by {owner}")
        self.pending.done("/".join(key))
        if allocation is None:
            return None
        self._let_go(allocation)
        self.displaced = ()
        if allocation.sticky:
            before = self._parked.pop(allocation.owner, None)
            if before is not None:
                self._cool(before, now)
                self.displaced = (before,)
            self._park(allocation, now)
            for given in allocation.given:
                for each in self._blocks_with(given):
                    each.park(given.address)
            self._note(allocation, now, parked=True)
        else:
            self._cool(allocation, now)
        for blocks in self._pools.values():
            blocks.prune()
        return allocation

    # -- within

    def _compare(self, held: Allocation, request: Request) -> None:
        if request.owner != held.owner:
            raise Conflict(
                f"{'/'.join(request.key)} is held by {held.owner}, and asked for by {request.owner}: release it first"
            )
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

    def _check_uplinks(self, given: Iterable[Given]) -> None:
        if self._gateway:
            return
        for each in given:
            if self.uplink(each) is None:
                raise NoUplink(
                    f"the interface of {each} is not known: the node's object shows none that has it; try again, or release it"
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
            if blocks is None or each is None or not each.is_parked(given.address):
                return None
            if blocks.is_removed(each) or blocks.is_withheld(each) or given.place in request.avoid:
                return None
            chosen.append((each, given.address))
        return chosen

    def _choose(self, request: Request, now: float) -> list[tuple[Addresses, int]]:
        chosen = []
        for want in request.wants:
            self._check_pool(want)
            found = (
                self._exactly(want, want.address, request.avoid, now)
                if want.address is not None
                else self._any(want, request.avoid, now)
            )
            if found is None:
                for each in request.wants:
                    self.pending.add(each.pool, each.family, waiting(request), now)
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

    def _any(self, want: Want, avoid: frozenset[Place], now: float) -> tuple[Addresses, int] | None:
        blocks = self._pools.get((want.pool, want.family))
        if blocks is None:
            return None
        passed: list[tuple[Addresses, int, bool]] = []
        try:
            while (found := blocks.choose(now)) is not None:
                each, address = found
                if self._gateway and each.too_small:
                    raise BlockTooSmall(
                        f"pool {want.pool}: {each.block.cidr} has no room for a gateway beside pods: use larger blocks"
                    )
                place = each.block.cidr.bits, address
                if place in avoid:
                    passed.append((each, address, each.is_parked(address)))
                    each.take(address)  # until another one is found
                elif place in self._holders or place in self._excluded:
                    each.take(
                        address
                    )  # an overlapping block, or the machine itself, has it: it is not met again
                    self._doubled.add(place)
                else:
                    return found
        finally:
            for each, address, parked in passed:
                if parked:
                    each.park(address)
                else:
                    each.release(address, self._cools_until((each.block.cidr.bits, address)))
        return None

    def _exactly(
        self, want: Want, address: int, avoid: frozenset[Place], now: float
    ) -> tuple[Addresses, int] | None:
        text = format_address(address, BITS[want.family])
        blocks = self._pools.get((want.pool, want.family))
        each = blocks.find(address) if blocks is not None else None
        if blocks is None or blocks.is_empty:
            return None
        if each is None or blocks.is_removed(each):
            raise PoolMismatch(f"{text} is outside pool {want.pool} on this node")
        if self._gateway and each.too_small:
            raise BlockTooSmall(f"pool {want.pool}: {each.block.cidr} has no room for a gateway beside pods")
        each.thaw(now)
        holder = self._holders.get((each.block.cidr.bits, address))
        if holder is not None:
            raise AddressInUse(f"{text} is in use by {holder.owner}")
        if blocks.is_withheld(each):
            raise AddressInUse(f"{text} is being given back")
        if each.is_parked(address):
            raise AddressInUse(f"{text} is kept for an owner who is away")
        place = each.block.cidr.bits, address
        if place in avoid or place in self._excluded or not each.is_free(address):
            raise NotForPods(
                f"{text} is not for pods: a gateway, the block's first or last, or the machine's own"
            )
        return each, address

    def _no_address(self, want: Want) -> NoAddress:
        blocks = self._pools.get((want.pool, want.family))
        used = blocks.total - blocks.free - blocks.cooling if blocks is not None else 0
        requested = self._needed(want.pool, want.family, self._in_use(want.pool, want.family))
        total = blocks.total if blocks is not None else 0
        return NoAddress(want.pool, want.family, used, total, requested if self._by_demand else 0)


def waiting(request: Request) -> str:
    """How a request is called among those that wait."""
    return request.waits_as or "/".join(request.key)
