"""The parts of Kubernetes' own types that every object shares, as structs of the fields we use.

A struct that declares fewer fields than the object has must never be written back whole (rule 1): write merge patches.
Source of names and meaning: Kubernetes API conventions, `meta/v1` and `coordination/v1`.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import msgspec


class OwnerReference(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """Who this object belongs to. The API server requires all four when it is written."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""


class ObjectMeta(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """An object's identity and version.

    resource_version: opaque; compare for equality only.
    creation_timestamp, deletion_timestamp: RFC 3339 text in UTC, whole seconds; the latter means "being deleted".
    """

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class Identity(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """The least of an object's metadata: what can still be read of an object that is otherwise unreadable."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class HasIdentity(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Any object, reduced to its identity."""

    metadata: Identity = Identity()


class Named(Protocol):
    """What a reflector needs of an object's metadata. `ObjectMeta` and `Identity` both have it."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


class Object(Protocol):
    """What a reflector needs of an object's type: that it has metadata."""

    @property
    def metadata(self) -> Named: ...


class PartialObjectMetadata(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An object of any kind, metadata only (the server strips the rest when asked to)."""

    metadata: ObjectMeta = ObjectMeta()


class ListMeta(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """A page's position. `continue_` is empty on the last page; the version is the same on all pages of one list."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """One page of a list. `items` may be null where Go had a nil slice."""

    metadata: ListMeta = ListMeta()
    items: list[T] | None = None


class StatusDetails(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """The machine-readable part of a refusal."""

    retry_after_seconds: int | None = None


class Status(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """The API server's answer when it has no object to give, mostly a refusal."""

    kind: str = ""
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: StatusDetails | None = None


class LeaseSpec(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True):
    """Times are MicroTime texts, kept as they are: they are compared for change, never read as a clock."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`coordination.k8s.io/v1` Lease."""

    metadata: Identity = Identity()
    spec: LeaseSpec | None = None


def whole_number(text: str) -> int:
    """What an annotation says; -1 where that is no number of at most nine digits (Python refuses to read very long ones)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
