"""`omnipam plan --explain`: demand, holdings, needs and the ranges that were considered, for one node."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import msgspec

from omnipam.core.allocator import Allocator, Plan, TakeBlock
from omnipam.core.cidr import FAMILIES, parse
from omnipam.core.errors import NotFound
from omnipam.core.values import Node, Problem

from ..snapshot import Serving, Snapshot, foresee
from ..usage import usage
from . import output
from .actions import HEAD, PlannedAction, actions_of, rows, unmet_of


class Range(msgspec.Struct, frozen=True):
    """One range that was considered. verdict: what it can give."""

    pool: str
    cidr: str
    mask: int
    total: int
    used: int
    free: int
    verdict: str


class Explanation(msgspec.Struct, frozen=True):
    """How one node's plan comes about."""

    version: int
    mode: str
    node: str
    state: tuple[str, ...]
    demand: tuple[str, ...]
    holds: tuple[str, ...]
    needs: tuple[str, ...]
    ahead: int
    ranges: tuple[Range, ...]
    actions: tuple[PlannedAction, ...]
    unmet: tuple[Problem, ...]


def explain(
    args: argparse.Namespace, snapshot: Snapshot, served: Serving, allocator: Allocator, now: float
) -> int:
    """Prints how one node's plan comes about. Raises NotFound."""
    node = snapshot.node(args.explain)
    if node is None:
        raise NotFound(f"node {args.explain} is not in {snapshot.where}: see omnipam node list")
    plans = foresee(allocator, now)
    plan = plans.get(node.name, Plan(node.name))
    actions = actions_of(plan)
    unmet = unmet_of(plan, allocator)
    before = list(plans)[: list(plans).index(node.name)] if node.name in plans else []
    explanation = Explanation(
        1,
        served.mode,
        node.name,
        _state(node),
        _demand(served, node),
        tuple(str(block.cidr) for block in node.holds.blocks),
        tuple(dict.fromkeys([each.family for each in actions] + [problem.text for problem in plan.problems])),
        sum(1 for name in before if plans[name].actions),
        _ranges(snapshot, served, plans, before, actions, now),
        actions,
        unmet,
    )
    output.show(args.output, explanation, lambda: _explained(explanation))
    return 0


def _demand(served: Serving, node: Node) -> tuple[str, ...]:
    if served.mode == "multi-pool":
        return tuple(f"{one.needed} {one.family} addresses of pool {one.pool}" for one in node.demand)
    if served.mode == "kubernetes":
        return tuple(
            f"the {family} CIDR that its Kubernetes Node was given" for family in served.settings.families
        )
    most = max((spec.max_blocks for spec in served.pools), default=1)
    more = f", up to {most} when all that it has are full" if most > 1 else ""
    return tuple(f"1 {family} block{more}" for family in served.settings.families)


def _state(node: Node) -> tuple[str, ...]:
    """What keeps it from being served, whatever space there is."""
    said = [str(problem) for problem in node.unreadable]
    if node.ignored:
        said.append("it is marked ipam.cilium.io/ignore: what it shows is occupied, and nothing is written")
    if not node.present:
        said.append("its object is missing: what it has stays with it, and nothing can be published")
    if node.agent.depleted:
        said.append(f"its agent says full: {', '.join(map(str, node.agent.depleted))}")
    if node.agent.released:
        said.append(f"its agent gives up: {', '.join(map(str, node.agent.released))}")
    return tuple(said)


def _ranges(
    snapshot: Snapshot,
    served: Serving,
    plans: Mapping[str, Plan],
    before: list[str],
    actions: tuple[PlannedAction, ...],
    now: float,
) -> tuple[Range, ...]:
    """The pools' ranges in the order in which they are used up, with what nodes served earlier would have taken."""
    taken = [
        planned.action.expected
        for name in before
        for planned in plans[name].actions
        if isinstance(planned.action, TakeBlock)
    ]
    chosen = [(each.pool, parse(each.cidr)) for each in actions]
    found = []
    for spec in served.pools:
        if spec.unreadable:
            continue
        counted = usage(spec, snapshot.nodes, snapshot.kept, now)
        for family in FAMILIES:
            reached = False
            for each in counted.of(family):
                ahead = sum(1 for cidr in taken if each.cidr.contains(cidr))
                free = each.free - ahead
                here = [cidr for pool, cidr in chosen if pool == spec.name and each.cidr.contains(cidr)]
                if here:
                    verdict, reached = f"gives {here[0]}", True
                elif free <= 0:
                    verdict = "full"
                elif reached:
                    verdict = "not reached: an earlier range has space"
                else:
                    verdict = "has space, and nothing is needed"
                found.append(
                    Range(spec.name, str(each.cidr), each.mask, each.total, each.used + ahead, free, verdict)
                )
    return tuple(found)


def _explained(each: Explanation) -> str:
    text = output.facts(
        [
            ("Node", each.node),
            ("Mode", each.mode),
            ("Demand", "; ".join(each.demand)),
            ("Holds", ", ".join(each.holds)),
            ("Needs", ", ".join(each.needs)),
            ("Served after", output.count(each.ahead, "other node")),
            *(("Note", note) for note in each.state),
        ]
    )
    if each.ranges:
        ranges = [(r.pool, r.cidr, r.mask, r.total, r.used, r.free, r.verdict) for r in each.ranges]
        text += "\n" + output.table(("POOL", "RANGE", "MASK", "TOTAL", "USED", "FREE", "VERDICT"), ranges)
    lines = rows(each.node, each.actions, each.unmet)
    return text + ("\n" + output.table(HEAD, lines) if lines else "\nNothing is to be done.\n")
