"""The cluster-pool allocator: who holds which block, who needs one, and whose claim wins."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from omnipam.core.allocator import Outcome, Plan, Planned, Published, Settings, Step, TakeBlock, Version
from omnipam.core.cidr import Cidr
from omnipam.core.errors import Invalid
from omnipam.core.quarantine import Quarantine
from omnipam.core.space import Space
from omnipam.core.values import (
    DEFAULT_POOL,
    Capacity,
    Finding,
    Grant,
    Held,
    Kept,
    Node,
    PoolSpec,
    Problem,
)
from omnipam.core.waiting import Waiting

from .findings import Overlap, standing
from .record import HINTS, Record


class ClusterPool:
    """`omnipam.core.allocator.Allocator` for blocks per node. Cost of a turn grows with what changed, not with what exists.

    The order of claims is decided once, by `Record.precedence`: at restore and whenever two objects show the same addresses.
    A block of ours that no object shows yet always yields to one that an object shows.
    """

    def __init__(self, settings: Settings) -> None:
        self.families = settings.families
        self._space = Space(PoolSpec())
        self._records: dict[str, Record] = {}
        self._quarantine = Quarantine()
        self._waiting = Waiting()
        self._restored = False
        self._due: set[str] = set()
        self._stale: list[str] = []
        self._orphans: dict[str, list[Cidr]] = {}
        self._kept: tuple[Kept, ...] | None = ()
        self._overlap = Overlap(settings.services)

    # -- what was seen

    def restore(
        self, nodes: Iterable[Node], pools: Iterable[PoolSpec], kept: Iterable[Kept], now: float
    ) -> None:
        self.pools(pools, now)
        for entry in kept:
            if entry.owner and entry.owner not in self._records:
                self._orphans.setdefault(entry.owner, []).append(entry.cidr)
            elif not entry.owner and entry.until > now:
                self._quarantine.add(entry.cidr, entry.until)
                self._space.hold_back(entry.cidr)
        self._kept = None
        # The better claim first: then none has to be taken away again.
        known = sorted(
            nodes, key=lambda node: (not (node.ignored or node.unreadable), node.created, node.name)
        )
        for node in known:
            self.seen(node, now)
        for name in [name for name in self._orphans if name not in self._records]:
            for cidr in self._orphans.pop(name):  # its machine went away while nobody looked
                self._set_aside(cidr, now)
        self._restored = True
        for record in self._records.values():
            self._look_at(record)

    def seen(self, node: Node, now: float) -> None:
        record = self._records.get(node.name)
        if record is None:
            orphans = self._orphans.pop(node.name, ())
            if not node.present and not orphans:
                return
            record = self._records[node.name] = Record(node)
            if orphans:
                self._kept = None
                for cidr in orphans:
                    self._own(record, cidr, published=False)
            self._learn(record, now)
        else:
            before = record.node
            if before.present != node.present or not node.present:
                self._kept = None
            if not node.present:
                # Its object vanished and its machine did not: its pods still run, so its blocks stay with the name.
                record.node = msgspec.structs.replace(before, present=False, holds=Held(), version="", uid="")
                record.unpublished = record.blocks
                record.lost = ()
            else:
                record.node = node
                if before.holds != node.holds or before.agent != node.agent or not record.writable:
                    self._learn(record, now)
                if record.writable and (before.ignored or before.unreadable):
                    self._contest(record)
        self._overlap.see(record.node)
        if self._restored:
            self._look_at(record)

    def gone(self, name: str, now: float) -> None:
        record = self._records.pop(name, None)
        self._waiting.discard(name)
        self._due.discard(name)
        if record is None:
            return
        if not record.node.present:
            self._kept = None
        for cidr in (*record.blocks, *record.foreign, *record.leaving):
            self._give_back(name, cidr, now)

    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        spec = _only_pool(specs)
        if spec == self._space.spec:
            return
        before, space = self._space, Space(spec)
        space.resume_cursors(before)
        for cidr in self._quarantine:
            space.hold_back(cidr)
        self._space = space
        for record in sorted(self._records.values(), key=lambda record: record.precedence):
            self._reclassify(record)
        self._overlap.pool(spec, (record.node for record in self._records.values()))
        if self._restored:
            for record in self._records.values():
                self._look_at(record)

    # -- what to do

    def due(self, now: float) -> list[str]:
        if not self._restored:
            return []
        for cidr in self._quarantine.expired(now):
            self._space.let_go(cidr)
            self._kept = None
        self._due.update(self._waiting.served(self._space.free_blocks))
        due, self._due = self._due, set()
        records = self._records
        return sorted(due, key=lambda name: (records[name].node.created, name))

    def plan(self, name: str, now: float) -> Plan:
        record = self._records.get(name)
        if record is None or not self._restored:
            return Plan(name)
        needs = record.needs(self.families, self._space.spec.max_blocks)
        actions, problems = [], []
        for family in needs:
            expected = self._space.next(family)
            if expected is None:
                problems.append(Problem("PoolExhausted", "allocator full", HINTS[family]))
            else:
                reason = (
                    "all blocks of this family are full" if record.of(family) else "the node has no block"
                )
                actions.append(
                    Planned(TakeBlock(self._space.spec.name, family, expected), f"{family}: {reason}")
                )
        if problems and not record.blocks:
            actions = []  # of a new node's families it gets all or none: half of one would serve no dual-stack pod
        return Plan(name, tuple(actions), tuple(problems))

    def start(self, plan: Plan, now: float) -> None:
        record = self._records.get(plan.node or "")
        if record is None:
            return
        needs = record.needs(self.families, self._space.spec.max_blocks)
        wanted = [planned.action.family for planned in plan.actions if isinstance(planned.action, TakeBlock)]
        tries = [self._space.take(family, record.name) for family in wanted if family in needs]
        taken = tuple(cidr for cidr in tries if cidr is not None)
        if not record.blocks and len(taken) < len(needs):
            for cidr in taken:
                self._space.free(record.name, cidr)
            taken = ()
        served = {cidr.family for cidr in taken}
        record.blocks += taken
        record.unpublished += taken
        record.lost = tuple(cidr for cidr in record.lost if cidr.family not in served)
        record.asked = needs
        record.short = tuple(
            family for family in needs if family not in served and not self._space.free_blocks(family)
        )
        if record.short:
            self._waiting.add(record.name, record.node.created, record.short)
        self._stale.append(record.name)

    def ready(self, now: float) -> list[Step]:
        return []

    def finish(self, step: Step, outcome: Outcome, now: float) -> None:
        raise Invalid(f"cluster-pool has no steps, got one for {step.node}")

    def stale(self) -> list[str]:
        stale, self._stale = self._stale, []
        return stale

    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        record = self._records.get(name)
        if record is None or not isinstance(outcome, Version):
            return
        held = Held(grant.blocks, grant.error)
        record.node = msgspec.structs.replace(record.node, version=outcome.version, holds=held)
        shown = tuple(block.cidr for block in grant.blocks)
        if shown == record.blocks and not record.leaving and not record.lost:
            record.unpublished = ()
        else:
            self._learn(record, now)
        self._look_at(record)

    def wake(self, now: float) -> float | None:
        return self._quarantine.next_end()

    # -- what there is

    def grant(self, name: str) -> Grant:
        record = self._records.get(name)
        if record is None:
            return Grant()
        return record.grant(self._space.spec.name, self.families, self._space.inside)

    def node(self, name: str) -> Node | None:
        record = self._records.get(name)
        return None if record is None else record.node

    def kept(self) -> tuple[Kept, ...]:
        if self._kept is None:
            pool = self._space.spec.name
            kept = [Kept(pool, cidr, until=until) for cidr, until in self._quarantine.ends()]
            for record in self._records.values():
                if not record.node.present:
                    kept += [Kept(pool, cidr, owner=record.name) for cidr in record.blocks]
            self._kept = tuple(sorted(kept))
        return self._kept

    def findings(self) -> tuple[Finding, ...]:
        return standing(self._records, self._space, self._overlap)

    def capacity(self) -> Capacity:
        return Capacity(self._space.capacity(), len(self._records), len(self._waiting))

    # -- claims

    def _learn(self, record: Record, now: float) -> None:
        """Takes in what the node's object shows."""
        node = record.node
        shown = tuple(block.cidr for block in node.holds.blocks)
        self._drop_foreign(record, shown, now)
        record.lost = tuple(cidr for cidr in record.lost if cidr in shown)
        record.unpublished = tuple(cidr for cidr in record.unpublished if cidr not in shown)
        for cidr in shown:
            if cidr not in record.blocks and cidr not in record.foreign and cidr not in record.leaving:
                self._admit(record, cidr, shown)
        for cidr in node.agent.released:
            if cidr in record.blocks:
                record.drop(cidr)
                if cidr in shown:
                    record.leaving += (cidr,)
                else:
                    self._give_back(record.name, cidr, now)

    def _admit(self, record: Record, cidr: Cidr, shown: tuple[Cidr, ...]) -> None:
        """A range that the object shows and that was not known as this node's."""
        own = record.of(cidr.family)
        if own and all(block in record.unpublished for block in own):
            for block in own:  # what we took for it is in no object: what its object shows comes first
                self._space.free(record.name, block)
                record.drop(block)
            own = []
        if not self._win(record, cidr):
            if cidr not in record.lost:
                record.lost += (cidr,)
            return
        replaces = bool(own) and not any(block in shown for block in own)
        if cidr.family not in self.families or not self._space.inside(cidr) or replaces:
            record.foreign += (cidr,)
        else:
            record.blocks += (cidr,)
            record.lost = tuple(lost for lost in record.lost if lost != cidr)

    def _win(self, record: Record, cidr: Cidr) -> bool:
        """Records the range for the node if its claim is the best, taking it from the others. False: another's is better."""
        conflicts = self._space.claim(record.name, cidr)
        if not conflicts:
            return True
        losers = []
        for owner, other_cidr in conflicts:
            other = self._records[owner]
            if (
                other_cidr not in other.unpublished
                and other.precedence < record.precedence
                and record.writable
            ):
                return False
            losers.append((other, other_cidr))
        for other, other_cidr in losers:
            if other.writable or not other.node.present:
                self._evict(other, other_cidr)
        if self._space.claim(record.name, cidr):
            self._space.force(record.name, cidr)
        return True

    def _evict(self, record: Record, cidr: Cidr) -> None:
        """Takes a range from a node whose claim is the lesser; it gets a fresh block."""
        self._space.free(record.name, cidr)
        published = cidr not in record.unpublished
        record.drop(cidr)
        if published and cidr not in record.lost:
            record.lost += (cidr,)
        if self._restored:
            self._look_at(record)

    def _contest(self, record: Record) -> None:
        """A node that may be written again gives up what it held only because it could not be."""
        for cidr in record.blocks:
            for owner, _ in self._space.others(record.name, cidr):
                if self._records[owner].precedence < record.precedence:
                    self._evict(record, cidr)
                    break

    def _own(self, record: Record, cidr: Cidr, *, published: bool) -> None:
        if not self._space.claim(record.name, cidr):
            record.blocks += (cidr,)
            if not published:
                record.unpublished += (cidr,)

    def _drop_foreign(self, record: Record, shown: tuple[Cidr, ...], now: float) -> None:
        """Lets go of what was occupied only because the object showed it."""
        for cidr in (*record.foreign, *record.leaving):
            if cidr not in shown:
                self._give_back(record.name, cidr, now)
        record.foreign = tuple(cidr for cidr in record.foreign if cidr in shown)
        record.leaving = tuple(cidr for cidr in record.leaving if cidr in shown)

    def _reclassify(self, record: Record) -> None:
        """Records all that a node holds in a new space, and tells its own from what lies outside of it now."""
        space = self._space
        own: list[Cidr] = []
        foreign: list[Cidr] = []
        for cidr in (*record.blocks, *record.foreign):
            inside = space.inside(cidr) and cidr.family in self.families
            if cidr in record.unpublished and not inside:
                continue  # in no object yet: simply another one
            if space.claim(record.name, cidr):
                space.force(record.name, cidr)
            (own if inside and (cidr in record.blocks or not record.of(cidr.family)) else foreign).append(
                cidr
            )
        for cidr in record.leaving:
            space.force(record.name, cidr)
        record.blocks, record.foreign = tuple(own), tuple(foreign)
        record.unpublished = tuple(cidr for cidr in record.unpublished if cidr in own)

    # -- space coming back

    def _give_back(self, name: str, cidr: Cidr, now: float) -> None:
        self._space.free(name, cidr)
        self._set_aside(cidr, now)

    def _set_aside(self, cidr: Cidr, now: float) -> None:
        seconds = self._space.spec.quarantine_s
        if seconds > 0 and self._space.inside(cidr):
            self._quarantine.add(cidr, now + seconds)
            self._space.hold_back(cidr)
            self._kept = None

    def _look_at(self, record: Record) -> None:
        """Puts the node where its state belongs: due, waiting, stale, or none of them."""
        node = record.node
        needs = record.needs(self.families, self._space.spec.max_blocks)
        if needs:
            if record.name not in self._waiting or record.asked != needs:
                self._due.add(record.name)
        elif record.short or record.name in self._waiting:
            record.short = ()
            self._waiting.discard(record.name)
        if not record.writable and not node.unreadable:
            return
        if (
            node.holds.error
            or record.lost
            or record.foreign
            or record.short
            or node.unreadable
            or tuple(block.cidr for block in node.holds.blocks) != record.blocks
        ):
            self._stale.append(record.name)


def _only_pool(specs: Iterable[PoolSpec]) -> PoolSpec:
    listed = [spec for spec in specs if spec.name == DEFAULT_POOL]
    if len(listed) != 1:
        raise Invalid(f"cluster-pool serves exactly one pool, {DEFAULT_POOL!r}, and got {len(listed)}")
    return listed[0]
