"""What must hold between keys: pools and families, blocks and masks, the times of a Lease.

`problems` gives finished lines. Cilium's and client-go's own words stand in them verbatim, so that runbooks still match.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

from omnipam.core.cidr import BITS, FAMILIES, Cidr, Family

from .config import Config
from .keys import BY_NAME
from .values import format_cidrs, format_duration, shown

JITTER = 1.2  # client-go leaderelection.JitterFactor
TOO_LONG = "SubNetMask is invalid, should be lower or equal to 32 for IPv4 and to 128 for IPv6"


class Complain(Protocol):
    """Notes one problem. text: value and reason; step: what to do; theirs: the reason is another program's words."""

    def __call__(self, key: str, text: str, step: str, *, theirs: bool = False) -> None: ...


def line(key: str, text: str, source: str, step: str, *, theirs: bool = False) -> str:
    """The one line that a person reads: key, value with reason, source, what to do."""
    return f"{key}: {text} ({source}){' —' if theirs else ';'} {step}"


def problems(config: Config, broken: AbstractSet[str]) -> list[str]:
    """Every rule that is broken. broken: keys whose value could not be read and is a stand-in; rules that need one wait."""
    lines: list[str] = []

    def complain(key: str, text: str, step: str, *, theirs: bool = False) -> None:
        lines.append(line(key, text, config.sources[key], step, theirs=theirs))

    if broken.isdisjoint(("enable-ipv4", "enable-ipv6")):
        if not config.families:
            complain(
                "enable-ipv4",
                "false, and enable-ipv6 is false too: no family is left",
                "set one of them to true",
            )
        elif config.ipam == "cluster-pool":  # also in place of a mode that cannot be read
            for family in FAMILIES:
                _check_pool(config, family, broken, complain)
    _check_lease(config, broken, complain)
    if config.k8s_client_burst and not config.k8s_client_qps and "k8s-client-qps" not in broken:
        complain(
            "k8s-client-burst",
            f"{config.k8s_client_burst} is set without k8s-client-qps",
            "set both or neither",
        )
    return lines


def _check_pool(config: Config, family: Family, broken: AbstractSet[str], complain: Complain) -> None:
    key, mask_key = f"cluster-pool-{family}-cidr", f"cluster-pool-{family}-mask-size"
    version, cidrs, mask = family[-1], config.pool_cidrs(family), config.pool_mask(family)
    if key in broken:
        return
    if family not in config.families:
        if config.sources[key] != "default":
            text = f"{shown(format_cidrs(cidrs)) if cidrs else 'empty'}: {key} must not be set if IPv{version} is disabled"
            complain(key, text, f"remove it, or set enable-{family}=true", theirs=True)
        if mask_key not in broken and not 1 <= mask <= BITS[family]:
            complain(mask_key, f"{mask} is no prefix length", f"use 1 to {BITS[family]}, or remove it")
        return
    if not cidrs:
        text = f"set but empty: {key} must be provided when using ClusterPool"
        complain(key, text, f"write a CIDR, or remove the key for {BY_NAME[key].unset}", theirs=True)
        return
    right = True
    for position, cidr in enumerate(cidrs):
        if cidr.family != family:
            right = False
            step = f"put it into cluster-pool-{cidr.family}-cidr"
            complain(key, f"CIDR is not v{version} family: {cidr}", step, theirs=True)
            continue
        earlier = next((other for other in cidrs[:position] if other.overlaps(cidr)), None)
        if earlier is not None:
            right = False
            text = f"requested CIDR {cidr} collides with clusterCIDR: {earlier}, nodeMask: {mask}"
            complain(key, text, "remove one of the two", theirs=True)
    if not right or mask_key in broken:
        return
    longest = max(cidrs, key=lambda cidr: cidr.length)
    step = f"use {longest.length or 1} to {BITS[family]}"
    if mask > BITS[family]:
        complain(mask_key, f"{mask}: {TOO_LONG}", step, theirs=True)
    elif mask < max(longest.length, 1):
        complain(mask_key, f"{mask} is smaller than the prefix of {longest}", step)
    elif "cluster-pool-reserved" not in broken and not any(
        _has_block(cidr, mask, config.cluster_pool_reserved) for cidr in cidrs
    ):
        text = f"{shown(format_cidrs(config.cluster_pool_reserved))} leaves no /{mask} block of {shown(format_cidrs(cidrs))}"
        complain("cluster-pool-reserved", text, f"reserve less, or add a CIDR to {key}")


def _has_block(cidr: Cidr, mask: int, reserved: tuple[Cidr, ...]) -> bool:
    """Whether a block of prefix length `mask` in `cidr` touches nothing reserved."""
    if any(other.contains(cidr) for other in reserved):
        return False
    # What touches the pool now lies in it. Widened to whole blocks, ranges are nested or apart: in order, wider first.
    taken = sorted(
        other if other.length < mask else other.widened(mask) for other in reserved if cidr.contains(other)
    )
    blocked, end = 0, -1
    for other in taken:
        if other.first > end:
            blocked, end = blocked + other.size, other.last
    return blocked < cidr.size


def _check_lease(config: Config, broken: AbstractSet[str], complain: Complain) -> None:
    """client-go's NewLeaderElector. What is left after the renew deadline is the time-out of requests, hence > 0."""
    lease, renew, retry = (
        f"leader-election-{part}" for part in ("lease-duration", "renew-deadline", "retry-period")
    )
    duration, deadline, period = (
        config.leader_election_lease_duration,
        config.leader_election_renew_deadline,
        config.leader_election_retry_period,
    )
    if lease not in broken and not duration.is_integer():
        complain(
            lease, f"{format_duration(duration)} is no number of whole seconds, as a Lease counts", "round it"
        )
    if broken.isdisjoint((lease, renew)) and duration <= deadline:
        text = f"{format_duration(deadline)} against {format_duration(duration)}: leaseDuration must be greater than renewDeadline"
        complain(renew, text, f"use less than {lease}", theirs=True)
    if broken.isdisjoint((renew, retry)) and deadline <= JITTER * period:
        text = (
            f"{format_duration(period)} against {format_duration(deadline)}: "
            "renewDeadline must be greater than retryPeriod*JitterFactor"
        )
        complain(retry, text, f"use less than {renew} / {JITTER}", theirs=True)
