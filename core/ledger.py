"""The blocks of one configured CIDR: which are taken, by whom, and which comes next.

A *unit* is a block of the ledger's mask. The ledger records *ranges* with owners; a range may be shorter or longer than a
unit, so units are never recorded, only derived: a unit is free when nothing touches it. Taking is next-fit, as Cilium's
cluster-pool does it: the cursor stands behind the block taken last, wraps, and is moved by nothing else.

Cost: taking or returning a block is the same at any fill level and any span. A range of many units costs what the recorded
ranges inside it cost, never its units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .bitmap import Bitmap
from .cidr import Cidr
from .errors import Invalid
from .overlaps import Ranges

_NOBODY = ""


class Ledger:
    """The blocks of prefix length `mask` in `cidr`.

    reserved: ranges that `take` never touches; those outside `cidr` have no effect.
    wider: shorter prefix lengths of which blocks may be taken, too. Units are then taken from the lowest free one on, so that
        wide stretches stay free; a bitmap for each length says where all its units are free, so this costs the same anywhere.
    total: how many units there are.
    cursor: the unit from which `take` looks for a free one, 0 to `total` - 1.
    Raises Invalid if the mask does not fit the CIDR.
    """

    __slots__ = (
        "_aside",
        "_base",
        "_bits",
        "_blocked",
        "_groups",
        "_held",
        "_plain",
        "_quarantined",
        "_record",
        "_reserved",
        "_shift",
        "_sorted",
        "_taken",
        "_units",
        "cidr",
        "cursor",
        "mask",
        "total",
    )

    def __init__(
        self, cidr: Cidr, mask: int, reserved: Iterable[Cidr] = (), wider: Iterable[int] = ()
    ) -> None:
        if mask > cidr.bits or mask < 0:
            raise Invalid(
                "SubNetMask is invalid, should be lower or equal to 32 for IPv4 and to 128 for IPv6"
                f" — {cidr} has mask size {mask}: set one from {cidr.length} to {cidr.bits}"
            )
        if mask < cidr.length:
            raise Invalid(
                f"mask size {mask} of {cidr} is wider than the CIDR itself"
                f" — set a mask size from {cidr.length} to {cidr.bits}, or a wider CIDR"
            )
        for length in wider:
            if not cidr.length <= length < mask:
                raise Invalid(
                    f"mask size {length} of {cidr} is no wider one: set one from {cidr.length} to {mask - 1}"
                )
        self.cidr = cidr
        self.mask = mask
        self.total = 1 << (mask - cidr.length)
        self._bits = cidr.bits
        self._base = cidr.first
        self._shift = cidr.bits - mask
        self._record = Ranges(cidr.bits, steady=mask)
        self._units = self._record.tables[
            mask
        ]  # take and free write to it directly, and then drop its sorted list
        self._sorted = self._record.sorted
        self._reserved = Ranges(cidr.bits)
        self._held = Ranges(cidr.bits)
        self._blocked = Bitmap(mask - cidr.length)  # units that `take` must not give
        # By prefix length, widest first: in which blocks of it any unit must not be given.
        self._groups = {length: Bitmap(length - cidr.length) for length in sorted(set(wider))}
        self.cursor = 0
        self._taken = 0
        self._quarantined = 0
        # What the fast paths ask: are only ranges of one unit recorded, and is anything reserved or held back.
        self._plain = True
        self._aside = False
        for each in reserved:
            self.reserve(each)

    @property
    def wider(self) -> tuple[int, ...]:
        """The shorter prefix lengths of which blocks may be taken, too; the widest first."""
        return tuple(self._groups)

    def __str__(self) -> str:
        return f"clusterCIDR: {self.cidr}, nodeMask: {self.mask}"

    def __iter__(self) -> Iterator[tuple[str, Cidr]]:
        """All recorded (owner, CIDR), ordered by CIDR, then by owner."""
        return iter(self._record)

    # Every unit is counted once: total == taken + quarantined + reserved + free.

    @property
    def taken(self) -> int:
        """Units that a recorded range touches."""
        return self._taken

    @property
    def quarantined(self) -> int:
        """Units that a held-back range touches and no recorded one."""
        return self._quarantined

    @property
    def reserved(self) -> int:
        """Units that only reserved ranges touch."""
        return self._blocked.count - self._taken - self._quarantined

    @property
    def free_units(self) -> int:
        """Units that `take` can still give."""
        return self.total - self._blocked.count

    def take(self, owner: str) -> Cidr | None:
        """Gives the next free block to `owner`; None if there is none."""
        unit = self._blocked.set_next(self.cursor)
        if unit < 0:
            return None
        if self._groups:
            self._fill_groups(unit, 0)
        else:
            self.cursor = unit + 1 if unit + 1 < self.total else 0
        self._taken += 1
        first = self._base + (unit << self._shift)
        self._units[first] = owner
        if self._sorted:
            self._sorted.pop(self.mask, None)
        return Cidr(self._bits, first, self.mask)

    def would_take(self) -> Cidr | None:
        """What `take` would give now. Changes nothing."""
        unit = self._blocked.next_clear(self.cursor)
        return None if unit < 0 else Cidr(self._bits, self._base + (unit << self._shift), self.mask)

    def take_wider(self, owner: str, length: int) -> Cidr | None:
        """Gives the first free block of one of the wider prefix lengths; None if there is none."""
        number = self._groups[length].next_clear(0)
        if number < 0:
            return None
        cidr = self._block(number, length)
        self._write(self._record, owner, cidr)
        return cidr

    def has_wider(self, length: int) -> bool:
        """Whether `take_wider` can still give a block of this length."""
        groups = self._groups[length]
        return groups.count < groups.size

    def foresee(self, length: int) -> Iterator[Cidr]:
        """The blocks of a prefix length that would be taken one after the other. Changes nothing."""
        free, at = (self._blocked, self.cursor) if length == self.mask else (self._groups[length], 0)
        first = number = free.next_clear(at)
        while number >= 0:
            yield self._block(number, length)
            number = free.next_clear(number + 1 if number + 1 < free.size else 0)
            if number == first:
                return

    def _block(self, number: int, length: int) -> Cidr:
        return Cidr(self._bits, self._base + (number << (self._bits - length)), length)

    def claim(self, owner: str, cidr: Cidr) -> tuple[tuple[str, Cidr], ...]:
        """Records a range that an object shows, unless it overlaps another owner's.

        Returns the (owner, CIDR) it overlaps, ordered by CIDR, then by owner; empty means that it is recorded.
        Reserved and held-back ranges are no hindrance: an object that shows a range wins.
        Raises Invalid if `cidr` lies outside the ledger.
        """
        if (
            self._plain
            and cidr.length == self.mask
            and self.cidr.contains(cidr)
            and cidr.first not in self._units
        ):
            first = cidr.first
            if not self._aside or not self._is_aside(first):
                self._units[first] = owner
                if self._sorted:
                    self._sorted.pop(self.mask, None)
                self._taken += 1
                unit = (first - self._base) >> self._shift
                self._blocked.set_next(unit)  # it is free, so this sets just it
                if self._groups:
                    self._fill_groups(unit, 0)
                return ()
        self._check_inside(cidr)
        conflicts = self._record.overlapping(cidr, but=owner)
        if not conflicts:
            self._write(self._record, owner, cidr)
        return tuple(conflicts)

    def force(self, owner: str, cidr: Cidr) -> None:
        """Records a range even where it overlaps other owners' (see `owners`). Raises Invalid as `claim`."""
        self._check_inside(cidr)
        self._write(self._record, owner, cidr)

    def free(self, owner: str, cidr: Cidr) -> bool:
        """Forgets a range of `owner`. False if it holds none that is exactly this."""
        if (
            self._plain
            and cidr.length == self.mask
            and self._units.get(cidr.first) == owner
            and cidr.bits == self._bits
        ):
            first = cidr.first
            if not self._aside or not self._is_aside(first):
                del self._units[first]
                if self._sorted:
                    self._sorted.pop(self.mask, None)
                self._taken -= 1
                unit = (first - self._base) >> self._shift
                self._blocked.clear(unit)
                if self._groups:
                    self._wipe_groups(unit, 0)
                return True
        return cidr.overlaps(self.cidr) and self._erase(self._record, owner, cidr)

    def fragments(self) -> tuple[int, int]:
        """How many free units the longest run of them has, and how many addresses nobody holds and nobody can be given, since
        a part of their unit is held, reserved or held back. Costs what all that is recorded does."""
        layers = (self._record, self._reserved, self._held)
        cidrs = sorted({cidr for layer in layers for _, cidr in layer})
        longest = covered = blocked = 0
        free_from, end = (
            0,
            self._base,
        )  # the first unit behind all blocked ones, the first address behind all that is covered
        for cidr in cidrs:
            unit, order = self._span(cidr)
            until = unit + (1 << order)
            longest = max(longest, unit - free_from)
            blocked += max(0, until - max(unit, free_from))
            free_from = max(free_from, until)
            last = min(cidr.last, self.cidr.last) + 1
            covered += max(0, last - max(cidr.first, end))
            end = max(end, last)
        return max(longest, self.total - free_from), (blocked << self._shift) - covered

    def owners(self, cidr: Cidr) -> list[tuple[str, Cidr]]:
        """All recorded (owner, CIDR) that overlap `cidr`, ordered by CIDR, then by owner."""
        return self._record.overlapping(cidr) if cidr.bits == self._bits else []

    def owner_of(self, cidr: Cidr) -> str | None:
        """Who holds exactly `cidr`; if several do, the first by name."""
        owners = self._record.owners(cidr.first, cidr.length) if cidr.bits == self._bits else ()
        return owners[0] if owners else None

    def reserve(self, cidr: Cidr) -> None:
        """Keeps a range from being taken. Who holds a block there keeps it."""
        if cidr.overlaps(self.cidr):
            self._write(self._reserved, _NOBODY, cidr)

    def unreserve(self, cidr: Cidr) -> bool:
        """Takes back `reserve`. False if exactly this was not reserved."""
        return cidr.overlaps(self.cidr) and self._erase(self._reserved, _NOBODY, cidr)

    def hold_back(self, cidr: Cidr) -> None:
        """Puts a range into quarantine: not taken until `let_go`; a claim is still recorded."""
        if cidr.overlaps(self.cidr):
            self._write(self._held, _NOBODY, cidr)

    def let_go(self, cidr: Cidr) -> bool:
        """Ends the quarantine of a range. False if exactly this was not held back."""
        return cidr.overlaps(self.cidr) and self._erase(self._held, _NOBODY, cidr)

    def remasked(self, mask: int) -> Ledger:
        """A new ledger of another mask with all that is recorded, reserved and held back here. Raises Invalid."""
        other = Ledger(self.cidr, mask, (), [length for length in self._groups if length < mask])
        for target, source in (
            (other._reserved, self._reserved),
            (other._held, self._held),
            (other._record, self._record),
        ):
            for owner, cidr in source:
                other._write(target, owner, cidr)
        # The cursor stays at its address, rounded up to a whole block.
        other.cursor = -(-(self.cursor << self._shift) >> other._shift) % other.total
        return other

    def _check_inside(self, cidr: Cidr) -> None:
        if not cidr.overlaps(self.cidr):
            raise Invalid(f"cidr {cidr} is out the range of cluster cidr {self.cidr}")

    def _write(self, ranges: Ranges, owner: str, cidr: Cidr) -> None:
        span = self._span(cidr)
        before = self._counts(span)
        if ranges.add(owner, cidr.first, cidr.length):
            self._blocked.fill(*span)
            if self._groups:
                self._fill_groups(*span)
            self._settle(before, span)

    def _erase(self, ranges: Ranges, owner: str, cidr: Cidr) -> bool:
        span = self._span(cidr)
        before = self._counts(span)
        if not ranges.remove(owner, cidr.first, cidr.length):
            return False
        layers = [self._touched(layer, span) for layer in (self._record, self._reserved, self._held)]
        if [span] not in layers:
            self._blocked.wipe(*span)
            for layer in layers:
                for piece in layer:
                    self._blocked.fill(*piece)
            if self._groups:
                self._wipe_groups(*span)
        self._settle(before, span)
        return True

    def _fill_groups(self, unit: int, order: int) -> None:
        for length, groups in self._groups.items():
            each = self.mask - length
            groups.fill(unit >> each, max(0, order - each))

    def _wipe_groups(self, unit: int, order: int) -> None:
        """Units of this span may be free again: so are the groups in which all are."""
        for length, groups in self._groups.items():
            each = self.mask - length
            first, more = unit >> each, max(0, order - each)
            if more and self._blocked.is_clear(unit, order):
                groups.wipe(first, more)
                continue
            for number in range(first, first + (1 << more)):
                if self._blocked.is_clear(number << each, each):
                    groups.wipe(number, 0)

    def _settle(self, before: tuple[int, int], span: tuple[int, int]) -> None:
        """Brings counts and the fast path's condition up to date after a change within `span`."""
        after = self._counts(span)
        self._taken += after[0] - before[0]
        self._quarantined += after[1] - before[1]
        self._plain = len(self._record.lengths) == 1
        self._aside = bool(self._reserved or self._held)

    def _is_aside(self, first: int) -> bool:
        """Whether a reserved or held-back range touches the unit at address `first`."""
        mask = self.mask
        return any(
            layer.covers(first, mask)
            or (layer.lengths != () and layer.lengths[-1] > mask and layer.inside(first, mask) != [])
            for layer in (self._reserved, self._held)
        )

    def _span(self, cidr: Cidr) -> tuple[int, int]:
        """The units that `cidr` touches, as (first unit, n): 2^n of them."""
        if cidr.length <= self.cidr.length:
            return 0, self.mask - self.cidr.length
        unit = (cidr.first - self._base) >> self._shift
        return unit, max(0, self.mask - cidr.length)

    def _touched(self, ranges: Ranges, span: tuple[int, int]) -> list[tuple[int, int]]:
        """The units in `span` that `ranges` touch, as spans that do not overlap."""
        unit, order = span
        first = self._base + (unit << self._shift)
        length = self.mask - order
        if ranges.covers(first, length):
            return [span]
        pieces = []
        end = unit
        for start, longer in ranges.inside(first, length):
            at = (start - self._base) >> self._shift
            if at >= end:
                size = max(0, self.mask - longer)
                pieces.append((at, size))
                end = at + (1 << size)
        return pieces

    def _counts(self, span: tuple[int, int]) -> tuple[int, int]:
        """How many units in `span` are taken, and how many are held back and not taken."""
        taken = sum(1 << order for _, order in self._touched(self._record, span))
        held = 0
        if self._held:
            for piece in self._touched(self._held, span):
                held += (1 << piece[1]) - sum(1 << order for _, order in self._touched(self._record, piece))
        return taken, held
