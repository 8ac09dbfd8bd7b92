"""cluster-pool keeps the allocators' contract: single stack, and dual stack with live pool changes."""

from __future__ import annotations

from omnipam.core.allocator import Settings
from omnipam.core.cidr import parse
from omnipam.core.values import PoolRange, PoolSpec
from omnipam.fixtures.contract import AllocatorContract, Subject, allocator_machine
from omnipam.providers.cluster_pool import ClusterPool


def _pools(blocks: int) -> tuple[PoolSpec, ...]:
    """So many /30, in ranges of one block each."""
    return (PoolSpec(ranges=tuple(PoolRange(parse(f"10.0.0.{4 * n}/30"), 30) for n in range(blocks))),)


def _spec(*ranges: str, reserved: tuple[str, ...] = (), quarantine_s: float = 0.0, most: int = 1) -> PoolSpec:
    split = [text.split(" ") for text in ranges]
    return PoolSpec(
        ranges=tuple(PoolRange(parse(cidr), int(mask)) for cidr, mask in split),
        reserved=tuple(map(parse, reserved)),
        quarantine_s=quarantine_s,
        max_blocks=most,
    )


SPECS = (
    (_spec("10.0.0.0/28 30"),),
    (_spec("10.0.0.0/28 30", "10.0.1.0/29 30"),),  # grown
    (_spec("10.0.1.0/29 30"),),  # the first is drained
    (_spec("10.0.0.0/28 29", most=2),),  # another mask
    (_spec("10.0.0.0/28 30", reserved=("10.0.0.6/32",), quarantine_s=30.0, most=2),),
    (_spec("10.0.0.0/28 31", quarantine_s=5.0),),
)
BY_HAND = tuple(
    map(
        parse,
        (
            "10.0.0.0/30",
            "10.0.0.4/30",
            "10.0.0.8/30",
            "10.0.0.0/29",
            "10.0.0.13/32",
            "10.0.0.0/24",
            "10.0.1.0/30",
            "192.168.0.0/24",
            "192.168.0.128/25",
            "fd00::/120",
        ),
    )
)
SUBJECT = Subject(
    build=lambda: ClusterPool(Settings()), pools=_pools, origin=__file__, specs=SPECS, by_hand=BY_HAND
)

DUAL_SPECS = (
    (_spec("10.0.0.0/28 30", "fd00::/118 120"),),
    (_spec("10.0.0.0/28 30", "10.0.1.0/29 30", "fd00::/118 120", "fd01::/119 120", most=2),),
    (_spec("10.0.1.0/29 30", "fd00::/119 120", quarantine_s=30.0),),
)
DUAL = Subject(
    build=lambda: ClusterPool(Settings(families=("ipv4", "ipv6"))),
    pools=lambda blocks: (_spec("10.0.0.0/24 30", f"fd00::/{120 - (blocks - 1).bit_length()} 120"),),
    origin=__file__,
    specs=DUAL_SPECS,
    by_hand=(*BY_HAND[:5], parse("fd00::/120"), parse("fd00::100/120"), parse("fd00::/119")),
)


class TestClusterPool(AllocatorContract):
    subject = SUBJECT


class TestClusterPoolDualStack(AllocatorContract):
    subject = DUAL


TestClusterPoolUnderFaults = allocator_machine(SUBJECT).TestCase
TestClusterPoolDualStackUnderFaults = allocator_machine(DUAL, examples=40).TestCase
