"""The cluster-pool allocator: which node needs a block, when it gets one, and what its object should say."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from omnipam.core.allocator import Outcome, Plan, Planned, Published, Settings, Step, TakeBlock, Version
from omnipam.core.cidr import Cidr, Family
from omnipam.core.errors import Invalid
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

from ..findings import in_the_way
from ..overlap import Overlap
from .claims import Claims
from .findings import is_notable, standing
from .record import HINTS, Record


class ClusterPool:
    """`omnipam.core.allocator.Allocator` for blocks per node. Cost of a turn grows with what changed, not with what exists."""

    def __init__(self, settings: Settings) -> None:
        self.families = settings.families
        self._claims = Claims(settings.families)
        self._records = self._claims.records
        self._waiting = Waiting()
        self._restored = False
        self._due: set[str] = set()
        self._stale: list[str] = []
        self._orphans: dict[str, list[Cidr]] = {}
        self._kept: tuple[Kept, ...] = ()
        self._kept_of, self._kept_owned = (
            0,
            False,
        )  # the quarantine's changes that it shows; whether a node is in it
        self._overlap = Overlap(settings.services, "cluster-pool-reserved")
        self._notable: set[str] = set()
        self._stuck: set[str] = set()

    @property
    def _space(self) -> Space:
        return self._claims.space

    # -- what was seen

    def restore(
        self, nodes: Iterable[Node], pools: Iterable[PoolSpec], kept: Iterable[Kept], now: float
    ) -> None:
        self.pools(pools, now)
        claims = self._claims
        for entry in kept:
            if entry.owner and entry.owner not in self._records:
                self._orphans.setdefault(entry.owner, []).append(entry.cidr)
            elif not entry.owner and entry.until > now:
                longest = now + claims.space.spec.quarantine_s
                claims.quarantine.add(entry.cidr, min(entry.until, longest))
                claims.space.hold_back(entry.cidr)
        # The older first: then few have to be taken away again.
        records = sorted((Record(node) for node in nodes), key=lambda record: record.age)
        for record in records:
            claims.note_shown(record.name, record.shown)
        for record in records:
            self.seen(record.node, now)
        for name in [name for name in self._orphans if name not in self._records]:
            for cidr in self._orphans.pop(name):  # its machine went away while nobody looked
                claims.set_aside(cidr, now)
        self._restored = True
        for record in self._records.values():
            self._look_at(record)

    def seen(self, node: Node, now: float) -> None:
        record, claims = self._records.get(node.name), self._claims
        if record is None:
            orphans = self._orphans.pop(node.name, ())
            if not node.present and not orphans:
                return
            record = self._records[node.name] = Record(node)
            claims.inherit(record, orphans)
            if node.present:
                claims.learn(record, now, newer=True)
        else:
            before = record.node
            if not node.present:
                if before.present:
                    claims.vanish(record, now)
                if not record.blocks:
                    self.gone(node.name, now)  # nothing of it is left
                    return
            else:
                if before.present and before.uid != node.uid:
                    claims.vanish(record, now)  # made anew, perhaps without what it had: its pods still run
                record.node = node
                if (
                    before.uid != node.uid
                    or before.holds != node.holds
                    or before.agent != node.agent
                    or record.leaving
                    or not record.writable
                ):
                    claims.learn(record, now, newer=before.version != node.version)
                if record.writable and (before.ignored or before.unreadable):
                    claims.contest(record)
        claims.note_apart(record)
        self._overlap.see(record.node)
        self._look_at(record)

    def gone(self, name: str, now: float) -> None:
        self._waiting.discard(name)
        self._due.discard(name)
        self._notable.discard(name)
        self._stuck.discard(name)
        if self._claims.leave(name, now) is not None:
            self._look_at_moved()

    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        spec = _only_pool(specs)
        if spec == self._space.spec:
            return
        self._claims.repool(Space(spec), now)
        self._overlap.pool(spec, (record.node for record in self._records.values()))
        for record in self._records.values():
            self._look_at(record)

    # -- what to do

    def due(self, now: float) -> list[str]:
        if not self._restored:
            return []
        for cidr in self._claims.quarantine.expired(now):
            self._space.let_go(cidr)
        self._due.update(self._waiting.served(self._space.free_blocks))
        due, self._due = self._due, set()
        records = self._records
        return sorted(due, key=lambda name: (records[name].node.created, name))

    def plan(self, name: str, now: float) -> Plan:
        record = self._records.get(name)
        if record is None or not self._restored:
            return Plan(name)
        needs = self._needs(record)
        actions, problems = [], []
        for family in needs:
            expected = self._space.next(family)
            if expected is None:
                problems.append(Problem("PoolExhausted", "allocator full", HINTS[family]))
            else:
                actions.append(
                    Planned(TakeBlock(self._space.spec.name, family, expected), self._why(record, family))
                )
        if problems and not record.blocks:
            actions = []  # of a new node's families it gets all or none: half of one would serve no dual-stack pod
        return Plan(name, tuple(actions), tuple(problems))

    def start(self, plan: Plan, now: float) -> None:
        record = self._records.get(plan.node or "")
        if record is None or not self._restored:
            return
        needs, space = self._needs(record), self._space
        wanted = [planned.action.family for planned in plan.actions if isinstance(planned.action, TakeBlock)]
        tries = [space.take(family, record.name) for family in wanted if family in needs]
        taken = tuple(cidr for cidr in tries if cidr is not None)
        if not record.blocks and len(taken) < len(needs):
            for cidr in taken:
                space.free(record.name, cidr)
            taken = ()
        record.blocks += taken
        record.fresh += taken
        served = {cidr.family for cidr in taken}
        unserved = tuple(family for family in needs if family not in served)
        record.asked = needs
        record.short = tuple(family for family in unserved if not space.free_blocks(family))
        self._waiting.discard(record.name)
        if record.short:
            self._waiting.add(record.name, record.node.created, record.short)
        elif unserved:
            self._due.add(record.name)  # an old plan: there is space now
        self._stale.append(record.name)

    def ready(self, now: float) -> list[Step]:
        return []

    def finish(self, step: Step, outcome: Outcome, now: float) -> None:
        raise Invalid(f"cluster-pool has no steps, got one for {step.node}")

    def stale(self) -> list[str]:
        stale, self._stale = self._stale, []
        return list(dict.fromkeys(stale))

    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        record = self._records.get(name)
        if record is None or not isinstance(outcome, Version):
            return
        held = Held(grant.blocks, grant.error)
        record.node = msgspec.structs.replace(record.node, version=outcome.version, holds=held)
        self._claims.learn(record, now, newer=True)
        self._claims.note_apart(record)
        self._look_at(record)

    def wake(self, now: float) -> float | None:
        return self._claims.quarantine.next_end()

    # -- what there is

    def grant(self, name: str) -> Grant:
        record = self._records.get(name)
        if record is None:
            return Grant()
        return record.grant(self.families, self._space)

    def node(self, name: str) -> Node | None:
        record = self._records.get(name)
        return None if record is None else record.node

    def kept(self) -> tuple[Kept, ...]:
        quarantine, apart = self._claims.quarantine, self._claims.apart
        if apart or self._kept_owned or self._kept_of != quarantine.changes:
            pool = self._space.spec.name
            owned = [Kept(pool, cidr, owner=name) for name in apart for cidr in self._records[name].apart()]
            kept = tuple(sorted(owned + [Kept(pool, cidr, until=until) for cidr, until in quarantine.ends()]))
            if kept != self._kept:
                self._kept = kept
            self._kept_of, self._kept_owned = quarantine.changes, bool(owned)
        return self._kept

    def findings(self) -> tuple[Finding, ...]:
        notable = [self._records[name] for name in sorted(self._notable)]
        return tuple(sorted([*self._overlap.found, *standing(notable, self._space)]))

    def capacity(self) -> Capacity:
        return Capacity(self._space.capacity(), len(self._records), len(self._waiting) + len(self._stuck))

    # -- within

    def _needs(self, record: Record) -> tuple[Family, ...]:
        return record.needs(self.families, self._space.spec.max_blocks)

    def _why(self, record: Record, family: Family) -> str:
        if record.of(family):
            return f"{family}: all blocks of this family are full"
        for cidr in sorted(record.lost):
            if cidr.family == family:
                others = in_the_way(self._space.others(record.name, cidr))
                return f"{family}: the node shows {cidr}, and {others or 'another node does, too'}"
        return f"{family}: the node has no block"

    def _look_at(self, record: Record) -> None:
        """Puts the node where its state belongs: due, waiting, stale, or none of them. And those that it moved."""
        if self._restored:
            self._place(record)
            self._look_at_moved()

    def _look_at_moved(self) -> None:
        moved = self._claims.moved
        while moved and self._restored:
            self._place(self._records[moved.pop()])

    def _place(self, record: Record) -> None:
        node, name = record.node, record.name
        if record.foreign:
            self._claims.adopt(record)
        (self._notable.add if is_notable(record) else self._notable.discard)(name)
        (self._stuck.add if record.is_stuck else self._stuck.discard)(name)
        needs = self._needs(record)
        if needs:
            if name not in self._waiting or record.asked != needs:
                self._due.add(name)
        else:
            record.short = ()
            self._waiting.discard(name)
        if node.present and not self._shows_all(record):
            self._stale.append(name)

    def _shows_all(self, record: Record) -> bool:
        """Whether the object surely says what it should; the grant decides where this is not sure."""
        node = record.node
        return not (
            node.holds.error
            or record.lost
            or record.foreign
            or record.short
            or node.unreadable
            or node.agent.released
            or tuple(block.cidr for block in node.holds.blocks) != record.blocks
        )


def _only_pool(specs: Iterable[PoolSpec]) -> PoolSpec:
    listed = [spec for spec in specs if spec.name == DEFAULT_POOL]
    if len(listed) != 1:
        raise Invalid(f"cluster-pool serves exactly one pool, {DEFAULT_POOL!r}, and got {len(listed)}")
    return listed[0]
