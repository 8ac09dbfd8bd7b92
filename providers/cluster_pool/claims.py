"""Who holds which range of the pool: what objects show, what was taken for them, whose claim wins, what comes back."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.cidr import Cidr, Family
from omnipam.core.overlaps import Overlaps
from omnipam.core.quarantine import Quarantine
from omnipam.core.space import Space
from omnipam.core.values import PoolSpec

from .record import Record


class Claims:
    """The records of all nodes and the space that they share. It decides what a node has, never what it should have.

    The order of claims is decided once, by `Record.precedence`: at restore and whenever two objects show the same addresses.
    A block of ours that no object shows yet always yields to one that an object shows. A range that an object shows is never
    free: it is its node's, another's with the better claim, or kept from all until the object shows it no more.
    """

    def __init__(self, families: tuple[Family, ...]) -> None:
        self.families = families
        self.space = Space(PoolSpec())
        self.records: dict[str, Record] = {}
        self.quarantine = Quarantine()
        self.absent: set[str] = set()
        """Nodes whose object is missing while their machine is there, or was, and does not show again what they have."""
        self.moved: set[str] = set()
        """Nodes that gained or lost something by another's doing; whoever reads them takes them out."""
        self._lost = Overlaps()

    # -- what an object shows

    def learn(self, record: Record, now: float) -> None:
        """Takes in what the node's object shows."""
        node = record.node
        shown = tuple(block.cidr for block in node.holds.blocks)
        self._drop_unshown(record, shown, now)
        record.unpublished = tuple(cidr for cidr in record.unpublished if cidr not in shown)
        for cidr in shown:
            if cidr in record.blocks:
                if not self._is_ours(cidr):
                    record.blocks = tuple(own for own in record.blocks if own != cidr)
                    record.foreign += (cidr,)
            elif cidr not in record.foreign and cidr not in record.leaving:
                self._admit(record, cidr, shown, now)
        if node.ignored:
            for cidr in [cidr for cidr in record.blocks if cidr not in shown]:
                record.drop(cidr)  # it will never be written
                self._give_back(record.name, cidr, now)
        for cidr in node.agent.released:
            if cidr in record.blocks or cidr in record.foreign:
                record.drop(cidr)
                if cidr in shown:
                    record.leaving += (cidr,)
                else:
                    self._give_back(record.name, cidr, now)

    def contest(self, record: Record, now: float) -> None:
        """A node that may be written again gives up what it held only because it could not be."""
        for cidr in (*record.blocks, *record.foreign):
            for owner, _ in self.space.others(record.name, cidr):
                if self.records[owner].precedence < record.precedence:
                    self._evict(record, cidr)
                    break

    def inherit(self, record: Record, cidrs: Iterable[Cidr]) -> None:
        """Gives a node what was kept for its name while its object was missing, unless somebody has it."""
        for cidr in sorted(cidrs):
            if not self.space.claim(record.name, cidr):
                record.blocks += (cidr,)
                record.unpublished += (cidr,)

    def note_absence(self, record: Record) -> None:
        """Brings `absent` up to date after the node was seen or written."""
        if not record.node.present:
            self.absent.add(record.name)
        elif not record.unpublished:
            self.absent.discard(record.name)

    def vanish(self, record: Record, now: float) -> None:
        """Its object is gone and its machine is not: what the object showed last stays with the name, since its pods run."""
        shown = [block.cidr for block in record.node.holds.blocks]
        kept = [cidr for cidr in shown if cidr in record.blocks or cidr in record.foreign]
        families = {cidr.family for cidr in kept}
        kept += [cidr for cidr in record.blocks if cidr not in shown and cidr.family not in families]
        dropped = [cidr for cidr in (*record.blocks, *record.foreign, *record.leaving) if cidr not in kept]
        record.blocks = record.unpublished = tuple(kept)
        record.foreign = record.leaving = ()
        self._set_lost(record, ())
        for cidr in dropped:
            self._give_back(record.name, cidr, now)

    def leave(self, name: str, now: float) -> Record | None:
        """The node is no more: all that it had goes back."""
        record = self.records.pop(name, None)
        self.moved.discard(name)
        self.absent.discard(name)
        if record is not None:
            self._set_lost(record, ())
            for cidr in (*record.blocks, *record.foreign, *record.leaving):
                self._give_back(name, cidr, now)
        return record

    # -- the pool

    def repool(self, space: Space, now: float) -> None:
        """Records all that is held in a new space, and tells what nodes own from what lies outside of it now."""
        space.resume_cursors(self.space)
        for cidr in self.quarantine:
            space.hold_back(cidr)
        self.space = space
        unplaced = []
        for record in sorted(self.records.values(), key=lambda record: record.precedence):
            unplaced += [(record.name, cidr) for cidr in self._reclassify(record)]
        for name, cidr in unplaced:
            self._give_back(name, cidr, now)
        for record in self.records.values():
            if record.node.present:
                self.learn(record, now)

    def _reclassify(self, record: Record) -> list[Cidr]:
        """Sorts a node's ranges anew. Answers those that it has no more."""
        shown = [block.cidr for block in record.node.holds.blocks]
        present = record.node.present
        own, foreign, dropped, leaving = [], [], [], list(record.leaving)
        for cidr in record.blocks:
            if self._is_ours(cidr) or not present:
                own.append(cidr)
            elif cidr in shown:
                foreign.append(cidr)
            elif cidr in record.unpublished:
                leaving.append(cidr)  # simply another one; but it may be on its way into the object
            else:
                dropped.append(cidr)
        placed = {cidr.family for cidr in own}
        for cidr in record.foreign:
            (own if self._is_ours(cidr) and cidr.family not in placed else foreign).append(cidr)
        for cidr in (*own, *foreign, *leaving):
            self.space.force(record.name, cidr)
        record.blocks, record.foreign, record.leaving = tuple(own), tuple(foreign), tuple(leaving)
        record.unpublished = tuple(cidr for cidr in record.unpublished if cidr in own)
        return dropped

    # -- space coming back

    def set_aside(self, cidr: Cidr, now: float) -> None:
        """Keeps a returned range from being granted for a while, if the pool says so."""
        seconds = self.space.spec.quarantine_s
        if seconds > 0 and (self.space.inside(cidr) or not self.space.touches(cidr)):
            self.quarantine.add(cidr, now + seconds)
            self.space.hold_back(cidr)

    def forget(self, record: Record, cidr: Cidr, now: float) -> None:
        """Gives back a block that this turn has taken."""
        record.drop(cidr)
        self._free(record.name, cidr)

    def _give_back(self, name: str, cidr: Cidr, now: float) -> None:
        self._free(name, cidr)
        self.set_aside(cidr, now)

    def _free(self, name: str, cidr: Cidr) -> None:
        """Frees a range, except where another object shows it too: that one has it now, or it is kept until it does not."""
        self.space.free(name, cidr)
        losers = [(self.records[owner], lost) for owner, lost in self._lost.overlapping(cidr, but=name)]
        for loser, lost in sorted(losers, key=lambda one: (one[0].precedence, one[1])):
            if self.space.claim(loser.name, lost):
                continue
            self._set_lost(loser, tuple(other for other in loser.lost if other != lost))
            if self._is_ours(lost) and not loser.of(lost.family):
                loser.blocks += (lost,)
            else:
                loser.leaving += (lost,)
            self.moved.add(loser.name)

    def _drop_unshown(self, record: Record, shown: tuple[Cidr, ...], now: float) -> None:
        """Lets go of what was occupied only because the object showed it."""
        self._set_lost(record, tuple(cidr for cidr in record.lost if cidr in shown))
        dropped = [cidr for cidr in (*record.foreign, *record.leaving) if cidr not in shown]
        if dropped:
            record.foreign = tuple(cidr for cidr in record.foreign if cidr in shown)
            record.leaving = tuple(cidr for cidr in record.leaving if cidr in shown)
            for cidr in dropped:
                self._give_back(record.name, cidr, now)

    # -- whose claim wins

    def _admit(self, record: Record, cidr: Cidr, shown: tuple[Cidr, ...], now: float) -> None:
        """A range that the object shows and that was not known as this node's."""
        before = record.lost
        self._set_lost(record, tuple(lost for lost in before if lost != cidr))
        if not self._win(record, cidr):
            self._set_lost(record, before if cidr in before else (*before, cidr))
            return
        own = record.of(cidr.family)
        if own and all(block in record.unpublished for block in own):
            for block in own:  # what we took for it is in no object: what its object shows comes first
                record.drop(block)
                self._give_back(record.name, block, now)  # it may have been written all the same
            own = []
        replaces = bool(own) and not any(block in shown for block in own)
        if replaces or not self._is_ours(cidr):
            record.foreign += (cidr,)
        else:
            record.blocks += (cidr,)

    def _win(self, record: Record, cidr: Cidr) -> bool:
        """Records the range for the node if its claim is the best, taking it from the others. False: another's is better."""
        conflicts = self.space.claim(record.name, cidr)
        if not conflicts:
            return True
        losers = []
        for owner, other_cidr in conflicts:
            other = self.records[owner]
            if (
                other_cidr not in other.unpublished
                and other.precedence < record.precedence
                and record.writable
            ):
                return False
            losers.append((other, other_cidr))
        self.space.force(record.name, cidr)
        for other, other_cidr in losers:
            if other.writable or not other.node.present:
                self._evict(other, other_cidr)
        return True

    def _evict(self, record: Record, cidr: Cidr) -> None:
        """Takes a range from a node whose claim is the lesser; it gets a fresh block."""
        published = cidr not in record.unpublished
        record.drop(cidr)
        if published and cidr not in record.lost:
            self._set_lost(record, (*record.lost, cidr))
        self._free(record.name, cidr)
        self.moved.add(record.name)

    def _set_lost(self, record: Record, lost: tuple[Cidr, ...]) -> None:
        if lost != record.lost:
            for cidr in record.lost:
                self._lost.remove(record.name, cidr)
            for cidr in lost:
                self._lost.add(record.name, cidr)
            record.lost = lost

    def _is_ours(self, cidr: Cidr) -> bool:
        return cidr.family in self.families and self.space.inside(cidr)
