"""The node's CiliumNode: made with its Node's labels and addresses, followed, and written with the version as precondition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

import msgspec

from omnipam.core.errors import Conflict, Invalid, NotFound, OmnipamError, OutcomeUnknown
from omnipam.core.values import Node

from ..kube import ciliumnode, poolednode
from ..kube.ciliumnode import Form
from ..kube.errors import AlreadyExists
from ..kube.join import CILIUM_NODES, NODES
from ..kube.meta import ObjectMeta
from ..kube.reflector import Deleted, Event, Listed, Reflector, Synced
from ..kube.rest import Api
from ..kube.watch import Changed, Unreadable
from ..together import Together
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


class UsedStatus(ciliumnode.IpamStatus, frozen=True, gc=False):
    used: dict[str, Any] | None = None
    ipv6_used: dict[str, Any] | None = msgspec.field(name="ipv6-used", default=None)


class ShownStatus(ciliumnode.Status, frozen=True, gc=False):
    ipam: UsedStatus | None = None


class Shown(poolednode.PooledNode, frozen=True, gc=False):
    """The CiliumNode, as its own agent reads it in any mode."""

    status: ShownStatus | None = None


DEFINED_S = 1.0
MEND_S = 5.0
"""How long after a look at what cannot be mended yet, a Node without podCIDRs for instance."""

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
        self._decoder = msgspec.json.Decoder(Shown)
        self._shown: Shown | None = None
        self._to_mend = asyncio.Event()
        self._given: list[str] = []  # kubernetes mode: what the Node has, as far as we know

    async def machine(self) -> Machine:
        """The Node. Raises NotFound, Retryable, Denied."""
        return _machine.decode(await self._api.get(f"{NODES}/{quote(self.name, safe='')}"))

    async def follow(self, seen: Callable[[Node | None], None]) -> None:
        there = False

        def show(each: Shown) -> None:
            nonlocal there
            there = True
            self._look(each)
            if not self._is_foreign(each):
                seen(self._form.node(each, own_addresses=True))

        def event(told: Event[Any]) -> None:
            nonlocal there
            match told:
                case Listed(objects):
                    for each in objects:
                        show(each)
                case Changed(each):
                    show(each)
                case Deleted():
                    there = False
                    self._to_mend.clear()
                    seen(None)
                case Unreadable(raw=raw, why=why):
                    there = True
                    seen(self._form.salvaged(raw, why))
                case Synced():
                    if not there:
                        seen(None)

        query = f"fieldSelector=metadata.name%3D{quote(self.name, safe='')}"
        async with Together() as together:
            together.start(
                once_defined(lambda: Reflector(self._api, CILIUM_NODES, Shown, event, query=query).run())
            )
            together.start(self._mend(show))
            await together.first_error()

    async def read(self) -> Node | None:
        try:
            body = await self._api.get(self._path)
        except NotFound:
            return None
        if self._mirrors and self._is_foreign(self._decoder.decode(body)):
            return None  # not before it is mended
        return self._decoded(body)

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
            self._given = self._mirrored(machine)
            held = [str(block.cidr) for block in sorted(report.held, key=lambda block: block.cidr)]
            cidrs = self._given if self._mirrors else held
            spec["ipam"] = {"podCIDRs": cidrs} if cidrs or self._mirrors else {}
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

    # -- what the object should show beside the agent's report

    def _look(self, shown: Shown) -> None:
        """Whether something of it is to be mended."""
        self._shown = shown
        if self._stale_usage(shown) or self._differs(shown):
            self._to_mend.set()
        else:
            self._to_mend.clear()

    def _stale_usage(self, shown: Shown) -> dict[str, None]:
        """`used` of a time in another mode: while it is there, an operator takes the agent for one that has no pools."""
        ipam = shown.status.ipam if self._pooled and shown.status is not None else None
        fields = {"used": ipam.used, "ipv6-used": ipam.ipv6_used} if ipam is not None else {}
        return {name: None for name, value in fields.items() if value}

    def _differs(self, shown: Shown) -> bool:
        """Whether it shows not what Kubernetes gave the Node: it had nothing yet, or the object is of a time in another mode."""
        return self._mirrors and (not self._given or sorted(_cidrs(shown)) != sorted(self._given))

    def _is_foreign(self, shown: Shown) -> bool:
        """Whether it shows ranges that are not known to be the Node's: another node may have them."""
        return bool(_cidrs(shown)) and self._differs(shown)

    async def _mend(self, show: Callable[[Shown], None]) -> None:
        while True:
            await self._to_mend.wait()
            shown = self._shown
            try:
                mended = shown is None or await self._mended(shown, show)
            except (Conflict, NotFound):
                mended = True  # the watch will show what there is now
            except OmnipamError:
                mended = False  # what it is, the agent's next write says as well
            if mended and shown is self._shown:
                self._to_mend.clear()
            elif not mended:
                await asyncio.sleep(MEND_S)

    async def _mended(self, shown: Shown, show: Callable[[Shown], None]) -> bool:
        """Answers whether there is nothing left to do in this version of the object."""
        if usage := self._stale_usage(shown):
            await self._api.merge_patch(f"{self._path}/status", _encode({"status": {"ipam": usage}}))
        if not self._differs(shown):
            return True
        self._given = self._mirrored(await self.machine())
        if self._given and self._differs(shown):
            version = {"resourceVersion": shown.metadata.resource_version}
            body = {"metadata": version, "spec": {"ipam": {"podCIDRs": self._given}}}
            await self._api.merge_patch(self._path, _encode(body))
        elif self._given and shown is self._shown:
            show(shown)  # it was held back until it was known to be right
        return bool(self._given)

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


def _cidrs(shown: Shown) -> list[str]:
    ipam = shown.spec.ipam if shown.spec is not None else None
    return list((ipam.pod_cidrs if ipam is not None else None) or ())
