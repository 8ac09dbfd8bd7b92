"""CiliumNode as multi-pool mode uses it: `spec.ipam.pools`, labels, and annotations of ours. Pure.

`allocated` has two writers and a merge patch replaces lists whole: what an entry says beyond what we know is put back as it was.
"""

from __future__ import annotations

from typing import Any

import msgspec

from omnipam.core.cidr import FAMILIES, Family, parse
from omnipam.core.errors import Invalid
from omnipam.core.values import DEFAULT_POOL, NO_FACTS, POD_CIDRS, Block, Demand, Facts, Held, Node, Problem
from omnipam.providers.multi_pool.allocator import MIGRATION_FAILED

from ..tree import branch
from . import ciliumnode
from .ciliumnode import UNREADABLE, CiliumNode, Ipam, Marks, Metadata, Spec, not_a_cidr
from .errors import one_line
from .meta import whole_number

OURS = "ipam.omnipam.io/"
NEEDED: dict[Family, str] = {"ipv4": "ipv4-addrs", "ipv6": "ipv6-addrs"}
KNOWN = frozenset(("pool", "cidrs", "allowFirstIP", "allowLastIP"))
WHERE = "spec.ipam.pools.allocated"


class PooledMarks(Marks, frozen=True, gc=False):
    """The annotations of a CiliumNode that we read here."""

    default_pool: str | None = msgspec.field(name=f"{OURS}default-pool", default=None)
    max_blocks: str | None = msgspec.field(name=f"{OURS}max-blocks", default=None)


class PooledMetadata(Metadata, frozen=True, gc=False, rename="camel"):
    annotations: PooledMarks | None = None
    labels: dict[str, str] | None = None


class Needed(msgspec.Struct, frozen=True, gc=False):
    ipv4: int | None = msgspec.field(name="ipv4-addrs", default=None)
    ipv6: int | None = msgspec.field(name="ipv6-addrs", default=None)


class Requested(msgspec.Struct, frozen=True, gc=False):
    """One entry of `spec.ipam.pools.requested`."""

    pool: str = ""
    needed: Needed | None = None


class IpamPools(msgspec.Struct, frozen=True, gc=False):
    """CiliumNode's `spec.ipam.pools`."""

    requested: list[Requested] | None = None
    allocated: list[dict[str, Any]] | None = None


class PooledIpam(Ipam, frozen=True, gc=False):
    pools: IpamPools | None = None


class PooledSpec(Spec, frozen=True, gc=False):
    ipam: PooledIpam | None = None


class PooledNode(CiliumNode, frozen=True, gc=False):
    """`cilium.io/v2` CiliumNode, as far as multi-pool mode reads it."""

    metadata: PooledMetadata = PooledMetadata()
    spec: PooledSpec | None = None


class Pooled:
    """The form of `spec.ipam.pools`.

    migrate: what `podCIDRs` shows becomes the node's blocks of its default pool; else it is only occupied.
    """

    struct = PooledNode

    def __init__(self, *, default_pool: str = DEFAULT_POOL, migrate: bool = False) -> None:
        self._default_pool, self._migrate = default_pool, migrate

    def node(self, source: CiliumNode, *, own_addresses: bool) -> Node:
        node = ciliumnode.node(source, own_addresses=own_addresses)
        if not isinstance(source, PooledNode):
            return node
        marks, labels = source.metadata.annotations, source.metadata.labels
        unreadable = self._migrating(node.unreadable)
        limits: tuple[tuple[str, int], ...] = ()
        default_pool = ""
        if marks is not None:
            default_pool = marks.default_pool or ""
            if marks.max_blocks:
                try:
                    limits = read_limits(marks.max_blocks)
                except Invalid as exc:
                    unreadable += (Problem(UNREADABLE, f"annotation {OURS}max-blocks: {exc}", "correct it"),)
        demand: tuple[Demand, ...] = ()
        blocks: tuple[Block, ...] = ()
        opaque = b""
        pools = source.spec.ipam.pools if source.spec is not None and source.spec.ipam is not None else None
        if pools is not None:
            if pools.requested:
                demand = _demand(pools.requested)
            if pools.allocated:
                blocks, problems, opaque = _allocated(pools.allocated, node.name)
                unreadable += problems
        facts = node.facts
        if labels:
            known = tuple(labels.items())
            facts = Facts(labels=known) if facts is NO_FACTS else msgspec.structs.replace(facts, labels=known)
        return msgspec.structs.replace(
            node,
            unreadable=unreadable,
            facts=facts,
            holds=self._held(node.holds, blocks, opaque, default_pool, whole=not unreadable),
            demand=demand,
            default_pool=default_pool,
            limits=limits,
        )

    def salvaged(self, raw: bytes, why: str) -> Node:
        node = ciliumnode.salvaged(raw, why)
        tree = msgspec.json.decode(raw)
        listed = branch(tree, "spec", "ipam", "pools").get("allocated")
        entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        blocks, problems, opaque = _allocated(entries, node.name)
        mark = branch(tree, "metadata", "annotations").get(f"{OURS}default-pool")
        default_pool = mark if isinstance(mark, str) else ""
        return msgspec.structs.replace(
            node,
            unreadable=node.unreadable + problems,
            holds=self._held(node.holds, blocks, opaque, default_pool, whole=False),
        )

    def spec_patch(self, node: Node, blocks: tuple[Block, ...]) -> bytes:
        ipam: dict[str, object] = {"pools": {"allocated": entries_of(blocks, node.holds.opaque)}}
        if node.holds.outdated:
            ipam["podCIDRs"] = None
        metadata = {"resourceVersion": node.version, "uid": node.uid}
        return msgspec.json.encode({"metadata": metadata, "spec": {"ipam": ipam}})

    def _held(
        self, before: Held, blocks: tuple[Block, ...], opaque: bytes, default_pool: str, *, whole: bool
    ) -> Held:
        """What both lists show. `before`: of podCIDRs. whole: all could be read; else what could not would be lost by migrating."""
        if not blocks and not opaque and not before.blocks:
            return before
        pool = (default_pool or self._default_pool) if self._migrate else POD_CIDRS
        old = tuple(Block(pool, block.cidr) for block in before.blocks)
        return Held(blocks + old, before.error, self._migrate and whole and bool(old), opaque)

    def _migrating(self, problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
        """Problems of podCIDRs, with Cilium's words for a migration that fails."""
        if not self._migrate or not problems:
            return problems
        return tuple(
            msgspec.structs.replace(each, text=f"{MIGRATION_FAILED}{each.text}") for each in problems
        )


def read_limits(text: str) -> tuple[tuple[str, int], ...]:
    """Reads `pool=N,pool=N`: most blocks of a family. Raises Invalid."""
    found: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        pool, equals, number = (part.strip() for part in item.partition("="))
        most = whole_number(number)
        if not pool or not equals or most < 0 or pool in found:
            raise Invalid(f"{one_line(item)!r} is not of the form pool=N, or a pool is named twice")
        found[pool] = most
    return tuple(sorted(found.items()))


def limits_text(limits: tuple[tuple[str, int], ...]) -> str:
    return ",".join(f"{pool}={most}" for pool, most in limits)


def entries_of(blocks: tuple[Block, ...], opaque: bytes = b"") -> list[dict[str, object]]:
    """`allocated` as Cilium writes it: by pool, IPv4 before IPv6, by address."""
    more: dict[str, dict[str, object]] = msgspec.json.decode(opaque) if opaque else {}
    by_pool: dict[str, list[Block]] = {pool: [] for pool in more}
    for block in blocks:
        if block.pool != POD_CIDRS:
            by_pool.setdefault(block.pool, []).append(block)
    entries = []
    for pool, those in sorted(by_pool.items()):
        entry: dict[str, object] = {"pool": pool}
        if those:
            entry["cidrs"] = [str(block.cidr) for block in sorted(those, key=lambda block: block.cidr)]
        if any(block.first_usable for block in those):
            entry["allowFirstIP"] = True
        if any(block.last_usable for block in those):
            entry["allowLastIP"] = True
        entries.append(entry | more.get(pool, {}))
    return entries


def requested_of(demand: tuple[Demand, ...]) -> list[dict[str, object]]:
    """`requested` as agents write it."""
    by_pool: dict[str, dict[str, int]] = {}
    for one in demand:
        by_pool.setdefault(one.pool, {})[NEEDED[one.family]] = one.needed
    return [{"pool": pool, "needed": needed} for pool, needed in sorted(by_pool.items())]


def _demand(listed: list[Requested]) -> tuple[Demand, ...]:
    most: dict[tuple[str, Family], int] = {}
    for each in listed:
        needed = each.needed
        if needed is None or not each.pool:
            continue
        for family, number in zip(FAMILIES, (needed.ipv4, needed.ipv6), strict=True):
            if number is not None and number > most.get((each.pool, family), 0):
                most[each.pool, family] = number
    return tuple(Demand(pool, family, number) for (pool, family), number in sorted(most.items()))


def _allocated(
    listed: list[dict[str, Any]], name: str
) -> tuple[tuple[Block, ...], tuple[Problem, ...], bytes]:
    """The blocks, what cannot be read, and what else entries say, by pool."""
    blocks: list[Block] = []
    problems: tuple[Problem, ...] = ()
    more: dict[str, dict[str, Any]] = {}
    for entry in listed:
        pool, cidrs = entry.get("pool"), entry.get("cidrs")
        first, last = entry.get("allowFirstIP"), entry.get("allowLastIP")
        flags = isinstance(first, bool | None) and isinstance(last, bool | None)
        if not isinstance(pool, str) or not pool or not isinstance(cidrs, list | None) or not flags:
            text = f"{WHERE} of CiliumNode {name} has an entry that cannot be read: {one_line(str(entry))}"
            problems += (Problem(UNREADABLE, text, "correct it"),)
        for text in cidrs if isinstance(cidrs, list) else ():
            try:
                cidr = parse(text if isinstance(text, str) else str(text))
            except Invalid as exc:
                problems += (not_a_cidr(str(text), exc, WHERE, f"CiliumNode {name}"),)
                continue
            # What has no name that we can read is occupied all the same.
            blocks.append(Block(pool if isinstance(pool, str) else "", cidr, first is True, last is True))
        if not entry.keys() <= KNOWN and isinstance(pool, str):
            more.setdefault(pool, {}).update({key: entry[key] for key in entry.keys() - KNOWN})
    return tuple(blocks), problems, msgspec.json.encode(more, order="sorted") if more else b""
