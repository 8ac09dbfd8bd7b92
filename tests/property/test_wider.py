"""Blocks of several sizes from one ledger: what `foresee` tells is what is taken, and no free block of any size is missed."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnipam.core.cidr import Cidr, parse
from omnipam.core.ledger import Ledger

RANGE = parse("10.0.0.0/24")
MASK, WIDER = 30, (25, 28)


class WiderMachine(RuleBasedStateMachine):
    """A model that looks at every block."""

    @initialize(reserved=st.sampled_from(["10.0.0.6/32", "10.0.0.128/26", "10.1.0.0/16"]))
    def begin(self, reserved: str) -> None:
        self.reserved = parse(reserved)
        self.ledger = Ledger(RANGE, MASK, (self.reserved,), WIDER)
        self.held: set[Cidr] = set()
        self.back: set[Cidr] = set()

    def free(self, length: int) -> list[Cidr]:
        size = 1 << (32 - length)
        all_blocks = [Cidr(32, RANGE.first + place, length) for place in range(0, RANGE.size, size)]
        units = {cidr.widened(min(cidr.length, MASK)) for cidr in (*self.held, *self.back, self.reserved)}
        return [block for block in all_blocks if not any(block.overlaps(unit) for unit in units)]

    @rule(length=st.sampled_from((*WIDER, MASK)), times=st.integers(1, 5))
    def take(self, length: int, times: int) -> None:
        coming = iter([*self.ledger.foresee(length)][:times])
        for _ in range(times):
            cidr = self.ledger.take("a") if length == MASK else self.ledger.take_wider("a", length)
            if length == MASK:
                assert next(coming, None) == cidr
            if cidr is None:
                assert not self.free(length)
                return
            assert cidr == self.free(length)[0]
            self.held.add(cidr)

    @rule(place=st.integers(0, 63), length=st.integers(24, 32))
    def claim(self, place: int, length: int) -> None:
        cidr = Cidr(32, RANGE.first + 4 * place, 32).widened(length)
        if not self.ledger.claim("b", cidr):
            self.held.add(cidr)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.held:
            cidr = data.draw(st.sampled_from(sorted(self.held)))
            assert self.ledger.free("a", cidr) or self.ledger.free("b", cidr)
            if cidr not in dict(map(reversed, self.ledger)):  # type: ignore[arg-type]
                self.held.discard(cidr)

    @rule(place=st.integers(0, 63), length=st.integers(24, 32))
    def hold_back_or_let_go(self, place: int, length: int) -> None:
        cidr = Cidr(32, RANGE.first + 4 * place, 32).widened(length)
        if cidr in self.back:
            self.ledger.let_go(cidr)
            self.back.discard(cidr)
        else:
            self.ledger.hold_back(cidr)
            self.back.add(cidr)

    @invariant()
    def every_free_block_is_foreseen(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for length in (*WIDER, MASK):
            assert list(self.ledger.foresee(length)) == self.free(length)
        free = self.free(MASK)
        assert self.ledger.free_units == len(free)
        longest = run = 0
        for before, block in zip([None, *free], free, strict=False):
            run = run + 1 if before is not None and before.last + 1 == block.first else 1
            longest = max(longest, run)
        had = {
            address
            for cidr in (*self.held, *self.back, self.reserved)
            if cidr.overlaps(RANGE)
            for address in range(max(cidr.first, RANGE.first), min(cidr.last, RANGE.last) + 1)
        }
        assert self.ledger.fragments() == (longest, RANGE.size - 4 * len(free) - len(had))


TestWider = WiderMachine.TestCase
TestWider.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
