"""The node's CiliumNode where a mode grants blocks: written with the version as precondition, and with what else the mode wants there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from omnipam.core.errors import NotFound
from omnipam.core.values import Node

from ..kube import ciliumnode, poolednode
from ..kube.ciliumnode import Form
from ..kube.rest import Api
from .kube_object import KubeObject, Machine, encode
from .side import Report


class UsedStatus(ciliumnode.IpamStatus, frozen=True, gc=False):
    used: dict[str, Any] | None = None
    ipv6_used: dict[str, Any] | None = msgspec.field(name="ipv6-used", default=None)


class ShownStatus(ciliumnode.Status, frozen=True, gc=False):
    ipam: UsedStatus | None = None


class Shown(poolednode.PooledNode, frozen=True, gc=False):
    """The CiliumNode, as its own agent reads it in any mode."""

    status: ShownStatus | None = None


class KubeSide(KubeObject[Shown]):
    """mode: kubernetes mirrors the Node's podCIDRs, multi-pool uses `spec.ipam.pools`, cluster-pool waits for `podCIDRs`."""

    def __init__(self, api: Api, name: str, *, mode: str, default_pool: str) -> None:
        self._mode = mode
        self._pooled = mode == "multi-pool"
        form: Form = poolednode.Pooled(default_pool=default_pool) if self._pooled else ciliumnode.PodCidrs()
        super().__init__(api, name, Shown, form)
        self._given: list[str] = []  # kubernetes mode: what the Node has, as far as we know

    async def create(self, report: Report) -> Node | None:
        try:
            machine = await self.machine()
        except NotFound:
            return None
        spec: dict[str, object] = {}
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
        return await self._post(machine, spec)

    async def write(self, node: Node, report: Report) -> Node:
        metadata = {"resourceVersion": node.version, "uid": node.uid}
        if not self._pooled:
            states: dict[str, object] = {str(cidr): {"status": state} for cidr, state in report.states}
            for cidr in (*node.agent.depleted, *node.agent.released):
                states.setdefault(str(cidr), None)
            body: dict[str, object] = {"metadata": metadata, "status": {"ipam": {"pod-cidrs": states}}}
            return self._decoded(await self._api.merge_patch(f"{self._path}/status", encode(body)))
        pools: dict[str, object] = {"requested": poolednode.requested_of(report.demand)}
        blocks = report.shown_blocks(node)
        if report.given_up or report.lacking(node):
            pools["allocated"] = poolednode.entries_of(blocks, node.holds.opaque)
        body = {"metadata": metadata, "spec": {"ipam": {"pools": pools}}}
        return self._decoded(await self._api.merge_patch(self._path, encode(body)))

    # -- what the object should show beside the agent's report

    def _wants_mending(self, shown: Shown) -> bool:
        return bool(self._stale_usage(shown)) or self._differs(shown)

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

    def _hides(self, body: bytes) -> bool:
        return self._mirrors and self._is_foreign(self._decoder.decode(body))

    async def _mended(self, shown: Shown, show: Callable[[Shown], None]) -> bool:
        """Answers whether there is nothing left to do in this version of the object."""
        if usage := self._stale_usage(shown):
            await self._api.merge_patch(f"{self._path}/status", encode({"status": {"ipam": usage}}))
        if not self._differs(shown):
            return True
        self._given = self._mirrored(await self.machine())
        if self._given and self._differs(shown):
            version = {"resourceVersion": shown.metadata.resource_version}
            body = {"metadata": version, "spec": {"ipam": {"podCIDRs": self._given}}}
            await self._api.merge_patch(self._path, encode(body))
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


def _cidrs(shown: Shown) -> list[str]:
    ipam = shown.spec.ipam if shown.spec is not None else None
    return list((ipam.pod_cidrs if ipam is not None else None) or ())
