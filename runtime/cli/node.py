"""`omnipam node`: nodes of the embedded store; on Kubernetes what there is, and how to write it with kubectl."""

from __future__ import annotations

import argparse
import re
import shlex
import time
from typing import TYPE_CHECKING, Any

import msgspec

from omnipam.core.cidr import FAMILIES, Family, parse_address
from omnipam.core.errors import Invalid, NotFound
from omnipam.core.values import Demand, Facts, Node

from ..config import Loaded, format_duration, read_duration
from ..config.values import read_int, read_kubernetes_name, shown
from ..kube.poolednode import read_limits
from ..snapshot import Snapshot
from . import kubectl, output, target
from .nodeview import HEAD, name_of, pairs, row, state, state_of_object
from .objects import cilium_node
from .parser import add_dry_run, add_format, add_store, bounded

if TYPE_CHECKING:
    from ..kube.rest import Api
    from ..sqlite.store import SqliteStore

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"  # "Labels and Selectors", Kubernetes
_LABEL_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?/)?{_WORD}")
_LABEL_VALUE = re.compile(rf"(?:{_WORD})?")
POLL_S = 0.05
HISTORY = 5


def add(parser: argparse.ArgumentParser) -> None:
    """The verbs and their arguments."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    new = verbs.add_parser("add", help="add a node, which the operator then serves")
    new.add_argument("name", metavar="NAME")
    new.add_argument("--instance-id", default="", metavar="ID", help="the machine's name in its cloud")
    new.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    new.add_argument(
        "--address", action="append", default=[], metavar="IP", help="one of the machine's own addresses"
    )
    new.add_argument(
        "--pool",
        action="append",
        default=[],
        metavar="NAME=N",
        help="addresses that it asks of a pool, in each family that the pool has (multi-pool)",
    )
    new.add_argument("--default-pool", default="", metavar="NAME", help="its own default pool (multi-pool)")
    new.add_argument(
        "--max-blocks",
        default="",
        metavar="POOL=N,…",
        help="most blocks of a family that it may have (multi-pool)",
    )
    new.add_argument(
        "--pre-allocate", metavar="N", help="addresses to keep ready (modes that grant single addresses)"
    )
    new.add_argument(
        "--wait", metavar="DURATION", help="wait for the grant; exit 1 if it does not come in time"
    )
    add_dry_run(new)
    every = verbs.add_parser("list", help="list the nodes")
    one = verbs.add_parser("show", help="show a node")
    one.add_argument("name", metavar="NAME")
    old = verbs.add_parser("delete", help="delete a node; what it held is free")
    old.add_argument("name", metavar="NAME")
    add_dry_run(old)
    for verb in (new, every, one, old):
        add_format(verb)
        add_store(verb)


def run(args: argparse.Namespace) -> int:
    """Carries out the verb. Raises OmnipamError."""
    args.command = f"node {args.verb}"
    verbs = {"add": _add, "list": _list, "show": _show, "delete": _delete}
    return verbs[args.verb](args)


# -- what there is


def _list(args: argparse.Namespace) -> int:
    now = time.time()
    if target.is_kubernetes(args):
        raws = target.on_cluster(args, _objects)  # says so where what it needs is not installed

        from ..cluster import as_object

        found = sorted((as_object(raw, "v2", "CiliumNode") for raw in raws), key=name_of)
        rows = [row(each, state_of_object(each), now) for each in found]
    else:
        loaded, snapshot = target.look(args)
        found = [cilium_node(node, pooled=_pooled(loaded)) for node in snapshot.nodes]
        rows = [row(each, state(node), now) for each, node in zip(found, snapshot.nodes, strict=True)]
    output.show(args.output, output.listed(found), lambda: output.table(HEAD, rows))
    return 0


def _show(args: argparse.Namespace) -> int:
    now = time.time()
    if target.is_kubernetes(args):
        made = target.on_cluster(args, lambda api: _object(api, args.name))
        facts = pairs(made, state_of_object(made), now)
        output.show(args.output, made, lambda: output.facts(facts))
        return 0
    loaded, snapshot = target.look(args)
    node = snapshot.node(args.name)
    if node is None:
        raise NotFound(f"node {args.name} is not in {snapshot.where}: see omnipam node list")
    made = cilium_node(node, pooled=_pooled(loaded))
    store = target.existing(loaded.config.store)
    events = store.history(args.name, HISTORY) if store is not None else ()
    if store is not None:
        store.close()

    def text() -> str:
        lines = output.facts(pairs(made, state(node), now))
        if events:
            history = [(output.age(now - e.at), e.event, e.cidr or e.text, e.author) for e in events]
            lines += "\n" + output.table(("AGE", "EVENT", "WHAT", "BY"), history)
        return lines

    output.show(args.output, made, text)
    if snapshot.leader is not None and not snapshot.leader.leads(now):
        output.say(target.NO_OPERATOR)
    return 0


# -- what changes it


def _add(args: argparse.Namespace) -> int:
    node = _new_node(args)
    wait_s = _wait(args)
    if target.is_kubernetes(args):
        text = "a cluster's nodes are made by their agents; to make one by hand, type:"
        manifest = cilium_node(
            msgspec.structs.replace(node, demand=_demand(args, None)), pooled=bool(args.pool)
        )
        manifest["metadata"] = {key: value for key, value in manifest["metadata"].items() if value}
        del manifest["status"]
        return kubectl.refuse(args, text, kubectl.apply(manifest, args.context))
    args.makes_store = True
    loaded, snapshot = target.look(args)
    pooled = _pooled(loaded)
    if args.pool and not pooled:
        raise Invalid(
            f"--pool {args.pool[0]}: mode {loaded.config.ipam} has no named pools; leave it out, or give --ipam multi-pool"
        )
    node = msgspec.structs.replace(node, demand=_demand(args, snapshot))
    if args.dry_run:
        if snapshot.node(node.name) is not None:
            raise Invalid(
                f"node {node.name} exists already in {snapshot.where}: delete it first, or choose another name"
            )
        output.show(
            args.output, cilium_node(node, pooled=pooled), lambda: f"node/{node.name} added (dry run)\n"
        )
        return 0
    with target.writable(loaded.config.store, "omnipam node add") as store:
        added = store.add_node(node)
        served = snapshot.leader is not None and snapshot.leader.leads(time.time())
        if wait_s is not None:
            added = _granted(store, added, wait_s)
    granted = " ".join(str(block.cidr) for block in added.holds.blocks)
    word = f"node/{added.name} added" + (f", granted {granted}" if granted else "")
    output.show(args.output, cilium_node(added, pooled=pooled), lambda: f"{word}\n")
    if wait_s is not None and not granted:
        why = added.holds.error or ("the operator has not answered" if served else target.NO_OPERATOR)
        output.say(f"omnipam: node {added.name} has no grant after {format_duration(wait_s)}: {why}")
        return 1
    if not served:
        output.say(target.NO_OPERATOR + _store_flag(args))
    if not granted:
        output.say(f"see its grant: omnipam node show {shlex.quote(added.name)}{_store_flag(args)}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    if target.is_kubernetes(args):
        text = "a cluster's nodes are deleted with kubectl; type:"
        return kubectl.refuse(
            args,
            text,
            f"kubectl{kubectl.with_context(args.context)} delete ciliumnode {shlex.quote(args.name)}",
        )
    loaded, snapshot = target.look(args)
    node = snapshot.node(args.name)
    if node is None:
        raise NotFound(f"node {args.name} is not in {snapshot.where}: see omnipam node list")
    if not args.dry_run:
        with target.writable(loaded.config.store, "omnipam node delete") as store:
            node = store.delete_node(args.name)
    word = f"node/{node.name} deleted" + (" (dry run)" if args.dry_run else "")
    output.show(args.output, cilium_node(node, pooled=_pooled(loaded)), lambda: f"{word}\n")
    if node.holds.blocks:
        output.say(
            f"what it held is free for other nodes: if pods still run on {shlex.quote(node.name)}, addresses may be in use twice"
        )
    return 0


def _store_flag(args: argparse.Namespace) -> str:
    return f" --store {shlex.quote(args.store)}" if args.store else ""


# -- one node


def _new_node(args: argparse.Namespace) -> Node:
    """The node that the arguments describe. Raises Invalid, naming the argument."""
    name = _read(read_kubernetes_name, args.name, "NAME")
    if args.pre_allocate is not None:
        raise Invalid(
            f"--pre-allocate {args.pre_allocate}: cluster-pool and kubernetes grant whole blocks, not single addresses;"
            " leave it out"
        )
    labels: dict[str, str] = {}
    for text in args.label:
        key, equals, value = text.partition("=")
        if not equals:
            raise Invalid(f"--label {shown(text)}: it is not of the form KEY=VALUE; write it so")
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            part = "value" if _LABEL_KEY.fullmatch(key) else "key"
            raise Invalid(
                f"--label {shown(text)}: its {part} is none that Kubernetes takes;"
                " write letters, digits, '-', '_' and '.', 63 at most, a letter or digit first and last"
            )
        if labels.setdefault(key, value) != value:
            raise Invalid(f"--label {key}: it is given two values; keep one")
    addresses = [_read(parse_address, text, "--address") for text in args.address]
    if not args.instance_id.isprintable():
        raise Invalid(
            f"--instance-id {args.instance_id!r}: it has characters that cannot be printed; correct it"
        )
    facts = Facts(tuple(addresses), labels=tuple(sorted(labels.items())))
    default_pool = (
        _read(read_kubernetes_name, args.default_pool, "--default-pool") if args.default_pool else ""
    )
    limits = _read(read_limits, bounded(args.max_blocks, "--max-blocks"), "--max-blocks")
    return Node(name, instance=args.instance_id, facts=facts, default_pool=default_pool, limits=limits)


def _pooled(loaded: Loaded) -> bool:
    return loaded.config.ipam == "multi-pool"


def _demand(args: argparse.Namespace, snapshot: Snapshot | None) -> tuple[Demand, ...]:
    """What `--pool` asks for: in every family that the pool has; of a pool that is not there (yet), IPv4."""
    there = {spec.name: spec for spec in snapshot.pools} if snapshot is not None else {}
    asked: dict[tuple[str, Family], int] = {}
    for text in args.pool:
        name, equals, number = text.partition("=")
        needed = _read(read_int, number, f"--pool {shown(text)}") if equals else 0
        if needed < 1:
            raise Invalid(f"--pool {shown(text)}: it is not of the form NAME=N; write it so, as in mars=16")
        name = _read(read_kubernetes_name, name, f"--pool {shown(text)}")
        spec = there.get(name)
        has = {each.cidr.family for each in spec.ranges} if spec is not None else {"ipv4"}
        for family in FAMILIES:
            if family in has and asked.setdefault((name, family), needed) != needed:
                raise Invalid(f"--pool {name}: it is given two numbers; keep one")
    return tuple(Demand(name, family, number) for (name, family), number in sorted(asked.items()))


def _read(read: Any, text: str, where: str) -> Any:
    try:
        return read(text)
    except Invalid as error:
        raise Invalid(f"{where}: {error}; correct it") from None


def _wait(args: argparse.Namespace) -> float | None:
    if args.wait is None:
        return None
    seconds: float = _read(read_duration, args.wait, "--wait")
    return seconds


def _granted(store: SqliteStore, node: Node, seconds: float) -> Node:
    """The node as soon as it has a grant, or as it is when the time is over."""
    end = time.monotonic() + seconds
    while True:
        changes = store.outside_changes()
        node = store.node(node.name) or node
        if node.holds.blocks:
            return node
        while store.outside_changes() == changes:
            if time.monotonic() >= end:
                return node
            time.sleep(POLL_S)


async def _objects(api: Api) -> list[msgspec.Raw]:
    from ..cluster import cilium_nodes

    return await cilium_nodes(api)


async def _object(api: Api, name: str) -> dict[str, Any]:
    from urllib.parse import quote

    from ..cluster import one
    from ..kube.join import CILIUM_NODES

    found = await one(api, f"{CILIUM_NODES}/{quote(name, safe='')}")
    if found is None:
        raise NotFound(f"CiliumNode {name} is not in cluster {api.cluster.server}: see omnipam node list")
    return found
