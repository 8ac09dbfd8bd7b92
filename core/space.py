"""The address space of one pool: its configured ranges as ledgers, and what nodes hold outside of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .cidr import FAMILIES, Cidr, Family
from .errors import Invalid
from .ledger import Ledger
from .overlaps import Overlaps
from .values import PoolCapacity, PoolSpec

Claim = tuple[str, Cidr]
"""An owner and the range that it holds."""


class Space:
    """Every range that anybody holds, by owner; and where the next block of each family would come from.

    A new block is of the first range in the configured order that has one free. Ranges that lie in no configured one, or reach
    beyond it, are recorded too: they conflict like any other, but no block is ever taken there.
    """

    def __init__(self, spec: PoolSpec) -> None:
        """Raises Invalid where a mask does not fit its range, or two ranges overlap."""
        self.spec = spec
        self._ledgers: dict[Family, list[Ledger]] = {family: [] for family in FAMILIES}
        self._outside = Overlaps()
        self._widest: dict[Family, int] = {}
        for given in spec.ranges:
            self._widest[given.cidr.family] = min(
                given.mask, *given.wider, self._widest.get(given.cidr.family, given.mask)
            )
            ledgers = self._ledgers[given.cidr.family]
            for earlier in ledgers:
                if earlier.cidr.overlaps(given.cidr):
                    raise Invalid(
                        f"requested CIDR {given.cidr} collides with clusterCIDR: {earlier.cidr}, nodeMask: {earlier.mask}"
                        f" — pool {spec.name!r}: take one of the two out"
                    )
            reserved = tuple(cidr for cidr in spec.reserved if cidr.overlaps(given.cidr))
            ledgers.append(Ledger(given.cidr, given.mask, reserved, given.wider))

    def inside(self, cidr: Cidr) -> bool:
        """Whether a configured range contains it."""
        return any(ledger.cidr.contains(cidr) for ledger in self._ledgers[cidr.family])

    def touches(self, cidr: Cidr) -> bool:
        """Whether a configured range shares an address with it."""
        return any(True for _ in self._reached(cidr))

    def excess(self, cidr: Cidr) -> int:
        """By how many bits it is wider than the widest block of its family; without ranges, than a single address."""
        return max(0, self._widest.get(cidr.family, cidr.bits) - cidr.length)

    def has_ranges(self, family: Family) -> bool:
        """Whether any range of the family is configured."""
        return bool(self._ledgers[family])

    def next(self, family: Family) -> Cidr | None:
        """The block that `take` would give; None: full."""
        for ledger in self._ledgers[family]:
            if (cidr := ledger.would_take()) is not None:
                return cidr
        return None

    def take(self, family: Family, owner: str) -> Cidr | None:
        """Takes the next free block; None: full."""
        for ledger in self._ledgers[family]:
            if (cidr := ledger.take(owner)) is not None:
                return cidr
        return None

    def sizes(self, family: Family) -> tuple[int, ...]:
        """The prefix lengths of which there are blocks to take, widest first."""
        found = {length for ledger in self._ledgers[family] for length in (*ledger.wider, ledger.mask)}
        return tuple(sorted(found))

    def foresee(self, family: Family, length: int) -> Iterator[Cidr]:
        """The blocks of a prefix length that `take_sized` would give one after the other. Changes nothing."""
        for ledger in self._ledgers[family]:
            if length == ledger.mask or length in ledger.wider:
                yield from ledger.foresee(length)

    def take_sized(self, family: Family, length: int, owner: str) -> Cidr | None:
        """Takes the next free block of a prefix length; None: there is none."""
        for ledger in self._ledgers[family]:
            if length == ledger.mask:
                cidr = ledger.take(owner)
            elif length in ledger.wider:
                cidr = ledger.take_wider(owner, length)
            else:
                continue
            if cidr is not None:
                return cidr
        return None

    def claims(self) -> Iterator[Claim]:
        """All that is recorded, each once."""
        told = set(self._outside)
        yield from sorted(told, key=lambda claim: (claim[1], claim[0]))
        for ledgers in self._ledgers.values():
            for ledger in ledgers:
                yield from (claim for claim in ledger if claim not in told)

    def claim(self, owner: str, cidr: Cidr) -> list[Claim]:
        """Records what an object shows. Answers the claims of others in its way, sorted; then nothing is recorded."""
        ledgers = self._ledgers[cidr.family]
        for ledger in ledgers:
            if ledger.cidr.contains(cidr):
                return list(ledger.claim(owner, cidr))
        if conflicts := self.others(owner, cidr):
            return conflicts
        self._record_outside(owner, cidr)
        return []

    def force(self, owner: str, cidr: Cidr) -> None:
        """Records it whatever is in its way: its object may not be written, so both are occupied."""
        for ledger in self._ledgers[cidr.family]:
            if ledger.cidr.contains(cidr):
                ledger.force(owner, cidr)
                return
        self._record_outside(owner, cidr)

    def free(self, owner: str, cidr: Cidr) -> None:
        """Forgets that the owner holds it. Not held: nothing."""
        for ledger in self._ledgers[cidr.family]:
            if ledger.cidr.contains(cidr):
                ledger.free(owner, cidr)
                return
        self._outside.remove(owner, cidr)
        for ledger in self._reached(cidr):
            ledger.free(owner, cidr)

    def others(self, owner: str, cidr: Cidr) -> list[Claim]:
        """What others hold that shares an address with it, sorted."""
        found = set(self._outside.overlapping(cidr))
        for ledger in self._reached(cidr):
            found.update(ledger.owners(cidr))
        return sorted((claim for claim in found if claim[0] != owner), key=lambda claim: (claim[1], claim[0]))

    def hold_back(self, cidr: Cidr) -> None:
        """Quarantine: no block that touches it is taken until `let_go`."""
        for ledger in self._reached(cidr):
            ledger.hold_back(cidr)

    def let_go(self, cidr: Cidr) -> None:
        """Ends a quarantine."""
        for ledger in self._reached(cidr):
            ledger.let_go(cidr)

    def free_blocks(self, family: Family) -> int:
        """How many blocks could be taken now."""
        return sum(ledger.free_units for ledger in self._ledgers[family])

    def resume_cursors(self, earlier: Space) -> None:
        """Goes on where an earlier space of the same ranges stood, so that fresh returns are not the next to be granted."""
        for family, ledgers in self._ledgers.items():
            stood = {(ledger.cidr, ledger.mask): ledger.cursor for ledger in earlier._ledgers[family]}
            for ledger in ledgers:
                ledger.cursor = stood.get((ledger.cidr, ledger.mask), 0)

    def capacity(self) -> tuple[PoolCapacity, ...]:
        """Per family that is configured or in use."""
        outside = Counter(cidr.family for _, cidr in self._outside)
        return tuple(
            PoolCapacity(
                pool=self.spec.name,
                family=family,
                total=sum(ledger.total for ledger in ledgers),
                used=sum(ledger.taken for ledger in ledgers),
                quarantined=sum(ledger.quarantined for ledger in ledgers),
                free=sum(ledger.free_units for ledger in ledgers),
                outside=outside[family],
            )
            for family, ledgers in self._ledgers.items()
            if ledgers or outside[family]
        )

    def _record_outside(self, owner: str, cidr: Cidr) -> None:
        self._outside.add(owner, cidr)
        for ledger in self._reached(cidr):
            ledger.force(owner, cidr)

    def _reached(self, cidr: Cidr) -> Iterator[Ledger]:
        return (ledger for ledger in self._ledgers[cidr.family] if ledger.cidr.overlaps(cidr))
