"""The picture of a cluster for commands: lists, Lease, kept state, definitions, by requests that only read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from omnipam.core.errors import Denied, Invalid, NotFound
from omnipam.core.values import Finding, Node, PoolSpec

from .kube import ciliumnode, definitions, machine, podippool
from .kube.ciliumnode import Form, PodCidrs
from .kube.errors import Expired, one_line
from .kube.join import CILIUM_NODES, NODES
from .kube.keeping import Keeping
from .kube.lease import KubeLease
from .kube.meta import HasIdentity, Page
from .kube.podippool import PodIPPool
from .kube.poolednode import Pooled
from .kube.rest import METADATA_LIST, Api
from .snapshot import Leader, Snapshot, leader_of
from .tree import branch

PAGE = 500
TRIES = 3
_PAGE = msgspec.json.Decoder(Page[msgspec.Raw])
_POOL = msgspec.json.Decoder(PodIPPool)
_MACHINE = msgspec.json.Decoder(machine.Machine)
_IDENTITY = msgspec.json.Decoder(HasIdentity)


async def objects(api: Api, path: str, *, accept: str | None = None) -> list[msgspec.Raw]:
    """All objects of a collection, in one state of it. Raises what the client raises."""
    for _ in range(TRIES):
        found: list[msgspec.Raw] = []
        token = ""
        try:
            while True:
                query = f"limit={PAGE}" + (f"&continue={quote(token, safe='')}" if token else "")
                try:
                    page = _PAGE.decode(await api.get(path, query, accept=accept))
                except msgspec.MsgspecError as exc:
                    raise Invalid(
                        one_line(
                            f"GET {path}: the answer is no list ({exc}); is this the address of an API server?"
                        )
                    ) from exc
                found += page.items or ()
                token = page.metadata.continue_
                if not token:
                    return found
        except Expired:
            continue  # it took longer than the server remembers: anew
    raise Expired(f"GET {path}: the list changes faster than it can be read; try again")


async def cilium_nodes(api: Api) -> list[msgspec.Raw]:
    """All CiliumNodes. Raises NotFound, saying what to do, where the cluster knows no such thing."""
    try:
        return await objects(api, CILIUM_NODES)
    except NotFound as exc:
        raise NotFound(
            "the cluster has no definition of CiliumNode: start omnipam operator --store kubernetes, which installs it"
        ) from exc


async def pools(api: Api) -> tuple[dict[str, Any], ...]:
    """All CiliumPodIPPools as the server has them; none where it knows no such thing."""
    try:
        return tuple(
            as_object(raw, "v2alpha1", "CiliumPodIPPool") for raw in await objects(api, podippool.POOLS)
        )
    except NotFound:
        return ()


async def one(api: Api, path: str) -> dict[str, Any] | None:
    """One object as the server has it; None if it is not there."""
    try:
        body = await api.get(path)
    except NotFound:
        return None
    return as_object(msgspec.Raw(body), "", "")


async def read(
    api: Api,
    *,
    reads_machines: bool,
    namespace: str,
    lease: str,
    audit: bool,
    form: Form | None = None,
    reads_pools: bool = False,
) -> Snapshot:
    """All that plans and audits are made from. reads_machines: the mode needs the Nodes whole. audit: definitions too.

    form: how the mode uses a CiliumNode. reads_pools: its pools are the CiliumPodIPPools.
    """
    form = form or PodCidrs()
    if reads_machines:
        machines = dict(map(_known, await objects(api, NODES)))
    else:
        machines = {_name(raw): machine.Known() for raw in await objects(api, NODES, accept=METADATA_LIST)}
    raws = await cilium_nodes(api)
    nodes: dict[str, Node] = {}
    collectable = set()
    for raw in raws:
        node, may_go = _node(raw, form, own_addresses=not reads_machines)
        known = machines.get(node.name)
        if reads_machines and known is not None:
            node = msgspec.structs.replace(
                node, facts=known.facts, unreadable=(*node.unreadable, *known.unreadable)
            )
        nodes[node.name] = node
        if may_go:
            collectable.add(node.name)
    kept, findings = await Keeping(api, namespace).read()
    owed = (
        machines.keys() if reads_machines else {each.owner for each in kept if each.owner} & machines.keys()
    )
    for name in owed - nodes.keys():
        nodes[name] = machine.without_object(name, machines[name])
    pool_objects = await pools(api)
    return Snapshot(
        where=f"cluster {api.cluster.server}",
        nodes=tuple(nodes[name] for name in sorted(nodes)),
        pools=tuple(map(_pool, pool_objects)) if reads_pools else (),
        pool_objects=pool_objects,
        kept=kept,
        machines=frozenset(machines),
        collectable=frozenset(collectable),
        leader=await leader(api, namespace, lease),
        findings=(*findings, *(await outdated(api) if audit else ())),
    )


async def leader(api: Api, namespace: str, lease: str) -> Leader | None:
    """Who holds the Lease; None where we may not look."""
    try:
        return leader_of(await KubeLease(api, namespace, lease, timeout_s=5.0).get())
    except Denied:
        return None


async def outdated(api: Api) -> tuple[Finding, ...]:
    """Definitions that are absent, older than ours, or may not be read."""
    found = []
    for plural in definitions.PLURALS:
        name = f"{plural}.cilium.io"
        subject = (f"CustomResourceDefinition/{name}",)
        mine = msgspec.json.decode(definitions.shipped(plural), type=definitions.Definition)
        try:
            theirs = msgspec.json.decode(
                await api.get(f"{definitions.COLLECTION}/{name}"), type=definitions.Definition
            )
        except NotFound:
            found.append(
                Finding(
                    "DefinitionMissing",
                    subject,
                    f"definition {name} is not installed",
                    "start omnipam operator --store kubernetes, which installs it",
                )
            )
            continue
        except Denied as exc:
            found.append(
                Finding(
                    "DefinitionUnread",
                    subject,
                    f"definition {name} may not be read: {exc}",
                    "grant get on customresourcedefinitions to this account",
                    "info",
                )
            )
            continue
        if theirs.version < mine.version:
            found.append(
                Finding(
                    "DefinitionOld",
                    subject,
                    f"definition {name} is older than ours: what it lacks is neither written nor read",
                    "let omnipam operator upgrade it (without skip-crd-creation), or upgrade Cilium",
                )
            )
    return tuple(found)


def as_object(raw: msgspec.Raw, version: str, kind: str) -> dict[str, Any]:
    """The object as the server has it, fields that we do not know included; its kind is told if a list left it out."""
    made = msgspec.json.decode(raw)
    if not isinstance(made, dict):
        raise Invalid("the API server listed something that is no object")
    head = {"apiVersion": f"cilium.io/{version}", "kind": kind} if version else {}
    return {**head, **made}


def node_of(made: Mapping[str, Any]) -> Node:
    """The core Node of an object as the server has it."""
    pooled = branch(made, "spec", "ipam", "pools")
    form: Form = Pooled() if pooled.get("requested") or pooled.get("allocated") else PodCidrs()
    return _node(msgspec.Raw(msgspec.json.encode(made)), form, own_addresses=True)[0]


def _node(raw: msgspec.Raw, form: Form, *, own_addresses: bool) -> tuple[Node, bool]:
    try:
        source = msgspec.json.decode(raw, type=form.struct)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        return form.salvaged(bytes(raw), one_line(str(exc))), False
    return form.node(source, own_addresses=own_addresses), ciliumnode.is_collectable(source)


def _pool(made: Mapping[str, Any]) -> PoolSpec:
    try:
        return podippool.pool_of(_POOL.decode(msgspec.json.encode(made)))
    except msgspec.MsgspecError as exc:
        name = str(branch(made, "metadata").get("name", ""))
        return podippool.unreadable(PoolSpec(name, max_blocks=0), one_line(str(exc)))


def _known(raw: msgspec.Raw) -> tuple[str, machine.Known]:
    try:
        source = _MACHINE.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        name = _name(raw)
        return name, machine.Known(unreadable=(machine.unreadable(name, one_line(str(exc))),))
    return source.metadata.name, machine.known(source)


def _name(raw: msgspec.Raw) -> str:
    return _IDENTITY.decode(raw).metadata.name
