"""The address space of one pool: its configured ranges as ledgers, and what nodes hold outside of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

from .bitmap import Bitmap
from .cidr import FAMILIES, Cidr, Family
from .errors import Invalid
from .ledger import Ledger
from .overlaps import Overlaps
from .values import PoolCapacity, PoolRange, PoolSpec

Claim = tuple[str, Cidr]
"""An owner and the range that it holds."""


class _Row:
    """The ranges of one family, which do not overlap, by their place in the configured order. What is asked of it costs no more
    with many ranges than with few: a range is found by bisection, the next with something free in a bitmap.

    free: how many blocks could be taken now. Whoever changes a ledger tells it by `settle`.
    by_size: prefix length → the places of ranges that have no free block of it (or none at all).
    """

    def __init__(self, ledgers: list[Ledger]) -> None:
        self.ledgers = ledgers
        self.free = 0
        self._frees = [0] * len(ledgers)
        self._places = sorted(range(len(ledgers)), key=lambda place: ledgers[place].cidr)
        self._firsts = [ledgers[place].cidr.first for place in self._places]
        self._full = self._all_set()
        sizes = {length for ledger in ledgers for length in (*ledger.wider, ledger.mask)}
        self.by_size = {length: self._all_set() for length in sorted(sizes)}
        for place in range(len(ledgers)):
            self.settle(place)

    def first(self, length: int | None = None) -> int:
        """The place of the first range that has a free block, or one of this prefix length; -1: none has."""
        full = self._full if length is None else self.by_size.get(length)
        return -1 if full is None else full.next_clear(0)

    def with_free(self, length: int) -> Iterator[Ledger]:
        """The ranges that have a free block of this prefix length, in the configured order."""
        full, place = self.by_size.get(length), self.first(length)
        while full is not None and place >= 0:
            yield self.ledgers[place]
            following = full.next_clear(place + 1) if place + 1 < full.size else -1
            place = following if following > place else -1  # it wraps

    def containing(self, cidr: Cidr) -> int:
        """The place of the range that contains it; -1: none does."""
        at = bisect_right(self._firsts, cidr.first) - 1
        return self._places[at] if at >= 0 and self.ledgers[self._places[at]].cidr.contains(cidr) else -1

    def reached(self, cidr: Cidr) -> Sequence[int]:
        """The places of the ranges that share an address with it: the one that contains it, or all that lie in it."""
        place = self.containing(cidr)
        if place >= 0:
            return (place,)
        return self._places[bisect_left(self._firsts, cidr.first) : bisect_right(self._firsts, cidr.last)]

    def settle(self, place: int) -> None:
        """Takes in what became of a range."""
        ledger, before = self.ledgers[place], self._frees[place]
        free = self._frees[place] = ledger.free_units
        self.free += free - before
        if (free == 0) != (before == 0):
            _mark(self._full, place, free == 0)
            _mark(self.by_size[ledger.mask], place, free == 0)
        for length in ledger.wider:
            _mark(self.by_size[length], place, not ledger.has_wider(length))

    def _all_set(self) -> Bitmap:
        places = Bitmap(len(self.ledgers).bit_length())
        places.fill(0, len(self.ledgers).bit_length())
        return places


def _mark(places: Bitmap, place: int, full: bool) -> None:
    if full:
        places.fill(place, 0)
    elif place in places:
        places.clear(place)


def _collision(ranges: Sequence[PoolRange]) -> tuple[int, int] | None:
    """Of the ranges that overlap one before them the first, and the first that it overlaps, by place; None: none does."""
    latest = len(ranges)
    within: list[
        tuple[Cidr, int]
    ] = []  # those around the present one, widest first, each with the first place up to it
    for cidr, place in sorted((given.cidr, place) for place, given in enumerate(ranges)):
        while within and not within[-1][0].contains(cidr):
            within.pop()
        first = within[-1][1] if within else latest
        latest = min(latest, max(first, place))
        within.append((cidr, min(first, place)))
    if latest == len(ranges):
        return None
    second = ranges[latest].cidr
    return next(place for place in range(latest) if ranges[place].cidr.overlaps(second)), latest


class Space:
    """Every range that anybody holds, by owner; and where the next block of each family would come from.

    A new block is of the first range in the configured order that has one free. Ranges that lie in no configured one, or reach
    beyond it, are recorded too: they conflict like any other, but no block is ever taken there.
    """

    def __init__(self, spec: PoolSpec) -> None:
        """Raises Invalid where a mask does not fit its range, or two ranges overlap."""
        self.spec = spec
        self._outside = Overlaps()
        self._widest: dict[Family, int] = {}
        ledgers: dict[Family, list[Ledger]] = {family: [] for family in FAMILIES}
        reserved = Overlaps()
        for cidr in spec.reserved:
            reserved.add("", cidr)
        earlier, later = _collision(spec.ranges) or (-1, -1)
        for place, given in enumerate(spec.ranges):
            if place == later:
                other = spec.ranges[earlier]
                raise Invalid(
                    f"requested CIDR {given.cidr} collides with clusterCIDR: {other.cidr}, nodeMask: {other.mask}"
                    f" — pool {spec.name!r}: take one of the two out"
                )
            family = given.cidr.family
            self._widest[family] = min(given.mask, *given.wider, self._widest.get(family, given.mask))
            kept = (cidr for _, cidr in reserved.overlapping(given.cidr))
            ledgers[family].append(Ledger(given.cidr, given.mask, kept, given.wider))
        self._rows = {family: _Row(ledgers[family]) for family in FAMILIES}

    def inside(self, cidr: Cidr) -> bool:
        """Whether a configured range contains it."""
        return self._rows[cidr.family].containing(cidr) >= 0

    def touches(self, cidr: Cidr) -> bool:
        """Whether a configured range shares an address with it."""
        return len(self._rows[cidr.family].reached(cidr)) > 0

    def excess(self, cidr: Cidr) -> int:
        """By how many bits it is wider than the widest block of its family; without ranges, than a single address."""
        return max(0, self._widest.get(cidr.family, cidr.bits) - cidr.length)

    def has_ranges(self, family: Family) -> bool:
        """Whether any range of the family is configured."""
        return bool(self._rows[family].ledgers)

    def next(self, family: Family) -> Cidr | None:
        """The block that `take` would give; None: full."""
        row = self._rows[family]
        place = row.first()
        return row.ledgers[place].would_take() if place >= 0 else None

    def take(self, family: Family, owner: str) -> Cidr | None:
        """Takes the next free block; None: full."""
        row = self._rows[family]
        place = row.first()
        if place < 0:
            return None
        cidr = row.ledgers[place].take(owner)
        row.settle(place)
        return cidr

    def sizes(self, family: Family) -> tuple[int, ...]:
        """The prefix lengths of which there are blocks to take, widest first."""
        return tuple(self._rows[family].by_size)

    def foresee(self, family: Family, length: int) -> Iterator[Cidr]:
        """The blocks of a prefix length that `take_sized` would give one after the other. Changes nothing."""
        for ledger in self._rows[family].with_free(length):
            yield from ledger.foresee(length)

    def take_sized(self, family: Family, length: int, owner: str) -> Cidr | None:
        """Takes the next free block of a prefix length; None: there is none."""
        row = self._rows[family]
        place = row.first(length)
        if place < 0:
            return None
        ledger = row.ledgers[place]
        cidr = ledger.take(owner) if length == ledger.mask else ledger.take_wider(owner, length)
        row.settle(place)
        return cidr

    def claims(self) -> Iterator[Claim]:
        """All that is recorded, each once."""
        told = set(self._outside)
        yield from sorted(told, key=lambda claim: (claim[1], claim[0]))
        for row in self._rows.values():
            for ledger in row.ledgers:
                yield from (claim for claim in ledger if claim not in told)

    def claim(self, owner: str, cidr: Cidr) -> list[Claim]:
        """Records what an object shows. Answers the claims of others in its way, sorted; then nothing is recorded."""
        row = self._rows[cidr.family]
        place = row.containing(cidr)
        if place >= 0:
            inside = list(row.ledgers[place].claim(owner, cidr))
            row.settle(place)
            return inside
        if conflicts := self.others(owner, cidr):
            return conflicts
        self._record_outside(owner, cidr)
        return []

    def force(self, owner: str, cidr: Cidr) -> None:
        """Records it whatever is in its way: its object may not be written, so both are occupied."""
        if self.inside(cidr):
            self._force(owner, cidr)
        else:
            self._record_outside(owner, cidr)

    def free(self, owner: str, cidr: Cidr) -> None:
        """Forgets that the owner holds it. Not held: nothing."""
        row = self._rows[cidr.family]
        places = row.reached(cidr)
        if row.containing(cidr) < 0:
            self._outside.remove(owner, cidr)
        for place in places:
            row.ledgers[place].free(owner, cidr)
            row.settle(place)

    def others(self, owner: str, cidr: Cidr) -> list[Claim]:
        """What others hold that shares an address with it, sorted."""
        found = set(self._outside.overlapping(cidr))
        row = self._rows[cidr.family]
        for place in row.reached(cidr):
            found.update(row.ledgers[place].owners(cidr))
        return sorted((claim for claim in found if claim[0] != owner), key=lambda claim: (claim[1], claim[0]))

    def hold_back(self, cidr: Cidr) -> None:
        """Quarantine: no block that touches it is taken until `let_go`."""
        row = self._rows[cidr.family]
        for place in row.reached(cidr):
            row.ledgers[place].hold_back(cidr)
            row.settle(place)

    def let_go(self, cidr: Cidr) -> None:
        """Ends a quarantine."""
        row = self._rows[cidr.family]
        for place in row.reached(cidr):
            row.ledgers[place].let_go(cidr)
            row.settle(place)

    def free_blocks(self, family: Family) -> int:
        """How many blocks could be taken now."""
        return self._rows[family].free

    def resume_cursors(self, earlier: Space) -> None:
        """Goes on where an earlier space of the same ranges stood, so that fresh returns are not the next to be granted."""
        for family, row in self._rows.items():
            stood = {(ledger.cidr, ledger.mask): ledger.cursor for ledger in earlier._rows[family].ledgers}
            for ledger in row.ledgers:
                ledger.cursor = stood.get((ledger.cidr, ledger.mask), 0)

    def capacity(self) -> tuple[PoolCapacity, ...]:
        """Per family that is configured or in use."""
        outside = Counter(cidr.family for _, cidr in self._outside)
        return tuple(
            PoolCapacity(
                pool=self.spec.name,
                family=family,
                total=sum(ledger.total for ledger in row.ledgers),
                used=sum(ledger.taken for ledger in row.ledgers),
                quarantined=sum(ledger.quarantined for ledger in row.ledgers),
                free=row.free,
                outside=outside[family],
            )
            for family, row in self._rows.items()
            if row.ledgers or outside[family]
        )

    def _record_outside(self, owner: str, cidr: Cidr) -> None:
        self._outside.add(owner, cidr)
        self._force(owner, cidr)

    def _force(self, owner: str, cidr: Cidr) -> None:
        row = self._rows[cidr.family]
        for place in row.reached(cidr):
            row.ledgers[place].force(owner, cidr)
            row.settle(place)
