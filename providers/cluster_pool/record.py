"""What cluster-pool knows of one node, and what follows from it: its needs, its problems, its grant. No side effects."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.cidr import FAMILIES, Cidr, Family
from omnipam.core.space import Space
from omnipam.core.values import Block, Grant, Node, Problem

from ..contest import Claimant
from ..findings import already_allocated, moved

HINTS = {
    "ipv4": "add a range to cluster-pool-ipv4-cidr, or delete nodes that are no more; it is served as soon as space appears",
    "ipv6": "add a range to cluster-pool-ipv6-cidr, or delete nodes that are no more; it is served as soon as space appears",
}


class Record(Claimant):
    """One node. Every CIDR in `blocks`, `foreign` and `leaving` is recorded in the space under the node's name.

    blocks: its own, in the order in which they were granted. fresh: those that no object has ever shown, so nothing runs there.
    foreign: shown by its object but not ours to give: out of every range, or in place of what we gave.
    leaving: ours no more, since the agent gave them up, but still in the object: kept from others until it is gone there.
    asked: the needs that were last planned for. short: those of them for which there was no space then.
    """

    __slots__ = ("asked", "blocks", "foreign", "fresh", "leaving", "short")

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.blocks: tuple[Cidr, ...] = ()
        self.fresh: tuple[Cidr, ...] = ()
        self.foreign: tuple[Cidr, ...] = ()
        self.leaving: tuple[Cidr, ...] = ()
        self.asked: tuple[Family, ...] = ()
        self.short: tuple[Family, ...] = ()

    @property
    def shown(self) -> tuple[Cidr, ...]:
        """What its object shows, each range once."""
        return tuple(dict.fromkeys(block.cidr for block in self.node.holds.blocks))

    def is_unshown(self, cidr: Cidr) -> bool:
        return cidr not in self.shown

    def apart(self) -> list[Cidr]:
        """Its blocks that its object has shown and shows no more: pods may run there, and only we know of them."""
        shown = self.shown
        return [cidr for cidr in self.blocks if cidr not in shown and cidr not in self.fresh]

    def holdings(self) -> tuple[Cidr, ...]:
        return (*self.blocks, *self.foreign, *self.leaving)

    def drop(self, cidr: Cidr) -> None:
        self.blocks = tuple(own for own in self.blocks if own != cidr)
        self.fresh = tuple(own for own in self.fresh if own != cidr)
        self.foreign = tuple(own for own in self.foreign if own != cidr)
        self.leaving = tuple(own for own in self.leaving if own != cidr)

    def of(self, family: Family) -> list[Cidr]:
        """Its own blocks of a family."""
        return [cidr for cidr in self.blocks if cidr.family == family]

    def has_fresh(self, family: Family) -> bool:
        """Whether a block of the family was taken for it that no object has shown."""
        return any(cidr in self.fresh for cidr in self.of(family))

    def replaced(self) -> set[Family]:
        """Families of which its object shows a range that is not its own, and none that is."""
        own = {cidr.family for cidr in self.blocks if not self.is_unshown(cidr)}
        return {cidr.family for cidr in self.foreign if cidr.family not in own}

    def needs(self, families: Iterable[Family], max_blocks: int) -> tuple[Family, ...]:
        """Families in which it should get one more block: it has none at all, or all that it has are full."""
        if not self.writable:
            return ()
        agent = self.node.agent
        if not self.blocks and not self.foreign:
            return () if agent.released and self.pending(families) else tuple(families)
        needed = []
        depleted = agent.depleted
        for family in families:
            if agent.released and self.pending((family,)):
                continue
            own = self.of(family)
            if any(cidr.family == family for cidr in self.foreign):
                continue
            if not own or (len(own) < max_blocks and depleted and all(cidr in depleted for cidr in own)):
                needed.append(family)
        return tuple(needed)

    def pending(self, families: Iterable[Family]) -> list[Cidr]:
        """What the agent still calls released. A block that it was given now could be the very same, and be taken for released."""
        return [cidr for cidr in self.node.agent.released if cidr.family in families]

    def grant(self, families: Iterable[Family], space: Space) -> Grant:
        """What its object should say: its own blocks, IPv4 first, and whatever of others' making is not ours to touch."""
        shown = tuple(block.cidr for block in self.node.holds.blocks)
        if not self.node.present:
            shown = self.blocks
        elif self.writable and shown != self.blocks:
            kept = [cidr for cidr in dict.fromkeys(shown) if cidr in self.blocks or cidr in self.foreign]
            replaced = self.replaced()
            # A list that shrank is written back; one that was replaced is left alone, and said so.
            kept += [
                cidr
                for cidr in self.blocks
                if cidr not in shown and (cidr in self.fresh or cidr.family not in replaced)
            ]
            shown = tuple(sorted(kept, key=_by_family))
        blocks = tuple(Block(space.spec.name, cidr) for cidr in shown)
        if blocks == self.node.holds.blocks:
            blocks = self.node.holds.blocks
        return Grant(blocks, self.problems(families, space), notices=moved(self, space))

    def problems(self, families: Iterable[Family], space: Space) -> tuple[Problem, ...]:
        """Its unmet demand, in Cilium's words."""
        found = list(self.node.unreadable)
        found += [
            already_allocated(self, cidr, space, "a fresh block follows as soon as there is one")
            for cidr in sorted(self.lost)
            if not self.of(cidr.family)
        ]
        if self.foreign:
            found += _foreign_problems(self, tuple(families), space)
        found += [Problem("PoolExhausted", "allocator full", HINTS[family]) for family in self.short]
        if self.node.agent.released and self.writable:
            found += [
                Problem(
                    "ReleasePending",
                    f"the agent calls {cidr} released, which it does not have any more",
                    "a fresh block follows once the agent has taken it out of status.ipam.pod-cidrs; restart it if it does not",
                )
                for cidr in self.pending(families)
                if not self.of(cidr.family) and cidr not in self.leaving
            ]
        return tuple(found)


def _by_family(cidr: Cidr) -> int:
    return cidr.bits


def _foreign_problems(record: Record, families: tuple[Family, ...], space: Space) -> list[Problem]:
    found = []
    shown = record.shown
    for family in FAMILIES:
        foreign = [cidr for cidr in shown if cidr in record.foreign and cidr.family == family]
        if not foreign:
            continue
        listed = " ".join(map(str, foreign))
        if family not in families:
            name = "IPv4" if family == "ipv4" else "IPv6"
            found.append(
                Problem(
                    "FamilyDisabled",
                    f"unable to allocate CIDR [{listed}] since allocator for {name} addresses does not exist",
                    f"set enable-{family}, or take the CIDR out of spec.ipam.podCIDRs",
                )
            )
        elif record.writable and family in record.replaced() and (missing := record.of(family)):
            # (Of one that may not be written, and so was not put right, a restart does not know which replaced which.)
            granted = " ".join(map(str, sorted(missing)))
            found.append(
                Problem(
                    "CIDRReplaced",
                    f"node has CIDRs allocated ([{granted}]) that conflict with requested CIDRs [{listed}]",
                    "put the allocated ones back into spec.ipam.podCIDRs, or delete the node's object to start afresh",
                )
            )
        else:
            found += [
                Problem(
                    "OutsidePool",
                    f"allocator not configured for the requested CIDR {cidr}",
                    "the node keeps it, and what it covers of the pool is given to nobody: take it out of spec.ipam.podCIDRs"
                    if space.touches(cidr)
                    else f"the node keeps it; replace the node, or add the range to cluster-pool-{family}-cidr",
                )
                for cidr in foreign
                if not space.inside(cidr)
            ]
    return found
