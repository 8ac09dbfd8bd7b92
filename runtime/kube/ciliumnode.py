"""CiliumNode as the fields that we use, what they mean to `core`, and the patches that write a grant. Pure.

Source of names and meaning: Cilium's `CiliumNode` v2 (`spec.ipam`, `status.ipam`). A missing field, a null and an empty structure are the same (Cilium's operator writes empty ones). Everything not declared here is
skipped while decoding, and a merge patch leaves it alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.values import (
    DEFAULT_POOL,
    NO_AGENT,
    NO_FACTS,
    NOTHING_HELD,
    Agent,
    Block,
    Facts,
    Held,
    Node,
    Problem,
)

from ..tree import branch
from .errors import one_line

IGNORE = "ipam.cilium.io/ignore"
DO_NOT_GC = "cilium.io/do-not-gc"
UNREADABLE = "Unreadable"
MACHINE_ADDRESSES = frozenset(("InternalIP", "ExternalIP"))  # CiliumInternalIP is out of the pod CIDR


class Address(msgspec.Struct, frozen=True, gc=False):
    """One entry of CiliumNode's `spec.addresses`."""

    ip: str | None = None
    type: str | None = None


class Marks(msgspec.Struct, frozen=True, gc=False):
    """The annotations of a CiliumNode that we read."""

    ignore: str | None = msgspec.field(name=IGNORE, default=None)
    do_not_gc: str | None = msgspec.field(name=DO_NOT_GC, default=None)


class Owner(msgspec.Struct, frozen=True, gc=False):
    """An owner reference; that there is one is all we need."""


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A CiliumNode's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    annotations: Marks | None = None
    owner_references: list[Owner] | None = None


class Ipam(msgspec.Struct, frozen=True, gc=False):
    """CiliumNode's `spec.ipam`."""

    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)


class Spec(msgspec.Struct, frozen=True, gc=False):
    """CiliumNode's `spec`."""

    ipam: Ipam | None = None
    addresses: list[Address] | None = None
    instance_id: str | None = msgspec.field(name="instance-id", default=None)


class PodCidrStatus(msgspec.Struct, frozen=True, gc=False):
    """What the agent says of one of its blocks: `released`, `depleted` or `in-use`."""

    status: str | None = None


class OperatorStatus(msgspec.Struct, frozen=True, gc=False):
    """What the operator says of the last grant."""

    error: str | None = None


class IpamStatus(msgspec.Struct, frozen=True, gc=False):
    """CiliumNode's `status.ipam`."""

    pod_cidrs: dict[str, PodCidrStatus | None] | None = msgspec.field(name="pod-cidrs", default=None)
    operator_status: OperatorStatus | None = msgspec.field(name="operator-status", default=None)


class Status(msgspec.Struct, frozen=True, gc=False):
    """CiliumNode's `status`."""

    ipam: IpamStatus | None = None


class CiliumNode(msgspec.Struct, frozen=True, gc=False):
    """`cilium.io/v2` CiliumNode."""

    metadata: Metadata = Metadata()
    spec: Spec | None = None
    status: Status | None = None


def node(source: CiliumNode, *, own_addresses: bool = True) -> Node:
    """Return the core Node of a CiliumNode. own_addresses: its machine's addresses are those that it lists itself."""
    metadata, spec, status = source.metadata, source.spec, source.status
    unreadable: tuple[Problem, ...] = ()
    holds, agent, facts, instance = NOTHING_HELD, NO_AGENT, NO_FACTS, ""
    blocks: tuple[Block, ...] = ()
    if spec is not None:
        ipam = spec.ipam
        if ipam is not None and ipam.pod_cidrs:
            blocks, unreadable = _blocks(ipam.pod_cidrs, metadata.name)
        if own_addresses and spec.addresses:
            addresses = _addresses(spec.addresses)
            facts = Facts(addresses) if addresses else NO_FACTS
        instance = spec.instance_id or ""
    error = ""
    if status is not None and status.ipam is not None:
        said = status.ipam
        if said.operator_status is not None:
            error = said.operator_status.error or ""
        if said.pod_cidrs:
            agent = _agent(said.pod_cidrs)
    if blocks or error:
        holds = Held(blocks, error)
    marks, created = metadata.annotations, metadata.creation_timestamp
    return Node(
        metadata.name,
        metadata.uid,
        created.timestamp() if created is not None else 0.0,
        metadata.resource_version,
        True,
        marks is not None and is_true(marks.ignore),
        unreadable,
        facts,
        agent,
        holds,
        instance,
    )


def salvaged(raw: bytes, why: str) -> Node:
    """Return what can be told of a CiliumNode that does not decode: its identity, and every CIDR that it may hold.

    Nothing new is given to it, and what it holds is not given to others. Raises Invalid if not even its name can be read.
    """
    try:
        tree = msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        raise Invalid(f"CiliumNode is not JSON ({exc})") from exc
    metadata = branch(tree, "metadata")
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        raise Invalid(f"CiliumNode without a name ({why})")
    listed = branch(tree, "spec", "ipam").get("podCIDRs")
    texts = [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
    blocks, unreadable = _blocks(texts, name)
    error = branch(tree, "status", "ipam", "operator-status").get("error")
    try:
        created = msgspec.convert(metadata.get("creationTimestamp"), datetime).timestamp()
    except msgspec.ValidationError:
        created = 0.0
    ignore = branch(metadata, "annotations").get(IGNORE)
    whole = Problem(
        UNREADABLE,
        f"CiliumNode {name} cannot be read: {why}",
        "correct that field; kubectl delete and a restart of its agent make it anew",
    )
    return Node(
        name,
        uid=_text(metadata.get("uid")),
        created=created,
        version=_text(metadata.get("resourceVersion")),
        ignored=isinstance(ignore, str) and is_true(ignore),
        unreadable=(whole, *unreadable),
        holds=Held(blocks, _text(error)),
    )


def is_collectable(source: CiliumNode) -> bool:
    """Whether garbage collection may take it when its Node is gone: it has no owner, and is not marked to stay.

    Nor to be ignored: what is marked so is never written, and a deletion is the last of writes. Cilium deletes it.
    """
    metadata = source.metadata
    marks = metadata.annotations
    marked = marks is not None and (is_true(marks.do_not_gc) or is_true(marks.ignore))
    return not metadata.owner_references and not marked


def is_true(value: str | None) -> bool:
    """Whether an annotation says true, in any case, as Cilium reads it."""
    return value is not None and value.lower() == "true"


class Form(Protocol):
    """How a mode uses a CiliumNode: what is decoded of it, what that means, and how blocks are written into its spec."""

    @property
    def struct(self) -> type[CiliumNode]: ...
    def node(self, source: CiliumNode, *, own_addresses: bool) -> Node: ...
    def salvaged(self, raw: bytes, why: str) -> Node: ...
    def spec_patch(self, node: Node, blocks: tuple[Block, ...]) -> bytes: ...


class PodCidrs:
    """The form of `spec.ipam.podCIDRs`: cluster-pool and kubernetes."""

    struct = CiliumNode

    def node(self, source: CiliumNode, *, own_addresses: bool) -> Node:
        return node(source, own_addresses=own_addresses)

    def salvaged(self, raw: bytes, why: str) -> Node:
        return salvaged(raw, why)

    def spec_patch(self, node: Node, blocks: tuple[Block, ...]) -> bytes:
        return spec_patch(node.version, node.uid, blocks)


_encode = msgspec.json.Encoder().encode


def spec_patch(version: str, uid: str, blocks: tuple[Block, ...]) -> bytes:
    """Return the merge patch of `spec` that says these blocks, only if the object still is this version of this object.

    The version alone guards a namesake made since: it is a revision of the whole store and never comes again (409). The
    server refuses another uid with 422.
    """
    return _encode(
        {
            "metadata": {"resourceVersion": version, "uid": uid},
            "spec": {"ipam": {"podCIDRs": [str(block.cidr) for block in blocks]}},
        }
    )


def status_patch(version: str, uid: str, error: str) -> bytes:
    """Return the merge patch of the status subresource that says this error, or takes it away (as Cilium's form: no key)."""
    return _encode(
        {
            "metadata": {"resourceVersion": version, "uid": uid},
            "status": {"ipam": {"operator-status": {"error": error or None}}},
        }
    )


def _blocks(texts: list[str], name: str) -> tuple[tuple[Block, ...], tuple[Problem, ...]]:
    blocks = []
    problems: tuple[Problem, ...] = ()
    for text in texts:
        try:
            blocks.append(Block(DEFAULT_POOL, parse(text)))
        except Invalid as exc:
            problems += (not_a_cidr(text, exc, "spec.ipam.podCIDRs", f"CiliumNode {name}"),)
    return tuple(blocks), problems


def not_a_cidr(text: str, exc: Invalid, where: str, what: str) -> Problem:
    # The text is Cilium's (Go's net.ParseError).
    return Problem(UNREADABLE, f"invalid CIDR address: {one_line(text)}", f"{exc}; correct {where} of {what}")


def _addresses(listed: list[Address]) -> tuple[Cidr, ...]:
    return addresses_of([entry.ip for entry in listed if entry.type in MACHINE_ADDRESSES])


def addresses_of(texts: list[str | None]) -> tuple[Cidr, ...]:
    addresses = []
    for text in texts:
        if text:
            try:
                addresses.append(parse_address(text))
            except Invalid:
                continue  # they only serve a warning about overlaps: a name, say, warns of nothing
    return tuple(addresses)


def _agent(listed: dict[str, PodCidrStatus | None]) -> Agent:
    depleted: list[Cidr] = []
    released: list[Cidr] = []
    for text, said in listed.items():
        word = said.status if said is not None else None
        if word not in ("depleted", "released"):
            continue
        try:
            cidr = parse(text)
        except Invalid:
            continue  # it names no block that we could have given
        (depleted if word == "depleted" else released).append(cidr)
    if not depleted and not released:
        return NO_AGENT
    return Agent(tuple(sorted(depleted)), tuple(sorted(released)))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
