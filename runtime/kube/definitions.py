"""The definitions of CiliumNode and CiliumPodIPPool: installed where absent, raised where older than ours, else left alone.

Ours (`crds/*.json`) are a superset of Cilium's of the same label. The label is kept low on purpose: any released Cilium that
knows more carries a higher one, and then puts its own in the place of ours, never the other way round.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import msgspec

from omnipam.core.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from omnipam.core.values import Finding

from .rest import Api

LABEL = "io.cilium.k8s.crd.schema.version"
PLURALS = ("ciliumnodes", "ciliumpodippools")
COLLECTION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NODE_VERSION = "v2"
POOL_VERSION = "v2alpha1"
ERROR_FIELD = ("status", "ipam", "operator-status", "error")
FIRST_FIELD = ("spec", "ipam", "pools", "allocated", "[]", "allowFirstIP")
TRIES = 4  # other replicas start at the same time as we do
POLL_S = 0.1


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    labels: dict[str, str] | None = None


class _Schema(msgspec.Struct):
    tree: dict[str, Any] | None = msgspec.field(name="openAPIV3Schema", default=None)


class _Version(msgspec.Struct):
    name: str
    served: bool = False
    schema: _Schema | None = None
    subresources: dict[str, Any] | None = None


class _Spec(msgspec.Struct):
    versions: list[_Version] = []


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class Definition(msgspec.Struct):
    """A CustomResourceDefinition, as far as we look at it."""

    metadata: _Metadata
    spec: _Spec
    status: _Status | None = None

    @property
    def established(self) -> bool:
        conditions = (self.status.conditions if self.status else None) or ()
        return any(each.type == "Established" and each.status == "True" for each in conditions)

    @property
    def version(self) -> tuple[int, ...]:
        return schema_version((self.metadata.labels or {}).get(LABEL, ""))

    @property
    def names(self) -> set[str]:
        return {version.name for version in self.spec.versions}


class _Unreadable(Denied):
    """We may not look at definitions."""


class Served(msgspec.Struct, frozen=True):
    """What `ensure` found. status_error: whether a CiliumNode can say why its grant failed. ends: whether one can say that the
    first or last address of a block is usable."""

    status_error: bool = True
    ends: bool = True
    findings: tuple[Finding, ...] = ()


_DEFINITION = msgspec.json.Decoder(Definition)


def shipped(plural: str) -> bytes:
    """Return our definition as JSON."""
    return files(__package__).joinpath("crds", f"{plural}.json").read_bytes()


def schema_version(text: str) -> tuple[int, ...]:
    """Return a schema label as numbers without zeros at the end; empty, the least of all, where it is none (as Cilium)."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text)
    if match is None:
        return ()
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def has_field(schema: dict[str, Any] | None, path: tuple[str, ...]) -> bool:
    """Whether objects of this schema keep a field at that path, rather than lose it when they are written. `[]`: of each entry."""
    for key in path:
        if schema is None:
            return False
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            return True
        if key == "[]":
            schema = schema.get("items")
            continue
        inner = schema.get("properties", {}).get(key)
        if inner is None and isinstance(schema.get("additionalProperties"), dict):
            inner = schema["additionalProperties"]
        schema = inner
    return schema is not None


async def ensure(
    api: Api,
    *,
    create: bool,
    pools: bool = False,
    wait_s: float = 30.0,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Served:
    """Make both definitions present, unless `create` is false, and read what is served. pools: that of pools is needed, too.

    Raises Denied where one is absent and we may not create it, Invalid where it is absent and we shall not, Unavailable
    where the server does not establish it within `wait_s`.
    """
    findings: list[Finding] = []
    deadline = clock() + wait_s
    status_error = ends = True
    for plural in PLURALS:
        needed = pools or plural == "ciliumnodes"
        try:
            definition = await (_ensure_one(api, plural, findings) if create else _read(api, plural))
        except _Unreadable:
            findings.append(_unread(plural))
            continue
        while definition is not None and not definition.established:
            if clock() > deadline:
                raise Unavailable(
                    f"definition {plural}.cilium.io was not established within {wait_s:g} s; see its conditions"
                )
            await sleep(POLL_S)
            definition = await _read(api, plural)
        if definition is None and needed:
            raise Invalid(
                f"definition {plural}.cilium.io is not installed, and skip-crd-creation is set:"
                " install it (Cilium's operator does), or leave that key out"
            )
        if definition is not None and plural == "ciliumnodes":
            schema = _served_schema(definition, plural, NODE_VERSION)
            status_error = schema.status and has_field(schema.tree, ERROR_FIELD)
            ends = has_field(schema.tree, FIRST_FIELD)
            await _answered(api, plural, deadline, clock, sleep)
        elif definition is not None and needed:
            _served_schema(definition, plural, POOL_VERSION)
            await _answered(api, plural, deadline, clock, sleep)
    if not status_error:
        findings.append(
            Finding(
                "SchemaLacksField",
                ("CustomResourceDefinition/ciliumnodes.cilium.io",),
                "the served CiliumNode has no status.ipam.operator-status.error: failures show in events and logs only",
                "upgrade the definition",
            )
        )
    return Served(status_error, ends, tuple(findings))


async def _ensure_one(api: Api, plural: str, findings: list[Finding]) -> Definition | None:
    ours = shipped(plural)
    mine = _DEFINITION.decode(ours)
    for _ in range(TRIES):
        there = await _read(api, plural)
        try:
            if there is None:
                return _DEFINITION.decode(await api.create(COLLECTION, ours))
            if not there.version < mine.version or not there.names <= mine.names:
                return there
            patch = _upgrade(ours, there.metadata.resource_version)
            return _DEFINITION.decode(await api.merge_patch(f"{COLLECTION}/{plural}.cilium.io", patch))
        except Conflict:
            continue
        except Denied as exc:
            if there is None:
                raise Denied(
                    f"definition {plural}.cilium.io is absent and may not be created: grant create on"
                    f" customresourcedefinitions, or install it and set skip-crd-creation ({exc})"
                ) from exc
            findings.append(_old(plural))
            return there
    raise Unavailable(f"definition {plural}.cilium.io changes as fast as we read it; start again")


async def _read(api: Api, plural: str) -> Definition | None:
    try:
        body = await api.get(f"{COLLECTION}/{plural}.cilium.io")
    except NotFound:
        return None
    except Denied as exc:
        raise _Unreadable(str(exc)) from exc
    try:
        return _DEFINITION.decode(body)
    except msgspec.MsgspecError as exc:
        raise Unavailable(f"definition {plural}.cilium.io: the answer cannot be read ({exc})") from exc


async def _answered(
    api: Api,
    plural: str,
    deadline: float,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Wait until the server answers for them: for a moment after `Established` it may not yet."""
    version = NODE_VERSION if plural == "ciliumnodes" else POOL_VERSION
    while True:
        try:
            await api.get(f"/apis/cilium.io/{version}/{plural}", "limit=1")
        except NotFound as exc:
            if clock() > deadline:
                raise Unavailable(
                    f"{plural}.cilium.io are defined, and the server does not answer for them ({exc})"
                ) from exc
            await sleep(POLL_S)
        else:
            return


def _upgrade(ours: bytes, version: str) -> bytes:
    tree = msgspec.json.decode(ours)
    metadata = {"resourceVersion": version, "labels": tree["metadata"]["labels"]}
    return msgspec.json.encode({"metadata": metadata, "spec": tree["spec"]})


class _ServedSchema(msgspec.Struct):
    """tree: None if it may not be read. status: whether there is a status subresource."""

    tree: dict[str, Any] | None
    status: bool


def _served_schema(definition: Definition, plural: str, wanted: str) -> _ServedSchema:
    for version in definition.spec.versions:
        if version.name == wanted and version.served:
            tree = version.schema.tree if version.schema else None
            return _ServedSchema(tree, "status" in (version.subresources or {}))
    raise Invalid(
        f"definition {plural}.cilium.io does not serve {wanted}: upgrade it, or remove it and let us install ours"
    )


def _unread(plural: str) -> Finding:
    return Finding(
        "DefinitionUnread",
        (f"CustomResourceDefinition/{plural}.cilium.io",),
        f"definition {plural}.cilium.io may not be read: it is taken to be there, with all fields that we use",
        "grant get on customresourcedefinitions to this account",
        "info",
    )


def _old(plural: str) -> Finding:
    return Finding(
        "DefinitionOld",
        (f"CustomResourceDefinition/{plural}.cilium.io",),
        f"definition {plural}.cilium.io is older than ours and may not be upgraded: it is used as it is",
        "grant patch on customresourcedefinitions to this account, or upgrade it",
    )
