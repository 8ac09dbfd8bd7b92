"""multi-pool keeps the allocators' contract: one pool and one family, and several pools, families and block sizes."""

from __future__ import annotations

from omnipam.core.allocator import Settings
from omnipam.core.cidr import Family, parse
from omnipam.core.values import Block, Demand, PoolRange, PoolSpec
from omnipam.fixtures.contract import AllocatorContract, Subject, allocator_machine
from omnipam.providers.multi_pool import MultiPool


def pool(
    name: str, *ranges: str, reserved: tuple[str, ...] = (), quarantine_s: float = 0.0, most: int = 0
) -> PoolSpec:
    """A pool of ranges as `10.0.0.0/24 30`, more numbers being wider block sizes."""
    split = [text.split(" ") for text in ranges]
    return PoolSpec(
        name,
        tuple(PoolRange(parse(cidr), int(mask), tuple(map(int, wider))) for cidr, mask, *wider in split),
        tuple(map(parse, reserved)),
        quarantine_s,
        most,
    )


def asks(**needed: int) -> tuple[Demand, ...]:
    """What an agent asks for: `mars_ipv6=4`."""
    found = []
    for text, number in sorted(needed.items()):
        name, _, family = text.rpartition("_")
        known: Family = "ipv6" if family == "ipv6" else "ipv4"
        found.append(Demand(name, known, number))
    return tuple(found)


def hand(*blocks: str) -> tuple[Block, ...]:
    split = [text.split(" ") for text in blocks]
    return tuple(Block(name, parse(cidr)) for name, cidr in split)


SUBJECT = Subject(
    build=lambda: MultiPool(Settings()),
    pools=lambda blocks: (pool("mars", *(f"10.0.0.{4 * n}/30 30" for n in range(blocks))),),
    origin=__file__,
    demand=lambda number: asks(mars_ipv4=2),
    demands=(asks(mars_ipv4=2), asks(mars_ipv4=5), asks(), asks(mars_ipv4=0), asks(mars_ipv4=1, moon_ipv4=3)),
    specs=(
        (pool("mars", "10.0.0.0/28 30"),),
        (pool("mars", "10.0.0.0/28 30", "10.0.1.0/29 30"),),  # grown
        (pool("mars", "10.0.1.0/29 30"),),  # the first is drained
        (),  # deleted
        (pool("mars", "10.0.0.0/28 30", reserved=("10.0.0.6/32",), quarantine_s=30.0, most=2),),
        (pool("mars", "10.0.1.0/29 30"), pool("moon", "10.0.0.0/28 30")),  # another has it now
    ),
    by_hand=hand(
        "mars 10.0.0.0/30",
        "mars 10.0.0.4/30",
        "mars 10.0.0.8/30",
        "moon 10.0.0.8/30",
        "mars 10.0.0.0/29",
        "mars 10.0.0.13/32",
        "mars 10.0.0.0/24",
        "moon 10.0.1.0/30",
        "venus 192.168.0.0/24",
        "mars 192.168.0.128/25",
        "mars fd00::/120",
    ),
)

MANY = Subject(
    build=lambda: MultiPool(Settings(families=("ipv4", "ipv6"))),
    pools=lambda blocks: (
        pool(
            "mars",
            *(f"10.0.0.{4 * n}/30 30" for n in range(blocks)),
            *(f"fd00::{n:x}00/120 120" for n in range(blocks)),
        ),
        pool("moon", *(f"10.1.0.{4 * n}/30 30" for n in range(blocks))),
    ),
    origin=__file__,
    demand=lambda number: asks(mars_ipv4=2, mars_ipv6=3, moon_ipv4=1),
    demands=(
        asks(mars_ipv4=2, mars_ipv6=3, moon_ipv4=1),
        asks(mars_ipv4=9, mars_ipv6=300),
        asks(moon_ipv4=3, moon_ipv6=3),
        asks(),
        asks(mars_ipv4=1),
    ),
    specs=(
        (pool("mars", "10.0.0.0/26 30 28", "fd00::/118 120"), pool("moon", "10.1.0.0/28 30")),
        (pool("mars", "10.0.0.0/26 30 28", "fd00::/118 120"), pool("moon", "10.1.0.0/28 30", most=1)),
        (pool("mars", "10.0.0.0/27 30 28", "10.0.1.0/27 30 29", "fd00::/119 120"),),
        (pool("moon", "10.1.0.0/28 30", "10.0.1.0/28 30"),),
    ),
    by_hand=hand(
        "mars 10.0.0.0/30",
        "mars 10.0.0.16/28",
        "moon 10.0.0.4/30",
        "moon 10.1.0.4/30",
        "mars fd00::/120",
        "mars fd00::100/119",
        "mars 10.0.0.0/8",
    ),
)


class TestMultiPool(AllocatorContract):
    subject = SUBJECT


class TestManyPools(AllocatorContract):
    subject = MANY


TestMultiPoolUnderFaults = allocator_machine(SUBJECT, examples=150).TestCase
TestManyPoolsUnderFaults = allocator_machine(MANY, examples=60).TestCase
