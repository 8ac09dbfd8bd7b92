"""The addresses of one block on its node: free, used, cooling, parked or withheld; choosing one costs the same at any fill level."""

from __future__ import annotations

from collections.abc import Callable

from .bitmap import Bitmap
from .errors import Conflict, Invalid
from .values import Block

TOO_SMALL = 2
"""A block of this many addresses or fewer has none withheld, and none to spare for a gateway."""


class Addresses:
    """One block. Addresses are integers.

    Withheld: the first and last address unless the block says they are usable, and (with `gateway`) the first usable one.
    Cooling: given back a short while ago; handed out again early, the oldest first, only when nothing else is free.
    Parked: kept for an owner who is away; handed to others only when nothing is even cooling.
    """

    __slots__ = ("_base", "_cooling", "_next", "_parked", "_set", "block", "gateway", "total", "watched_by")

    def __init__(self, block: Block, *, gateway: bool) -> None:
        cidr = block.cidr
        self.block = block
        self.watched_by: Callable[[], None] | None = None
        """Called when some became free, used, cooling or parked."""
        self._base = cidr.first
        self._set = Bitmap(cidr.bits - cidr.length)  # what is set is not free
        self._cooling: dict[int, float] = {}  # address → until when; in the order in which they came
        self._parked: dict[int, None] = {}
        self._next = 0
        self.gateway: int | None = None
        if cidr.size > TOO_SMALL:
            if not block.first_usable:
                self._set.fill(0, 0)
            if not block.last_usable:
                self._set.fill(cidr.size - 1, 0)
            if gateway:
                self.gateway = cidr.first + (0 if block.first_usable else 1)
                self._set.fill(self.gateway - cidr.first, 0)
        self.total = cidr.size - self._set.count
        """How many addresses it has for pods."""

    @property
    def too_small(self) -> bool:
        """Whether it has no room for a gateway beside pods."""
        return self.block.cidr.size <= TOO_SMALL

    @property
    def used(self) -> int:
        return self.total - self.free - len(self._cooling) - len(self._parked)

    @property
    def free(self) -> int:
        """Those that are neither used, nor cooling, nor parked."""
        return self._set.size - self._set.count

    @property
    def cooling(self) -> int:
        return len(self._cooling)

    @property
    def parked(self) -> int:
        return len(self._parked)

    @property
    def unused(self) -> bool:
        """Whether nobody uses an address, or has done so a short while ago, or is to get it back."""
        return self.free == self.total

    def contains(self, address: int) -> bool:
        return self._base <= address <= self.block.cidr.last

    def is_free(self, address: int) -> bool:
        """Whether it could be taken by asking for it: free, or cooling."""
        return address - self._base not in self._set or address in self._cooling

    def is_parked(self, address: int) -> bool:
        return address in self._parked

    def choose(self, now: float) -> int | None:
        """The free address that follows the one taken last; None: none is free. Nothing is taken."""
        self.thaw(now)
        found = self._set.next_clear(self._next)
        return None if found < 0 else self._base + found

    def oldest_cooling(self) -> tuple[float, int] | None:
        """The cooling address whose time ends first, after that time; None: none is cooling."""
        for address, until in self._cooling.items():
            return until, address
        return None

    def oldest_parked(self) -> int | None:
        """The address parked first."""
        return next(iter(self._parked), None)

    def take(self, address: int) -> None:
        """Marks one used. Raises Conflict where it is used, withheld; Invalid where it lies outside."""
        offset = self._offset(address)
        if offset in self._set:
            if address in self._cooling:
                del self._cooling[address]
            elif address in self._parked:
                del self._parked[address]
            else:
                raise Conflict("provided IP is already allocated")
        else:
            self._set.fill(offset, 0)
        following = offset + 1
        self._next = following if following < self._set.size else 0
        self._changed()

    def release(self, address: int, cools_until: float | None = None) -> None:
        """Gives a used one back, to cool until then if a time is given. One that is not used stays as it is."""
        offset = self._offset(address)
        if offset not in self._set or address in self._cooling or self._is_withheld(address):
            return
        self._parked.pop(address, None)
        if cools_until is None:
            self._set.clear(offset)
        else:
            self._cooling[address] = cools_until
        self._changed()

    def park(self, address: int) -> None:
        """Keeps one, whether used, cooling or free, for an owner who comes back."""
        offset = self._offset(address)
        if self._is_withheld(address):
            return
        if offset not in self._set:
            self._set.fill(offset, 0)
        self._cooling.pop(address, None)
        self._parked[address] = None
        self._changed()

    def thaw(self, now: float) -> None:
        """What has cooled for long enough is free again."""
        thawed = False
        while self._cooling:
            address = next(iter(self._cooling))
            if self._cooling[address] > now:
                break
            del self._cooling[address]
            self._set.clear(address - self._base)
            thawed = True
        if thawed:
            self._changed()

    def _changed(self) -> None:
        if self.watched_by is not None:
            self.watched_by()

    def _is_withheld(self, address: int) -> bool:
        cidr = self.block.cidr
        if cidr.size <= TOO_SMALL:
            return False
        return (
            address == self.gateway
            or (address == cidr.first and not self.block.first_usable)
            or (address == cidr.last and not self.block.last_usable)
        )

    def _offset(self, address: int) -> int:
        if not self.contains(address):
            raise Invalid(
                f"provided IP is not in the valid range. The range of valid IPs is {self.block.cidr}"
            )
        return address - self._base
