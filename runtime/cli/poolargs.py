"""The pool that `pool add` and `pool delete` describe: a new one, one with more, one with less."""

from __future__ import annotations

import argparse
import time

import msgspec

from omnipam.core.cidr import BITS, FAMILIES, Cidr, Family, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.selector import selector_text
from omnipam.core.space import Space
from omnipam.core.values import PoolRange, PoolSpec

from ..config.values import read_int, read_kubernetes_name, split_list
from ..kube.podippool import Marks, marked
from . import target
from .parser import bounded

KEEPS = "a pool keeps it for life; make one of another name"


def new(args: argparse.Namespace) -> PoolSpec:
    """The pool that the arguments describe. Raises Invalid, naming the argument, its value and what to do."""
    try:
        name = read_kubernetes_name(args.name)
    except Invalid as error:
        raise Invalid(f"NAME: {error}; write the pool's name") from None
    ranges = [each for family in FAMILIES for each in _ranges(args, family)]
    if not ranges:
        raise Invalid(
            f"pool add {name}: it has no range; give --ipv4-cidr and --ipv4-mask-size, or the same for ipv6"
        )
    spec = PoolSpec(
        name,
        tuple(ranges),
        max_blocks=0,
        created=0.0 if target.is_kubernetes(args) else time.time(),
        first_usable=args.allow_first_ip,
        last_usable=args.allow_last_ip,
    )
    return _checked(spec, _marks(args), f"pool add {name}")


def grown(args: argparse.Namespace, old: PoolSpec) -> PoolSpec:
    """A pool with what the arguments add: ranges behind those it has, further reserved ones; a selector, a cap and wider
    sizes in place of its own, or none where they are given empty. Raises Invalid where it would be another pool."""
    what = f"pool add {old.name}"
    if old.unreadable:
        raise Invalid(f"{what}: {old.unreadable[0]}")
    for first, given, had in (
        ("First", args.allow_first_ip, old.first_usable),
        ("Last", args.allow_last_ip, old.last_usable),
    ):
        if given and not had:
            raise Invalid(f'{what}: cannot change allow{first}IP in existing pool "{old.name}" — {KEEPS}')
    more: list[PoolRange] = []
    for family in FAMILIES:
        mask = next((each.mask for each in old.ranges if each.cidr.family == family), None)
        ranges = _ranges(args, family, mask)
        if any(each.mask != mask for each in ranges):
            text = f'cannot change IPv{family[-1]} mask size in existing pool "{old.name}"'
            raise Invalid(f"{what}: {text} — {KEEPS}")
        more += ranges
    for each in more:
        if any(other.cidr == each.cidr for other in old.ranges):
            raise Invalid(f"{what}: it has {each.cidr} already; leave that out")
    marks = _marks(args)
    anew = [marks.selector, marks.max_blocks, marks.sizes]
    if not more and not marks.reserved and anew == [None, None, None]:
        raise Invalid(
            f"{what}: it exists already, and nothing is added; give --ipv4-cidr, --ipv6-cidr or --reserved"
        )
    wider = sorted({size for each in old.ranges for size in each.wider})
    own = (selector_text(old.selector), str(old.max_blocks or ""), ",".join(map(str, wider)))
    selector, most, sizes = (had if text is None else text for text, had in zip(anew, own, strict=True))
    reserved = [*map(str, old.reserved), *([marks.reserved] if marks.reserved else [])]
    every = Marks(selector, most, ",".join(reserved), sizes)
    return _checked(msgspec.structs.replace(old, ranges=old.ranges + tuple(more)), every, what)


def shrunk(args: argparse.Namespace, old: PoolSpec) -> PoolSpec:
    """A pool without the ranges, and without the reserved ones, that the arguments name. Raises Invalid."""
    what = f"pool delete {old.name}"
    if old.unreadable:
        raise Invalid(f"{what}: {old.unreadable[0]}")
    ranges, reserved = list(old.ranges), list(old.reserved)
    for family in FAMILIES:
        for text in _listed(args, family):
            cidr = _cidr(text, f"--{family}-cidr", family)
            found = next((each for each in ranges if each.cidr == cidr), None)
            if found is None:
                raise Invalid(f"{what}: it has no range {cidr}; take one of {_some(old, family)}")
            ranges.remove(found)
        if any(each.cidr.family == family for each in old.ranges) and not any(
            each.cidr.family == family for each in ranges
        ):
            raise Invalid(
                f"{what}: that leaves no IPv{family[-1]} range; add another first, reserve this one to have it drain, "
                "or delete the whole pool"
            )
    for text in [] if args.reserved is None else split_list(args.reserved) or [""]:
        cidr = _either(text)
        if cidr not in reserved:
            there = ", ".join(map(str, old.reserved)) or "none"
            raise Invalid(f"{what}: it does not reserve {cidr}; it reserves {there}")
        reserved.remove(cidr)
    return msgspec.structs.replace(old, ranges=tuple(ranges), reserved=tuple(reserved))


def takes_out(args: argparse.Namespace) -> bool:
    """Whether `pool delete` names a part, not the whole pool."""
    return bool(args.ipv4_cidr or args.ipv6_cidr or args.reserved is not None)


def _some(spec: PoolSpec, family: Family) -> str:
    return ", ".join(str(each.cidr) for each in spec.ranges if each.cidr.family == family) or "none"


def _either(text: str) -> Cidr:
    if not text:
        raise Invalid("--reserved: set but empty; write a range that the pool reserves")
    try:
        return parse(text) if "/" in text else parse_address(text)
    except Invalid as error:
        raise Invalid(f"--reserved: {error}; correct it") from None


def _marks(args: argparse.Namespace) -> Marks:
    for flag, text in (
        ("--max-blocks-per-node", args.max_blocks_per_node),
        ("--ipv4-mask-sizes", args.ipv4_mask_sizes),
    ):
        bounded(text or "", flag)
    return Marks(args.node_selector, args.max_blocks_per_node, args.reserved, args.ipv4_mask_sizes)


def _checked(spec: PoolSpec, marks: Marks, what: str) -> PoolSpec:
    try:
        spec = marked(spec, marks)
        Space(spec)  # overlaps, masks
    except Invalid as error:
        raise Invalid(f"{what}: {error}") from None
    return spec


def _listed(args: argparse.Namespace, family: Family) -> list[str]:
    """The CIDRs given of a family, as written; an empty one for an empty value."""
    return [item for text in getattr(args, f"{family}_cidr") for item in split_list(text) or [""]]


def _ranges(args: argparse.Namespace, family: Family, own: int | None = None) -> list[PoolRange]:
    """own: the mask size of the pool that is there."""
    flag, mask_flag = f"--{family}-cidr", f"--{family}-mask-size"
    texts = _listed(args, family)
    mask = _mask(getattr(args, f"{family}_mask_size"), mask_flag, family)
    if mask is not None and not texts:
        raise Invalid(f"{mask_flag} {mask}: there is no {flag} that it is for; give one, or leave it out")
    mask = own if mask is None else mask
    if mask is None and texts:
        raise Invalid(f"{flag} {texts[0]}: there is no {mask_flag}; say how large a node's block is")
    return [PoolRange(_cidr(text, flag, family), mask or 0) for text in texts]


def _cidr(text: str, flag: str, family: Family) -> Cidr:
    if not text:
        raise Invalid(f"{flag}: set but empty; write a CIDR, as in 10.0.0.0/16")
    try:
        cidr = parse(text)
    except Invalid as error:
        raise Invalid(f"{flag}: {error}; correct it") from None
    if cidr.family != family:
        raise Invalid(f"{flag}: CIDR is not v{family[-1]} family: {cidr} — give it with --{cidr.family}-cidr")
    return cidr


def _mask(text: str | None, flag: str, family: Family) -> int | None:
    if text is None:
        return None
    try:
        mask = read_int(text)
    except Invalid as error:
        raise Invalid(f"{flag}: {error}; write a number from 1 to {BITS[family]}") from None
    if not 1 <= mask <= BITS[family]:
        raise Invalid(f"{flag} {mask}: it is no prefix length; write a number from 1 to {BITS[family]}")
    return mask
