"""The Kubernetes Node as the fields that we use, and what they mean to `core`. Pure.

Source of names and meaning: Kubernetes' `core/v1` Node; the annotations are Cilium's. Only kubernetes mode reads Nodes; the
other modes only ask that they are there.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from omnipam.core.cidr import Cidr, Family, parse
from omnipam.core.errors import Invalid
from omnipam.core.values import NO_FACTS, Facts, Node, Problem

from .ciliumnode import MACHINE_ADDRESSES, UNREADABLE, addresses_of, not_a_cidr


class NodeAddress(msgspec.Struct, frozen=True, gc=False):
    """One entry of Node's `status.addresses`: an address, or a name where the type says so."""

    address: str | None = None
    type: str | None = None


class MachineMarks(msgspec.Struct, frozen=True, gc=False):
    """The annotations of a Node that name its pod CIDRs, with their older aliases."""

    ipv4: str | None = msgspec.field(name="network.cilium.io/ipv4-pod-cidr", default=None)
    ipv6: str | None = msgspec.field(name="network.cilium.io/ipv6-pod-cidr", default=None)
    ipv4_alias: str | None = msgspec.field(name="io.cilium.network.ipv4-pod-cidr", default=None)
    ipv6_alias: str | None = msgspec.field(name="io.cilium.network.ipv6-pod-cidr", default=None)


class MachineMetadata(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A Node's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: str | None = None
    annotations: MachineMarks | None = None


class MachineSpec(msgspec.Struct, frozen=True, gc=False):
    """A Node's `spec`."""

    pod_cidr: str | None = msgspec.field(name="podCIDR", default=None)
    pod_cidrs: list[str] | None = msgspec.field(name="podCIDRs", default=None)
    unschedulable: bool | None = None


class MachineStatus(msgspec.Struct, frozen=True, gc=False):
    """A Node's `status`."""

    addresses: list[NodeAddress] | None = None


class Machine(msgspec.Struct, frozen=True, gc=False):
    """`v1` Node."""

    metadata: MachineMetadata = MachineMetadata()
    spec: MachineSpec | None = None
    status: MachineStatus | None = None


class Known(msgspec.Struct, frozen=True):
    """What is remembered of a Node: that it is there, and in kubernetes mode what it says of itself."""

    uid: str = ""
    created: float = 0.0
    facts: Facts = NO_FACTS
    unreadable: tuple[Problem, ...] = ()


def without_object(name: str, machine: Known) -> Node:
    """Return the core Node of a machine whose CiliumNode is missing: nothing can be published, what it has stays its own."""
    return Node(
        name, created=machine.created, present=False, facts=machine.facts, unreadable=machine.unreadable
    )


def known(source: Machine) -> Known:
    """Return what kubernetes mode remembers of a Node."""
    metadata, spec = source.metadata, source.spec
    found: list[Cidr] = []
    problems: tuple[Problem, ...] = ()
    where = "spec.podCIDRs"
    texts: list[str] = []
    if spec is not None:
        texts = spec.pod_cidrs or []
        if not texts and spec.pod_cidr:
            where, texts = "spec.podCIDR", [spec.pod_cidr]
    for text in texts:
        problems += _read(text, where, f"Node {metadata.name}", found)
    marks = metadata.annotations
    if marks is not None:
        families = {cidr.family for cidr in found}
        for family, key, value in _annotated(marks):
            if family in families:
                continue
            families.add(family)
            problems += _read(value, f"annotation {key}", f"Node {metadata.name}", found)
    said = source.status.addresses if source.status is not None else None
    facts = Facts(
        addresses=_addresses(said) if said else (),
        pod_cidrs=tuple(found),
        cordoned=bool(spec is not None and spec.unschedulable),
        terminating=metadata.deletion_timestamp is not None,
    )
    created = metadata.creation_timestamp
    return Known(
        metadata.uid,
        created.timestamp() if created is not None else 0.0,
        NO_FACTS if facts == NO_FACTS else facts,
        problems,
    )


def unreadable(name: str, why: str) -> Problem:
    """Return the problem of a Node that does not decode: it is there all the same."""
    return Problem(UNREADABLE, f"Node {name} cannot be read: {why}", "correct that field")


def _annotated(marks: MachineMarks) -> list[tuple[Family, str, str]]:
    """The annotations that are set, the newer name first."""
    named: list[tuple[Family, str, str | None]] = [
        ("ipv4", "network.cilium.io/ipv4-pod-cidr", marks.ipv4),
        ("ipv4", "io.cilium.network.ipv4-pod-cidr", marks.ipv4_alias),
        ("ipv6", "network.cilium.io/ipv6-pod-cidr", marks.ipv6),
        ("ipv6", "io.cilium.network.ipv6-pod-cidr", marks.ipv6_alias),
    ]
    return [(family, key, value) for family, key, value in named if value]


def _addresses(listed: list[NodeAddress]) -> tuple[Cidr, ...]:
    return addresses_of([entry.address for entry in listed if entry.type in MACHINE_ADDRESSES])


def _read(text: str, where: str, what: str, found: list[Cidr]) -> tuple[Problem, ...]:
    try:
        found.append(parse(text))
    except Invalid as exc:
        return (not_a_cidr(text, exc, where, what),)
    return ()
