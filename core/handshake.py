"""The giving back of single addresses: what a node's agent answers to the operator's marks. Pure.

The operator marks an address that it wants back, the agent answers, and only what was answered `ready` is taken from the cloud. An
interface takes addresses of a prefix only together, so they are answered together: one in use keeps all of its prefix.
Source of the words and of their order: Cilium's CRD allocator (`status.ipam.release-ips`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .cidr import Cidr

MARKED = "marked-for-release"
"""The operator wants it back."""
READY = "ready-for-release"
"""The agent does not use it, and will not."""
KEPT = "do-not-release"
"""The agent uses it, or does not know it."""
RELEASED = "released"
"""The operator has taken it from the cloud, and from the pool."""


class Units:
    """What is taken from an interface in one piece: a prefix, or an address in none."""

    def __init__(self, prefixes: Iterable[Cidr] = ()) -> None:
        self._prefixes = frozenset(prefixes)
        self._lengths = sorted({(each.bits, each.length) for each in self._prefixes})

    def of(self, cidr: Cidr) -> Cidr:
        """The prefix that it lies in, else itself."""
        for bits, length in self._lengths:
            if bits == cidr.bits and length <= cidr.length:
                wide = cidr.widened(length)
                if wide in self._prefixes:
                    return wide
        return cidr


def withheld(releases: Iterable[tuple[Cidr, str]], blocks: Iterable[Cidr], units: Units) -> frozenset[Cidr]:
    """The blocks of which nothing may be given, because some of their unit may be taken away at any moment."""
    going = {units.of(address) for address, word in releases if word != KEPT}
    return frozenset(block for block in blocks if units.of(block) in going) if going else frozenset()


def answers(
    releases: Iterable[tuple[Cidr, str]], *, pool: Collection[Cidr], busy: Iterable[Cidr], units: Units
) -> tuple[tuple[Cidr, str], ...]:
    """The words to write, by address; an empty one: the entry is to be deleted.

    pool: the addresses that the node's object says it may give. busy: those that are held, kept or cooling, be it on disk or not yet.
    A word of the agent's own stays, but for one: `ready` of what is in use after all, as an earlier agent may have said, is taken back.
    """
    in_use = {units.of(address) for address in busy}
    found = []
    for address, word in sorted(releases):
        used = units.of(address) in in_use
        if word == MARKED:
            found.append((address, READY if address in pool and not used else KEPT))
        elif word == READY and used:
            found.append((address, KEPT))
        elif word == RELEASED and address not in pool:
            found.append((address, ""))
    return tuple(found)
