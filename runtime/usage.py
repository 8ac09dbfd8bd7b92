"""How full a pool is, range by range, and what is in use outside of every range. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from omnipam.core.cidr import FAMILIES, Cidr, Family
from omnipam.core.ledger import Ledger
from omnipam.core.values import Kept, Node, PoolSpec


class RangeUsage(msgspec.Struct, frozen=True):
    """Blocks of one configured range: total = used + free + quarantined + reserved.

    longest: free blocks that lie side by side. stranded: addresses that nobody has and nobody can be given.
    """

    cidr: Cidr
    mask: int
    total: int
    used: int
    free: int
    quarantined: int
    reserved: int
    longest: int
    stranded: int


class Usage(msgspec.Struct, frozen=True):
    """One pool. outside: (CIDR, node) in use that lie in no configured range, in order: a drain is over when it is empty."""

    pool: str
    ranges: tuple[RangeUsage, ...]
    outside: tuple[tuple[Cidr, str], ...]

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that are configured or in use."""
        there = {each.cidr.family for each in self.ranges} | {cidr.family for cidr, _ in self.outside}
        return tuple(family for family in FAMILIES if family in there)

    def of(self, family: Family) -> tuple[RangeUsage, ...]:
        return tuple(each for each in self.ranges if each.cidr.family == family)

    def outside_of(self, family: Family) -> tuple[tuple[Cidr, str], ...]:
        return tuple(each for each in self.outside if each[0].family == family)


def usage(spec: PoolSpec, nodes: Iterable[Node], kept: Iterable[Kept], now: float) -> Usage:
    """Counts what nodes' objects show, and what is kept: what touches a range takes from it, under whatever pool's name.

    Raises Invalid where a mask does not fit its range.
    """
    ledgers = [Ledger(each.cidr, each.mask, spec.reserved, each.wider) for each in spec.ranges]
    held: set[tuple[Cidr, str]] = set()
    names: set[str] = set()
    named: set[Cidr] = set()  # those that go by this pool's name
    for node in nodes:
        names.add(node.name)
        for block in node.holds.blocks:
            if block.pool == spec.name:
                named.add(block.cidr)
            elif not any(each.cidr.overlaps(block.cidr) for each in spec.ranges):
                continue
            held.add((block.cidr, node.name))
    for entry in kept:
        if entry.owner in names:
            held.add((entry.cidr, entry.owner))
            if entry.pool == spec.name:
                named.add(entry.cidr)
        elif not entry.owner and entry.until > now:
            for ledger in ledgers:
                ledger.hold_back(entry.cidr)
    outside = []
    for cidr, owner in sorted(held):
        for ledger in ledgers:
            if ledger.cidr.overlaps(cidr):
                ledger.force(owner, cidr)
        if cidr in named and not any(ledger.cidr.contains(cidr) for ledger in ledgers):
            outside.append((cidr, owner))
    return Usage(
        spec.name,
        tuple(
            RangeUsage(
                ledger.cidr,
                ledger.mask,
                ledger.total,
                ledger.taken,
                ledger.free_units,
                ledger.quarantined,
                ledger.reserved,
                *ledger.fragments(),
            )
            for ledger in ledgers
        ),
        tuple(outside),
    )
