"""CiliumNode as modes use it whose addresses belong to a node's interfaces: the pool, its use, its giving back, and the interfaces. Pure.

Source of names and meaning: Cilium's `CiliumNode` v2 (`spec.ipam.pool`, `status.ipam.used`, `status.ipam.release-ips`, and their IPv6
twins; `status.eni` and its like), as its CRD allocator uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from omnipam.core.cidr import Cidr, format_address, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.values import DEFAULT_POOL, Block, Held, Node, Problem
from omnipam.providers.published import Form

from . import ciliumnode, poolednode
from .ciliumnode import UNREADABLE, CiliumNode, IpamStatus, Status
from .errors import one_line
from .poolednode import PooledIpam, PooledNode, PooledSpec

USED = {32: "used", 128: "ipv6-used"}
RELEASES = {32: "release-ips", 128: "release-ipv6s"}
"""Fields of `status.ipam`, by the width of their addresses."""
NOTHING = msgspec.Raw(b"{}")

V = TypeVar("V")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One address of `pool` or `used`. owner: whose it is; resource: its interface."""

    owner: str = ""
    resource: str = ""


class InterfaceIpam(PooledIpam, frozen=True, gc=False):
    pool: dict[str, Entry | None] | None = None
    ipv6_pool: dict[str, Entry | None] | None = msgspec.field(name="ipv6-pool", default=None)
    pre_allocate: int | None = msgspec.field(name="pre-allocate", default=None)


class InterfaceSpec(PooledSpec, frozen=True):
    ipam: InterfaceIpam | None = None
    eni: msgspec.Raw = NOTHING
    azure: msgspec.Raw = NOTHING
    alibaba_cloud: msgspec.Raw = msgspec.field(name="alibaba-cloud", default=NOTHING)


class InterfaceIpamStatus(IpamStatus, frozen=True, gc=False):
    used: dict[str, Entry | None] | None = None
    ipv6_used: dict[str, Entry | None] | None = msgspec.field(name="ipv6-used", default=None)
    release_ips: dict[str, str | None] | None = msgspec.field(name="release-ips", default=None)
    release_ipv6s: dict[str, str | None] | None = msgspec.field(name="release-ipv6s", default=None)


class InterfaceStatus(Status, frozen=True):
    ipam: InterfaceIpamStatus | None = None
    eni: msgspec.Raw = NOTHING
    azure: msgspec.Raw = NOTHING
    alibaba_cloud: msgspec.Raw = msgspec.field(name="alibaba-cloud", default=NOTHING)


class InterfaceNode(PooledNode, frozen=True):
    """`cilium.io/v2` CiliumNode, as far as these modes read it."""

    spec: InterfaceSpec | None = None
    status: InterfaceStatus | None = None


class Shown(Node, frozen=True):
    """The node with what only its own agent asks of its object.

    owners: of the addresses that `used` has. allocated: blocks that `spec.ipam.pools.allocated` shows; opaque: what else it says.
    pre_allocate: `spec.ipam.pre-allocate`; 0: it says none. odd: what could not be read, and does no harm but be missing.
    """

    owners: tuple[tuple[Cidr, str], ...] = ()
    allocated: tuple[Block, ...] = ()
    opaque: bytes = b""
    pre_allocate: int = 0
    odd: tuple[Problem, ...] = ()

    @property
    def pools_agent(self) -> bool:
        """Whether its agent takes whole blocks, as Cilium's operator tells it."""
        return bool(self.demand) and not self.used


class InterfaceForm:
    """The form of such a mode. form: where and how its cloud publishes interfaces."""

    struct = InterfaceNode

    def __init__(self, form: Form) -> None:
        self._form = form
        self._attribute = form.field.replace("-", "_")
        self._pooled = poolednode.Pooled()

    def node(self, source: CiliumNode, *, own_addresses: bool) -> Node:
        """Its blocks are the addresses of the pool, whether their interface is known or not."""
        pooled = self._pooled.node(source, own_addresses=own_addresses)
        if not isinstance(source, InterfaceNode):
            return pooled
        odd = list(pooled.unreadable)
        spec, status = source.spec or InterfaceSpec(), source.status or InterfaceStatus()
        ipam, said = spec.ipam or InterfaceIpam(), status.ipam or InterfaceIpamStatus()
        read = self._form.read(_object(spec, self._attribute), _object(status, self._attribute))
        odd += read.problems
        pool = _addresses((ipam.pool, ipam.ipv6_pool), "spec.ipam.pool", odd)
        used = _addresses((said.used, said.ipv6_used), "status.ipam.used", odd)
        says = said.used is not None or said.ipv6_used is not None
        releases = _addresses((said.release_ips, said.release_ipv6s), "status.ipam.release-ips", odd)
        return Shown(
            name=pooled.name,
            uid=pooled.uid,
            created=pooled.created,
            version=pooled.version,
            ignored=pooled.ignored,
            facts=pooled.facts,
            holds=Held(
                tuple(Block(DEFAULT_POOL, each, True, True) for each in sorted(pool)), pooled.holds.error
            ),
            instance=pooled.instance,
            demand=pooled.demand,
            uplinks=read.uplinks,
            used=tuple(sorted(used)) if says else None,
            releases=tuple(sorted(releases.items())),
            owners=tuple(sorted((address, entry.owner) for address, entry in used.items())),
            allocated=tuple(block for block in pooled.holds.blocks if block.pool),
            opaque=pooled.holds.opaque,
            pre_allocate=max(0, ipam.pre_allocate or 0),
            odd=tuple(odd),
        )

    def salvaged(self, raw: bytes, why: str) -> Node:
        """What can be told of a CiliumNode that does not decode: no `Shown`, since nothing of it can be relied on."""
        return ciliumnode.salvaged(raw, why)


def used_patch(
    used: Mapping[Cidr, tuple[str, str]], shown: Iterable[Cidr], *, whole: bool
) -> dict[str, object]:
    """The merge patch of `status.ipam` that makes `used` say exactly this: owner and interface by address.

    shown: what it says now. whole: it says nothing yet, not even that nothing is used.
    """
    fields: dict[str, dict[str, object]] = {USED[32]: {}} if whole else {}
    for address in sorted({*used, *shown}):
        owner, resource = used.get(address, ("", ""))
        entry = {"owner": owner, "resource": resource} if resource else {"owner": owner}
        fields.setdefault(USED[address.bits], {})[_text(address)] = entry if address in used else None
    return dict(fields)


def releases_patch(answers: Iterable[tuple[Cidr, str]]) -> dict[str, object]:
    """The merge patch of `status.ipam` that says these words; an empty one deletes the entry."""
    fields: dict[str, dict[str, object]] = {}
    for address, word in answers:
        fields.setdefault(RELEASES[address.bits], {})[_text(address)] = word or None
    return dict(fields)


def _text(address: Cidr) -> str:
    return format_address(address.first, address.bits)


def _object(source: msgspec.Struct, attribute: str) -> bytes:
    raw = bytes(getattr(source, attribute))
    return raw if raw != b"null" else b"{}"


def _addresses(
    maps: Iterable[Mapping[str, V | None] | None], where: str, odd: list[Problem]
) -> dict[Cidr, V]:
    """What these maps say of each address. What is no address is noted, and what nothing is said of is left out."""
    found: dict[Cidr, V] = {}
    for each in maps:
        for text, value in (each or {}).items():
            try:
                address = parse_address(text)
            except Invalid as error:
                odd.append(Problem(UNREADABLE, f"{where}: {one_line(str(error))}", "correct it"))
                continue
            if value is not None:
                found[address] = value
    return found
