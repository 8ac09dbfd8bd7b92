"""The value of `auto-create-cilium-pod-ip-pools`: pools by name, each a line of fields, as Cilium reads it.

default=ipv4-cidrs:10.10.0.0/16,10.11.0.0/16;ipv4-mask-size:24,mars=ipv6-cidrs:fd00::/104;ipv6-mask-size:120
"""

from __future__ import annotations

import re

import msgspec

from omnipam.core.cidr import BITS, FAMILIES, Cidr, parse
from omnipam.core.errors import Invalid
from omnipam.core.space import Space
from omnipam.core.values import PoolRange, PoolSpec

from .values import read_int, read_kubernetes_name, shown

_NEXT = re.compile(r",(?=\s*[^,;:=]+=)")  # a comma within a value stands before no `NAME=`
_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def read_pool_specs(text: str) -> tuple[PoolSpec, ...]:
    """`NAME=SPEC,NAME=SPEC`, or a JSON object of strings. Raises Invalid."""
    if text.lstrip().startswith("{"):
        try:
            pairs = list(msgspec.json.decode(text, type=dict[str, str]).items())
        except (msgspec.MsgspecError, RecursionError):
            raise Invalid("it is not a JSON object of strings") from None
    else:
        pairs = []
        for item in filter(None, (part.strip() for part in _NEXT.split(text))):
            name, equals, spec = item.partition("=")
            if not equals:
                raise Invalid(f"{shown(item)} is not of the form NAME=SPEC")
            pairs.append((name.strip(), spec))
    found: dict[str, PoolSpec] = {}
    for name, spec in pairs:
        pool = read_pool_spec(read_kubernetes_name(name), spec)
        if found.setdefault(name, pool) != pool:
            raise Invalid(f"pool {name} is given twice")
    return tuple(found.values())


def read_pool_spec(name: str, text: str) -> PoolSpec:
    """One pool: fields `key:value`, separated by `;`. Unknown keys are ignored, as in Cilium. Raises Invalid, in its words."""
    fields: dict[str, str] = {}
    bare = "".join(text.split())
    for field in bare.split(";"):
        key, colon, value = field.partition(":")
        if not colon:
            raise Invalid(f"invalid number of key delimiters in pool spec {shown(bare)}")
        fields[key] = value
    ranges: list[PoolRange] = []
    for family in FAMILIES:
        key, mask_key = f"{family}-cidrs", f"{family}-mask-size"
        mask = _mask(mask_key, fields[mask_key]) if mask_key in fields else 0
        if not fields.get(key):
            continue
        cidrs = [_cidr(key, item, BITS[family]) for item in fields[key].split(",")]
        ranges += [PoolRange(cidr, mask) for cidr in cidrs]
    spec = PoolSpec(
        name,
        tuple(ranges),
        max_blocks=0,
        first_usable=_flag(fields, "allow-first-ip"),
        last_usable=_flag(fields, "allow-last-ip"),
    )
    if not ranges:
        raise Invalid(f"pool {name} has no CIDR: give ipv4-cidrs or ipv6-cidrs, each with its mask size")
    Space(spec)  # masks, overlaps
    return spec


def _cidr(key: str, text: str, bits: int) -> Cidr:
    try:
        cidr = parse(text)
    except Invalid as error:
        raise Invalid(f'invalid value for key "{key}": {error}') from None
    if cidr.bits != bits:
        raise Invalid(f'invalid value for key "{key}": {cidr} is of the other family')
    return cidr


def _mask(key: str, text: str) -> int:
    try:
        mask = read_int(text)
    except Invalid as error:
        raise Invalid(f'invalid value for key "{key}": {error}') from None
    if not 0 <= mask <= 255:
        raise Invalid(f'invalid value for key "{key}": {mask} is no number from 0 to 255')
    return mask


def _flag(fields: dict[str, str], key: str) -> bool:
    text = fields.get(key, "false")
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise Invalid(f'invalid value for key "{key}": {text!r} is not true or false')
    return value
