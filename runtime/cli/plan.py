"""`omnipam plan`: what the operator would do, for which node and why, at how many calls; nothing is changed."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping

import msgspec

from omnipam.core.allocator import Action, Allocator, Plan, TakeBlock
from omnipam.core.cidr import FAMILIES, parse
from omnipam.core.errors import NotFound
from omnipam.core.values import Node, Problem

from ..snapshot import Serving, Snapshot, foresee, restored, serving
from ..usage import usage
from . import output, target
from .parser import add_format, add_store

HEAD = ("NODE", "ACTION", "FAMILY", "CIDR", "REASON")


class PlannedAction(msgspec.Struct, frozen=True):
    """One action. cidr: for a block to be taken, the one that it would be as things are."""

    action: str
    pool: str
    family: str
    cidr: str
    reason: str


class NodePlan(msgspec.Struct, frozen=True):
    """One node. calls: requests that publishing its grant takes, by API."""

    node: str
    actions: tuple[PlannedAction, ...] = ()
    unmet: tuple[Problem, ...] = ()
    calls: dict[str, int] = {}


class Document(msgspec.Struct, frozen=True):
    """The output of `plan`: nodes with nothing to do are left out."""

    version: int
    mode: str
    nodes: tuple[NodePlan, ...]
    calls: dict[str, int]


def add(parser: argparse.ArgumentParser) -> None:
    """MODE and flags."""
    parser.add_argument("mode", metavar="MODE", nargs="?", help="the IPAM mode, if not the configured one")
    parser.add_argument(
        "--explain", metavar="NODE", help="walk through one node: demand, holdings, needs, ranges"
    )
    add_format(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the plan; 0 even where something stays unmet. Raises OmnipamError."""
    args.command = "plan"
    now = time.time()
    loaded, snapshot = target.look(args)
    served = serving(loaded.config, snapshot)
    allocator = restored(snapshot, served, now)
    if args.explain is not None:
        return _explain(args, snapshot, served, allocator, now)
    document = plan_of(snapshot, served.mode, allocator, foresee(allocator, now))
    output.show(args.output, document, lambda: _text(document, len(snapshot.nodes)))
    return 0


def plan_of(snapshot: Snapshot, mode: str, allocator: Allocator, plans: Mapping[str, Plan]) -> Document:
    """The document, from an allocator on which `plans` were started."""
    nodes = []
    calls: Counter[str] = Counter()
    for node in snapshot.nodes:
        plan = plans.get(node.name, Plan(node.name))
        grant = allocator.grant(node.name)
        unmet = tuple(dict.fromkeys((*plan.problems, *grant.problems)))
        actions = tuple(_action(planned.action, planned.reason) for planned in plan.actions)
        cost = _calls(node, grant.blocks != node.holds.blocks, grant.error != node.holds.error, snapshot)
        if actions or unmet or cost:
            nodes.append(NodePlan(node.name, actions, unmet, cost))
            calls.update(cost)
    return Document(1, mode, tuple(nodes), dict(sorted(calls.items())))


def _action(action: Action, reason: str) -> PlannedAction:
    if isinstance(action, TakeBlock):
        return PlannedAction("TakeBlock", action.pool, action.family, str(action.expected), reason)
    return PlannedAction("ReturnBlock", action.pool, action.cidr.family, str(action.cidr), reason)


def _calls(node: Node, blocks: bool, error: bool, snapshot: Snapshot) -> dict[str, int]:
    if not node.present or node.ignored:
        return {}
    if not snapshot.on_kubernetes:
        return {"write nodes": 1} if blocks or error else {}
    cost = {"patch ciliumnodes": int(blocks), "patch ciliumnodes/status": int(error)}
    return {api: number for api, number in cost.items() if number}


def _text(document: Document, there: int) -> str:
    rows = []
    for each in document.nodes:
        rows += [(each.node, a.action, a.family, a.cidr, a.reason) for a in each.actions]
        rows += [(each.node, "Unmet", "", "", str(problem)) for problem in each.unmet]
        if not each.actions and not each.unmet:
            rows.append((each.node, "Write", "", "", "its object does not say what it holds"))
    calls = ", ".join(f"{number} × {api}" for api, number in document.calls.items()) or "no calls"
    summary = (
        f"{output.count(there, 'node')} in mode {document.mode}, {len(document.nodes)} with a plan: {calls}\n"
    )
    return (output.table(HEAD, rows) + "\n" if rows else "") + summary


# -- one node


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


def _explain(
    args: argparse.Namespace, snapshot: Snapshot, served: Serving, allocator: Allocator, now: float
) -> int:
    node = snapshot.node(args.explain)
    if node is None:
        raise NotFound(f"node {args.explain} is not in {snapshot.where}: see omnipam node list")
    plans = foresee(allocator, now)
    plan = plans.get(node.name, Plan(node.name))
    actions = tuple(_action(planned.action, planned.reason) for planned in plan.actions)
    unmet = tuple(dict.fromkeys((*plan.problems, *allocator.grant(node.name).problems)))
    before = list(plans)[: list(plans).index(node.name)] if node.name in plans else []
    explanation = Explanation(
        1,
        served.mode,
        node.name,
        _state(node),
        _demand(served),
        tuple(str(block.cidr) for block in node.holds.blocks),
        tuple(dict.fromkeys([each.family for each in actions] + [problem.text for problem in plan.problems])),
        sum(1 for name in before if plans[name].actions),
        _ranges(snapshot, served, plans, before, actions, now),
        actions,
        unmet,
    )
    output.show(args.output, explanation, lambda: _explained(explanation))
    return 0


def _demand(served: Serving) -> tuple[str, ...]:
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
    rows = [(each.node, a.action, a.family, a.cidr, a.reason) for a in each.actions]
    rows += [(each.node, "Unmet", "", "", str(problem)) for problem in each.unmet]
    return text + ("\n" + output.table(HEAD, rows) if rows else "\nNothing is to be done.\n")
