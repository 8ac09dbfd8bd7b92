"""Pods of this node, namespaces and pools as the API server has them: where a pod's pool and its being alive are told from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
import structlog

from omnipam.core.cidr import FAMILIES, Cidr, Family
from omnipam.core.errors import Invalid, NotFound

from ..kube.ciliumnode import addresses_of
from ..kube.meta import ObjectMeta
from ..kube.podippool import POOLS
from ..kube.reflector import Deleted, Event, Listed, Reflector, Synced
from ..kube.rest import Api
from ..kube.watch import Changed, Unreadable
from ..together import Together
from .kube_object import once_defined
from .placing import Placement
from .selection import (
    SKIP_MASQUERADE,
    LabelSelector,
    Marked,
    SelectingPool,
    Unknown,
    read_owner,
    select,
    selector_of,
)

PODS, NAMESPACES = "/api/v1/pods", "/api/v1/namespaces"
STATEFUL = "StatefulSet"


class PodIp(msgspec.Struct, frozen=True):
    ip: str = ""


class PodStatus(msgspec.Struct, frozen=True):
    phase: str = ""
    pod_ips: list[PodIp] | None = msgspec.field(name="podIPs", default=None)


class PodSpec(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(name="nodeName", default="")
    host_network: bool = msgspec.field(name="hostNetwork", default=False)


class Pod(msgspec.Struct, frozen=True):
    """`v1` Pod."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def name(self) -> tuple[str, str]:
        return self.metadata.namespace, self.metadata.name

    @property
    def addresses(self) -> tuple[Cidr, ...]:
        """Empty for one in the host's network, and one that has ended."""
        if self.spec.host_network or self.status.phase in ("Succeeded", "Failed"):
            return ()
        return addresses_of([each.ip for each in self.status.pod_ips or ()])

    @property
    def marked(self) -> Marked:
        return Marked(self.metadata.labels or {}, self.metadata.annotations or {})

    @property
    def is_stateful(self) -> bool:
        return any(each.kind == STATEFUL for each in self.metadata.owner_references or ())


class Namespace(msgspec.Struct, frozen=True):
    """`v1` Namespace."""

    metadata: ObjectMeta = ObjectMeta()


class PoolSpec(msgspec.Struct, frozen=True):
    ipv4: dict[str, Any] | None = None
    ipv6: dict[str, Any] | None = None
    pods: LabelSelector | None = msgspec.field(name="podSelector", default=None)
    namespaces: LabelSelector | None = msgspec.field(name="namespaceSelector", default=None)


class Pool(msgspec.Struct, frozen=True):
    """CiliumPodIPPool, as agents read it."""

    metadata: ObjectMeta = ObjectMeta()
    spec: PoolSpec = PoolSpec()


_pod = msgspec.json.Decoder(Pod)
_namespace = msgspec.json.Decoder(Namespace)


class KubePods:
    """Fills `placing.Pods`.

    pooled: pods choose among pools; else all that matters of one is whether it is there. sticky: pods of StatefulSets keep theirs.
    known: told which pools there are, with their families.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        pooled: bool,
        default_pool: str,
        sticky: bool,
        known: Callable[[Mapping[str, frozenset[Family]]], None],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._api, self._node, self._pooled, self._sticky = api, node, pooled, sticky
        self.default_pool = default_pool
        self._known, self._log = known, log
        self._pods: dict[tuple[str, str], Pod] = {}
        self._namespaces: dict[str, Marked] = {}
        self._pools: dict[str, SelectingPool] = {}
        self._pools_synced = False
        self.synced = asyncio.Event()
        """Set once the node's pods have been listed."""

    async def run(self) -> None:
        """Follows all of it, until cancelled. Raises Denied where a right is missing."""
        query = f"fieldSelector=spec.nodeName%3D{quote(self._node, safe='')}"
        async with Together() as together:
            together.start(Reflector(self._api, PODS, Pod, self._pod_event, query=query).run())
            if self._pooled:
                together.start(Reflector(self._api, NAMESPACES, Namespace, self._namespace_event).run())
                together.start(
                    once_defined(lambda: Reflector(self._api, POOLS, Pool, self._pool_event).run())
                )
            await together.first_error()

    # -- for allocations

    def place(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement | None:
        name = read_owner(owner)
        if name is None or not (self._pooled or self._sticky):
            return Placement(dict.fromkeys(families, self.default_pool))
        pod = self._pods.get(name)
        if pod is None or (uid and pod.metadata.uid != uid):
            return None  # the watch may be behind
        if self._pooled and not self._pools_synced:
            raise Unknown("ipam-metadata-manager has not synced all pod IP pools yet")
        if self._pooled and name[0] not in self._namespaces:
            return None
        return self._placed(owner, name, families, pod, self._namespaces.get(name[0]))

    async def ask(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement:
        name = read_owner(owner)
        assert name is not None
        pod = await self.look(name)
        if pod is None or (uid and pod.metadata.uid != uid):
            raise Unknown(
                f'unable to determine IPAM pool for owner "{owner}": resource Pod "{owner}" not found'
            )
        namespace = self._namespaces.get(name[0])
        if namespace is None and self._pooled:
            try:
                found = _namespace.decode(await self._api.get(f"{NAMESPACES}/{quote(name[0], safe='')}"))
                namespace = Marked(found.metadata.labels or {}, found.metadata.annotations or {})
            except (NotFound, msgspec.MsgspecError):
                pass  # selection says what is missing, if it needs it
        return self._placed(owner, name, families, pod, namespace)

    def _placed(
        self,
        owner: str,
        name: tuple[str, str],
        families: tuple[Family, ...],
        pod: Pod,
        namespace: Marked | None,
    ) -> Placement:
        sticky = self._sticky and pod.is_stateful
        if not self._pooled:
            return Placement(dict.fromkeys(families, self.default_pool), sticky)
        try:
            pools = {
                family: select(family, name, pod.marked, namespace, self._pools.values(), self.default_pool)
                for family in families
            }
        except (Invalid, Unknown) as error:
            raise type(error)(f'unable to determine IPAM pool for owner "{owner}": {error}') from None
        return Placement(pools, sticky)

    def skips_masquerade(self, pool: str) -> bool:
        found = self._pools.get(pool)
        return found is not None and found.skip_masquerade

    # -- for leaks and recovery

    def live(self) -> Mapping[tuple[str, str], Pod]:
        """The pods of this node, by namespace and name, as the watch has them."""
        return self._pods

    async def look(self, name: tuple[str, str]) -> Pod | None:
        """The pod as it is now, on whatever node. Raises Retryable, Denied."""
        path = f"/api/v1/namespaces/{quote(name[0], safe='')}/pods/{quote(name[1], safe='')}"
        try:
            return _pod.decode(await self._api.get(path))
        except NotFound:
            return None

    async def is_there(self, name: tuple[str, str]) -> bool:
        """Whether it is a pod of this node, by asking. An answer that cannot be read counts as yes."""
        try:
            pod = await self.look(name)
        except msgspec.MsgspecError:
            return True
        return pod is not None and pod.spec.node_name in ("", self._node)

    # -- what is followed

    def _pod_event(self, event: Event[Pod]) -> None:
        match event:
            case Listed(objects):
                self._pods.update((pod.name, pod) for pod in objects)
            case Changed(pod):
                self._pods[pod.name] = pod
            case Deleted(namespace, name):
                self._pods.pop((namespace, name), None)
            case Synced():
                self.synced.set()

    def _namespace_event(self, event: Event[Namespace]) -> None:
        match event:
            case Listed(objects):
                for each in objects:
                    self._namespace(each)
            case Changed(each):
                self._namespace(each)
            case Deleted(name=name):
                self._namespaces.pop(name, None)

    def _namespace(self, namespace: Namespace) -> None:
        metadata = namespace.metadata
        self._namespaces[metadata.name] = Marked(metadata.labels or {}, metadata.annotations or {})

    def _pool_event(self, event: Event[Pool]) -> None:
        match event:
            case Listed(objects):
                for each in objects:
                    self._pool(each)
            case Changed(each):
                self._pool(each)
            case Deleted(name=name):
                self._pools.pop(name, None)
            case Unreadable(name=name, why=why):
                self._log.warning("pool cannot be read: what it said before stays", pool=name, why=why)
            case Synced():
                self._pools_synced = True
        if self._pools_synced:
            self._known({pool.name: pool.families for pool in self._pools.values()})

    def _pool(self, pool: Pool) -> None:
        name, spec = pool.metadata.name, pool.spec
        families = frozenset(family for family in FAMILIES if getattr(spec, family) is not None)
        skips = (pool.metadata.annotations or {}).get(SKIP_MASQUERADE) == "true"
        before = self._pools.get(name)
        try:
            made = SelectingPool(name, families, selector_of(spec.pods), selector_of(spec.namespaces), skips)
        except Invalid as error:
            self._log.warning("pool selects as before", pool=name, why=str(error))
            made = SelectingPool(
                name, families, before.pods if before else None, before.namespaces if before else None, skips
            )
        self._pools[name] = made
