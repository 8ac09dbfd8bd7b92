"""Who holds which range of the pool: what objects show, what was taken for them, whose claim wins, what comes back."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.cidr import Cidr, Family
from omnipam.core.quarantine import Quarantine
from omnipam.core.space import Space
from omnipam.core.values import PoolSpec

from ..contest import Contest
from .record import Record


class Claims(Contest[Record]):
    """The records of all nodes and the space that they share. It decides what a node has, never what it should have."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        super().__init__()
        self.families = families
        self.space = Space(PoolSpec())
        self.quarantine = Quarantine()
        self.absent: set[str] = set()
        """Nodes whose object is missing while their machine is there, or was, and does not show again what they have."""

    @property
    def ground(self) -> Space:
        return self.space

    def regained(self, record: Record, cidr: Cidr) -> None:
        if self._is_ours(cidr) and not record.of(cidr.family):
            record.blocks += (cidr,)
        else:
            record.leaving += (cidr,)

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
            # It will not be taken out of the object, so it is what a restart takes it for.
            stays = tuple(cidr for cidr in record.leaving if cidr in shown and not self._is_ours(cidr))
            record.leaving = tuple(cidr for cidr in record.leaving if cidr not in stays)
            record.foreign += stays
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
        self.set_lost(record, ())
        for cidr in dropped:
            self._give_back(record.name, cidr, now)
        self.yield_shared(record)

    def leave(self, name: str, now: float) -> Record | None:
        """The node is no more: all that it had goes back."""
        record = self.records.pop(name, None)
        self.moved.discard(name)
        self.absent.discard(name)
        if record is not None:
            self.set_lost(record, ())
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
        self.free(record.name, cidr)

    def _give_back(self, name: str, cidr: Cidr, now: float) -> None:
        self.free(name, cidr)
        self.set_aside(cidr, now)

    def _drop_unshown(self, record: Record, shown: tuple[Cidr, ...], now: float) -> None:
        """Lets go of what was occupied only because the object showed it."""
        self.set_lost(record, tuple(cidr for cidr in record.lost if cidr in shown))
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
        self.set_lost(record, tuple(lost for lost in before if lost != cidr))
        if not self.win(record, cidr):
            self.set_lost(record, before if cidr in before else (*before, cidr))
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

    def _is_ours(self, cidr: Cidr) -> bool:
        return cidr.family in self.families and self.space.inside(cidr)
