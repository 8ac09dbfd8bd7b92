"""The join of CiliumNodes with their Nodes, and the pools: their reflectors' events in, the `Sink`'s calls out.

Of each CiliumNode the core Node is remembered, of each Node that it is there (kubernetes mode: what it says), nothing else.
A CiliumNode that vanished while its Node is still there is a node without an object, for its pods still run; what is gone
is said only while it is known for sure which Nodes there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from omnipam.core.errors import Invalid, OmnipamError
from omnipam.core.values import Finding, Node, PoolSpec

from ..garbage import Orphan
from ..store import Sink
from . import ciliumnode, podippool
from .ciliumnode import CiliumNode, Form, PodCidrs
from .machine import Known, Machine, known, unreadable, without_object
from .meta import HasIdentity
from .podippool import POOLS, PodIPPool
from .reflector import Away, Back, Event, Listed, Reflector, Synced
from .rest import Api
from .watch import Changed, Deleted, Unreadable

CILIUM_NODES = "/apis/cilium.io/v2/ciliumnodes"
NODES = "/api/v1/nodes"


class Following:
    """The join of both collections, while they are followed: events in, `Sink` calls out."""

    def __init__(
        self,
        sink: Sink,
        *,
        owed: frozenset[str],
        reads_machines: bool,
        clock: Callable[[], float],
        form: Form | None = None,
        reads_pools: bool = False,
        ends: bool = True,
    ) -> None:
        """form: how the mode uses a CiliumNode. reads_pools: pools are followed, too; ends: as for `podippool.pool_of`."""
        self.sink, self._clock = sink, clock
        self._form: Form = form or PodCidrs()
        self._reads_pools, self._ends = reads_pools, ends
        self._pools: dict[str, PoolSpec] = {}
        self._pool_uids: dict[str, str] = {}
        self._pools_current = not reads_pools
        self._ends_said = False
        self.owed = owed
        """Nodes that something is kept for: of these we must tell whether their machine is there."""
        self._reads_machines = reads_machines
        self._nodes: dict[str, Node] = {}
        """Each CiliumNode as it says, without what its Node adds."""
        self._machines: dict[str, Known] = {}
        self._bereft: dict[str, Node] = {}
        """As last said, the nodes whose CiliumNode is missing and whose machine is there."""
        self._collectable: set[str] = set()
        self._absences: dict[str, int] = {}
        self._undecided: dict[str, str] = {}
        """CiliumNodes (uids) that vanished while it was not known which machines there are."""
        self._machines_current = self._nodes_current = False
        self._listing = True
        self._restored = False
        self.vanished = 0
        """How many CiliumNodes the watch has shown to be gone."""
        self._away: set[str] = set()
        self._machines_listed, self._pools_listed = asyncio.Event(), asyncio.Event()
        self._reflectors: list[Reflector[Any]] = []
        self._since = float("-inf")
        """When the lists that count were asked for: one that began earlier does not end them."""

    async def run(self, api: Api) -> None:
        """Follow until cancelled. Nodes first: a CiliumNode that vanishes between the lists is then judged right."""
        machines: Reflector[HasIdentity] | Reflector[Machine]
        clock = self._clock
        if self._reads_machines:
            machines = Reflector(api, NODES, Machine, self.machine_event, clock=clock)
        else:
            machines = Reflector(api, NODES, HasIdentity, self.machine_event, metadata_only=True, clock=clock)
        nodes: Reflector[CiliumNode] = Reflector(
            api, CILIUM_NODES, self._form.struct, self.node_event, clock=clock
        )
        self._reflectors = [machines, nodes]
        self.sink.listed()

        async def follow_nodes() -> None:
            await self._machines_listed.wait()
            if self._reads_pools:
                await self._pools_listed.wait()
            await nodes.run()

        tasks = [asyncio.ensure_future(machines.run()), asyncio.ensure_future(follow_nodes())]
        if self._reads_pools:
            pools = Reflector(api, POOLS, PodIPPool, self.pool_event, clock=clock)
            self._reflectors.append(pools)
            tasks.append(asyncio.ensure_future(pools.run()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def relist(self) -> None:
        """Begin both lists anew."""
        self._begin()
        self._machines_current = False
        self._pools_current = not self._reads_pools
        self._since = self._clock()
        for reflector in self._reflectors:
            reflector.restart()

    # -- pools

    def pool_event(self, event: Event[PodIPPool]) -> None:
        """One event of the CiliumPodIPPools."""
        match event:
            case Listed(objects):
                for each in objects:
                    self._pool_seen(podippool.pool_of(each, ends=self._ends), each)
                return  # said when the list is complete
            case Changed(object=each):
                self._pool_seen(podippool.pool_of(each, ends=self._ends), each)
            case Unreadable():
                self._pool_uids[event.name] = event.uid
                self._pools[event.name] = podippool.unreadable(PoolSpec(event.name, max_blocks=0), event.why)
            case Deleted(name=name):
                self._pools.pop(name, None)
                self._pool_uids.pop(name, None)
            case Synced(begun_s=begun_s):
                self._pools_listed.set()
                self._pools_current = begun_s >= self._since
                if self._listing:
                    self._settle()  # which says them, as soon as all is complete
                    return
            case Away(error):
                self._trouble(POOLS, error)
                return
            case Back():
                self._recovered(POOLS)
                return
        if not self._listing:
            self._say_pools()

    def _pool_seen(self, spec: PoolSpec, source: PodIPPool) -> None:
        self._pools[spec.name] = spec
        self._pool_uids[spec.name] = source.metadata.uid
        wants_ends = source.spec is not None and (source.spec.first_usable or source.spec.last_usable)
        if wants_ends and not self._ends and not self._ends_said:
            self._ends_said = True
            self.sink.finding(podippool.ends_unsaid())

    def pool_uid(self, name: str) -> str:
        """The uid of a pool that is there; empty for others."""
        return self._pool_uids.get(name, "")

    def _say_pools(self) -> None:
        self.sink.pools(tuple(self._pools[name] for name in sorted(self._pools)))

    # -- Nodes

    def machine_event(self, event: Event[HasIdentity] | Event[Machine]) -> None:
        """One event of the Nodes."""
        match event:
            case Listed(objects):
                for each in objects:
                    self._machine_seen(each)
            case Changed(object=each):
                self._machine_seen(each)
            case Unreadable():
                self._machine_known(
                    event.name, Known(event.uid, unreadable=(unreadable(event.name, event.why),))
                )
            case Deleted(name=name):
                self._machine_gone(name)
            case Synced(begun_s=begun_s):
                self._machines_listed.set()
                self._machines_current = begun_s >= self._since
                self._decide()
                self._settle()
            case Away(error):
                self._machines_current = False
                self._trouble(NODES, error)
            case Back():
                self._machines_current = self._machines_listed.is_set()
                self._recovered(NODES)
                self._decide()
                self._settle()

    def _machine_seen(self, source: HasIdentity | Machine) -> None:
        if isinstance(source, Machine):
            self._machine_known(source.metadata.name, known(source))
        elif source.metadata.name not in self._machines:
            self._machine_known(source.metadata.name, Known(source.metadata.uid))

    def _machine_known(self, name: str, machine: Known) -> None:
        before = self._machines.get(name)
        self._machines[name] = machine
        if machine == before or not self._reads_machines or not self._restored:
            return
        node = self._nodes.get(name)
        if node is not None:
            self.sink.seen(self._join(node))
        else:
            self._say_bereft(name, without_object(name, machine))

    def _machine_gone(self, name: str) -> None:
        if self._machines.pop(name, None) is None:
            return
        node = self._nodes.get(name)
        if node is not None:
            self._absences[name] = self._absences.get(name, 0) + 1
            if self._reads_machines and self._restored:
                self.sink.seen(self._join(node))
        elif (bereft := self._bereft.pop(name, None)) is not None:
            self.sink.gone(name, bereft.uid)

    # -- CiliumNodes

    def node_event(self, event: Event[CiliumNode]) -> None:
        """One event of the CiliumNodes."""
        match event:
            case Listed(objects):
                if not self._listing:
                    self._begin()  # a list that the reflector began by itself
                say, node_of = self.sink.seen, self._node_seen
                for each in objects:
                    say(node_of(each))
            case Changed(object=each):
                metadata = each.metadata
                # In kubernetes mode each state is remembered, to be said again when its Node changes.
                if self._reads_machines or not self.sink.expects(metadata.name, metadata.resource_version):
                    self.sink.seen(self._node_seen(each))
            case Unreadable():
                self._node_unreadable(event)
            case Deleted(name=name, uid=uid):
                self._node_gone(name, uid)
            case Synced(begun_s=begun_s):
                self._nodes_current = begun_s >= self._since
                self._settle()
            case Away(error):
                self._trouble(CILIUM_NODES, error)
            case Back():
                self._recovered(CILIUM_NODES)

    def _node_seen(self, source: CiliumNode) -> Node:
        name = source.metadata.name
        node = self._nodes[name] = self._form.node(source, own_addresses=not self._reads_machines)
        if ciliumnode.is_collectable(source):
            self._collectable.add(name)
        elif name in self._collectable:
            self._collectable.discard(name)
        if self._bereft:
            self._bereft.pop(name, None)
        return self._join(node)

    def _node_unreadable(self, event: Unreadable) -> None:
        try:
            self.sink.seen(self._salvaged(event.raw, event.why))
        except Invalid as exc:
            self.sink.finding(Finding("Unreadable", ("CiliumNode",), str(exc), "delete it"))

    def _salvaged(self, raw: bytes, why: str) -> Node:
        node = self._form.salvaged(raw, why)
        self._nodes[node.name] = node
        self._collectable.discard(node.name)
        self._bereft.pop(node.name, None)
        return self._join(node)

    def _node_gone(self, name: str, uid: str) -> None:
        node = self._nodes.get(name)
        if node is not None and node.uid == uid:
            self.vanished += 1
            if self._machines_current:
                self._lost(name)
            else:
                self._undecided[name] = uid

    def _lost(self, name: str) -> None:
        node = self._nodes.pop(name)
        self._collectable.discard(name)
        self._absences.pop(name, None)
        machine = self._machines.get(name)
        if machine is None:
            self.sink.gone(name, node.uid)
        else:
            self._say_bereft(name, _without(node, machine))

    def _decide(self) -> None:
        if not self._machines_current:
            return
        undecided, self._undecided = self._undecided, {}
        for name, uid in undecided.items():
            node = self._nodes.get(name)
            if node is not None and node.uid == uid:
                self._lost(name)

    # -- both

    def read(self, source: CiliumNode) -> Node:
        """Return a CiliumNode that was read ahead of the watch; older states that the watch still shows do no harm."""
        return self._node_seen(source)

    def read_unreadable(self, raw: bytes, why: str) -> Node:
        """The same, of one that does not decode. Raises Invalid if not even its name can be read."""
        return self._salvaged(raw, why)

    def without_object(self, name: str) -> Node | None:
        """Return the node of a CiliumNode that was found missing; None if its machine is missing too."""
        machine = self._machines.get(name)
        if machine is None:
            return None
        node = self._nodes.get(name) or self._bereft.get(name)
        if node is not None:
            return _without(node, machine)
        return without_object(name, machine) if self._reads_machines or name in self.owed else None

    def orphans(self) -> list[Orphan]:
        """CiliumNodes without Node and owner; none while either collection is not known for sure."""
        if not (self._restored and self._machines_current and self._nodes_current):
            return []
        names = sorted(self._collectable - self._machines.keys())
        return [Orphan(name, self._nodes[name].uid, self._absences.get(name, 0)) for name in names]

    def _join(self, node: Node) -> Node:
        if not self._reads_machines:
            return node
        machine = self._machines.get(node.name)
        if machine is None:
            return node
        unreadable = node.unreadable + machine.unreadable
        return msgspec.structs.replace(node, facts=machine.facts, unreadable=unreadable)

    def _say_bereft(self, name: str, node: Node) -> None:
        before = self._bereft.get(name)
        if before is not None:
            node = msgspec.structs.replace(node, uid=before.uid, created=before.created)
        self._bereft[name] = node
        if node != before:
            self.sink.seen(node)

    def _begin(self) -> None:
        self._listing, self._nodes_current = True, False
        self.sink.listed()

    def _settle(self) -> None:
        """Both lists are complete: say what has no CiliumNode, then that this was all."""
        current = self._machines_current and self._nodes_current and self._pools_current
        if not (current and self._listing):
            return
        self._listing, self._restored = False, True
        if self._reads_pools:
            self._say_pools()
        names = self._machines.keys() if self._reads_machines else self.owed & self._machines.keys()
        for name in names - self._nodes.keys() - self._bereft.keys():
            self._bereft[name] = without_object(name, self._machines[name])
        for name in sorted(self._bereft):
            self.sink.seen(self._bereft[name])
        self.sink.synced()
        for name in sorted(self.owed - self._nodes.keys() - self._machines.keys()):
            self.sink.gone(name, "")
        self.owed = frozenset()

    def _trouble(self, what: str, error: OmnipamError) -> None:
        self._away.add(what)
        if len(self._away) == 1:
            self.sink.away(str(error))

    def _recovered(self, what: str) -> None:
        if what in self._away:
            self._away.discard(what)
            if not self._away:
                self.sink.back()


def _without(node: Node, machine: Known) -> Node:
    """A node whose object vanished, as its machine alone says it."""
    missing = without_object(node.name, machine)
    return msgspec.structs.replace(missing, uid=node.uid, created=node.created)
