"""The address space of a pool, the quarantine, and those who wait."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from omnipam.core.cidr import Cidr, parse
from omnipam.core.errors import Invalid
from omnipam.core.quarantine import Quarantine
from omnipam.core.space import Space
from omnipam.core.values import PoolRange, PoolSpec
from omnipam.core.waiting import Waiting


def space(*ranges: str, reserved: tuple[str, ...] = ()) -> Space:
    split = [text.split() for text in ranges]
    return Space(
        PoolSpec(
            ranges=tuple(PoolRange(parse(cidr), int(mask)) for cidr, mask in split),
            reserved=tuple(map(parse, reserved)),
        )
    )


# -- space


def test_next_tells_what_take_gives_and_changes_nothing() -> None:
    one = space("10.0.0.0/31 32", "10.1.0.0/31 32")
    for expected in ("10.0.0.0/32", "10.0.0.1/32", "10.1.0.0/32", "10.1.0.1/32"):
        assert one.next("ipv4") == one.next("ipv4") == parse(expected)
        assert one.take("ipv4", "a") == parse(expected)
    assert one.next("ipv4") is None
    assert one.take("ipv4", "a") is None
    assert one.take("ipv6", "a") is None


def test_ranges_of_one_family_may_not_overlap_and_those_of_both_may_stand_in_any_order() -> None:
    with pytest.raises(
        Invalid, match=r"requested CIDR 10\.0\.0\.0/16 collides with clusterCIDR: 10\.0\.0\.0/8, nodeMask: 24"
    ):
        space("10.0.0.0/8 24", "fd00::/104 120", "10.0.0.0/16 24")
    assert space("fd00::/104 120", "10.0.0.0/8 24").take("ipv4", "a") == parse("10.0.0.0/24")


def test_a_claim_outside_conflicts_like_any_other() -> None:
    one = space("10.0.0.0/16 24")
    assert one.claim("a", parse("192.168.0.0/16")) == []
    assert one.claim("b", parse("192.168.7.0/24")) == [("a", parse("192.168.0.0/16"))]
    assert one.others("b", parse("192.168.7.0/24")) == [("a", parse("192.168.0.0/16"))]
    one.free("a", parse("192.168.0.0/16"))
    assert one.claim("b", parse("192.168.7.0/24")) == []


def test_a_range_that_reaches_beyond_the_pool_occupies_its_part_of_it() -> None:
    one = space("10.0.0.0/30 31", "10.0.0.8/31 31")
    assert one.claim("wide", parse("10.0.0.0/29")) == []
    assert not one.inside(parse("10.0.0.0/29"))
    assert one.touches(parse("10.0.0.0/29"))
    assert one.take("ipv4", "a") == parse("10.0.0.8/31")
    assert one.claim("b", parse("10.0.0.2/31")) == [("wide", parse("10.0.0.0/29"))]
    (capacity,) = one.capacity()
    assert (capacity.total, capacity.used, capacity.free, capacity.outside) == (3, 3, 0, 1)
    one.free("wide", parse("10.0.0.0/29"))
    assert one.free_blocks("ipv4") == 2
    assert one.capacity()[0].outside == 0


def test_several_owners_may_hold_one_range_by_force_and_each_frees_its_own() -> None:
    one = space("10.0.0.0/24 26")
    for owner in ("b", "a"):
        one.force(owner, parse("10.0.0.0/26"))
    assert one.others("", parse("10.0.0.0/24")) == [("a", parse("10.0.0.0/26")), ("b", parse("10.0.0.0/26"))]
    one.free("a", parse("10.0.0.0/26"))
    assert one.next("ipv4") == parse("10.0.0.64/26")
    one.free("b", parse("10.0.0.0/26"))
    one.free("b", parse("10.0.0.0/26"))
    assert one.next("ipv4") == parse("10.0.0.0/26")


def test_quarantine_and_reserved_keep_blocks_from_being_taken() -> None:
    one = space("10.0.0.0/30 32", reserved=("10.0.0.1/32", "10.0.0.2/32"))
    one.hold_back(parse("10.0.0.0/32"))
    assert one.next("ipv4") == parse("10.0.0.3/32")
    assert one.claim("a", parse("10.0.0.0/32")) == [], "what an object shows wins"
    one.let_go(parse("10.0.0.0/32"))
    assert one.free_blocks("ipv4") == 1


def test_cursors_go_on_where_ranges_are_the_same() -> None:
    before = space("10.0.0.0/24 26", "10.1.0.0/24 26")
    block = before.take("ipv4", "a")
    assert block is not None
    before.free("a", block)
    for ranges, expected in (
        (("10.1.0.0/24 26", "10.0.0.0/24 26"), "10.1.0.0/26"),
        (("10.0.0.0/24 26",), "10.0.0.64/26"),
        (("10.0.0.0/24 27",), "10.0.0.0/27"),
    ):
        after = space(*ranges)
        after.resume_cursors(before)
        assert after.next("ipv4") == parse(expected)


def test_a_family_without_a_range_is_counted_where_it_is_used() -> None:
    one = space("10.0.0.0/24 26")
    one.force("a", parse("fd00::/64"))
    assert [(pool.family, pool.total, pool.outside) for pool in one.capacity()] == [
        ("ipv4", 4, 0),
        ("ipv6", 0, 1),
    ]
    assert one.has_ranges("ipv4")
    assert not one.has_ranges("ipv6")


# -- pools of very many ranges. What counts is the work, not the time: it is the same on any machine


def work(call: Callable[[], object]) -> int:
    """How many byte codes a call runs."""
    count = 0

    def trace(frame, event, arg):  # type: ignore[no-untyped-def]  # as sys.settrace wants it
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def scattered(count: int, *, full: int = 0, reserved: int = 0) -> Space:
    """So many /30 of /32 that do not touch, in no order of their addresses; so many of the first ones are full."""
    places = [place * 7919 % count for place in range(count)]  # 7919 is prime
    one = Space(
        PoolSpec(
            ranges=tuple(PoolRange(Cidr(32, (10 << 24) + 8 * place, 30), 32, (31,)) for place in places),
            reserved=tuple(Cidr(32, (11 << 24) + place, 32) for place in range(reserved)),
        )
    )
    for place in places[:full]:
        one.force("before", Cidr(32, (10 << 24) + 8 * place, 30))
    return one


LAST = Cidr(32, (10 << 24) + 8 * 30, 32)
ASKED: dict[str, Callable[[Space], object]] = {
    "take": lambda one: one.take("ipv4", "a"),
    "take_sized": lambda one: one.take_sized("ipv4", 31, "a"),
    "next": lambda one: one.next("ipv4"),
    "foresee": lambda one: next(one.foresee("ipv4", 31)),
    "sizes": lambda one: one.sizes("ipv4"),
    "free_blocks": lambda one: one.free_blocks("ipv4"),
    "inside": lambda one: one.inside(LAST),
    "touches": lambda one: one.touches(LAST),
    "others": lambda one: one.others("a", LAST),
    "claim": lambda one: one.claim("a", LAST),
    "free": lambda one: one.free("before", LAST),
    "hold_back": lambda one: one.hold_back(LAST),
    "let_go": lambda one: one.let_go(LAST),
    "others outside": lambda one: one.others("a", parse("192.168.0.0/24")),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_is_asked_of_a_pool_costs_no_more_with_many_ranges(asked: str) -> None:
    few, many = scattered(32, full=20), scattered(2048, full=2000)
    assert work(lambda: ASKED[asked](many)) < 1.5 * work(lambda: ASKED[asked](few)) + 40


@pytest.mark.parametrize("reserved", [False, True])
def test_a_pool_of_many_ranges_is_built_in_proportion(reserved: bool) -> None:
    few, many = (
        work(lambda count=count: scattered(count, reserved=count if reserved else 0)) for count in (64, 512)
    )
    assert many < 8 * 1.3 * few


def test_an_overlap_among_many_ranges_is_found_in_proportion() -> None:
    def refused(count: int) -> None:
        ranges = [PoolRange(Cidr(32, (10 << 24) + place, 32), 32) for place in range(count)]
        with pytest.raises(Invalid, match=rf"requested CIDR 10\.0\.0\.0/8 collides with .* {ranges[0].cidr}"):
            Space(PoolSpec(ranges=(*ranges, PoolRange(parse("10.0.0.0/8"), 32))))

    assert work(lambda: refused(512)) < 8 * 1.3 * work(lambda: refused(64))


# -- quarantine


def test_a_later_end_wins() -> None:
    quarantine = Quarantine()
    one = parse("10.0.0.0/24")
    quarantine.add(one, 20.0)
    quarantine.add(one, 10.0)
    quarantine.add(one, 30.0)
    assert quarantine.next_end() == 30.0
    assert quarantine.expired(20.0) == []
    assert quarantine.expired(30.0) == [one]
    assert quarantine.next_end() is None
    assert len(quarantine) == 0


def test_ranges_end_in_order_and_are_listed_by_range() -> None:
    quarantine = Quarantine()
    for number, until in ((2, 5.0), (1, 7.0), (3, 5.0)):
        quarantine.add(parse(f"10.0.{number}.0/24"), until)
    assert [str(cidr) for cidr in quarantine] == ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]
    assert quarantine.ends()[0] == (parse("10.0.1.0/24"), 7.0)
    assert [str(cidr) for cidr in quarantine.expired(6.0)] == ["10.0.2.0/24", "10.0.3.0/24"]
    assert quarantine.next_end() == 7.0


def test_changes_are_counted() -> None:
    quarantine = Quarantine()
    quarantine.add(parse("10.0.0.0/24"), 5.0)
    before = quarantine.changes
    quarantine.add(parse("10.0.0.0/24"), 4.0)
    assert quarantine.expired(1.0) == []
    assert quarantine.changes == before
    quarantine.expired(5.0)
    assert quarantine.changes != before


# -- waiting


def free(**blocks: int):  # type: ignore[no-untyped-def]  # test shorthand
    return lambda family: blocks.get(family, 0)


def test_the_oldest_are_served_first_and_no_more_than_there_is_space() -> None:
    waiting = Waiting()
    for created, name in ((3.0, "c"), (1.0, "b"), (1.0, "a"), (2.0, "d")):
        waiting.add(name, created, ("ipv4",))
    assert waiting.served(free()) == []
    assert waiting.served(free(ipv4=3)) == ["a", "b", "d"]
    assert "c" in waiting
    assert len(waiting) == 1


def test_age_counts_across_different_needs() -> None:
    waiting = Waiting()
    waiting.add("old", 1.0, ("ipv4", "ipv6"))
    waiting.add("young", 2.0, ("ipv4",))
    assert waiting.served(free(ipv4=1, ipv6=1)) == ["old"]
    assert waiting.served(free(ipv4=1)) == ["young"]


def test_one_that_cannot_be_served_does_not_stand_in_the_way() -> None:
    waiting = Waiting()
    waiting.add("old", 1.0, ("ipv4", "ipv6"))
    waiting.add("young", 2.0, ("ipv4",))
    assert waiting.served(free(ipv4=1)) == ["young"]
    assert "old" in waiting


def test_who_waits_no_more_is_not_served() -> None:
    waiting = Waiting()
    waiting.add("a", 1.0, ("ipv4",))
    waiting.add("a", 1.0, ("ipv6",))
    waiting.add("b", 1.0, ("ipv4",))
    waiting.discard("b")
    waiting.discard("no-such")
    assert waiting.served(free(ipv4=9)) == []
    assert waiting.served(free(ipv6=9)) == ["a"]
    assert waiting.served(free(ipv4=9, ipv6=9)) == []


def test_coming_and_going_does_not_grow_the_heap() -> None:
    waiting = Waiting()
    for turn in range(1000):
        waiting.add("a", float(turn), ("ipv4",))
        waiting.discard("a")
    assert sum(map(len, waiting._heaps.values())) < 40
