"""Whose claim wins where nodes' objects show the same addresses; shared by the modes that grant blocks."""

from __future__ import annotations

from collections import deque
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
    def is_stuck(self) -> bool:
        """Whether it has nothing and gets nothing, because its object cannot be read."""
        node = self.node
        return bool(node.present and node.unreadable and not node.ignored and not self.holdings())

    @property
    def age(self) -> tuple[float, str]:
        """The older first, then by name."""
        return (self.node.created, self.name)

    def is_unshown(self, cidr: Cidr) -> bool:
        """Whether it holds this range, and no object shows that: a fresh one, or one whose object shows it no more."""
        raise NotImplementedError

    def holdings(self) -> tuple[Cidr, ...]:
        """All that is recorded for it."""
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

    def excess(self, cidr: Cidr) -> int:
        """By how many bits it is wider than the widest block that is given there; 0: it could be one."""


C = TypeVar("C", bound=Claimant)


class Contest(Generic[C]):
    """The order of claims is decided once, by `rank`: at restore and whenever two objects show the same addresses.

    A block that no object shows always yields to one that an object shows. A range that an object shows is never free: it is its
    node's, another's with the better claim, or kept from all until the object shows it no more. An object that may not be
    written cannot be moved: where its claim is the lesser it is recorded beside the better one, whose node stays untouched.
    """

    def __init__(self) -> None:
        self.records: dict[str, C] = {}
        self.moved: set[str] = set()
        """Nodes that gained or lost something by another's doing; whoever reads them takes them out."""
        self._lost = Overlaps()
        self._shown = Overlaps()
        self._shown_by: dict[str, tuple[Cidr, ...]] = {}
        self._freed: deque[tuple[str, Cidr]] = deque()

    @property
    def ground(self) -> Ground:
        raise NotImplementedError

    def regained(self, record: C, cidr: Cidr) -> None:
        """Nobody has a better claim any more to what its object shows; it is recorded for it already."""
        raise NotImplementedError

    def note_shown(self, name: str, cidrs: tuple[Cidr, ...]) -> None:
        """What an object shows now, whoever wins; at restore of all nodes before the first is looked at."""
        before = self._shown_by.get(name, ())
        if cidrs == before:
            return
        for cidr in before:
            self._shown.remove(name, cidr)
        for cidr in cidrs:
            self._shown.add(name, cidr)
        if cidrs:
            self._shown_by[name] = cidrs
        else:
            del self._shown_by[name]

    def rank(self, record: C, cidr: Cidr) -> tuple[bool, int, bool, float, str]:
        """Who keeps what two objects show: the least. What its own agent has given up comes last. A range wider than any block that we give is nobody's grant, nor is one
        that holds what several others show (blocks of a narrower mask, before it was changed): those come after all that may be a
        grant. Then the older node, then by name. It follows from objects and pools only: a restart decides the same."""
        within = {
            owner
            for owner, other in self._shown.overlapping(cidr, but=record.name)
            if other.length > cidr.length
        }
        released = cidr in record.node.agent.released
        return (released, self.ground.excess(cidr), len(within) > 1, *record.age)

    def contest(self, record: C) -> None:
        """A node that may be written again gives up what it held only because it could not be."""
        for cidr in record.holdings():
            mine = self.rank(record, cidr)
            others = self.ground.others(record.name, cidr)
            if any(self.rank(self.records[owner], other) < mine for owner, other in others):
                self.evict(record, cidr)

    def yield_unshown(self, record: C) -> None:
        """What a node's object shows no more, and others' objects do, is theirs: after a restart those would be there first."""
        for cidr in record.holdings():
            if not record.is_unshown(cidr):
                continue
            if self.ground.others(record.name, cidr) or self._lost.overlapping(cidr, but=record.name):
                record.drop(cidr)
                self.free(record.name, cidr)

    def win(self, record: C, cidr: Cidr) -> bool:
        """Records the range for the node if its claim is the best, taking it from the others. False: another's is better."""
        conflicts = self.ground.claim(record.name, cidr)
        if not conflicts:
            return True
        mine = self.rank(record, cidr)
        losers = []
        for owner, other_cidr in conflicts:
            other = self.records[owner]
            if other.is_unshown(other_cidr):
                losers.append((other, other_cidr))
            elif mine < self.rank(other, other_cidr):
                if other.writable:
                    losers.append((other, other_cidr))
            elif record.writable:
                return False
        self.ground.force(record.name, cidr)
        for other, other_cidr in losers:
            self.evict(other, other_cidr)
        return True

    def evict(self, record: C, cidr: Cidr) -> None:
        """Takes a range from a node whose claim is the lesser; it gets a fresh block."""
        shown = not record.is_unshown(cidr)
        record.drop(cidr)
        if shown and cidr not in record.lost:
            self.set_lost(record, (*record.lost, cidr))
        self.free(record.name, cidr)
        self.moved.add(record.name)

    def free(self, name: str, *cidrs: Cidr) -> None:
        """Frees ranges, except where another object shows them too: that one has them now, or they are kept until it does not."""
        settling = bool(self._freed)  # one frees another: the outermost goes through them all
        for cidr in cidrs:
            self.ground.free(name, cidr)
            self._freed.append((name, cidr))
        while self._freed and not settling:
            freed_by, freed = self._freed[0]
            losers = [
                (self.records[owner], lost) for owner, lost in self._lost.overlapping(freed, but=freed_by)
            ]
            for loser, lost in sorted(losers, key=lambda one: (self.rank(*one), one[1])):
                if lost in loser.lost and self.win(loser, lost):
                    self.set_lost(loser, tuple(other for other in loser.lost if other != lost))
                    self.regained(loser, lost)
                    self.moved.add(loser.name)
            self._freed.popleft()

    def set_lost(self, record: C, lost: tuple[Cidr, ...]) -> None:
        if lost != record.lost:
            for cidr in record.lost:
                self._lost.remove(record.name, cidr)
            for cidr in lost:
                self._lost.add(record.name, cidr)
            record.lost = lost
