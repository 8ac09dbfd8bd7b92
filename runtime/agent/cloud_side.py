"""The node's CiliumNode in a cloud: made with what its instance is, and written in the form in which its addresses are dealt with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog

from omnipam.core.errors import NotFound, OmnipamError, OutcomeUnknown
from omnipam.core.values import Block, Node
from omnipam.providers.published import Form

from ..kube import interfacenode, poolednode
from ..kube.interfacenode import InterfaceNode, Shown
from ..kube.rest import Api
from ..tree import branch
from .instance import Instance
from .interfaces import InterfacesReport
from .kube_object import KubeObject, Machine, encode
from .side import Report


class CloudSide(KubeObject[InterfaceNode]):
    """form: how its cloud publishes interfaces. instance: what this machine is, asked when the object is made or lacks it."""

    def __init__(
        self,
        api: Api,
        name: str,
        *,
        form: Form,
        instance: Callable[[Machine], Awaitable[Instance]],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        super().__init__(api, name, InterfaceNode, interfacenode.InterfaceForm(form))
        self._ask, self._log = instance, log
        self._instance: Instance | None = None
        self._why = ""

    async def create(self, report: Report) -> Node | None:
        try:
            machine = await self.machine()
        except NotFound:
            return None
        spec = dict((await self._known(machine)).spec)
        if isinstance(report, InterfacesReport) and report.listed is not None:
            pools = {"requested": poolednode.requested_of(report.demand), "allocated": _listed(report.listed)}
            spec["ipam"] = {**branch(spec, "ipam"), "pools": pools}
        return await self._post(machine, spec)

    async def write(self, node: Node, report: Report) -> Node:
        """In an order in which an operator that sees only the first half takes nothing that is in use."""
        if not isinstance(node, Shown) or not isinstance(report, InterfacesReport):
            return node
        spec = self._path, {"spec": self._spec_patch(node, report)}
        status = f"{self._path}/status", {"status": self._status_patch(node, report)}
        # cidrs: blocks are listed before usage goes, since from then on only what is listed is kept.
        # addresses: usage is said before demand goes, since from then on what is not used may be marked.
        written: Node = node
        for path, body in (spec, status) if report.pooled else (status, spec):
            if not any(body.values()):
                continue
            try:
                written = await self._patched(written, path, body)
            except OmnipamError as error:
                if written is node:
                    raise
                raise OutcomeUnknown(f"CiliumNode {self.name}: only half was written ({error})") from error
        return written

    async def _patched(self, node: Node, path: str, body: Mapping[str, object]) -> Node:
        metadata = {"resourceVersion": node.version, "uid": node.uid}
        return self._decoded(await self._api.merge_patch(path, encode({"metadata": metadata, **body})))

    def _spec_patch(self, node: Shown, report: InterfacesReport) -> dict[str, object]:
        if report.pools_shown_by(node):
            return {}
        if not report.pooled:
            return {"ipam": {"pools": {"requested": None}}}
        pools: dict[str, object] = {"requested": poolednode.requested_of(report.demand)}
        if report.listed is not None:
            pools["allocated"] = _listed(report.listed, node.opaque)
        return {"ipam": {"pools": pools}}

    def _status_patch(self, node: Shown, report: InterfacesReport) -> dict[str, object]:
        fields = interfacenode.releases_patch(report.answers)
        if not report.usage_shown_by(node):
            if report.used is None:
                fields |= {"used": None, "ipv6-used": None}
            else:
                used = {address: (owner, resource) for address, owner, resource in report.used}
                fields |= interfacenode.used_patch(used, node.used or (), whole=node.used is None)
        return {"ipam": fields} if fields else {}

    # -- what the object should show beside the agent's report

    def _wants_mending(self, shown: InterfaceNode) -> bool:
        return shown.spec is None or not shown.spec.instance_id

    async def _mended(self, shown: InterfaceNode, show: Callable[[InterfaceNode], None]) -> bool:
        """What its operator must know of the instance, once; what a person has set there stays."""
        instance = await self._known(await self.machine())
        tree: Any = msgspec.json.decode(await self._api.get(self._path))
        there = branch(tree, "spec")
        lacking: dict[str, object] = {"instance-id": instance.instance_id}
        for section, fields in instance.spec.items():
            if isinstance(fields, dict):
                has = branch(there, section)
                lacking[section] = {name: value for name, value in fields.items() if name not in has}
        metadata = {"resourceVersion": branch(tree, "metadata").get("resourceVersion")}
        await self._api.merge_patch(self._path, encode({"metadata": metadata, "spec": lacking}))
        return True

    def _cannot_mend(self, error: OmnipamError) -> None:
        if str(error) != self._why:
            self._why = str(error)
            self._log.warning("the node's object lacks its instance", why=self._why)

    async def _known(self, machine: Machine) -> Instance:
        if self._instance is None:
            self._instance = await self._ask(machine)
        return self._instance


def _listed(blocks: tuple[Block, ...], opaque: bytes = b"") -> list[dict[str, object]]:
    """As Cilium's agent lists them: that first and last addresses are usable goes without saying."""
    return poolednode.entries_of(tuple(Block(block.pool, block.cidr) for block in blocks), opaque)
