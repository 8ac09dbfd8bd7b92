"""One block's addresses: what is withheld, the order in which they are given, and what that costs."""

from __future__ import annotations

import time

import pytest

from omnipam.core.addresses import Addresses
from omnipam.core.cidr import parse
from omnipam.core.errors import Conflict, Invalid
from omnipam.core.values import Block


def addresses(text: str, *, gateway: bool = False, first: bool = False, last: bool = False) -> Addresses:
    return Addresses(Block("default", parse(text), first, last), gateway=gateway)


@pytest.mark.parametrize(
    ("text", "options", "total"),
    [
        ("10.0.0.0/24", {}, 254),
        ("10.0.0.0/30", {}, 2),
        ("10.0.0.0/30", {"first": True}, 3),
        ("10.0.0.0/30", {"last": True}, 3),
        ("10.0.0.0/31", {}, 2),
        ("10.0.0.0/32", {}, 1),
        ("fd00::/126", {}, 2),
        ("fd00::/127", {}, 2),
        ("fd00::/128", {}, 1),
        ("10.0.0.0/24", {"gateway": True}, 253),
        ("10.0.0.0/24", {"gateway": True, "first": True, "last": True}, 255),
        ("10.0.0.0/31", {"gateway": True}, 2),
    ],
)
def test_how_many_there_are(text: str, options: dict[str, bool], total: int) -> None:
    """The first nine: Cilium's own sizes."""
    assert addresses(text, **options).total == total


def taken(block: Addresses, count: int, now: float = 0.0) -> list[int]:
    found = []
    for _ in range(count):
        address = block.choose(now)
        assert address is not None
        block.take(address)
        found.append(address - block.block.cidr.first)
    return found


def test_they_follow_one_another_and_come_back_last() -> None:
    block = addresses("10.0.0.0/28", gateway=True)
    base = block.block.cidr.first
    assert block.gateway == base + 1
    assert taken(block, 3) == [2, 3, 4]
    block.release(base + 2)
    assert taken(block, 11) == [*range(5, 15), 2]
    assert block.choose(0.0) is None


def test_what_cools_is_given_last_oldest_first() -> None:
    block = addresses("10.0.0.0/29")
    base = block.block.cidr.first
    taken(block, 6)
    block.release(base + 3, 30.0)
    block.release(base + 1, 31.0)
    assert (block.free, block.cooling, block.used) == (0, 2, 4)
    assert block.choose(10.0) is None
    assert block.oldest_cooling() == (30.0, base + 3)
    block.take(base + 3)
    assert block.choose(31.0) == base + 1, "it has cooled"
    assert block.cooling == 0


def test_what_is_parked_is_given_after_all_else() -> None:
    block = addresses("10.0.0.0/29")
    base = block.block.cidr.first
    taken(block, 1)
    block.park(base + 1)
    assert (block.used, block.parked, block.free) == (0, 1, 5)
    assert not block.unused
    assert not block.is_free(base + 1)
    assert block.oldest_parked() == base + 1
    block.take(base + 1)
    assert (block.used, block.parked) == (1, 0)


def test_the_same_twice_and_what_is_outside() -> None:
    block = addresses("10.0.0.0/29", gateway=True)
    base = block.block.cidr.first
    block.take(base + 5)
    for withheld in (5, 0, 1, 7):
        with pytest.raises(Conflict, match="provided IP is already allocated"):
            block.take(base + withheld)
    with pytest.raises(Invalid, match=r"range of valid IPs is 10\.0\.0\.0/29"):
        block.take(base + 8)
    for free in (0, 1, 7, 4):
        block.release(base + free)
    assert block.free == 4, "a release of what is not used changes nothing"


def test_a_slash_64_costs_nothing_until_it_is_used() -> None:
    block = addresses("fd00::/64", gateway=True)
    assert taken(block, 2) == [2, 3]
    assert block.total == 2**64 - 3


def test_one_left_in_a_slash_16_costs_no_more_than_none_taken() -> None:
    empty, full = addresses("10.0.0.0/16"), addresses("10.0.0.0/16")
    taken(full, full.total)
    full.release(full.block.cidr.first + 40000)

    def cost(block: Addresses) -> float:
        best = float("inf")
        for _ in range(30):
            begun = time.perf_counter()
            for _ in range(100):
                address = block.choose(0.0)
                assert address is not None
                block.take(address)
                block.release(address)
            best = min(best, time.perf_counter() - begun)
        return best

    assert cost(full) <= 2.5 * cost(empty), "the benchmark holds it to 2; a busy machine gets some room"
