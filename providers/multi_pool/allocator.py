"""The multi-pool allocator: which node lacks addresses of which pool, what it gets, and what its object should say."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from omnipam.core.allocator import Outcome, Plan, Planned, Published, Settings, Step, TakeBlock, Version
from omnipam.core.cidr import Cidr
from omnipam.core.errors import Invalid
from omnipam.core.values import (
    NOTHING_HELD,
    POD_CIDRS,
    Block,
    Capacity,
    Finding,
    Grant,
    Kept,
    Node,
    PoolSpec,
    Problem,
)
from omnipam.core.waiting import Waiting

from ..findings import moved
from ..overlap import Overlap
from . import demand
from .claims import Claims, is_same
from .findings import all_reserved, capacities, is_notable, orphaned, reserved_elsewhere, standing
from .judge import judge
from .record import Need, Record, distinct, usable

PREFACE = "ipam-multi-pool-sync allocation failed: "
"""What Cilium puts before its errors (1.17 did not yet)."""
MIGRATION_FAILED = "migration to multi-pool IPAM failed: "
"""What it puts before those of a node whose `podCIDRs` it could not take over: then that is all its status says."""


class MultiPool:
    """`omnipam.core.allocator.Allocator` for named pools. Cost of a turn grows with what changed, not with what exists."""

    def __init__(self, settings: Settings) -> None:
        self.families = settings.families
        self._claims = Claims()
        self._records = self._claims.records
        self._pools = self._claims.pools
        self._waiting: dict[Need, Waiting] = {}
        self._unserved: set[str] = set()
        self._stuck: set[str] = set()
        self._restored = False
        self._due: set[str] = set()
        self._stale: list[str] = []
        self._orphans: dict[str, list[Kept]] = {}
        self._kept: tuple[Kept, ...] = ()
        self._kept_of, self._kept_owned = 0, False
        self._overlap = Overlap(settings.services, "the annotation ipam.omnipam.io/reserved of the pool")
        self._refused: list[Finding] = []
        self._notable: set[str] = set()

    # -- what was seen

    def restore(
        self, nodes: Iterable[Node], pools: Iterable[PoolSpec], kept: Iterable[Kept], now: float
    ) -> None:
        self.pools(pools, now)
        claims = self._claims
        for entry in kept:
            if entry.owner and entry.owner not in self._records:
                self._orphans.setdefault(entry.owner, []).append(entry)
            elif not entry.owner and entry.until > now:
                spec = claims.pools.specs.get(entry.pool)
                longest = entry.until if spec is None else now + spec.quarantine_s
                claims.quarantine_until(entry.pool, entry.cidr, min(entry.until, longest))
        # The older first: then few have to be taken away again.
        records = sorted((Record(node) for node in nodes), key=lambda record: record.age)
        for record in records:
            claims.note_shown(record.name, tuple(distinct(record.node, self._pools)))
        for record in records:
            self.seen(record.node, now)
        for name in [name for name in self._orphans if name not in self._records]:
            for entry in self._orphans.pop(name):  # its machine went away while nobody looked
                claims.set_aside(entry.pool, entry.cidr, now)
        self._restored = True
        for record in self._records.values():
            self._look_at(record)

    def seen(self, node: Node, now: float) -> None:
        record, claims = self._records.get(node.name), self._claims
        if record is None:
            kept = self._orphans.pop(node.name, ())
            if not node.present and not kept:
                return
            record = self._records[node.name] = Record(node)
            claims.inherit(record, kept)
            if kept:
                claims.absent.add(node.name)
            claims.learn(record, now, newer=False)
        elif not node.present:
            if record.node.present:
                claims.vanish(record, now)
            if not record.blocks:
                self.gone(node.name, now)  # nothing of it is left
                return
            record.node = msgspec.structs.replace(
                record.node, present=False, holds=NOTHING_HELD, version="", uid=""
            )
        elif record.is_older(node):
            return
        else:
            before = record.node
            if before.present and before.uid != node.uid:
                claims.vanish(record, now)  # made anew, perhaps without what it had
            record.now(node)
            if before.holds != node.holds or record.taken or not record.writable:
                claims.learn(record, now, newer=before.version != node.version)
            if record.writable and (before.ignored or before.unreadable):
                claims.contest(record)
        claims.note_absence(record)
        self._overlap.see(record.node)
        self._look_at(record)

    def gone(self, name: str, now: float) -> None:
        record = self._claims.leave(name, now)
        if record is not None:
            self._unwait(record)
            self._due.discard(name)
            self._notable.discard(name)
            self._stuck.discard(name)
            self._look_at_moved()

    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        accepted, self._refused = judge(self._pools.specs, specs)
        changed = self._claims.repool(accepted, now)
        if not changed:
            return
        whole = PoolSpec(
            ranges=tuple(each for spec in accepted.values() for each in spec.ranges),
            reserved=tuple(cidr for spec in accepted.values() for cidr in spec.reserved),
        )
        self._overlap.pool(whole, (record.node for record in self._records.values()))
        for need in [need for need in self._waiting if need[0] in changed]:
            del self._waiting[need]
        for record in self._records.values():
            node = record.node
            if (
                any(one.pool in changed for one in node.demand)
                or node.default_pool in changed
                or not changed.isdisjoint(record.blocks.values())
            ):
                self._unwait(record)
                record.asked = record.short = ()
                self._look_at(record)

    # -- what to do

    def due(self, now: float) -> list[str]:
        if not self._restored:
            return []
        self._claims.expire(now)
        for need in list(self._waiting):
            pool = need[0]
            waiting = self._waiting[need]
            self._due.update(waiting.served(lambda family, pool=pool: self._pools.free_blocks(pool, family)))  # type: ignore[misc]  # mypy knows no default of a lambda
            if not len(waiting):
                del self._waiting[need]
        due, self._due = self._due, set()
        records = self._records
        return sorted(due, key=lambda name: (records[name].node.created, name))

    def plan(self, name: str, now: float) -> Plan:
        record = self._records.get(name)
        if record is None or not self._restored or not record.writable:
            return Plan(name)
        actions, problems = [], []
        for one in demand.asked(record, self.families, self._pools):
            pool, family = one.need
            if one.why_not is not None:
                problems.append(one.why_not)
                continue
            space = self._pools.space(pool)
            most = demand.room(record, one.need, self._pools) - len(one.blocks)
            missing = one.missing
            for expected in demand.foreseen(space, one.need, missing, most):
                reason = (
                    f"{family}: {one.needed} addresses are asked of pool {pool}, and {one.have} are there"
                )
                actions.append(Planned(TakeBlock(pool, family, expected), reason))
                missing -= usable(expected, space.spec)
                most -= 1
            if missing > 0 and most > 0:
                problems.append(demand.exhausted(record, one.need))
        return Plan(name, tuple(actions), tuple(problems))

    def start(self, plan: Plan, now: float) -> None:
        record = self._records.get(plan.node or "")
        if record is None or not self._restored:
            return
        missing = dict(self._wanted(record))
        left = {
            need: demand.room(record, need, self._pools) - len(record.of(need, self._pools))
            for need in missing
        }
        taken: dict[Cidr, str] = {}
        for planned in plan.actions:
            action = planned.action
            if not isinstance(action, TakeBlock):
                continue
            need = (action.pool, action.family)
            if missing.get(need, 0) <= 0 or left[need] <= 0:
                continue  # an old plan
            space = self._pools.space(action.pool)
            cidr = space.take_sized(action.family, action.expected.length, record.name)
            if cidr is not None:
                taken[cidr] = action.pool
                missing[need] -= usable(cidr, space.spec)
                left[need] -= 1
        record.take(taken)
        self._unwait(record)
        record.asked = self._wanted(record)
        record.short = tuple(need for need, _ in record.asked if not self._pools.free_blocks(*need))
        for need in record.short:
            self._waiting.setdefault(need, Waiting()).add(record.name, record.node.created, (need[1],))
        if record.short:
            self._unserved.add(record.name)
        if len(record.short) < len(record.asked):
            self._due.add(record.name)  # an old plan: there is space now
        self._stale.append(record.name)

    def ready(self, now: float) -> list[Step]:
        return []

    def finish(self, step: Step, outcome: Outcome, now: float) -> None:
        raise Invalid(f"multi-pool has no steps, got one for {step.node}")

    def stale(self) -> list[str]:
        stale, self._stale = self._stale, []
        return list(dict.fromkeys(stale))

    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        record = self._records.get(name)
        if record is None or not isinstance(outcome, Version):
            return
        before = record.node
        holds = msgspec.structs.replace(before.holds, blocks=grant.blocks, error=grant.error, outdated=False)
        record.now(msgspec.structs.replace(before, version=outcome.version, holds=holds))
        if before.holds.blocks != grant.blocks or record.taken:
            self._claims.learn(record, now, newer=before.version != outcome.version)
        self._claims.note_absence(record)
        self._look_at(record)

    def wake(self, now: float) -> float | None:
        return self._claims.quarantine.next_end()

    # -- what there is

    def grant(self, name: str) -> Grant:
        record = self._records.get(name)
        return Grant() if record is None else self._grant(record)

    def node(self, name: str) -> Node | None:
        record = self._records.get(name)
        return None if record is None else record.node

    def kept(self) -> tuple[Kept, ...]:
        claims = self._claims
        if claims.absent or self._kept_owned or self._kept_of != claims.quarantine.changes:
            kept = claims.kept()
            if kept != self._kept:
                self._kept = kept
            self._kept_of, self._kept_owned = claims.quarantine.changes, any(one.owner for one in kept)
        return self._kept

    def findings(self) -> tuple[Finding, ...]:
        notable = [self._records[name] for name in sorted(self._notable)]
        elsewhere = reserved_elsewhere(self._pools.specs.values())
        return tuple(
            sorted(
                [
                    *self._overlap.found,
                    *self._refused,
                    *elsewhere,
                    *all_reserved(self._pools),
                    *standing(notable, self._pools),
                ]
            )
        )

    def capacity(self) -> Capacity:
        return Capacity(
            capacities(self._records, self._pools), len(self._records), len(self._unserved) + len(self._stuck)
        )

    # -- within

    def _wanted(self, record: Record) -> demand.Wanted:
        return demand.wanted(record, self.families, self._pools)

    def _grant(self, record: Record) -> Grant:
        holds, specs = record.node.holds, self._pools.specs
        blocks = holds.blocks
        if record.writable or not record.node.present:
            shown = {block.cidr: block for block in holds.blocks}
            granted = []
            for cidr, pool in record.blocks.items():
                spec = specs.get(pool)
                if pool == POD_CIDRS and (holds.outdated or cidr not in shown):
                    continue
                if record.taken and self._claims.is_withheld(record, cidr):
                    continue
                if spec is not None:
                    granted.append(Block(pool, cidr, spec.first_usable, spec.last_usable))
                else:
                    before = shown.get(cidr)
                    same = before is not None and before.pool == pool
                    granted.append(before if before is not None and same else Block(pool, cidr))
            if not is_same(granted, holds.blocks):
                blocks = tuple(sorted(granted, key=lambda block: (block.pool, block.cidr)))
        problems = self._problems(record)
        migrating = any(problem.text.startswith(MIGRATION_FAILED) for problem in record.node.unreadable)
        return Grant(blocks, problems, "" if migrating else PREFACE, moved(record, self._pools))

    def _problems(self, record: Record) -> tuple[Problem, ...]:
        found = list(record.node.unreadable)
        if record.blocks:
            found += orphaned(record, self._pools)
        if record.node.demand and record.writable:
            for one in demand.asked(record, self.families, self._pools):
                if one.why_not is not None:
                    found.append(one.why_not)
                elif one.need in record.short:
                    found.append(demand.exhausted(record, one.need))
        return tuple(found)

    def _unwait(self, record: Record) -> None:
        for need in record.short:
            if need in self._waiting:
                self._waiting[need].discard(record.name)
        self._unserved.discard(record.name)

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
        name = record.name
        (self._notable.add if is_notable(record, self._pools) else self._notable.discard)(name)
        stuck = record.is_stuck and bool(record.node.demand)
        (self._stuck.add if stuck else self._stuck.discard)(name)
        wants = self._wanted(record)
        if not wants:
            self._unwait(record)
            record.asked = record.short = ()
        elif wants != record.asked or any(need not in record.short for need, _ in wants):
            self._due.add(name)
            return  # it is stale as soon as that is done
        if record.node.present and not self._grant(record).shown_by(record.node.holds):
            self._stale.append(name)
