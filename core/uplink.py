"""What a node must know of the interface that an address belongs to, so that a container's traffic leaves by it. Pure, and of no cloud."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from .cidr import Cidr, Family


class Uplink(msgspec.Struct, frozen=True):
    """One interface of the node.

    number: its routing table's index. gateways: the next hop of its subnet, by family.
    native: destinations that are reached through it without translation.
    addresses, prefixes: what containers may have of it; an address is a /32 or /128.
    excluded: it serves no containers, by the node's own wish.
    """

    id: str
    number: int = 0
    mac: str = ""
    gateways: Mapping[Family, Cidr] = {}
    native: tuple[Cidr, ...] = ()
    addresses: tuple[Cidr, ...] = ()
    prefixes: tuple[Cidr, ...] = ()
    excluded: bool = False


class Uplinks:
    """Whose an address is. Of two interfaces that claim one, a single address outweighs a prefix, then the lower id does."""

    def __init__(self, uplinks: Iterable[Uplink] = ()) -> None:
        self.all = tuple(sorted(uplinks, key=lambda each: each.id))
        self._by_id = {each.id: each for each in self.all}
        self._by_address: dict[Cidr, Uplink] = {}
        self._by_prefix: dict[Cidr, Uplink] = {}
        self._lengths: set[tuple[int, int]] = set()
        for each in self.all:
            for address in each.addresses:
                self._by_address.setdefault(address, each)
            for prefix in each.prefixes:
                self._by_prefix.setdefault(prefix, each)
                self._lengths.add((prefix.bits, prefix.length))

    def get(self, uplink_id: str) -> Uplink | None:
        """The interface of that id."""
        return self._by_id.get(uplink_id)

    def of(self, address: Cidr) -> Uplink | None:
        """The interface that has this address."""
        found = self._by_address.get(address)
        if found is not None:
            return found
        for bits, length in sorted(self._lengths):
            if bits == address.bits:
                found = self._by_prefix.get(address.widened(length))
                if found is not None:
                    return found
        return None
