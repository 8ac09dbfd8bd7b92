"""Whose claim wins where nodes' objects show the same addresses; shared by the modes that grant blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from omnipam.core.cidr import Cidr
from omnipam.core.overlaps import Overlaps
from omnipam.core.space import Claim
from omnipam.core.values import Node


class Claimant:
    """A node that holds ranges.

    lost: shown by its object, and held by another node with the better claim. Not recorded in the ground.
    """

    __slots__ = ("lost", "name", "node")

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.node = node
        self.lost: tuple[Cidr, ...] = ()

    @property
    def writable(self) -> bool:
        """Whether its object may be changed: it is there, readable, and not opted out."""
        node = self.node
        return node.present and not node.ignored and not node.unreadable

    @property
    def precedence(self) -> tuple[bool, float, str]:
        """Who keeps what two nodes claim: the lesser. First those that we may not write, then the older, then by name."""
        node = self.node
        return (not (node.ignored or node.unreadable), node.created, node.name)

    def is_unpublished(self, cidr: Cidr) -> bool:
        """Whether we took this range for it, and no object has shown that yet."""
        raise NotImplementedError

    def holdings(self) -> tuple[Cidr, ...]:
        """All that it may have to give up to a better claim."""
        raise NotImplementedError

    def drop(self, cidr: Cidr) -> None:
        """Forgets that it holds this, in whatever way."""
        raise NotImplementedError


class Ground(Protocol):
    """What is claimed: a space, or several."""

    def claim(self, owner: str, cidr: Cidr) -> list[Claim]:
        """Records what an object shows. Answers the claims of others in its way, sorted; then nothing is recorded."""

    def force(self, owner: str, cidr: Cidr) -> None:
        """Records it whatever is in its way."""

    def free(self, owner: str, cidr: Cidr) -> None:
        """Forgets that the owner holds it. Not held: nothing."""

    def others(self, owner: str, cidr: Cidr) -> list[Claim]:
        """What others hold that shares an address with it, sorted."""


C = TypeVar("C", bound=Claimant)


class Contest(Generic[C]):
    """The order of claims is decided once, by `Claimant.precedence`: at restore and whenever two objects show the same addresses.

    A block of ours that no object shows yet always yields to one that an object shows. A range that an object shows is never
    free: it is its node's, another's with the better claim, or kept from all until the object shows it no more.
    """

    def __init__(self) -> None:
        self.records: dict[str, C] = {}
        self.moved: set[str] = set()
        """Nodes that gained or lost something by another's doing; whoever reads them takes them out."""
        self._lost = Overlaps()

    @property
    def ground(self) -> Ground:
        raise NotImplementedError

    def regained(self, record: C, cidr: Cidr) -> None:
        """Nobody has a better claim any more to what its object shows; it is recorded for it already."""
        raise NotImplementedError

    def contest(self, record: C) -> None:
        """A node that may be written again gives up what it held only because it could not be."""
        records: Mapping[str, C] = self.records
        for cidr in record.holdings():
            for owner, _ in self.ground.others(record.name, cidr):
                if records[owner].precedence < record.precedence:
                    self.evict(record, cidr)
                    break

    def yield_shared(self, record: C) -> None:
        """A node whose object is gone gives up what others' objects show, too: those were there first after a restart."""
        for cidr in record.holdings():
            if self.ground.others(record.name, cidr):
                record.drop(cidr)
                self.free(record.name, cidr)

    def win(self, record: C, cidr: Cidr) -> bool:
        """Records the range for the node if its claim is the best, taking it from the others. False: another's is better."""
        conflicts = self.ground.claim(record.name, cidr)
        if not conflicts:
            return True
        losers = []
        for owner, other_cidr in conflicts:
            other = self.records[owner]
            if (
                not other.is_unpublished(other_cidr)
                and other.precedence < record.precedence
                and record.writable
            ):
                return False
            losers.append((other, other_cidr))
        self.ground.force(record.name, cidr)
        for other, other_cidr in losers:
            if other.writable or not other.node.present:
                self.evict(other, other_cidr)
        return True

    def evict(self, record: C, cidr: Cidr) -> None:
        """Takes a range from a node whose claim is the lesser; it gets a fresh block."""
        published = not record.is_unpublished(cidr)
        record.drop(cidr)
        if published and cidr not in record.lost:
            self.set_lost(record, (*record.lost, cidr))
        self.free(record.name, cidr)
        self.moved.add(record.name)

    def free(self, name: str, cidr: Cidr) -> None:
        """Frees a range, except where another object shows it too: that one has it now, or it is kept until it does not."""
        self.ground.free(name, cidr)
        losers = [(self.records[owner], lost) for owner, lost in self._lost.overlapping(cidr, but=name)]
        for loser, lost in sorted(losers, key=lambda one: (one[0].precedence, one[1])):
            if self.ground.claim(loser.name, lost):
                continue
            self.set_lost(loser, tuple(other for other in loser.lost if other != lost))
            self.regained(loser, lost)
            self.moved.add(loser.name)

    def set_lost(self, record: C, lost: tuple[Cidr, ...]) -> None:
        if lost != record.lost:
            for cidr in record.lost:
                self._lost.remove(record.name, cidr)
            for cidr in lost:
                self._lost.add(record.name, cidr)
            record.lost = lost
