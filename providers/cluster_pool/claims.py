"""Who holds which range of the pool: what objects show, what was taken for them, whose claim wins, what comes back."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from omnipam.core.cidr import Cidr, Family
from omnipam.core.quarantine import Quarantine
from omnipam.core.space import Space
from omnipam.core.values import NOTHING_HELD, PoolSpec

from ..contest import Contest
from .record import Record


class Claims(Contest[Record]):
    """The records of all nodes and the space that they share. It decides what a node has, never what it should have."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        super().__init__()
        self.families = families
        self.space = Space(PoolSpec())
        self.quarantine = Quarantine()
        self.apart: set[str] = set()
        """Nodes whose object does not show a block that it has shown: it is missing, or made anew, or a hand took it out."""

    @property
    def ground(self) -> Space:
        return self.space

    def regained(self, record: Record, cidr: Cidr) -> None:
        if cidr in record.node.agent.released or record.has_fresh(cidr.family):
            record.leaving += (cidr,)
        else:
            self._file(record, cidr)

    # -- what an object shows

    def learn(self, record: Record, now: float, *, newer: bool) -> None:
        """Takes in what the node's object shows. newer: no write of ours to an earlier version can arrive any more."""
        node = record.node
        shown = record.shown
        self.note_shown(record.name, shown)
        self._drop_unshown(record, shown, now, newer=newer)
        record.fresh = tuple(cidr for cidr in record.fresh if cidr not in shown)
        if record.apart():
            self.yield_unshown(record)
        for cidr in [cidr for cidr in record.leaving if cidr in shown]:
            if cidr not in node.agent.released and not record.has_fresh(
                cidr.family
            ):  # the agent has taken its word back
                record.leaving = tuple(other for other in record.leaving if other != cidr)
                self._file(record, cidr)
        for cidr in shown:
            if cidr in record.blocks:
                if not self._is_ours(cidr):
                    record.blocks = tuple(own for own in record.blocks if own != cidr)
                    record.foreign += (cidr,)
            elif cidr not in record.foreign and cidr not in record.leaving:
                self._admit(record, cidr, now)
        if node.ignored:
            # It will not be taken out of the object, so it is what a restart takes it for.
            stays = tuple(cidr for cidr in record.leaving if cidr in shown and not self._is_ours(cidr))
            record.leaving = tuple(cidr for cidr in record.leaving if cidr not in stays)
            record.foreign += stays
        if not record.writable:
            for cidr in record.fresh:
                record.drop(cidr)  # no write of it can arrive any more
                self._give_back(record.name, cidr, now)
        for cidr in node.agent.released:
            if cidr in record.blocks or cidr in record.foreign:
                record.drop(cidr)
                if cidr in shown:
                    record.leaving += (cidr,)
                else:
                    self._give_back(record.name, cidr, now)

    def adopt(self, record: Record) -> None:
        """What stood in place of a block that is no more the node's is its own now, if it is of the pool."""
        served = {cidr.family for cidr in record.blocks}
        adopted = [cidr for cidr in record.foreign if cidr.family not in served and self._is_ours(cidr)]
        record.blocks += tuple(adopted)
        record.foreign = tuple(cidr for cidr in record.foreign if cidr not in adopted)

    def inherit(self, record: Record, cidrs: Iterable[Cidr]) -> None:
        """Gives a node what was kept for its name while its object did not show it, unless somebody has it."""
        for cidr in sorted(cidrs):
            if not self.space.claim(record.name, cidr):
                record.blocks += (cidr,)

    def note_apart(self, record: Record) -> None:
        """Brings `apart` up to date after the node was seen or written."""
        if record.apart():
            self.apart.add(record.name)
        else:
            self.apart.discard(record.name)

    def vanish(self, record: Record, now: float) -> None:
        """Its object is gone and its machine is not: what it has shown stays with the name, since its pods run."""
        shown, apart = record.shown, record.apart()
        kept = [cidr for cidr in shown if cidr in record.blocks or cidr in record.foreign] + apart
        families = {cidr.family for cidr in kept}
        kept += [cidr for cidr in record.fresh if cidr.family not in families]  # its write may have arrived
        dropped = [cidr for cidr in record.holdings() if cidr not in kept]
        record.node = msgspec.structs.replace(
            record.node, present=False, holds=NOTHING_HELD, version="", uid=""
        )
        self.note_shown(record.name, ())
        record.blocks = tuple(sorted(kept))
        record.fresh = record.foreign = record.leaving = ()
        self.set_lost(record, ())
        for cidr in dropped:
            self._give_back(record.name, cidr, now)
        self.yield_unshown(record)

    def leave(self, name: str, now: float) -> Record | None:
        """The node is no more: all that it had goes back."""
        record = self.records.pop(name, None)
        self.moved.discard(name)
        self.apart.discard(name)
        self.note_shown(name, ())
        if record is not None:
            self.set_lost(record, ())
            self.free(name, *record.holdings())
            for cidr in record.holdings():
                self.set_aside(cidr, now)
        return record

    # -- the pool

    def repool(self, space: Space, now: float) -> None:
        """Records all that is held in a new space, and tells what nodes own from what lies outside of it now."""
        space.resume_cursors(self.space)
        for cidr in self.quarantine:
            space.hold_back(cidr)
            self.quarantine.shorten(cidr, now + space.spec.quarantine_s)
        self.space = space
        for record in self.records.values():
            self._reclassify(record)
        for record in sorted(self.records.values(), key=lambda record: record.age):
            if record.node.present:
                self.learn(record, now, newer=False)
            if not record.writable:
                for cidr in record.holdings():
                    self.win(record, cidr)  # which claim is the better one depends on the pool
            self.note_apart(record)

    def _reclassify(self, record: Record) -> None:
        """Sorts a node's ranges anew."""
        apart, shown = record.apart(), record.shown
        own, foreign, leaving = [], [], list(record.leaving)
        for cidr in record.blocks:
            if self._is_ours(cidr) or cidr in apart:
                own.append(cidr)
            elif cidr in shown:
                foreign.append(cidr)
            else:
                leaving.append(
                    cidr
                )  # it is fresh: simply another one; but it may be on its way into the object
        placed = {cidr.family for cidr in own}
        for cidr in record.foreign:
            (own if self._is_ours(cidr) and cidr.family not in placed else foreign).append(cidr)
        record.blocks, record.foreign, record.leaving = tuple(own), tuple(foreign), tuple(leaving)
        record.fresh = tuple(cidr for cidr in record.fresh if cidr in own or cidr in leaving)
        for cidr in record.holdings():
            self.space.force(record.name, cidr)

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

    def _drop_unshown(self, record: Record, shown: tuple[Cidr, ...], now: float, *, newer: bool) -> None:
        """Lets go of what was occupied only because the object showed it."""
        self.set_lost(record, tuple(cidr for cidr in record.lost if cidr in shown))
        dropped = [
            cidr
            for cidr in (*record.foreign, *record.leaving)
            if cidr not in shown and (newer or cidr not in record.fresh)  # else its write may yet arrive
        ]
        if dropped:
            for cidr in dropped:
                record.drop(cidr)
                self._give_back(record.name, cidr, now)

    # -- whose claim wins

    def _admit(self, record: Record, cidr: Cidr, now: float) -> None:
        """A range that the object shows and that was not known as this node's."""
        before = record.lost
        self.set_lost(record, tuple(lost for lost in before if lost != cidr))
        if not self.win(record, cidr):
            self.set_lost(record, before if cidr in before else (*before, cidr))
            return
        own = record.of(cidr.family)
        if all(record.is_unshown(block) for block in own):
            for block in [block for block in own if block in record.fresh]:
                record.drop(block)  # nothing runs there: what its object shows comes first
                self._give_back(record.name, block, now)  # it may have been written all the same
        self._file(record, cidr)

    def _file(self, record: Record, cidr: Cidr) -> None:
        """Its object shows this range, and it is recorded for it: a block of its own, unless it stands in place of one."""
        own = record.of(cidr.family)
        replaces = bool(own) and all(record.is_unshown(block) for block in own)
        if replaces or not self._is_ours(cidr):
            record.foreign += (cidr,)
        else:
            record.blocks += (cidr,)

    def _is_ours(self, cidr: Cidr) -> bool:
        return cidr.family in self.families and self.space.inside(cidr)
