"""What `check` finds: the allocator's findings, nodes' problems, and what the store says against itself. Pure.

Severities: `error`, addresses may be or become used twice, or an object cannot be read; `warning`, somebody is not served or
soon will not be; `info`, worth knowing, and no reason to act now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from omnipam.core.allocator import Allocator, Plan
from omnipam.core.overlaps import Overlaps
from omnipam.core.values import Finding, Kept, Node, Problem

from .snapshot import Serving, Snapshot, foresee
from .takeover import obstacles, pool_obstacles

SEVERITIES = ("error", "warning", "info")
PATIENCE_S = 60.0
"""A node that waits for longer, with space there and an operator leading, is not merely new."""

DRAINS = ("OutsidePool", "RangeDrained", "PoolDrained")
"""What a person wanted, who took a range or a pool away: it ends by itself."""
SAID_BY = {"AlreadyAllocated": "CIDRClaimedTwice"}
"""Problems of nodes that a finding of another name tells already."""


class ClearError(msgspec.Struct, frozen=True):
    """The node's status error is no longer true: take it away, if the object is still the same."""

    node: Node


class DropKept(msgspec.Struct, frozen=True):
    """Nothing needs this entry."""

    kept: Kept


class DropBlocks(msgspec.Struct, frozen=True):
    """Blocks of a node that is not there (SQLite)."""

    node: str


Repair = ClearError | DropKept | DropBlocks


class Found(msgspec.Struct, frozen=True):
    """One finding. id: stable CamelCase word. by: what `--fix` may do about it; None: only a person can."""

    id: str
    severity: str
    objects: tuple[str, ...]
    cause: str
    repair: str
    by: Repair | None = None


def audit(snapshot: Snapshot, serving: Serving, allocator: Allocator, now: float) -> tuple[Found, ...]:
    """Everything found, worst first. `allocator` is restored from the snapshot; afterwards it is used up."""
    findings = (*allocator.findings(), *snapshot.findings)
    problems = {node.name: allocator.grant(node.name).problems for node in snapshot.nodes}
    plans = foresee(allocator, now)  # only now: a plan cures some of what the findings are about
    for name, plan in plans.items():
        problems[name] = tuple(dict.fromkeys((*problems[name], *plan.problems)))
    index = Overlaps()
    for node in snapshot.nodes:
        for block in node.holds.blocks:
            index.add(node.name, block.cidr)
    found = [
        *(Found(each.reason, each.severity, each.objects, each.text, each.hint) for each in findings),
        *_unmet(problems, findings),
        *_overlapping(snapshot, index, findings),
        *_set_aside(snapshot, serving, index, now),
        *_stale_errors(snapshot, problems, plans),
        *_strays(snapshot),
        *_operator(snapshot, plans, now),
    ]
    if snapshot.on_kubernetes and serving.mode == "cluster-pool":
        for spec in serving.pools:
            found += [
                Found(each.reason, each.severity, each.objects, each.text, each.hint)
                for each in obstacles(snapshot, spec, index, now)
            ]
    if snapshot.on_kubernetes and serving.mode == "multi-pool":
        found += [
            Found(each.reason, each.severity, each.objects, each.text, each.hint)
            for each in pool_obstacles(snapshot, serving.pools)
        ]
    return tuple(sorted(dict.fromkeys(found), key=_rank))


def _rank(found: Found) -> tuple[int, str, tuple[str, ...], str]:
    known = found.severity in SEVERITIES
    return (SEVERITIES.index(found.severity) if known else 0, found.id, found.objects, found.cause)


def _unmet(problems: dict[str, tuple[Problem, ...]], findings: Iterable[Finding]) -> Iterator[Found]:
    """Problems of nodes that no finding tells, the same problem of many nodes once."""
    told: dict[str, set[str]] = defaultdict(set)
    for each in findings:
        told[each.reason].update(name.rpartition("/")[2] for name in each.objects)
    nodes: dict[Problem, list[str]] = defaultdict(list)
    for name, those in problems.items():
        for problem in those:
            if name not in told[problem.reason] | told[SAID_BY.get(problem.reason, problem.reason)]:
                nodes[problem].append(name)
    for problem, names in nodes.items():
        objects = tuple(f"CiliumNode/{name}" for name in sorted(names))
        severity = "info" if problem.reason in DRAINS else "warning"
        yield Found(problem.reason, severity, objects, problem.text, problem.hint)


def _overlapping(snapshot: Snapshot, index: Overlaps, findings: Iterable[Finding]) -> Iterator[Found]:
    """Two nodes' objects that show the same addresses, where the allocator has not said so."""
    told = [set(each.objects) for each in findings if each.reason in ("CIDRClaimedTwice", "CIDRsOverlap")]
    for node in snapshot.nodes:
        for block in node.holds.blocks:
            for other, theirs in index.overlapping(block.cidr, but=node.name):
                pair = {node.name, other}
                if node.name < other and not any(
                    pair <= {name.rpartition("/")[2] for name in objects} for objects in told
                ):
                    yield Found(
                        "BlocksOverlap",
                        "error",
                        (f"CiliumNode/{node.name}", f"CiliumNode/{other}"),
                        f"node {node.name} shows {block.cidr} and node {other} shows {theirs}, which overlap",
                        "delete the younger node's object, so that it starts afresh",
                    )


def _set_aside(snapshot: Snapshot, serving: Serving, index: Overlaps, now: float) -> Iterator[Found]:
    """What is reserved or kept and used all the same, and what is kept for nobody."""
    reserve = "cluster-pool-reserved" if serving.mode == "cluster-pool" else "what the pool reserves"
    for spec in serving.pools:
        for cidr in spec.reserved:
            for name, block in index.overlapping(cidr):
                yield Found(
                    "ReservedInUse",
                    "warning",
                    (f"CIDR/{cidr}", f"CiliumNode/{name}"),
                    f"node {name} holds {block}, which touches the reserved range {cidr}",
                    f"replace the node, or take the range out of {reserve}",
                )
    there = {node.name for node in snapshot.nodes}
    quarantine = {spec.name: spec.quarantine_s for spec in serving.pools}
    for kept in snapshot.kept:
        subject = (f"CIDR/{kept.cidr}",)
        if kept.owner and kept.owner not in there:
            yield Found(
                "KeptForGone",
                "warning",
                (*subject, f"CiliumNode/{kept.owner}"),
                f"{kept.cidr} is kept for node {kept.owner}, which is gone",
                "the operator frees it when it starts",
                None if quarantine.get(kept.pool) else DropKept(kept),
            )
        elif not kept.owner and kept.until <= now:
            yield Found(
                "QuarantineOver",
                "info",
                subject,
                f"the quarantine of {kept.cidr} is over, and its entry still there",
                "the operator drops it when it starts",
                DropKept(kept),
            )
        for name, block in index.overlapping(kept.cidr, but=kept.owner or None):
            if kept.owner:
                yield Found(
                    "KeptTaken",
                    "error",
                    (*subject, f"CiliumNode/{name}"),
                    f"{kept.cidr} is kept for node {kept.owner}, whose pods may use it, and node {name} shows {block}",
                    "delete the object of the younger node, so that it starts afresh",
                )
            elif kept.until > now:
                yield Found(
                    "QuarantinedInUse",
                    "warning",
                    (*subject, f"CiliumNode/{name}"),
                    f"node {name} holds {block}, which touches {kept.cidr} in quarantine",
                    "peers may still send to its former pods; another operator must have granted it",
                )


def _stale_errors(
    snapshot: Snapshot, problems: dict[str, tuple[Problem, ...]], plans: dict[str, Plan]
) -> Iterator[Found]:
    for node in snapshot.nodes:
        plan = plans.get(node.name)
        settled = (
            node.present and not node.ignored and not problems[node.name] and not (plan and plan.actions)
        )
        if node.holds.error and node.holds.blocks and settled and not node.holds.outdated:
            yield Found(
                "StaleError",
                "warning",
                (f"CiliumNode/{node.name}",),
                f"the status of node {node.name} says {node.holds.error!r}, which is no longer so",
                "the operator clears it",
                ClearError(node),
            )


def _strays(snapshot: Snapshot) -> Iterator[Found]:
    """Blocks without a node (SQLite), and CiliumNodes without a Node (Kubernetes)."""
    orphans: dict[str, list[str]] = defaultdict(list)
    for name, cidr in snapshot.orphans:
        orphans[name].append(str(cidr) if cidr is not None else "an unreadable block")
    for name, texts in sorted(orphans.items()):
        yield Found(
            "BlocksWithoutNode",
            "error",
            (f"CiliumNode/{name}",),
            f"{', '.join(texts)} granted to node {name}, which is not in the store",
            "nobody can use them until their rows are gone",
            DropBlocks(name),
        )
    for node in snapshot.nodes:
        if snapshot.machines is None or node.name in snapshot.machines or not node.present:
            continue
        may_go = node.name in snapshot.collectable
        yield Found(
            "MachineMissing",
            "warning" if may_go else "info",
            (f"CiliumNode/{node.name}",),
            f"CiliumNode {node.name} has no Node",
            "the operator deletes it after nodes-gc-interval; till then its blocks stay with it"
            if may_go
            else "it has an owner, is marked cilium.io/do-not-gc, or is unreadable: delete it if its machine is gone",
        )


def _operator(snapshot: Snapshot, plans: dict[str, Plan], now: float) -> Iterator[Found]:
    waiting = [node for node in snapshot.nodes if (plan := plans.get(node.name)) and plan.actions]
    if snapshot.leader is None:
        yield Found(
            "LeaseUnread",
            "info",
            (),
            "the Lease may not be read: whether an operator leads is not known",
            "grant get on leases to this account",
        )
    elif not snapshot.leader.leads(now):
        last = f"; the last was {snapshot.leader.holder}" if snapshot.leader.holder else ""
        waits = f", and {len(waiting)} nodes wait for it" if waiting else ""
        yield Found(
            "NoOperator",
            "warning",
            (),
            f"no operator is serving {snapshot.where}{waits}{last}",
            "start omnipam operator",
        )
        return
    for node in waiting:
        if now - node.created > PATIENCE_S:
            yield Found(
                "Unserved",
                "warning",
                (f"CiliumNode/{node.name}",),
                f"node {node.name} waits for a block for more than {PATIENCE_S:g} s, though there is space",
                "look at the operator's log: may it write (GrantNotWritten), and is its configuration the one that is used here?",
            )
