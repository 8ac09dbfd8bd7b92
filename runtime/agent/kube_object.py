"""A node's own CiliumNode: read, followed, made with its Node's labels and addresses, and mended. What it says is its mode's affair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from omnipam.core.errors import Conflict, Invalid, NotFound, OmnipamError, OutcomeUnknown
from omnipam.core.values import Node

from ..kube.ciliumnode import CiliumNode
from ..kube.errors import AlreadyExists
from ..kube.join import CILIUM_NODES, NODES
from ..kube.meta import ObjectMeta
from ..kube.reflector import Deleted, Event, Listed, Reflector, Synced
from ..kube.rest import Api
from ..kube.watch import Changed, Unreadable
from ..together import Together


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
MEND_S = 5.0
"""How long after a look at what cannot be mended yet, a Node without podCIDRs for instance."""

T = TypeVar("T", bound=CiliumNode)

_machine = msgspec.json.Decoder(Machine)
encode = msgspec.json.Encoder().encode


class Meaning(Protocol):
    """What such an object says."""

    def node(self, source: CiliumNode, *, own_addresses: bool) -> Node: ...
    def salvaged(self, raw: bytes, why: str) -> Node: ...


async def once_defined(follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Follows a resource whose definition the operator may yet have to install."""
    while True:
        try:
            return await follow()
        except NotFound:
            await asyncio.sleep(DEFINED_S)


class KubeObject(Generic[T]):
    """type_: what is decoded of it. form: what that means."""

    def __init__(self, api: Api, name: str, type_: type[T], form: Meaning) -> None:
        self._api, self.name = api, name
        self._path = f"{CILIUM_NODES}/{quote(name, safe='')}"
        self._type, self._form = type_, form
        self._decoder = msgspec.json.Decoder(type_)
        self._shown: T | None = None
        self._to_mend = asyncio.Event()

    async def machine(self) -> Machine:
        """The Node. Raises NotFound, Retryable, Denied."""
        return _machine.decode(await self._api.get(f"{NODES}/{quote(self.name, safe='')}"))

    async def follow(self, seen: Callable[[Node | None], None]) -> None:
        there = False

        def show(each: T) -> None:
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
                once_defined(lambda: Reflector(self._api, CILIUM_NODES, self._type, event, query=query).run())
            )
            together.start(self._mend(show))
            await together.first_error()

    async def read(self) -> Node | None:
        try:
            body = await self._api.get(self._path)
        except NotFound:
            return None
        return None if self._hides(body) else self._decoded(body)

    # -- for the mode to say

    def _wants_mending(self, shown: T) -> bool:
        """Whether something is to be mended that is no part of the agent's report."""
        raise NotImplementedError

    async def _mended(self, shown: T, show: Callable[[T], None]) -> bool:
        """Mends it. Answers whether there is nothing left to do in this version of the object."""
        raise NotImplementedError

    def _is_foreign(self, shown: T) -> bool:
        """Whether it shows what may be another's, so that nobody may see it before it is mended."""
        return False

    def _hides(self, body: bytes) -> bool:
        """Whether that is so of an object as it was read."""
        return False

    def _cannot_mend(self, error: OmnipamError) -> None:
        """It is tried again."""

    # -- within

    async def _post(self, machine: Machine, spec: dict[str, object]) -> Node | None:
        """Makes the object, owned by its Node. None: somebody was faster."""
        addresses = [{"type": each.type, "ip": each.address} for each in machine.addresses]
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": machine.metadata.uid}
        body = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNode",
            "metadata": {
                "name": self.name,
                "labels": machine.metadata.labels or {},
                "ownerReferences": [owner],
            },
            "spec": {"addresses": addresses, **spec},
        }
        try:
            return self._decoded(await self._api.create(CILIUM_NODES, encode(body)))
        except AlreadyExists:
            return None

    def _look(self, shown: T) -> None:
        self._shown = shown
        if self._wants_mending(shown):
            self._to_mend.set()
        else:
            self._to_mend.clear()

    async def _mend(self, show: Callable[[T], None]) -> None:
        while True:
            await self._to_mend.wait()
            shown = self._shown
            try:
                mended = shown is None or await self._mended(shown, show)
            except (Conflict, NotFound):
                mended = True  # the watch will show what there is now
            except OmnipamError as error:
                mended = False
                self._cannot_mend(error)
            if mended and shown is self._shown:
                self._to_mend.clear()
            elif not mended:
                await asyncio.sleep(MEND_S)

    def _decoded(self, body: bytes) -> Node:
        try:
            return self._form.node(self._decoder.decode(body), own_addresses=True)
        except msgspec.MsgspecError as error:
            try:
                return self._form.salvaged(body, str(error))
            except Invalid as bad:
                raise OutcomeUnknown(f"CiliumNode {self.name}: the answer cannot be read ({bad})") from error
