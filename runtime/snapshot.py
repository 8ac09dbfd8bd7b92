"""One picture of a store, read and never written: what it holds, what serves it, and an allocator restored from both.

From SQLite it is one state of the file; from Kubernetes each list is one state, Nodes before CiliumNodes, as the operator
reads them. `foresee` carries the restored allocator, a private copy, to where the operator would bring it.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from omnipam.core.allocator import Allocator, Plan, Settings
from omnipam.core.cidr import FAMILIES, Cidr
from omnipam.core.errors import Invalid
from omnipam.core.values import Finding, Kept, Node, PoolSpec
from omnipam.providers.registry import find

from .pools import pool_specs, settings

if TYPE_CHECKING:
    from .config import Config
    from .election import Held
    from .sqlite.store import SqliteStore


class Leader(msgspec.Struct, frozen=True):
    """What the lease says. holder: empty if it is free or there is none. until: when it ends, by its writer's wall clock."""

    holder: str = ""
    until: float = 0.0

    def leads(self, now: float) -> bool:
        """Whether an operator seems to be alive; wrong by as much as clocks differ."""
        return bool(self.holder) and self.until > now


class Snapshot(msgspec.Struct, frozen=True):
    """What a store holds.

    where: for people.
    pools: those in the store, where the mode reads them there; on SQLite always. pool_objects: the CiliumPodIPPools on the
        server.
    mode, recorded: what the operator said that it serves, on SQLite. machines: names of the Kubernetes Nodes, None on SQLite.
    orphans: blocks without a node, as (node, CIDR), which only a damaged SQLite file has.
    """

    where: str
    nodes: tuple[Node, ...] = ()
    pools: tuple[PoolSpec, ...] = ()
    pool_objects: tuple[dict[str, Any], ...] = ()
    kept: tuple[Kept, ...] = ()
    mode: str = ""
    recorded: tuple[PoolSpec, ...] = ()
    machines: frozenset[str] | None = None
    collectable: frozenset[str] = frozenset()
    orphans: tuple[tuple[str, Cidr | None], ...] = ()
    leader: Leader | None = Leader()
    """None: it could not be read."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with the store itself."""

    @property
    def on_kubernetes(self) -> bool:
        return self.machines is not None

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)


class Serving(msgspec.Struct, frozen=True):
    """What serves a store: the mode, its pools, and how the mode is set."""

    mode: str
    pools: tuple[PoolSpec, ...]
    settings: Settings


def of_sqlite(store: SqliteStore, lease: str) -> Snapshot:
    """The picture of an embedded store. Raises Unavailable, and Invalid where a row that matters cannot be read."""
    from .sqlite import blocks
    from .sqlite import lease as leases
    from .sqlite.values import Recorded

    with store.reading() as db:
        kept, findings = store.readable_kept()
        recorded = Recorded()
        try:
            recorded = store.settings()
        except Invalid as error:
            text, _, hint = str(error).rpartition(": ")
            findings += (Finding("SettingsUnreadable", ("Table/settings",), text, hint, severity="error"),)
        stray = db.execute(
            f"SELECT {blocks.COLUMNS} FROM grants g LEFT JOIN nodes n ON n.name = g.node WHERE n.name IS NULL ORDER BY g.id"
        ).fetchall()
        return Snapshot(
            where=f"store {store.path}",
            nodes=store.nodes(),
            pools=store.pools(),
            kept=kept,
            mode=recorded.mode,
            recorded=recorded.pools,
            orphans=tuple((row[0], block.cidr if (block := blocks.block_of(row)) else None) for row in stray),
            leader=leader_of(leases.read(store, lease)),
            findings=findings,
        )


def leader_of(held: Held | None) -> Leader:
    """Who holds a lease, and until when."""
    if held is None or not held.record.holder:
        return Leader()
    try:
        renewed = datetime.datetime.fromisoformat(held.record.renewed).timestamp()
    except ValueError:
        renewed = 0.0
    return Leader(held.record.holder, renewed + held.record.duration_s)


def serving(config: Config, snapshot: Snapshot) -> Serving:
    """What serves the store: the configuration; and on SQLite, where it says nothing of pools, what the operator recorded."""
    if find(config.ipam).reads_pools:
        return Serving(config.ipam, snapshot.pools, settings(config))
    given = any(
        source != "default" and key.startswith(("cluster-pool-", "enable-ip"))
        for key, source in config.sources.items()
    )
    if given or config.ipam != snapshot.mode or not snapshot.recorded:
        return Serving(config.ipam, pool_specs(config), settings(config))
    there = {each.cidr.family for spec in snapshot.recorded for each in spec.ranges}
    families = tuple(family for family in FAMILIES if family in there)
    return Serving(
        config.ipam, snapshot.recorded, msgspec.structs.replace(settings(config), families=families)
    )


def restored(snapshot: Snapshot, serving: Serving, now: float) -> Allocator:
    """An allocator that knows all that the store holds. Raises Invalid where the mode or its pools make no sense."""
    provider = find(serving.mode)
    if provider.reads_machines and not snapshot.on_kubernetes:
        raise Invalid(
            f"ipam: mode {serving.mode} takes pod CIDRs from Kubernetes Nodes, and {snapshot.where} has none;"
            " use --store kubernetes, or another mode"
        )
    allocator = provider.build(serving.settings)
    allocator.restore(snapshot.nodes, serving.pools, snapshot.kept, now)
    return allocator


def foresee(allocator: Allocator, now: float) -> dict[str, Plan]:
    """Plans and starts whatever is due, each with what the ones before left, in the operator's order; by node."""
    plans: dict[str, Plan] = {}
    while names := [name for name in allocator.due(now) if name not in plans]:
        for name in names:
            plans[name] = allocator.plan(name, now)
            allocator.start(plans[name], now)
    return plans
