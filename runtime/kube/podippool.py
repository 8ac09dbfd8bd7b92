"""CiliumPodIPPool: what its spec and our annotations mean to `core`, and a pool as such an object. Pure.

Source of names and meaning: Cilium's `CiliumPodIPPool` v2alpha1. `cidrs` may be objects, as in its unserved v2.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from omnipam.core.cidr import BITS, FAMILIES, Cidr, Family, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.selector import parse_selector, selector_text
from omnipam.core.values import Finding, PoolRange, PoolSpec, Problem

from .errors import one_line
from .meta import Identity, whole_number
from .poolednode import OURS

POOLS = "/apis/cilium.io/v2alpha1/ciliumpodippools"
UNREADABLE = "PoolRefused"
SELECTOR, MAX_BLOCKS, RESERVED, SIZES = (
    f"{OURS}{name}" for name in ("node-selector", "max-blocks-per-node", "reserved", "ipv4-mask-sizes")
)


class Marks(msgspec.Struct, frozen=True, gc=False):
    """The annotations of a pool that we read."""

    selector: str | None = msgspec.field(name=SELECTOR, default=None)
    max_blocks: str | None = msgspec.field(name=MAX_BLOCKS, default=None)
    reserved: str | None = msgspec.field(name=RESERVED, default=None)
    sizes: str | None = msgspec.field(name=SIZES, default=None)


class Metadata(Identity, frozen=True, gc=False, rename="camel", kw_only=True):
    creation_timestamp: datetime | None = None
    annotations: Marks | None = None


class CidrEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of `cidrs` in v2."""

    cidr: str


class FamilySpec(msgspec.Struct, frozen=True, gc=False):
    """One family of a pool."""

    cidrs: list[str | CidrEntry] | None = None
    mask_size: int = msgspec.field(name="maskSize", default=0)


class Spec(msgspec.Struct, frozen=True, gc=False):
    """CiliumPodIPPool's `spec`; its selectors are the agents'."""

    ipv4: FamilySpec | None = None
    ipv6: FamilySpec | None = None
    first_usable: bool | None = msgspec.field(name="allowFirstIP", default=None)
    last_usable: bool | None = msgspec.field(name="allowLastIP", default=None)


class PodIPPool(msgspec.Struct, frozen=True, gc=False):
    """`cilium.io` CiliumPodIPPool."""

    metadata: Metadata = Metadata()
    spec: Spec | None = None


def pool_of(source: PodIPPool, *, ends: bool = True) -> PoolSpec:
    """The pool; one that makes no sense says why. ends: CiliumNodes can say that a block's first or last address is usable."""
    metadata, spec = source.metadata, source.spec or Spec()
    created = metadata.creation_timestamp
    bare = PoolSpec(
        metadata.name,
        max_blocks=0,
        created=created.timestamp() if created is not None else 0.0,
        first_usable=ends and bool(spec.first_usable),
        last_usable=ends and bool(spec.last_usable),
    )
    marks = metadata.annotations or Marks()
    try:
        ranges = tuple(each for family in FAMILIES for each in _ranges(spec, family))
        return marked(msgspec.structs.replace(bare, ranges=ranges), marks)
    except Invalid as error:
        return unreadable(bare, str(error))


def marked(spec: PoolSpec, marks: Marks) -> PoolSpec:
    """The pool with what our annotations say. Raises Invalid."""
    ipv4 = [each for each in spec.ranges if each.cidr.family == "ipv4"]
    cidrs = [each.cidr for each in ipv4]
    wider = _read(SIZES, marks.sizes, lambda text: _sizes(text, ipv4[0].mask if ipv4 else 0, cidrs), ())
    ranges = tuple(
        msgspec.structs.replace(
            each, wider=tuple(size for size in wider if each.cidr.length <= size < each.mask)
        )
        if each.cidr.family == "ipv4"
        else each
        for each in spec.ranges
    )
    return msgspec.structs.replace(
        spec,
        ranges=ranges,
        reserved=_read(RESERVED, marks.reserved, lambda text: _reserved(text, ranges), ()),
        max_blocks=_read(MAX_BLOCKS, marks.max_blocks, _positive, 0),
        selector=_read(SELECTOR, marks.selector, parse_selector, ()),
    )


def unreadable(bare: PoolSpec, why: str) -> PoolSpec:
    """A pool of which only the name is known, and why."""
    text, _, hint = why.partition(" — ")
    problem = Problem(UNREADABLE, text, hint or f"correct CiliumPodIPPool {bare.name}")
    return msgspec.structs.replace(bare, unreadable=(problem,))


def manifest(spec: PoolSpec, *, marks: bool = True) -> dict[str, Any]:
    """The pool as a CiliumPodIPPool (`cilium.io/v2alpha1`). A family's mask size is its first range's. marks: with our annotations."""
    families: dict[str, Any] = {}
    for family in FAMILIES:
        ranges = [each for each in spec.ranges if each.cidr.family == family]
        if ranges:
            families[family] = {"cidrs": [str(each.cidr) for each in ranges], "maskSize": ranges[0].mask}
    if spec.first_usable:
        families["allowFirstIP"] = True
    if spec.last_usable:
        families["allowLastIP"] = True
    wider = sorted({length for each in spec.ranges for length in each.wider})
    said = {
        SELECTOR: selector_text(spec.selector),
        MAX_BLOCKS: str(spec.max_blocks or ""),
        RESERVED: ",".join(map(str, spec.reserved)),
        SIZES: ",".join(map(str, wider)),
    }
    metadata: dict[str, Any] = {"name": spec.name}
    if marks and (annotations := {key: text for key, text in said.items() if text}):
        metadata["annotations"] = annotations
    return {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumPodIPPool",
        "metadata": metadata,
        "spec": families,
    }


def ends_unsaid() -> Finding:
    """Some pool wants what the served CiliumNode cannot say."""
    return Finding(
        "SchemaLacksField",
        ("CustomResourceDefinition/ciliumnodes.cilium.io",),
        "the served CiliumNode has no spec.ipam.pools.allocated.allowFirstIP: first and last addresses of blocks stay unused",
        "upgrade the definition",
    )


def _ranges(spec: Spec, family: Family) -> list[PoolRange]:
    given = spec.ipv4 if family == "ipv4" else spec.ipv6
    if given is None:
        return []
    cidrs = []
    for each in given.cidrs or ():
        text = each if isinstance(each, str) else each.cidr
        try:
            cidr = parse(text)
        except Invalid as error:
            raise Invalid(
                f"invalid CIDR address: {one_line(text)} — {error}; correct spec.{family}.cidrs"
            ) from None
        if cidr.family != family:
            raise Invalid(f"CIDR is not v{family[-1]} family: {cidr} — put it into spec.{cidr.family}.cidrs")
        cidrs.append(cidr)
    mask = given.mask_size
    if not 1 <= mask <= BITS[family]:
        raise Invalid(
            "SubNetMask is invalid, should be lower or equal to 32 for IPv4 and to 128 for IPv6"
            f" — spec.{family}.maskSize is {mask}: use 1 to {BITS[family]}"
        )
    return [PoolRange(cidr, mask) for cidr in cidrs]


def _read(key: str, text: str | None, read: Any, default: Any) -> Any:
    if text is None or not text.strip():
        return default
    try:
        return read(text)
    except Invalid as error:
        raise Invalid(f"annotation {key}: {error}") from None


def _positive(text: str) -> int:
    number = whole_number(text.strip())
    if number < 1:
        raise Invalid(f"{one_line(text)!r} is not a number of blocks: write 1 or more")
    return number


def _sizes(text: str, mask: int, cidrs: list[Cidr]) -> tuple[int, ...]:
    """Block sizes beside the pool's own: wider ones only, for Cilium's operator would see two nodes in one block of its own."""
    found = set()
    for item in filter(None, (part.strip().removeprefix("/") for part in text.split(","))):
        size = whole_number(item)
        if size == mask:
            continue
        if not 1 <= size < mask or not any(cidr.length <= size for cidr in cidrs):
            raise Invalid(
                f"{one_line(item)!r} is no prefix length of a block wider than the pool's own /{mask} and in its ranges"
            )
        found.add(size)
    return tuple(sorted(found))


def _reserved(text: str, ranges: tuple[PoolRange, ...]) -> tuple[Cidr, ...]:
    """CIDRs, addresses, or `first-last` (which must lie in the pool, as Cilium has it)."""
    found: list[Cidr] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if "-" in item:
            start, _, end = item.partition("-")
            found += _between(start.strip(), end.strip(), ranges)
        else:
            found.append(parse(item) if "/" in item else parse_address(item))
    return tuple(found)


def _between(start: str, end: str, ranges: tuple[PoolRange, ...]) -> list[Cidr]:
    first, last = _address(start, "start"), _address(end, "end")
    if first.bits != last.bits or first.first > last.first:
        raise Invalid(f"invalid reserved range {start}-{end}")
    if not any(each.cidr.contains(first) and each.cidr.contains(last) for each in ranges):
        there = next((each.cidr for each in ranges if each.cidr.bits == first.bits), "of that family")
        raise Invalid(f"invalid reserved range {start}-{end} is outside pool CIDR {there}")
    found, at, bits = [], first.first, first.bits
    while at <= last.first:  # the widest network that begins here and does not reach beyond the end
        width = min((at & -at).bit_length() - 1 if at else bits, (last.first - at + 1).bit_length() - 1)
        found.append(Cidr(bits, at, bits - width))
        at += 1 << width
    return found


def _address(text: str, which: str) -> Cidr:
    try:
        return parse_address(text)
    except Invalid:
        raise Invalid(f'invalid reserved range {which} "{one_line(text)}"') from None
