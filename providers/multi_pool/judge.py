"""Which pools are served as their objects say, and which are refused, and why: in Cilium's words where it refuses them, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from omnipam.core.cidr import FAMILIES, Family
from omnipam.core.errors import Invalid
from omnipam.core.overlaps import Overlaps
from omnipam.core.space import Space
from omnipam.core.values import Finding, PoolRange, PoolSpec

NEW_POOL = "make a pool of another name, move to it, and delete this one"


def judge(
    before: Mapping[str, PoolSpec], wanted: Iterable[PoolSpec]
) -> tuple[dict[str, PoolSpec], list[Finding]]:
    """The pools that are served from now on, by name, and what was refused: that keeps the spec that it had before, if any.

    A range belongs to the pool that has it already; of several that want it, to the older one, then by name.
    """
    accepted: dict[str, PoolSpec] = {}
    refused: list[Finding] = []
    ranges = Overlaps()
    hopeful: list[PoolSpec] = []
    for spec in sorted(wanted, key=lambda spec: (spec.created, spec.name)):
        old = before.get(spec.name)
        why = _wrong_in_itself(spec, old)
        if why is None:
            hopeful.append(spec)
            kept = {each.cidr for each in old.ranges} if old is not None else set()
            for each in spec.ranges:
                if each.cidr in kept:
                    ranges.add(spec.name, each.cidr)
            continue
        refused.append(_refusal(spec.name, (), *why))
        if old is not None:
            _accept(accepted, ranges, old)
    for spec in hopeful:
        others = sorted(
            {(owner, cidr, each) for each in spec.ranges for owner, cidr in _others(ranges, spec, each)},
            key=lambda one: (one[0], one[1], one[2].cidr),
        )
        if not others:
            _accept(accepted, ranges, spec)
            continue
        owner, cidr, mine = others[0]
        text = f"{mine.cidr} overlaps {cidr} of pool {owner!r}"
        refused.append(
            _refusal(
                spec.name, (owner,), text, f"take one of the two out; {owner} had it before, or is older"
            )
        )
        old = before.get(spec.name, spec)  # of one that never was served, at least what is its own alone
        free = tuple(each for each in old.ranges if not _others(ranges, old, each))
        if free or spec.name in before:
            _accept(accepted, ranges, msgspec.structs.replace(old, ranges=free))
    return dict(sorted(accepted.items())), refused


def masks(spec: PoolSpec, family: Family) -> set[int]:
    """The prefix lengths of the pool's blocks of a family."""
    return {each.mask for each in spec.ranges if each.cidr.family == family}


def _accept(accepted: dict[str, PoolSpec], ranges: Overlaps, spec: PoolSpec) -> None:
    accepted[spec.name] = spec
    for each in spec.ranges:
        ranges.add(spec.name, each.cidr)


def _others(ranges: Overlaps, spec: PoolSpec, each: PoolRange) -> list[tuple[str, object]]:
    return list(ranges.overlapping(each.cidr, but=spec.name))


def _wrong_in_itself(spec: PoolSpec, old: PoolSpec | None) -> tuple[str, str] | None:
    """What is wrong, and what to do; None: nothing."""
    if spec.unreadable:
        return spec.unreadable[0].text, spec.unreadable[0].hint
    try:
        Space(spec)
    except Invalid as error:
        text, _, hint = str(error).partition(" — ")
        return text, hint
    if old is None:
        return None
    for family in FAMILIES:
        if masks(spec, family) != masks(old, family):
            return f'cannot change IPv{family[-1]} mask size in existing pool "{spec.name}"', NEW_POOL
    if spec.first_usable != old.first_usable:
        return f'cannot change allowFirstIP in existing pool "{spec.name}"', NEW_POOL
    if spec.last_usable != old.last_usable:
        return f'cannot change allowLastIP in existing pool "{spec.name}"', NEW_POOL
    return None


def _refusal(name: str, others: tuple[str, ...], text: str, hint: str) -> Finding:
    objects = (f"CiliumPodIPPool/{name}", *(f"CiliumPodIPPool/{other}" for other in others))
    return Finding("PoolRefused", objects, f'failed to upsert pool "{name}": {text}', hint, severity="error")
