"""What the agent's API says, as JSON: allocations, pools, and each error as a status and a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from omnipam.core.attachment import (
    AddressInUse,
    Allocation,
    BlockTooSmall,
    NoAddress,
    NotYours,
    PoolMismatch,
)
from omnipam.core.cidr import Family, format_address
from omnipam.core.errors import Conflict, Denied, Invalid, NotFound, OmnipamError, Retryable
from omnipam.core.node_blocks import PoolState

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


class GivenBody(msgspec.Struct, frozen=True, gc=False):
    """One address, as docs/agent.md has it."""

    family: Family
    address: str
    prefix: str
    pool: str
    gateway: str | None
    prefix_length: int
    skip_masquerade: bool = False
    interface: None = None


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


def addresses_of(allocation: Allocation, skips: Callable[[str], bool]) -> list[GivenBody]:
    """skips: whether a pool's addresses are not masqueraded."""
    return [
        GivenBody(
            given.family,
            str(given),
            str(given.block.cidr),
            given.pool,
            None if given.gateway is None else format_address(given.gateway, given.bits),
            given.block.cidr.length if given.gateway is not None else given.bits,
            skips(given.pool),
        )
        for given in allocation.given
    ]


def allocated(allocation: Allocation, skips: Callable[[str], bool]) -> bytes:
    return encode(AllocationBody(allocation.key, allocation.owner, addresses_of(allocation, skips)))


def listed(allocation: Allocation, skips: Callable[[str], bool]) -> ListedBody:
    return ListedBody(
        allocation.key,
        allocation.owner,
        addresses_of(allocation, skips),
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
