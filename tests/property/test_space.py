"""A pool of many ranges against one that looks at every range each time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnipam.core.cidr import FAMILIES, Cidr, parse
from omnipam.core.errors import Invalid
from omnipam.core.ledger import Ledger
from omnipam.core.space import Space
from omnipam.core.values import PoolRange, PoolSpec

BASE = {32: parse("10.0.0.0/24"), 128: parse("fd00::/120")}
CANDIDATES = [
    *(PoolRange(Cidr(32, BASE[32].first + 16 * place, 28), 31, (30,)) for place in range(4)),
    *(PoolRange(Cidr(32, BASE[32].first + 64 + 8 * place, 29), 30) for place in range(4)),
    *(PoolRange(Cidr(128, BASE[128].first + 16 * place, 124), 127, (125, 126)) for place in range(4)),
]
SIZES = range(24, 33)


def some_cidr(bits: int, offset: int, length: int) -> Cidr:
    return Cidr(bits, BASE[bits].first + offset, bits).widened(bits - 32 + length)


cidrs = st.builds(some_cidr, st.sampled_from([32, 128]), st.integers(0, 255), st.integers(23, 32))


class SpaceMachine(RuleBasedStateMachine):
    """The same is done to the space and, one by one, to ledgers of its own."""

    @initialize(
        ranges=st.lists(st.sampled_from(CANDIDATES), unique=True), reserved=st.lists(cidrs, max_size=2)
    )
    def begin(self, ranges: list[PoolRange], reserved: list[Cidr]) -> None:
        self.space = Space(PoolSpec(ranges=tuple(ranges), reserved=tuple(reserved)))
        self.ledgers = [Ledger(each.cidr, each.mask, reserved, each.wider) for each in ranges]
        self.outside: set[tuple[str, Cidr]] = set()

    def of(self, family: str) -> list[Ledger]:
        return [ledger for ledger in self.ledgers if ledger.cidr.family == family]

    def reached(self, cidr: Cidr) -> list[Ledger]:
        return [ledger for ledger in self.ledgers if ledger.cidr.overlaps(cidr)]

    def is_inside(self, cidr: Cidr) -> bool:
        return any(ledger.cidr.contains(cidr) for ledger in self.ledgers)

    def others(self, owner: str, cidr: Cidr) -> list[tuple[str, Cidr]]:
        found = {claim for claim in self.outside if claim[1].overlaps(cidr)}
        for ledger in self.reached(cidr):
            found.update(ledger.owners(cidr))
        return sorted((claim for claim in found if claim[0] != owner), key=lambda claim: (claim[1], claim[0]))

    @rule(family=st.sampled_from(FAMILIES), times=st.integers(1, 9))
    def take(self, family: str, times: int) -> None:
        for _ in range(times):
            tries = (ledger.take("a") for ledger in self.of(family))
            assert self.space.take(family, "a") == next((cidr for cidr in tries if cidr is not None), None)  # type: ignore[arg-type]  # as drawn

    @rule(family=st.sampled_from(FAMILIES), length=st.sampled_from(SIZES))
    def take_sized(self, family: str, length: int) -> None:
        length += 0 if family == "ipv4" else 96
        expected = None
        for ledger in self.of(family):
            if length == ledger.mask:
                expected = ledger.take("a")
            elif length in ledger.wider:
                expected = ledger.take_wider("a", length)
            if expected is not None:
                break
        assert self.space.take_sized(family, length, "a") == expected  # type: ignore[arg-type]  # as drawn

    @rule(owner=st.sampled_from("abc"), cidr=cidrs)
    def claim(self, owner: str, cidr: Cidr) -> None:
        conflicts = self.others(owner, cidr)
        assert self.space.claim(owner, cidr) == conflicts
        if not conflicts:
            self.record(owner, cidr)

    @rule(owner=st.sampled_from("abc"), cidr=cidrs)
    def force(self, owner: str, cidr: Cidr) -> None:
        self.space.force(owner, cidr)
        self.record(owner, cidr)

    def record(self, owner: str, cidr: Cidr) -> None:
        if not self.is_inside(cidr):
            self.outside.add((owner, cidr))
        for ledger in self.reached(cidr):
            ledger.force(owner, cidr)

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        claims = list(self.space.claims())
        if claims:
            owner, cidr = data.draw(st.sampled_from(claims))
            self.space.free(owner, cidr)
            self.outside.discard((owner, cidr))
            for ledger in self.reached(cidr):
                ledger.free(owner, cidr)

    @rule(cidr=cidrs)
    def hold_back(self, cidr: Cidr) -> None:
        self.space.hold_back(cidr)
        for ledger in self.reached(cidr):
            ledger.hold_back(cidr)

    @rule(cidr=cidrs)
    def let_go(self, cidr: Cidr) -> None:
        self.space.let_go(cidr)
        for ledger in self.reached(cidr):
            ledger.let_go(cidr)

    @rule(cidr=cidrs)
    def look(self, cidr: Cidr) -> None:
        assert self.space.inside(cidr) == self.is_inside(cidr)
        assert self.space.touches(cidr) == bool(self.reached(cidr))
        assert self.space.others("", cidr) == self.others("", cidr)

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "space"):
            return
        for family in FAMILIES:
            ledgers = self.of(family)
            expected = (ledger.would_take() for ledger in ledgers)
            assert self.space.next(family) == next((cidr for cidr in expected if cidr is not None), None)
            assert self.space.free_blocks(family) == sum(ledger.free_units for ledger in ledgers)
            sizes = sorted({length for ledger in ledgers for length in (*ledger.wider, ledger.mask)})
            assert self.space.sizes(family) == tuple(sizes)
            for length in (*sizes, 1):
                assert list(self.space.foresee(family, length)) == [
                    cidr
                    for ledger in ledgers
                    if length in (*ledger.wider, ledger.mask)
                    for cidr in ledger.foresee(length)
                ]


TestSpace = SpaceMachine.TestCase
TestSpace.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(st.lists(st.builds(some_cidr, st.sampled_from([32, 128]), st.integers(0, 255), st.integers(26, 32))))
def test_of_ranges_that_overlap_the_first_two_are_named(ranges: list[Cidr]) -> None:
    spec = PoolSpec(ranges=tuple(PoolRange(cidr, cidr.bits) for cidr in ranges))
    pairs = ((one, two) for place, two in enumerate(ranges) for one in ranges[:place] if one.overlaps(two))
    first = next(pairs, None)
    if first is None:
        Space(spec)
        return
    one, two = first
    with pytest.raises(Invalid) as caught:
        Space(spec)
    assert str(caught.value) == (
        f"requested CIDR {two} collides with clusterCIDR: {one}, nodeMask: {one.bits}"
        " — pool 'default': take one of the two out"
    )
