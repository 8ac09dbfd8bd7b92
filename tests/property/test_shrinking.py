"""What a node gives back: never what is in use, never more than is spare, whole prefixes only, with few calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.inventory import Interface
from omnipam.core.placement import Placement
from omnipam.core.shrinking import Part, shrink


def eni(
    index: int, addresses: tuple[int, ...] = (), prefixes: tuple[int, ...] = (), **more: object
) -> Interface:
    return Interface(
        f"eni-{index}",
        instance="i",
        index=index,
        primary=1000 * index,
        addresses=addresses,
        prefixes=prefixes,
        **more,  # type: ignore[arg-type]  # by name
    )


def test_ten_addresses_of_two_interfaces_go_with_two_calls() -> None:
    first, second = eni(0, tuple(range(1, 15))), eni(1, tuple(range(101, 107)))
    parts = shrink(10, {1, 2, 3, 101}, Placement(), (first, second))
    assert parts == (Part("eni-1", (102, 103, 104, 105, 106)), Part("eni-0", (10, 11, 12, 13, 14)))


def test_a_prefix_goes_only_when_none_of_its_addresses_is_in_use() -> None:
    one = eni(0, (7,), (16, 32, 48))
    assert shrink(40, {16, 7}, Placement(), (one,)) == (Part("eni-0", (), (32, 48)),)
    assert shrink(31, {16, 7}, Placement(), (one,)) == (Part("eni-0", (), (48,)),)
    assert shrink(15, {16, 7}, Placement(), (one,)) == ()


def test_whole_interfaces_go_where_they_may() -> None:
    first, second = eni(0, tuple(range(1, 15))), eni(1, tuple(range(101, 110)))
    every = tuple(range(101, 110))
    assert shrink(9, {1}, Placement(), (first, second), idle={"eni-1"}) == (
        Part("eni-1", every, (), whole=True),
    )
    assert shrink(9, {1}, Placement(), (first, second)) == (Part("eni-1", every),)
    assert not shrink(8, {1}, Placement(), (first, second), idle={"eni-1"})[0].whole
    assert not shrink(99, {109}, Placement(), (first, second), idle={"eni-1"})[0].whole


def test_a_primary_address_in_use_keeps_its_interface() -> None:
    one = eni(1, (101, 102))
    assert shrink(9, {1000}, Placement(use_primary=True), (one,), idle={"eni-1"}) == (
        Part("eni-1", (101, 102)),
    )


def test_what_does_not_serve_pods_gives_nothing() -> None:
    trunk = eni(1, (101,), serves=False)
    moving = eni(2, (201,), state="detaching")
    assert shrink(9, (), Placement(), (eni(0, (1,)), trunk, moving)) == (Part("eni-0", (1,)),)
    assert shrink(9, (), Placement(first_index=1), (eni(0, (1,)),)) == ()


@given(
    st.integers(0, 120),
    st.lists(
        st.tuples(
            st.frozensets(st.integers(0, 15), max_size=10), st.frozensets(st.integers(1, 5), max_size=3)
        ),
        max_size=4,
    ),
    st.frozensets(st.integers(0, 400)),
    st.frozensets(st.integers(0, 3)),
    st.booleans(),
)
def test_nothing_in_use_goes_and_no_more_than_is_spare(
    spare: int,
    there: list[tuple[frozenset[int], frozenset[int]]],
    used: frozenset[int],
    idle: frozenset[int],
    primary: bool,
) -> None:
    known = tuple(
        Interface(
            f"eni-{at}",
            instance="i",
            index=at,
            primary=100 * at + 99,
            addresses=tuple(sorted(100 * at + each for each in singles)),
            prefixes=tuple(sorted(100 * at + 16 * each for each in prefixes)),
        )
        for at, (singles, prefixes) in enumerate(there)
    )
    placement = Placement(use_primary=primary)
    parts = shrink(spare, used, placement, known, idle={f"eni-{at}" for at in idle})
    by_id = {each.id: each for each in known}
    gone: set[int] = set()
    for part in parts:
        each = by_id[part.interface]
        assert set(part.addresses) <= set(each.addresses)
        assert set(part.prefixes) <= set(each.prefixes)
        gone |= set(part.every())
        if part.whole:
            assert part.interface in {f"eni-{at}" for at in idle}
            assert (part.addresses, part.prefixes) == (each.addresses, each.prefixes)
            if primary:
                gone.add(each.primary)
    assert not gone & used
    assert len(gone) <= spare
    free = {address for each in known for address in each.addresses if address not in used}
    left = min(spare - len(gone), 1) if free - gone else 0
    assert left <= 0, "a single address could go still"
    assert len({part.interface for part in parts}) == len(parts)
