"""What one container's network attachment asks of its node, what it is given, and the ways in which that can be refused."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .cidr import Family, format_address
from .errors import Conflict, Exhausted, Invalid, NotFound, Retryable
from .values import Block

Key = tuple[str, str, str]
"""Network, container, interface: the identity of a reservation."""

INFRASTRUCTURE = frozenset(("router", "health", "ingress"))
"""Owners whose addresses outlive a boot of the machine: Cilium's own endpoints."""


class Want(msgspec.Struct, frozen=True, gc=False):
    """One address that is asked for. address: exactly this one, as an integer; None: any."""

    family: Family
    pool: str
    address: int | None = None


class Request(msgspec.Struct, frozen=True, gc=False):
    """One attachment's request. owner: free text, `namespace/name` for pods.

    named: families whose pool the caller named itself; else the pool may have been another at an earlier, equal request.
    sticky: its addresses are kept for the owner when they are released.
    avoid: addresses that it must not get, as (bits, address): what its network uses as gateways.
    waits_as: how it is counted while it waits, where another request of the same owner is the same wish; empty: by its key.
    expires: seconds since the epoch when they are released by themselves; None: never.
    """

    key: Key
    owner: str
    wants: tuple[Want, ...]
    named: frozenset[Family] = frozenset()
    sticky: bool = False
    expires: float | None = None
    avoid: frozenset[tuple[int, int]] = frozenset()
    waits_as: str = ""


class Given(msgspec.Struct, frozen=True, gc=False):
    """One address. block: that of the pool which it lies in. gateway: the block's, as an integer; None: none is kept."""

    family: Family
    address: int
    block: Block
    gateway: int | None = None

    @property
    def pool(self) -> str:
        return self.block.pool

    @property
    def bits(self) -> int:
        return self.block.cidr.bits

    @property
    def place(self) -> tuple[int, int]:
        """Its identity among all addresses."""
        return self.block.cidr.bits, self.address

    def __str__(self) -> str:
        return format_address(self.address, self.bits)


class Allocation(msgspec.Struct, frozen=True, gc=False):
    """A reservation. id: of its row on disk. since: seconds since the epoch."""

    id: int
    key: Key
    owner: str
    given: tuple[Given, ...]
    since: float
    sticky: bool = False
    expires: float | None = None

    @property
    def outlives_boot(self) -> bool:
        """Whether it is still somebody's after the machine has started anew, with all containers gone."""
        return self.sticky or self.owner in INFRASTRUCTURE


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A reservation as it is on disk. released: seconds since the epoch; None: it is held. parked: kept for its owner."""

    allocation: Allocation
    released: float | None = None
    parked: bool = False


class PoolMismatch(Invalid):
    """The address asked for is not of the pool."""

    reason = "PoolMismatch"


class UnknownPool(NotFound):
    """There is no such pool, or it has no range of the family."""

    reason = "UnknownPool"

    def __init__(self, message: str, pool: str, family: Family) -> None:
        super().__init__(message)
        self.details: Mapping[str, object] = {"pool": pool, "family": family}


class NotForPods(Invalid):
    """The address asked for is no pod's: the block's first, last or gateway, the machine's own, or a gateway by the caller's wish."""

    reason = "NotForPods"


class AddressInUse(Conflict):
    """The address asked for is somebody else's."""

    reason = "AddressInUse"


class NotYours(Conflict):
    """The reservation is another owner's."""

    reason = "NotYours"


class BlockTooSmall(Invalid):
    """The pool's blocks have no room for a gateway beside pods."""

    reason = "BlockTooSmall"


class NoUplink(Retryable):
    """The node's object does not show the interface that an address belongs to. It may again."""

    reason = "NoInterface"


class NoAddress(Exhausted):
    """A pool has no address left on this node. `details`: pool, family, used, total, requested."""

    def __init__(self, pool: str, family: Family, used: int, total: int, requested: int) -> None:
        self.details: Mapping[str, object] = {
            "pool": pool,
            "family": family,
            "used": used,
            "total": total,
            "requested": requested,
        }
        asked = f"the operator was asked for {requested}" if requested else "more cannot be asked for"
        super().__init__(f"pool {pool} has no free {family} address: {used} of {total} in use; {asked}")
