"""Who holds which range of any pool: what objects show, what was taken for them, what their agents gave up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from omnipam.core.cidr import Cidr
from omnipam.core.quarantine import Quarantine
from omnipam.core.values import POD_CIDRS, Block, Kept, PoolSpec

from ..contest import Contest
from .pools import Pools
from .record import Record, distinct


class Claims(Contest[Record]):
    """The records of all nodes and the pools that they share. It decides what a node has, never what it should have.

    `allocated` has two writers. A block that the object has shown and shows no more is *given up* by the agent. A block that
    we took stays the node's until an object shows it, whatever an object lacks in the meantime.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pools = Pools()
        self.quarantine = Quarantine()
        self._returned_to: dict[Cidr, str] = {}
        self.absent: set[str] = set()
        """Nodes whose object is missing while their machine is there, or was, and does not show again what they have."""

    @property
    def ground(self) -> Pools:
        return self.pools

    # -- what an object shows

    def learn(self, record: Record, now: float, *, newer: bool) -> None:
        """Takes in what the node's object shows. newer: no write of ours to an earlier version can arrive any more."""
        node = record.node
        shown = distinct(node, self.pools)
        self.note_shown(record.name, tuple(shown))
        self.set_lost(record, tuple(cidr for cidr in record.lost if cidr in shown))
        for cidr in [cidr for cidr in record.blocks if cidr not in shown and cidr not in record.taken]:
            self._return(record, cidr, now)
        if record.taken:
            record.taken = record.taken.difference(shown)
        for cidr, pool in shown.items():
            if cidr in record.blocks:
                record.blocks[cidr] = pool
            else:
                self._admit(record, cidr, pool)
        for cidr in record.taken:
            unwritable = not record.writable and record.name not in self.absent
            if unwritable or (newer and self.is_withheld(record, cidr)):
                self._return(record, cidr, now)  # it will never be written, and nothing runs there

    def is_withheld(self, record: Record, cidr: Cidr) -> bool:
        """Whether a fresh block is of a range that its pool has lost since: it is kept, and not granted."""
        return (
            cidr in record.taken
            and record.name not in self.absent
            and not self.pools.inside(record.blocks[cidr], cidr)
        )

    def inherit(self, record: Record, kept: Iterable[Kept]) -> None:
        """Gives a node what was kept for its name while its object was missing, unless somebody has it."""
        for entry in sorted(kept):
            if not self.pools.claim(record.name, entry.cidr):
                record.take({entry.cidr: entry.pool})

    def vanish(self, record: Record, now: float) -> None:
        """Its object is gone and its machine is not, or it was made anew: all stays with the name, since its pods run."""
        for cidr in [cidr for cidr, pool in record.blocks.items() if pool == POD_CIDRS]:
            self._return(record, cidr, now)
        self.note_shown(record.name, ())
        record.taken = frozenset(record.blocks)
        record.past = ()
        self.set_lost(record, ())
        self.yield_unshown(record)
        if record.blocks:
            self.absent.add(record.name)

    def note_absence(self, record: Record) -> None:
        """Brings `absent` up to date after the node was seen or written."""
        if not record.node.present:
            self.absent.add(record.name)
        elif not record.taken:
            self.absent.discard(record.name)

    def leave(self, name: str, now: float) -> Record | None:
        """The node is no more: all that it had goes back, what is of no pool any more, too."""
        record = self.records.pop(name, None)
        self.moved.discard(name)
        self.absent.discard(name)
        self.note_shown(name, ())
        if record is not None:
            self.set_lost(record, ())
            self.free(name, *record.blocks)
            for cidr, pool in record.blocks.items():
                self.set_aside(pool, cidr, now)
        return record

    def regained(self, record: Record, cidr: Cidr) -> None:
        self._yield_own(record, cidr)
        record.blocks[cidr] = next(block.pool for block in record.node.holds.blocks if block.cidr == cidr)

    # -- the pools

    def repool(self, specs: Mapping[str, PoolSpec], now: float) -> set[str]:
        """From now on there are these pools. Answers which changed; what nodes hold stays theirs."""
        changed = self.pools.adopt(specs, self.quarantine)
        for cidr, pool in self._returned_to.items():
            if pool in changed and pool in specs:
                self.quarantine.shorten(cidr, now + specs[pool].quarantine_s)
        return changed

    def set_aside(self, pool: str, cidr: Cidr, now: float) -> None:
        """Keeps a returned range from being granted for a while, if its pool says so."""
        spec = self.pools.specs.get(pool)
        if spec is not None and spec.quarantine_s > 0 and self.pools.inside(pool, cidr):
            self.quarantine_until(pool, cidr, now + spec.quarantine_s)

    def quarantine_until(self, pool: str, cidr: Cidr, until: float) -> None:
        self.quarantine.add(cidr, until)
        self._returned_to[cidr] = pool
        self.pools.hold_back(cidr)

    def expire(self, now: float) -> None:
        """Ends the quarantines whose time has come."""
        for cidr in self.quarantine.expired(now):
            self._returned_to.pop(cidr, None)
            self.pools.let_go(cidr)

    def kept(self) -> tuple[Kept, ...]:
        """What must outlive us beside the objects, sorted."""
        owned = [
            Kept(self.records[name].blocks[cidr], cidr, owner=name)
            for name in self.absent
            for cidr in self.records[name].taken
        ]
        waiting = [Kept(self._returned_to[cidr], cidr, until=until) for cidr, until in self.quarantine.ends()]
        return tuple(sorted(owned + waiting))

    # -- within

    def _admit(self, record: Record, cidr: Cidr, pool: str) -> None:
        """A range that the object shows and that was not known as this node's."""
        before = record.lost
        self.set_lost(record, tuple(lost for lost in before if lost != cidr))
        if not self.win(record, cidr):
            self.set_lost(record, before if cidr in before else (*before, cidr))
            return
        self._yield_own(record, cidr)
        record.blocks[cidr] = pool

    def _yield_own(self, record: Record, cidr: Cidr) -> None:
        """What we took for it yields to what its object shows."""
        for own in [own for own in record.taken if own.overlaps(cidr)]:
            record.drop(own)
            self.free(record.name, own)

    def _return(self, record: Record, cidr: Cidr, now: float) -> None:
        pool = record.blocks[cidr]
        record.drop(cidr)
        self.free(record.name, cidr)
        self.set_aside(pool, cidr, now)


def is_same(granted: list[Block], shown: tuple[Block, ...]) -> bool:
    """Whether an object shows just these blocks, in whatever order it was written."""
    return len(granted) == len(shown) and set(granted) == set(shown)
