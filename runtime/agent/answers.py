"""What the agent's API says, as JSON: allocations, pools, and each error as a status and a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from omnipam.core.attachment import (
    AddressInUse,
    Allocation,
    BlockTooSmall,
    Given,
    NoAddress,
    NotYours,
    PoolMismatch,
)
from omnipam.core.cidr import Family, format_address
from omnipam.core.errors import Conflict, Denied, Invalid, NotFound, OmnipamError, Retryable
from omnipam.core.node_blocks import PoolState
from omnipam.core.uplink import Uplink

from .http import Answer, problem


class NotReady(Retryable):
    """The agent does not know enough yet. It will."""

    reason = "NotReady"


STATUSES: tuple[tuple[type[OmnipamError], int], ...] = (  # the first that fits
    (PoolMismatch, 403),
    (NotFound, 404),
    (AddressInUse, 409),
    (NotYours, 409),
    (Conflict, 409),
    (BlockTooSmall, 422),
    (NoAddress, 503),
    (Invalid, 400),
    (Retryable, 503),
    (Denied, 503),
)


class InterfaceBody(msgspec.Struct, frozen=True, gc=False):
    """The node's interface that an address belongs to. cidrs: what is reached through it without translation, of its family."""

    id: str
    number: int
    mac: str
    cidrs: list[str]


class GivenBody(msgspec.Struct, frozen=True, gc=False):
    """One address, as docs/agent.md has it."""

    family: Family
    address: str
    prefix: str
    pool: str
    gateway: str | None
    prefix_length: int
    skip_masquerade: bool = False
    interface: InterfaceBody | None = None


class AllocationBody(msgspec.Struct, frozen=True, gc=False):
    key: tuple[str, str, str]
    owner: str
    addresses: list[GivenBody]


class ListedBody(AllocationBody, frozen=True, gc=False):
    since: float
    sticky: bool


class PoolBody(msgspec.Struct, frozen=True):
    pool: str
    family: Family
    blocks: list[str]
    used: int
    free: int
    cooling: int
    total: int


encode = msgspec.json.Encoder().encode


class Facts(Protocol):
    """What the answers say of an address beside what is reserved."""

    def skips(self, pool: str) -> bool:
        """Whether a pool's addresses are not masqueraded."""

    def uplink(self, given: Given) -> Uplink | None:
        """The interface that an address belongs to, where addresses do."""


def addresses_of(allocation: Allocation, facts: Facts) -> list[GivenBody]:
    found = []
    for given in allocation.given:
        uplink = facts.uplink(given)
        found.append(
            GivenBody(
                given.family,
                str(given),
                str(given.block.cidr),
                given.pool,
                gateway_of(given, uplink),
                given.bits if given.gateway is None else given.block.cidr.length,
                facts.skips(given.pool),
                None
                if uplink is None
                else InterfaceBody(uplink.id, uplink.number, uplink.mac, native_of(given, uplink)),
            )
        )
    return found


def gateway_of(given: Given, uplink: Uplink | None) -> str | None:
    """The interface's, where addresses belong to interfaces; else the block's."""
    gateway = given.gateway
    if uplink is not None:
        next_hop = uplink.gateways.get(given.family)
        gateway = None if next_hop is None else next_hop.first
    return None if gateway is None else format_address(gateway, given.bits)


def native_of(given: Given, uplink: Uplink) -> list[str]:
    """What is reached through the interface without translation, in the address's family."""
    return [str(cidr) for cidr in uplink.native if cidr.bits == given.bits]


def allocated(allocation: Allocation, facts: Facts) -> bytes:
    return encode(AllocationBody(allocation.key, allocation.owner, addresses_of(allocation, facts)))


def listed(allocation: Allocation, facts: Facts) -> ListedBody:
    return ListedBody(
        allocation.key,
        allocation.owner,
        addresses_of(allocation, facts),
        allocation.since,
        allocation.sticky,
    )


def pools(states: Iterable[PoolState]) -> list[PoolBody]:
    return [
        PoolBody(
            each.pool,
            each.family,
            [str(cidr) for cidr in each.blocks],
            each.used,
            each.free,
            each.cooling,
            each.total,
        )
        for each in states
    ]


def refused(error: OmnipamError) -> Answer:
    """An error of ours as an answer."""
    for kind, status in STATUSES:
        if isinstance(error, kind):
            details = getattr(error, "details", None)
            return problem(status, error.reason, _line(error), details)
    return problem(500, error.reason, _line(error))


def bare(status: int, error: object) -> Answer:
    """An error as Cilium's endpoints tell it: a JSON string."""
    return Answer(status, encode(_line(error)))


def _line(error: object) -> str:
    return " ".join(str(error).split())
