"""An index of arbitrary CIDRs and their owners: they nest, they are equal, several owners may hold the same one."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from .cidr import Cidr

_PROBES = 64  # so many positions inside a CIDR are looked up one by one before a sorted list is worth keeping


class Ranges:
    """CIDRs of one family.

    One table per prefix length in use: what covers a CIDR takes one look-up per length. What lies inside a CIDR comes
    from a sorted list per longer length, which is built when the first question needs it and then kept up.

    steady: a prefix length whose table stays when it is empty, so that the ledger may hold on to it.
    lengths: the prefix lengths in use, ascending.
    tables: prefix length → network address → its owner, or its owners in order of name.
    sorted: prefix length → the network addresses in order, for the lengths where a question needed it.
    """

    __slots__ = ("_steady", "bits", "lengths", "sorted", "tables")

    def __init__(self, bits: int, steady: int | None = None) -> None:
        self.bits = bits
        self.lengths: tuple[int, ...] = () if steady is None else (steady,)
        self._steady = steady
        self.tables: dict[int, dict[int, str | tuple[str, ...]]] = {length: {} for length in self.lengths}
        self.sorted: dict[int, list[int]] = {}

    def __bool__(self) -> bool:
        return any(self.tables.values())

    def __iter__(self) -> Iterator[tuple[str, Cidr]]:
        """All that is recorded, ordered by CIDR, then by owner."""
        keys = sorted((first, length) for length, table in self.tables.items() for first in table)
        for first, length in keys:
            cidr = Cidr(self.bits, first, length)
            for owner in self.owners(first, length):
                yield owner, cidr

    def add(self, owner: str, first: int, length: int) -> bool:
        """Records a range. False if this owner holds it already."""
        table = self.tables.get(length)
        if table is None:
            table = self.tables[length] = {}
            self.lengths = tuple(sorted(self.tables))
        holds = table.get(first)
        if holds is None:
            table[first] = owner
            if length in self.sorted:
                insort(self.sorted[length], first)
            return True
        owners = (holds,) if isinstance(holds, str) else holds
        if owner in owners:
            return False
        table[first] = tuple(sorted((*owners, owner)))
        return True

    def remove(self, owner: str, first: int, length: int) -> bool:
        """Forgets a range of this owner. False if there is none."""
        table = self.tables.get(length)
        holds = None if table is None else table.get(first)
        if table is None or holds is None:
            return False
        if isinstance(holds, tuple):
            if owner not in holds:
                return False
            rest = tuple(other for other in holds if other != owner)
            table[first] = rest if len(rest) > 1 else rest[0]
            return True
        if holds != owner:
            return False
        del table[first]
        if length in self.sorted:
            order = self.sorted[length]
            del order[bisect_left(order, first)]
        if not table:
            self.sorted.pop(length, None)
            if length != self._steady:
                del self.tables[length]
                self.lengths = tuple(sorted(self.tables))
        return True

    def owners(self, first: int, length: int) -> tuple[str, ...]:
        """Who holds exactly this range, in order of name."""
        table = self.tables.get(length)
        holds = None if table is None else table.get(first)
        return () if holds is None else (holds,) if isinstance(holds, str) else holds

    def covering(self, first: int, length: int) -> list[tuple[int, int]]:
        """The recorded ranges, as (first, length), that contain this one or are it, the widest first."""
        found = []
        for wider in self.lengths:
            if wider > length:
                break
            shift = self.bits - wider
            start = first >> shift << shift
            if start in self.tables[wider]:
                found.append((start, wider))
        return found

    def covers(self, first: int, length: int) -> bool:
        """Whether one recorded range contains this one or is it."""
        for wider in self.lengths:
            if wider > length:
                return False
            shift = self.bits - wider
            if first >> shift << shift in self.tables[wider]:
                return True
        return False

    def inside(self, first: int, length: int) -> list[tuple[int, int]]:
        """The recorded ranges, as (first, length), that lie in this one and are not it; sorted, the wider first."""
        found: list[tuple[int, int]] = []
        for longer in reversed(self.lengths):
            if longer <= length:
                break
            found += [(start, longer) for start in self._starts(first, length, longer)]
        found.sort()
        return found

    def _starts(self, first: int, length: int, longer: int) -> list[int]:
        table = self.tables[longer]
        if longer - length < 20:
            positions = 1 << (longer - length)
            if positions <= _PROBES or (longer not in self.sorted and positions <= len(table)):
                step = 1 << (self.bits - longer)
                return [start for start in range(first, first + positions * step, step) if start in table]
        order = self.sorted.get(longer)
        if order is None:
            if not table:
                return []
            order = self.sorted[longer] = sorted(table)
        end = first + (1 << (self.bits - length))
        return order[bisect_left(order, first) : bisect_left(order, end)]

    def overlapping(self, cidr: Cidr, but: str | None = None) -> list[tuple[str, Cidr]]:
        """All (owner, CIDR) that share an address with `cidr`, except those of `but`; by CIDR, then by owner."""
        found = []
        for first, length in (*self.covering(cidr.first, cidr.length), *self.inside(cidr.first, cidr.length)):
            other = Cidr(self.bits, first, length)
            found += [(owner, other) for owner in self.owners(first, length) if owner != but]
        found.sort(key=lambda entry: (entry[1], entry[0]))
        return found


class Overlaps:
    """CIDRs of both families with their owners: who overlaps whom. Adding and removing are idempotent."""

    __slots__ = ("_families",)

    def __init__(self) -> None:
        self._families = {32: Ranges(32), 128: Ranges(128)}

    def __bool__(self) -> bool:
        return any(self._families.values())

    def __len__(self) -> int:
        """How many pairs of owner and CIDR there are."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[tuple[str, Cidr]]:
        """All (owner, CIDR), ordered by CIDR, then by owner."""
        for ranges in self._families.values():
            yield from ranges

    def add(self, owner: str, cidr: Cidr) -> bool:
        """Records that `owner` holds `cidr`. False if that was known."""
        return self._families[cidr.bits].add(owner, cidr.first, cidr.length)

    def remove(self, owner: str, cidr: Cidr) -> bool:
        """Forgets that `owner` holds `cidr`. False if it was not known."""
        return self._families[cidr.bits].remove(owner, cidr.first, cidr.length)

    def overlapping(self, cidr: Cidr, but: str | None = None) -> list[tuple[str, Cidr]]:
        """All (owner, CIDR) that share an address with `cidr`, except those of `but`; by CIDR, then by owner."""
        return self._families[cidr.bits].overlapping(cidr, but)
