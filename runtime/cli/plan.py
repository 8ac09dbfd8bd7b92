"""`omnipam plan`: what the operator would do, for which node and why, at how many calls; nothing is changed."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping

import msgspec

from omnipam.core.allocator import Allocator, Plan
from omnipam.core.values import Node, Problem

from ..snapshot import Snapshot, foresee, restored, serving
from . import output, target
from .actions import HEAD, PlannedAction, actions_of, rows, unmet_of
from .explain import explain
from .parser import add_format, add_store


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
        return explain(args, snapshot, served, allocator, now)
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
        unmet = unmet_of(plan, allocator)
        actions = actions_of(plan)
        spec = grant.blocks != node.holds.blocks or node.holds.outdated
        cost = _calls(node, spec, grant.error != node.holds.error, snapshot)
        if actions or unmet or cost:
            nodes.append(NodePlan(node.name, actions, unmet, cost))
            calls.update(cost)
    return Document(1, mode, tuple(nodes), dict(sorted(calls.items())))


def _calls(node: Node, blocks: bool, error: bool, snapshot: Snapshot) -> dict[str, int]:
    if not node.present or node.ignored:
        return {}
    if not snapshot.on_kubernetes:
        return {"write nodes": 1} if blocks or error else {}
    cost = {"patch ciliumnodes": int(blocks), "patch ciliumnodes/status": int(error)}
    return {api: number for api, number in cost.items() if number}


def _text(document: Document, there: int) -> str:
    lines = []
    for each in document.nodes:
        lines += rows(each.node, each.actions, each.unmet) or [
            (each.node, "Write", "", "", "its object does not say what it holds")
        ]
    calls = ", ".join(f"{number} × {api}" for api, number in document.calls.items()) or "no calls"
    due = sum(1 for each in document.nodes if each.actions)
    unmet = sum(1 for each in document.nodes if each.unmet)
    summary = f"{output.count(there, 'node')} in mode {document.mode}: {due} with actions, {unmet} with unmet demand; {calls}\n"
    return (output.table(HEAD, lines) + "\n" if lines else "") + summary
