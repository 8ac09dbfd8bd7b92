"""`omnipam pool`: pools and how full they are; pools of the embedded store are made, grow, shrink and go here."""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any

from omnipam.core.cidr import FAMILIES
from omnipam.core.errors import Invalid, NotFound
from omnipam.core.values import DEFAULT_POOL, PoolSpec

from ..kube.podippool import manifest
from ..snapshot import Serving, Snapshot, serving
from ..usage import Usage, usage
from . import kubectl, output, poolargs, target
from .objects import pool_status
from .parser import add_dry_run, add_format, add_store

HEAD = (
    "NAME",
    "FAMILY",
    "CIDRS",
    "MASK",
    "TOTAL",
    "USED",
    "FREE",
    "QUARANTINED",
    "OUTSIDE",
    "NODES-ON-DRAINED",
)
RANGES = ("RANGE", "MASK", "TOTAL", "USED", "FREE", "QUARANTINED", "RESERVED")
FRAGMENTS = ("LONGEST-FREE-RUN", "STRANDED")
KEYS = (
    "cluster-pool mode serves one pool, default, made from cluster-pool-ipv4-cidr and cluster-pool-ipv6-cidr"
)


def add(parser: argparse.ArgumentParser) -> None:
    """The verbs and their arguments."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    new = verbs.add_parser("add", help="add a pool, or ranges to one that is there")
    new.add_argument("name", metavar="NAME")
    for family in FAMILIES:
        new.add_argument(f"--{family}-cidr", nargs="+", action="extend", default=[], metavar="CIDR")
        new.add_argument(f"--{family}-mask-size", metavar="N", help="prefix length of a node's block")
    new.add_argument(
        "--ipv4-mask-sizes", metavar="N,…", help="wider blocks that a large demand may get (multi-pool)"
    )
    new.add_argument("--reserved", metavar="RANGE,…", help="ranges that are never granted (multi-pool)")
    new.add_argument("--node-selector", metavar="SELECTOR", help="labels of the nodes it serves (multi-pool)")
    new.add_argument(
        "--max-blocks-per-node", metavar="N", help="most blocks of a family on one node (multi-pool)"
    )
    new.add_argument("--allow-first-ip", action="store_true", help="agents use each block's first address")
    new.add_argument("--allow-last-ip", action="store_true", help="agents use each block's last address")
    add_dry_run(new)
    every = verbs.add_parser("list", help="list the pools and how full they are")
    one = verbs.add_parser(
        "show", help="show a pool range by range, and the nodes on ranges that were taken out"
    )
    one.add_argument("name", metavar="NAME")
    old = verbs.add_parser(
        "delete", help="delete a pool that no node has a block of, or ranges of one, which then drain"
    )
    old.add_argument("name", metavar="NAME")
    for family in FAMILIES:
        old.add_argument(
            f"--{family}-cidr",
            nargs="+",
            action="extend",
            default=[],
            metavar="CIDR",
            help="a range to take out",
        )
    old.add_argument("--reserved", metavar="RANGE,…", help="ranges that are reserved no more")
    add_dry_run(old)
    for verb in (new, every, one, old):
        add_format(verb)
        add_store(verb)


def run(args: argparse.Namespace) -> int:
    """Carries out the verb. Raises OmnipamError."""
    args.command = f"pool {args.verb}"
    verbs = {"add": _add, "list": _list, "show": _show, "delete": _delete}
    return verbs[args.verb](args)


# -- what there is


class Pool:
    """One pool to show. usage: None where nothing here counts it (its mode serves the store no pool of this name)."""

    def __init__(self, made: dict[str, Any], usage: Usage | None) -> None:
        self.made = made
        self.usage = usage
        self.name = str(made["metadata"]["name"])


def _pools(snapshot: Snapshot, served: Serving, now: float) -> list[Pool]:
    """The pools that the mode serves, then the others there are; by name."""
    found = {}
    for made in snapshot.pool_objects:
        pool = Pool(made, None)
        found[pool.name] = pool
    for spec in (*snapshot.pools, *served.pools):
        made = manifest(spec, marks=served.mode != "cluster-pool")
        if served.mode == "multi-pool" and spec.name in found:
            made = found[spec.name].made  # the very object
        counted = None if spec.unreadable else usage(spec, snapshot.nodes, snapshot.kept, now)
        found[spec.name] = Pool(made, counted)
    if served.mode == "multi-pool":  # pools that are gone, and drain
        for name in {block.pool for node in snapshot.nodes for block in node.holds.blocks} - found.keys():
            gone = PoolSpec(name)
            found[name] = Pool(manifest(gone, marks=False), usage(gone, snapshot.nodes, snapshot.kept, now))
    return [found[name] for name in sorted(found)]


def _look(args: argparse.Namespace) -> tuple[Snapshot, Serving, list[Pool]]:
    loaded, snapshot = target.look(args)
    served = serving(loaded.config, snapshot)
    return snapshot, served, _pools(snapshot, served, time.time())


def _list(args: argparse.Namespace) -> int:
    _, served, pools = _look(args)
    documents = [pool.made | ({"status": pool_status(pool.usage)} if pool.usage else {}) for pool in pools]
    rows = [row for pool in pools for row in _rows(pool)]
    output.show(args.output, output.listed(documents), lambda: output.table(HEAD, rows))
    if not pools and served.mode == "kubernetes":
        output.say("kubernetes mode has no pools: the ranges are kube-controller-manager's --cluster-cidr")
    return 0


def _rows(pool: Pool) -> list[tuple[object, ...]]:
    spec = pool.made.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    status = pool_status(pool.usage) if pool.usage else {}
    rows: list[tuple[object, ...]] = []
    for family in FAMILIES:
        if family not in spec and family not in status:
            continue
        given, counted = spec.get(family) or {}, status.get(family, {})
        cidrs = ",".join(
            str(each.get("cidr") if isinstance(each, dict) else each) for each in given.get("cidrs", ())
        )
        numbers = [
            counted.get(key, "-")
            for key in ("total", "used", "free", "quarantined", "outside", "nodesOnDrainedRanges")
        ]
        rows.append((pool.name, family, cidrs, given.get("maskSize", ""), *numbers))
    return rows or [(pool.name, "", "", "", *["-"] * 6)]


def _show(args: argparse.Namespace) -> int:
    snapshot, served, pools = _look(args)
    pool = next((pool for pool in pools if pool.name == args.name), None)
    if pool is None:
        raise NotFound(f"pool {args.name} is not in {snapshot.where}: see omnipam pool list")
    status = {"status": pool_status(pool.usage, ranges=True)} if pool.usage else {}
    output.show(args.output, pool.made | status, lambda: _text(pool, served.mode))
    return 0


def _text(pool: Pool, mode: str) -> str:
    counted = pool.usage
    if counted is None:
        return output.table(HEAD, _rows(pool))
    # Blocks of one size a node do not fragment: where nodes take and give up many, it matters.
    more = mode == "multi-pool"
    ranges = [
        (
            *(str(each.cidr), each.mask, each.total, each.used, each.free, each.quarantined, each.reserved),
            *((each.longest, each.stranded) if more else ()),
        )
        for each in counted.ranges
    ]
    text = output.table((*RANGES, *FRAGMENTS) if more else RANGES, ranges)
    if counted.outside:
        nodes = len({node for _, node in counted.outside})
        text += (
            f"\n{output.count(nodes, 'node')} on {output.count(len(counted.outside), 'block')} in no configured range:\n"
            + output.table(("BLOCK", "NODE"), [(str(cidr), node) for cidr, node in counted.outside])
        )
    return text


# -- what changes it


def _add(args: argparse.Namespace) -> int:
    if target.is_kubernetes(args):
        spec = poolargs.new(args)
        grow = f"or, to add to one that is there, kubectl edit ciliumpodippool {spec.name}"
        text = f"a cluster's pools are written with kubectl; {grow}; type:"
        if spec.name == DEFAULT_POOL:
            text = f"{KEYS} in ConfigMap {args.namespace}/cilium-config; where the mode is multi-pool, type:"
        return kubectl.refuse(args, text, kubectl.apply(manifest(spec), args.context, verb="create"))
    loaded, snapshot = target.look(args)
    old = next((spec for spec in snapshot.pools if spec.name == args.name), None)
    spec = poolargs.grown(args, old) if old is not None else poolargs.new(args)
    if loaded.config.ipam == "cluster-pool" and spec.name == DEFAULT_POOL:
        raise Invalid(f"pool add {spec.name}: {KEYS}: {_keys(spec)}")
    for other in (*snapshot.pools, *serving(loaded.config, snapshot).pools):
        _check_apart(spec, other)
    if not args.dry_run:
        with target.writable(loaded.config.store, "omnipam pool add") as store:
            if old is not None:
                store.change_pool(old, spec)
            else:
                store.add_pool(spec)
    if loaded.config.ipam == "cluster-pool":
        output.say("cluster-pool mode serves the pool default only: this one waits for another mode")
    return _said(args, spec, "added" if old is None else "changed")


def _check_apart(spec: PoolSpec, other: PoolSpec) -> None:
    if spec.name == other.name:
        return
    for mine in spec.ranges:
        for theirs in other.ranges:
            if mine.cidr.overlaps(theirs.cidr):
                raise Invalid(
                    f"pool add {spec.name}: {mine.cidr} overlaps {theirs.cidr} of pool {other.name}; take another range"
                )


def _keys(spec: PoolSpec) -> str:
    """What to set instead."""
    flags = []
    for family in FAMILIES:
        ranges = [each for each in spec.ranges if each.cidr.family == family]
        if ranges:
            flags.append(f"--cluster-pool-{family}-cidr {','.join(str(each.cidr) for each in ranges)}")
            flags.append(f"--cluster-pool-{family}-mask-size {ranges[0].mask}")
    return f"start omnipam operator with {' '.join(flags)}"


def _delete(args: argparse.Namespace) -> int:
    part = poolargs.takes_out(args)
    if target.is_kubernetes(args):
        verb, text = "delete", "a cluster's pools are deleted with kubectl; type:"
        if part:
            verb, text = "edit", "a cluster's pools are changed with kubectl; take the ranges out there:"
        command = (
            f"kubectl{kubectl.with_context(args.context)} {verb} ciliumpodippool {shlex.quote(args.name)}"
        )
        return kubectl.refuse(args, text, command)
    loaded, snapshot = target.look(args)
    spec = next((spec for spec in snapshot.pools if spec.name == args.name), None)
    if spec is None and args.name == DEFAULT_POOL and loaded.config.ipam == "cluster-pool":
        raise Invalid(f"pool delete {args.name}: {KEYS}; take ranges out there, and they are drained")
    if spec is None:
        raise NotFound(f"pool {args.name} is not in {snapshot.where}: see omnipam pool list")
    left = poolargs.shrunk(args, spec) if part else None
    if not args.dry_run:
        with target.writable(loaded.config.store, "omnipam pool delete") as store:
            if left is not None:
                store.change_pool(spec, left)
            else:
                store.delete_pool(args.name)
    return _said(args, left or spec, "deleted" if left is None else "changed")


def _said(args: argparse.Namespace, spec: PoolSpec, done: str) -> int:
    word = f"pool/{spec.name} {done}" + (" (dry run)" if args.dry_run else "")
    output.show(args.output, manifest(spec), lambda: f"{word}\n")
    return 0
