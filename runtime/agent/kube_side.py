"""The node's CiliumNode: made with its Node's labels and addresses, followed, and written with the version as precondition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

import msgspec

from omnipam.core.errors import Invalid, NotFound, OutcomeUnknown
from omnipam.core.values import Node

from ..kube import ciliumnode, poolednode
from ..kube.ciliumnode import Form
from ..kube.errors import AlreadyExists
from ..kube.join import CILIUM_NODES, NODES
from ..kube.meta import ObjectMeta
from ..kube.reflector import Deleted, Event, Listed, Reflector, Synced
from ..kube.rest import Api
from ..kube.watch import Changed, Unreadable
from .side import Report


class NodeAddress(msgspec.Struct, frozen=True):
    type: str = ""
    address: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    addresses: list[NodeAddress] | None = None


class NodeSpec(msgspec.Struct, frozen=True):
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    provider_id: str | None = msgspec.field(name="providerID", default=None)


class Machine(msgspec.Struct, frozen=True):
    """`v1` Node, as far as its CiliumNode tells of it."""

    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec | None = None
    status: NodeStatus | None = None

    @property
    def addresses(self) -> list[NodeAddress]:
        listed = (self.status.addresses if self.status else None) or []
        return [each for each in listed if each.type in ("InternalIP", "ExternalIP")]


DEFINED_S = 1.0

_machine = msgspec.json.Decoder(Machine)
_encode = msgspec.json.Encoder().encode


async def once_defined(follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Follows a resource whose definition the operator may yet have to install."""
    while True:
        try:
            return await follow()
        except NotFound:
            await asyncio.sleep(DEFINED_S)


class KubeSide:
    """mode: kubernetes mirrors the Node's podCIDRs, multi-pool uses `spec.ipam.pools`, cluster-pool waits for `podCIDRs`."""

    def __init__(
        self,
        api: Api,
        name: str,
        *,
        mode: str,
        default_pool: str,
    ) -> None:
        self._api, self.name, self._mode = api, name, mode
        self._path = f"{CILIUM_NODES}/{quote(name, safe='')}"
        self._pooled = mode == "multi-pool"
        self._form: Form = (
            poolednode.Pooled(default_pool=default_pool) if self._pooled else ciliumnode.PodCidrs()
        )
        self._decoder = msgspec.json.Decoder(self._form.struct)

    async def machine(self) -> Machine:
        """The Node. Raises NotFound, Retryable, Denied."""
        return _machine.decode(await self._api.get(f"{NODES}/{quote(self.name, safe='')}"))

    async def follow(self, seen: Callable[[Node | None], None]) -> None:
        there = False

        def event(told: Event[Any]) -> None:
            nonlocal there
            match told:
                case Listed(objects):
                    for each in objects:
                        there = True
                        seen(self._form.node(each, own_addresses=True))
                case Changed(each):
                    there = True
                    seen(self._form.node(each, own_addresses=True))
                case Deleted():
                    there = False
                    seen(None)
                case Unreadable(raw=raw, why=why):
                    there = True
                    seen(self._form.salvaged(raw, why))
                case Synced():
                    if not there:
                        seen(None)

        query = f"fieldSelector=metadata.name%3D{quote(self.name, safe='')}"
        await once_defined(
            lambda: Reflector(self._api, CILIUM_NODES, self._form.struct, event, query=query).run()
        )

    async def read(self) -> Node | None:
        try:
            return self._decoded(await self._api.get(self._path))
        except NotFound:
            return None

    async def create(self, report: Report) -> Node | None:
        try:
            machine = await self.machine()
        except NotFound:
            return None
        spec: dict[str, object] = {
            "addresses": [{"type": each.type, "ip": each.address} for each in machine.addresses]
        }
        if self._pooled:
            pools: dict[str, object] = {"requested": poolednode.requested_of(report.demand)}
            if report.held:
                pools["allocated"] = poolednode.entries_of(report.held)
            spec["ipam"] = {"pools": pools}
        else:
            cidrs = [str(block.cidr) for block in sorted(report.held, key=lambda block: block.cidr)]
            spec["ipam"] = {"podCIDRs": cidrs or self._mirrored(machine)} if cidrs or self._mirrors else {}
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": machine.metadata.uid}
        body = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {
                "name": self.name,
                "labels": machine.metadata.labels or {},
                "ownerReferences": [owner],
            },
            "spec": spec,
        }
        try:
            return self._decoded(await self._api.create(CILIUM_NODES, _encode(body)))
        except AlreadyExists:
            return None

    async def write(self, node: Node, report: Report) -> Node:
        metadata = {"resourceVersion": node.version, "uid": node.uid}
        if not self._pooled:
            states: dict[str, object] = {str(cidr): {"status": state} for cidr, state in report.states}
            for cidr in (*node.agent.depleted, *node.agent.released):
                states.setdefault(str(cidr), None)
            body: dict[str, object] = {"metadata": metadata, "status": {"ipam": {"pod-cidrs": states}}}
            return self._decoded(await self._api.merge_patch(f"{self._path}/status", _encode(body)))
        pools: dict[str, object] = {"requested": poolednode.requested_of(report.demand)}
        blocks = report.shown_blocks(node)
        if report.given_up or report.lacking(node):
            pools["allocated"] = poolednode.entries_of(blocks, node.holds.opaque)
        body = {"metadata": metadata, "spec": {"ipam": {"pools": pools}}}
        return self._decoded(await self._api.merge_patch(self._path, _encode(body)))

    @property
    def _mirrors(self) -> bool:
        return self._mode == "kubernetes"

    def _mirrored(self, machine: Machine) -> list[str]:
        spec = machine.spec
        if not self._mirrors or spec is None:
            return []
        return list(spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else []))

    def _decoded(self, body: bytes) -> Node:
        try:
            return self._form.node(self._decoder.decode(body), own_addresses=True)
        except msgspec.MsgspecError as error:
            try:
                return self._form.salvaged(body, str(error))
            except Invalid as bad:
                raise OutcomeUnknown(f"CiliumNode {self.name}: the answer cannot be read ({bad})") from error
