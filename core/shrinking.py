"""What a node may give back: whole interfaces without any use, whole prefixes, single addresses; never more than is spare. Pure.

Interfaces with the least in use go first, so that they empty, and of those the last by index: few calls, and interfaces to give back.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from .cidr import Family
from .inventory import Interface
from .placement import Placement
from .watermarks import PREFIX_SIZE


class Part(msgspec.Struct, frozen=True):
    """What one interface gives back. prefixes: first addresses. whole: the interface itself goes, with all that it has."""

    interface: str
    addresses: tuple[int, ...] = ()
    prefixes: tuple[int, ...] = ()
    whole: bool = False

    def every(self, family: Family = "ipv4") -> tuple[int, ...]:
        """Each single address that goes, sorted; IPv4 only, since a /80 cannot be listed."""
        if family == "ipv6":
            return self.addresses
        inside = (prefix + offset for prefix in self.prefixes for offset in range(PREFIX_SIZE))
        return tuple(sorted((*self.addresses, *inside)))


def shrink(
    spare: int,
    used: Collection[int],
    placement: Placement,
    interfaces: tuple[Interface, ...],
    *,
    idle: Collection[str] = (),
) -> tuple[Part, ...]:
    """IPv4. spare: how many addresses may go. used: those that must stay, whatever the reason.

    idle: interfaces that may go as a whole: ours, not the instance's first, and old enough.
    """
    in_use = frozenset(used)
    sites = sorted(
        (
            (_used(each, in_use, placement), -each.index, each.id, each)
            for each in interfaces
            if each.state == "attached" and not placement.excludes(each)
        ),
        key=lambda site: site[:3],
    )
    parts = []
    for busy, _, name, each in sites:
        if spare <= 0:
            break
        holds = len(each.addresses) + PREFIX_SIZE * len(each.prefixes) + placement.use_primary
        if (
            not busy
            and name in idle
            and holds <= spare
            and not each.ipv6_addresses
            and not each.ipv6_prefixes
        ):
            parts.append(Part(name, each.addresses, each.prefixes, whole=True))
            spare -= holds
            continue
        prefixes = [
            prefix for prefix in each.prefixes if not any(prefix + at in in_use for at in range(PREFIX_SIZE))
        ][::-1][: spare // PREFIX_SIZE]
        spare -= PREFIX_SIZE * len(prefixes)
        singles = [address for address in each.addresses if address not in in_use][::-1][:spare]
        spare -= len(singles)
        if prefixes or singles:
            parts.append(Part(name, tuple(sorted(singles)), tuple(sorted(prefixes))))
    return tuple(parts)


def _used(each: Interface, in_use: frozenset[int], placement: Placement) -> int:
    """How many of its addresses are in use."""
    number = sum(address in in_use for address in each.addresses)
    number += sum(prefix + at in in_use for prefix in each.prefixes for at in range(PREFIX_SIZE))
    return number + (placement.use_primary and each.primary in in_use)
