"""`omnipam check`: audit of a store; `--fix` repairs what is safe, each write on the condition that nothing changed meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from omnipam.core.allocator import Version
from omnipam.core.drive import Publish
from omnipam.core.errors import OmnipamError
from omnipam.core.values import Grant

from ..audit import ClearError, DropBlocks, DropKept, Found, Repair, audit
from ..config import Config
from ..connect import namespace_of
from ..snapshot import Snapshot, restored, serving
from . import output, target
from .parser import add_dry_run, add_format, add_store

if TYPE_CHECKING:
    from ..kube.rest import Api

HEAD = ("SEVERITY", "ID", "FIXED", "OBJECTS", "CAUSE", "REPAIR")
SHOWN = 3
"""Objects of one finding in a table; documents have all."""


class Finding(msgspec.Struct, frozen=True):
    """One finding as printed. fixed: `--fix` has repaired it."""

    id: str
    severity: str
    objects: tuple[str, ...]
    cause: str
    repair: str
    fixed: bool


class Document(msgspec.Struct, frozen=True):
    """The output of `check`."""

    version: int
    findings: tuple[Finding, ...]


def add(parser: argparse.ArgumentParser) -> None:
    """MODE and flags."""
    parser.add_argument("mode", metavar="MODE", nargs="?", help="the IPAM mode, if not the configured one")
    parser.add_argument("--fix", action="store_true", help="repair what is safe, and say what")
    add_dry_run(parser)
    add_format(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Prints what is found; 1 if anything worse than `info` is left. Raises OmnipamError."""
    args.command = "check"
    now = time.time()
    loaded, snapshot = target.look(args)
    served = serving(loaded.config, snapshot)
    found = audit(snapshot, served, restored(snapshot, served, now), now)
    if snapshot.on_kubernetes:
        found = tuple(_with_lease(each, args.lease) for each in found)
    fixed: set[Found] = set()
    if args.fix:
        repairs = [each for each in found if each.by is not None]
        if args.dry_run:
            for each in repairs:
                output.say(f"would repair {each.id}: {each.cause}")
        else:
            fixed = _fix(args, loaded.config, snapshot, repairs, now)
    document = Document(
        1,
        tuple(Finding(f.id, f.severity, f.objects, f.cause, f.repair, f in fixed) for f in found),
    )
    output.show(args.output, document, lambda: _text(document))
    return int(any(each.severity != "info" and each not in fixed for each in found))


def _with_lease(found: Found, lease: str) -> Found:
    """On a cluster, which Lease was looked at: an operator beside Cilium's leads by another."""
    if found.id != "NoOperator":
        return found
    return msgspec.structs.replace(
        found,
        cause=f"{found.cause}; the Lease looked at is {lease}",
        repair=f"{found.repair}; if one runs with another lease-name or k8s-namespace, give the same here: --lease-name NAME",
    )


def _text(document: Document) -> str:
    if not document.findings:
        return "nothing found\n"
    rows = [
        (
            each.severity,
            each.id,
            "yes" if each.fixed else "no",
            _objects(each.objects),
            each.cause,
            each.repair,
        )
        for each in document.findings
    ]
    return output.table(HEAD, rows)


def _objects(objects: Sequence[str]) -> str:
    more = f" and {len(objects) - SHOWN} more" if len(objects) > SHOWN else ""
    return ",".join(objects[:SHOWN]) + more


# -- repairs


def _fix(
    args: argparse.Namespace, config: Config, snapshot: Snapshot, repairs: Sequence[Found], now: float
) -> set[Found]:
    """Carries out what can be, says so, and answers what is repaired."""
    led = snapshot.leader is None or snapshot.leader.leads(now)
    allowed = []
    for each in repairs:
        if led and isinstance(each.by, DropKept):  # the leader writes these from its memory, whatever we do
            output.say(
                f"not repaired: {each.id}: {each.cause}: an operator leads, and it keeps these entries itself"
            )
        else:
            allowed.append(each)
    if not allowed:
        return set()
    if snapshot.on_kubernetes:
        outcomes = target.on_cluster(args, lambda api: _on_cluster(api, config, allowed))
    else:
        outcomes = _on_sqlite(config.store, allowed)
    for each, why in zip(allowed, outcomes, strict=True):
        output.say(f"not repaired: {each.id}: {why}" if why else f"repaired {each.id}: {each.cause}")
    return {each for each, why in zip(allowed, outcomes, strict=True) if not why}


def _on_sqlite(url: str, repairs: Iterable[Found]) -> list[str]:
    """For each repair why it was not made, empty if it was."""
    with target.writable(url, "omnipam check") as store:

        def carry_out(repair: Repair | None) -> str:
            match repair:
                case ClearError(node):
                    return _refused(store.publish(Publish(node, Grant(node.holds.blocks))))
                case DropKept(kept):
                    with store.writing() as db:
                        gone = db.execute(
                            "DELETE FROM kept WHERE pool = ? AND cidr = ? AND owner = ? AND until = ?",
                            (kept.pool, str(kept.cidr), kept.owner, kept.until),
                        )
                    return "" if gone.rowcount else "the entry changed meanwhile; look again"
                case DropBlocks(name):
                    with store.writing() as db:
                        gone = db.execute(
                            "DELETE FROM grants WHERE node = ? AND node NOT IN (SELECT name FROM nodes)",
                            (name,),
                        )
                    return "" if gone.rowcount else "the node is back; look again"
            return "nothing can be done"

        outcomes = []
        for each in repairs:
            try:
                outcomes.append(carry_out(each.by))
            except OmnipamError as error:
                outcomes.append(str(error))
        return outcomes


async def _on_cluster(api: Api, config: Config, repairs: Iterable[Found]) -> list[str]:
    """As `_on_sqlite`."""
    from ..kube.keeping import Keeping
    from ..kube.store import KubernetesStore

    namespace = namespace_of(config, api.cluster)
    loop = asyncio.get_running_loop()
    store = KubernetesStore(
        api,
        namespace=namespace,
        reads_machines=False,
        create_definitions=False,
        clock=loop.time,
        wall=time.time,
    )

    async def carry_out(repair: Repair | None) -> str:
        match repair:
            case ClearError(node):
                return _refused(await store.publish(Publish(node, Grant(node.holds.blocks))))
            case DropKept(kept):
                keeping = Keeping(api, namespace)
                there, _ = await keeping.read()
                if kept not in there:
                    return "the entry changed meanwhile; look again"
                await keeping.write([each for each in there if each != kept])
                return ""
        return "nothing can be done"

    outcomes = []
    for each in repairs:
        try:
            outcomes.append(await carry_out(each.by))
        except OmnipamError as error:
            outcomes.append(str(error))
    return outcomes


def _refused(outcome: object) -> str:
    if isinstance(outcome, Version):
        return ""
    text = getattr(outcome, "text", "")
    return text or "the object changed meanwhile; look again"
