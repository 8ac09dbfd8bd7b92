"""The ledger against a model that keeps a plain list of ranges and looks at every unit."""

from __future__ import annotations

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omnipam.core import bitmap
from omnipam.core.bitmap import Bitmap
from omnipam.core.cidr import Cidr, parse
from omnipam.core.ledger import Ledger

OWNERS = st.sampled_from(["a", "b", "c"])
# Name of the universe: the CIDR of the ledger, the masks tried on it. In the last two, ranges reach several levels of pages.
UNIVERSES = {
    "10.0.0.0/24": (26, 28, 30, 32),
    "fd00:0:0:8::/61": (61, 64, 66, 68),
    "10.1.0.0/16": (26, 28),
    "fd00:8000::/110": (121, 122),
}


PAGES = {"as shipped": (bitmap._LEAF, bitmap._STEP), "tiny": (3, 2)}
"""Bits of a number per level, bottom and above: with tiny pages, small universes have many levels."""


def cut_pages(name: str) -> None:
    bitmap._LEAF, bitmap._STEP = PAGES[name]
    bitmap._MASK, bitmap._LOW = (1 << bitmap._LEAF) - 1, (1 << bitmap._STEP) - 1


@st.composite
def ranges(draw: st.DrawFn, inside: Cidr, mask: int) -> Cidr:
    """A CIDR that overlaps `inside`: mostly one unit, else shorter, longer, or wider than all of it."""
    lengths = st.one_of(st.just(mask), st.integers(inside.length - 2, min(inside.bits, mask + 3)))
    length = draw(lengths)
    if length <= inside.length:
        return inside.widened(length)
    # Few distinct positions, so that ranges meet.
    count = 1 << (length - inside.length)
    index = draw(st.one_of(st.integers(0, min(count, 8) - 1), st.integers(max(0, count - 4), count - 1)))
    return Cidr(inside.bits, inside.first + (index << (inside.bits - length)), length)


class Model:
    def __init__(self, cidr: Cidr, mask: int) -> None:
        self.cidr, self.mask = cidr, mask
        self.record: set[tuple[str, Cidr]] = set()
        self.reserved: set[Cidr] = set()
        self.held: set[Cidr] = set()
        self.cursor = 0
        self.total = 1 << (mask - cidr.length)

    def units(self, cidrs: set[Cidr]) -> set[int]:
        touched: set[int] = set()
        shift = self.cidr.bits - self.mask
        for cidr in cidrs:
            first, last = max(cidr.first, self.cidr.first), min(cidr.last, self.cidr.last)
            touched.update(range((first - self.cidr.first) >> shift, ((last - self.cidr.first) >> shift) + 1))
        return touched

    def unit(self, index: int) -> Cidr:
        return Cidr(self.cidr.bits, self.cidr.first + (index << (self.cidr.bits - self.mask)), self.mask)

    def next(self) -> int | None:
        blocked = self.units({cidr for _, cidr in self.record} | self.reserved | self.held)
        order = [*range(self.cursor, self.total), *range(self.cursor)]
        return next((index for index in order if index not in blocked), None)

    def overlapping(self, cidr: Cidr, but: str | None = None) -> list[tuple[str, Cidr]]:
        found = [(o, c) for o, c in self.record if c.overlaps(cidr) and o != but]
        return sorted(found, key=lambda entry: (entry[1], entry[0]))


class LedgerMachine(RuleBasedStateMachine):
    @initialize(data=st.data(), name=st.sampled_from(sorted(UNIVERSES)), pages=st.sampled_from(sorted(PAGES)))
    def begin(self, data: st.DataObject, name: str, pages: str) -> None:
        cut_pages(pages)
        cidr = parse(name)
        self.masks = UNIVERSES[name]
        mask = data.draw(st.sampled_from(self.masks))
        self.model = Model(cidr, mask)
        reserved = data.draw(st.lists(ranges(cidr, mask), max_size=2))
        self.model.reserved = set(reserved)
        self.ledger = Ledger(cidr, mask, reserved)
        self.by_take: dict[Cidr, str] = {}

    def drawn(self, data: st.DataObject) -> Cidr:
        known = sorted({c for _, c in self.model.record} | self.model.held | self.model.reserved)
        fresh = ranges(self.model.cidr, self.model.mask)
        return data.draw(st.one_of(fresh, st.sampled_from(known)) if known else fresh)

    @rule(owner=OWNERS, times=st.sampled_from([1, 1, 3, 300]))
    def take(self, owner: str, times: int) -> None:
        for _ in range(times):
            if times > 1 and self.model.total > 1024:
                break  # the model is slow
            expected = self.model.next()
            planned = self.ledger.would_take()
            got = self.ledger.take(owner)
            assert got == planned == (None if expected is None else self.model.unit(expected))
            if got is None or expected is None:
                return
            assert not self.model.overlapping(got)
            self.model.record.add((owner, got))
            self.model.cursor = (expected + 1) % self.model.total

    @rule(owner=OWNERS, data=st.data())
    def claim(self, owner: str, data: st.DataObject) -> None:
        cidr = self.drawn(data)
        expected = self.model.overlapping(cidr, but=owner)
        assert list(self.ledger.claim(owner, cidr)) == expected
        if not expected:
            self.model.record.add((owner, cidr))

    @rule(owner=OWNERS, data=st.data())
    def force(self, owner: str, data: st.DataObject) -> None:
        cidr = self.drawn(data)
        self.ledger.force(owner, cidr)
        self.model.record.add((owner, cidr))

    @rule(owner=OWNERS, data=st.data())
    def free(self, owner: str, data: st.DataObject) -> None:
        cidr = self.drawn(data)
        assert self.ledger.free(owner, cidr) == ((owner, cidr) in self.model.record)
        self.model.record.discard((owner, cidr))

    @precondition(lambda self: self.model.record)
    @rule(data=st.data())
    def free_one_held(self, data: st.DataObject) -> None:
        owner, cidr = data.draw(st.sampled_from(sorted(self.model.record)))
        assert self.ledger.free(owner, cidr)
        assert not self.ledger.free(owner, cidr)
        self.model.record.discard((owner, cidr))

    @rule(data=st.data(), on=st.booleans())
    def reserve(self, data: st.DataObject, on: bool) -> None:
        cidr = self.drawn(data)
        if on:
            self.ledger.reserve(cidr)
            self.model.reserved.add(cidr)
        else:
            assert self.ledger.unreserve(cidr) == (cidr in self.model.reserved)
            self.model.reserved.discard(cidr)

    @rule(data=st.data(), on=st.booleans())
    def hold_back(self, data: st.DataObject, on: bool) -> None:
        cidr = self.drawn(data)
        if on:
            self.ledger.hold_back(cidr)
            self.model.held.add(cidr)
        else:
            assert self.ledger.let_go(cidr) == (cidr in self.model.held)
            self.model.held.discard(cidr)

    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        cidr = self.drawn(data)
        assert self.ledger.owners(cidr) == self.model.overlapping(cidr)
        exact = sorted(owner for owner, c in self.model.record if c == cidr)
        assert self.ledger.owner_of(cidr) == (exact[0] if exact else None)

    @rule(data=st.data())
    def remask(self, data: st.DataObject) -> None:
        old, mask = self.model, data.draw(st.sampled_from(self.masks))
        assume(mask != old.mask)
        self.ledger = self.ledger.remasked(mask)
        new = self.model = Model(old.cidr, mask)
        new.record, new.reserved, new.held = old.record, old.reserved, old.held
        address = old.cursor << (old.cidr.bits - old.mask)
        size = 1 << (old.cidr.bits - mask)
        new.cursor = (address + size - 1) // size % new.total

    @invariant()
    def counts_are_exact(self) -> None:
        taken = self.model.units({cidr for _, cidr in self.model.record})
        held = self.model.units(self.model.held) - taken
        reserved = self.model.units(self.model.reserved) - taken - held
        ledger = self.ledger
        assert (ledger.taken, ledger.quarantined, ledger.reserved) == (len(taken), len(held), len(reserved))
        assert ledger.total == self.model.total
        assert ledger.free_units == ledger.total - ledger.taken - ledger.quarantined - ledger.reserved

    @invariant()
    def record_is_exact(self) -> None:
        assert list(self.ledger) == self.model.overlapping(self.model.cidr)

    @invariant()
    def next_is_the_models(self) -> None:
        expected = self.model.next()
        assert self.ledger.would_take() == (None if expected is None else self.model.unit(expected))

    def teardown(self) -> None:
        try:
            self.give_all_back()
        finally:
            cut_pages("as shipped")

    def give_all_back(self) -> None:
        for owner, cidr in list(self.model.record):
            assert self.ledger.free(owner, cidr)
        for cidr in self.model.held:
            assert self.ledger.let_go(cidr)
        for cidr in self.model.reserved:
            assert self.ledger.unreserve(cidr)
        assert is_pristine(self.ledger)
        assert self.ledger.free_units == self.ledger.total


def is_pristine(ledger: Ledger) -> bool:
    """Whether it keeps nothing, down to its internal tables."""
    return (
        ledger._blocked.pages <= ledger._blocked._top + 1  # the one empty page that it may keep
        and ledger._blocked.count == 0
        and not ledger._record
        and ledger._record.lengths == (ledger.mask,)
        and not ledger._record.sorted
        and not ledger._held.tables
        and not ledger._reserved.tables
    )


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class BitmapMachine(RuleBasedStateMachine):
    """The bitmap alone, up to five levels deep, against a set of numbers."""

    @initialize(
        width=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 9, 11, 13]),
        pages=st.sampled_from(sorted(PAGES)),
    )
    def begin(self, width: int, pages: str) -> None:
        cut_pages(pages)
        self.width = width
        self.bitmap = Bitmap(width)
        self.model: set[int] = set()

    def number(self, data: st.DataObject) -> int:
        size = 1 << self.width
        near = st.sampled_from(
            [0, 1, 7, 8, 9, 31, 32, 127, 128, 511, 512, 4095, 4096, 4097, size - 1, size - 8]
        ).map(lambda number: number % size)
        return data.draw(st.one_of(near, st.integers(0, size - 1)))

    @rule(data=st.data())
    def set_next(self, data: st.DataObject) -> None:
        start = self.number(data)
        expected = self.expected_next(start)
        assert self.bitmap.next_clear(start) == expected
        assert self.bitmap.set_next(start) == expected
        if expected >= 0:
            self.model.add(expected)

    @rule(data=st.data(), run=st.integers(1, 600))
    def set_a_run(self, data: st.DataObject, run: int) -> None:
        at = self.number(data)
        for _ in range(run):
            at = self.bitmap.set_next(at)
            if at < 0:
                assert len(self.model) == 1 << self.width
                return
            assert at not in self.model
            self.model.add(at)

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        number = self.number(data)
        assert (number in self.bitmap) == (number in self.model)
        if number in self.model:
            self.bitmap.clear(number)
            self.model.discard(number)

    @rule(data=st.data(), on=st.booleans())
    def paint(self, data: st.DataObject, on: bool) -> None:
        order = data.draw(st.integers(0, self.width))
        start = self.number(data) >> order << order
        if on:
            self.bitmap.fill(start, order)
            self.model.update(range(start, start + (1 << order)))
        else:
            self.bitmap.wipe(start, order)
            self.model.difference_update(range(start, start + (1 << order)))

    def expected_next(self, start: int) -> int:
        size = 1 << self.width
        if len(self.model) == size:
            return -1
        at = start
        while at in self.model:
            at = (at + 1) % size
        return at

    @invariant()
    def same(self) -> None:
        assert self.bitmap.count == len(self.model)
        if not self.model:
            assert self.bitmap.pages <= self.bitmap._top + 1  # the one empty page that it may keep

    def teardown(self) -> None:
        cut_pages("as shipped")


TestBitmap = BitmapMachine.TestCase
TestBitmap.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("cidr", "mask"), [("fd00::/40", 64), ("fd00::/32", 128), ("::/0", 128), ("0.0.0.0/0", 32)]
)
def test_deep_spans_come_and_go(cidr: str, mask: int) -> None:
    ledger = Ledger(parse(cidr), mask)
    blocks = [ledger.take("a") for _ in range(3000)]
    assert blocks == [
        Cidr(ledger.cidr.bits, ledger.cidr.first + (n << (ledger.cidr.bits - mask)), mask)
        for n in range(3000)
    ]
    assert ledger.taken == 3000
    assert ledger.total == 1 << (mask - ledger.cidr.length)
    for block in blocks:
        assert block is not None
        assert ledger.free("a", block)
    assert is_pristine(ledger)
