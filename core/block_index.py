"""The blocks of one pool and family, counted and in line: which gives the next address, which has cooled longest, which holds one. Pure.

Nothing here walks over the blocks, so hundreds of blocks of one address cost what one block of hundreds does.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from .addresses import Addresses

_Cooling = tuple[float, int]
"""Until when, and the address."""

SLACK = 64
"""Entries that are out of date are let lie until they come up, or are more than this beside one for each block."""


class Counted:
    """One block, and what it adds to the sums. gives: whether addresses are given from it."""

    __slots__ = ("cooling", "each", "free", "gives", "index", "kept", "noted", "number", "parks", "turn")

    def __init__(self, index: BlockIndex, each: Addresses, number: int) -> None:
        self.index, self.each, self.number, self.turn = index, each, number, number
        self.free, self.cooling, self.kept, self.parks, self.gives = each.total, 0, 0, False, False
        self.noted: _Cooling | None = None  # its oldest cooling address, as it stands in line

    def changed(self) -> None:
        """The block's numbers may be others than before."""
        each, index = self.each, self.index
        free, cooling = each.free, each.cooling
        more, cooler = free - self.free, cooling - self.cooling
        was, self.free, self.cooling = self.free, free, cooling
        index.held -= more + cooler
        index.kept += each.parked - self.kept
        self.kept = each.parked
        if self.gives:
            index.free += more
            index.cooling += cooler
            if free and not was:
                index.opened(self)
            if cooling or cooler:
                index.cooled(self)
            if (each.parked > 0) is not self.parks:
                index.parked(self)

    def give(self, gives: bool) -> None:
        """From now on addresses are given from it, or not."""
        if gives is self.gives:
            return
        self.gives, index, sign = gives, self.index, 1 if gives else -1
        index.free += sign * self.free
        index.cooling += sign * self.cooling
        index.total += sign * self.each.total
        index.gateways += sign * (self.each.gateway is not None)
        self.noted = None
        if gives and self.free:
            index.opened(self)
        if gives and self.cooling:
            index.cooled(self)
        index.parked(self)


class BlockIndex:
    """free, cooling, total: addresses of the blocks that give any; gateways: those that these keep.

    held: addresses used or parked, in all blocks; kept: those that are parked.
    """

    __slots__ = (
        "_by_shift",
        "_cooling",
        "_counted",
        "_free",
        "_in_line",
        "_next",
        "_parked",
        "cooling",
        "free",
        "gateways",
        "held",
        "kept",
        "total",
    )

    def __init__(self) -> None:
        self.free = self.cooling = self.total = self.held = self.kept = self.gateways = 0
        self._counted: dict[Addresses, Counted] = {}
        self._by_shift: dict[int, dict[int, Addresses]] = {}  # by width of the host part, then by the rest
        self._next = 0
        self._free: list[tuple[int, Counted]] = []  # a heap, by turn
        self._in_line: set[int] = set()  # turns that are in it
        self._cooling: list[tuple[float, int, int, Counted]] = []  # a heap, by when its oldest has cooled
        self._parked: dict[Counted, None] = {}  # in the order in which their first was parked

    # -- what there is

    def holding(self, address: int) -> Iterator[Addresses]:
        """The blocks that hold it, the smallest first."""
        for shift, those in self._by_shift.items():
            each = those.get(address >> shift)
            if each is not None:
                yield each

    def first_free(self) -> Addresses | None:
        """The block that is next to give a free address."""
        line = self._free
        while line:
            turn, counted = line[0]
            if counted.turn == turn and counted.gives and counted.free:
                return counted.each
            heappop(line)
            self._in_line.discard(turn)
        return None

    def oldest_cooling(self) -> tuple[Addresses, int] | None:
        """The address whose cooling ends first, and its block."""
        line = self._cooling
        while line:
            until, address, _, counted = line[0]
            if self._is_cooling(counted, (until, address)):
                return counted.each, address
            heappop(line)
        return None

    def oldest_parked(self) -> Addresses | None:
        """The block that has had parked addresses longest."""
        counted = next(iter(self._parked), None)
        return None if counted is None else counted.each

    # -- what changes

    def add(self, each: Addresses) -> None:
        """A block that is new: nobody uses it yet, and nothing is given from it before `give` says so."""
        counted = self._counted[each] = Counted(self, each, self._turn())
        each.watched_by = counted.changed
        cidr = each.block.cidr
        shift = cidr.bits - cidr.length
        if shift not in self._by_shift:
            self._by_shift[shift] = {}
            self._by_shift = dict(sorted(self._by_shift.items()))
        self._by_shift[shift][cidr.first >> shift] = each

    def drop(self, each: Addresses) -> None:
        counted = self._counted.pop(each)
        counted.give(False)
        self.held -= each.total - counted.free - counted.cooling
        self.kept -= counted.kept
        each.watched_by = None
        cidr = each.block.cidr
        shift = cidr.bits - cidr.length
        del self._by_shift[shift][cidr.first >> shift]
        if not self._by_shift[shift]:
            del self._by_shift[shift]

    def give(self, each: Addresses, gives: bool) -> None:
        """Whether addresses are given from this block."""
        self._counted[each].give(gives)

    def thaw(self, now: float) -> None:
        """What has cooled for long enough is free again, in blocks that give addresses."""
        line = self._cooling
        while line and line[0][0] <= now:
            until, address, _, counted = heappop(line)
            if self._is_cooling(counted, (until, address)):
                counted.each.thaw(now)

    # -- what blocks tell

    def opened(self, counted: Counted) -> None:
        """It has free addresses, and had none. A block of one address goes to the end of the line, as an address does in its block."""
        if counted.each.block.cidr.size == 1:
            counted.turn = self._turn()
        if counted.turn not in self._in_line:
            self._in_line.add(counted.turn)
            heappush(self._free, (counted.turn, counted))
        if len(self._free) > len(self._counted) + SLACK:
            self._free = [(each.turn, each) for each in self._counted.values() if each.gives and each.free]
            self._in_line = {turn for turn, _ in self._free}
            heapify(self._free)

    def cooled(self, counted: Counted) -> None:
        """Its oldest cooling address may be another."""
        oldest = counted.each.oldest_cooling()
        if oldest == counted.noted:
            return
        counted.noted = oldest
        if oldest is not None:
            heappush(self._cooling, (*oldest, counted.number, counted))
        if len(self._cooling) > len(self._counted) + SLACK:
            self._cooling = [
                (*each.noted, each.number, each)
                for each in self._counted.values()
                if each.gives and each.noted is not None
            ]
            heapify(self._cooling)

    def parked(self, counted: Counted) -> None:
        """It has parked addresses, or has none any more."""
        counted.parks = counted.gives and counted.each.parked > 0
        if counted.parks:
            self._parked.setdefault(counted)
        else:
            self._parked.pop(counted, None)

    # -- within

    def _turn(self) -> int:
        self._next += 1
        return self._next

    @staticmethod
    def _is_cooling(counted: Counted, entry: _Cooling) -> bool:
        """Whether an entry of the line says what is."""
        return counted.gives and counted.noted == entry
