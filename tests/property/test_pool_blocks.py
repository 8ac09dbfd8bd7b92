"""A pool's blocks, counted and in line, beside a plain walk over all of them: the same numbers, the same next address."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from omnipam.core.addresses import Addresses
from omnipam.core.block_index import SLACK
from omnipam.core.cidr import Cidr, parse
from omnipam.core.pool_blocks import PoolBlocks
from omnipam.core.values import Block

FIRST = parse("10.0.0.0/32").first
ONES = [Block("default", Cidr(32, FIRST + n, 32)) for n in range(6)]
LARGER = [
    Block("default", parse(text)) for text in ("10.0.0.0/30", "10.0.0.4/31", "10.0.0.8/29", "10.0.0.8/30")
]
ALL = [*ONES, *LARGER]
NUMBERS = st.integers(0, 16)


class Pool(RuleBasedStateMachine):
    """line: the blocks as they stand in line, by a walk; parked: those with parked addresses, in the order of their first."""

    @initialize(gateway=st.booleans())
    def begin(self, gateway: bool) -> None:
        self.pool = PoolBlocks(gateway=gateway)
        self.now = 0.0
        self.line: list[Addresses] = []
        self.parked: list[Addresses] = []
        self.open: set[Addresses] = set()
        self.withheld: set[Cidr] = set()

    # -- what the walk knows

    @property
    def giving(self) -> list[Addresses]:
        return [each for each in self.pool.usable if each.block.cidr not in self.withheld]

    def seen(self) -> None:
        """After every single change: who opened goes to the end of the line if it is a block of one address."""
        live, giving = self.pool.ranges, self.giving
        self.line = [each for each in self.line if each in live]
        opened = {each for each in giving if each.free}
        for each in [each for each in self.line if each in opened - self.open]:
            if each.block.cidr.size == 1:
                self.line.remove(each)
                self.line.append(each)
        self.line += [each for each in live if each not in self.line]
        self.open = opened
        self.parked = [each for each in self.parked if each in giving and each.parked]
        self.parked += [each for each in giving if each.parked and each not in self.parked]

    def at(self, number: int) -> Addresses | None:
        return self.pool.find(FIRST + number)

    # -- what happens

    @rule(shown=st.lists(st.sampled_from(ALL), unique=True))
    def update(self, shown: list[Block]) -> None:
        self.pool.update(shown)
        self.seen()

    @rule(those=st.sets(st.sampled_from(ALL)))
    def withhold(self, those: set[Block]) -> None:
        for block in sorted(those, key=lambda each: each.cidr):  # one after the other, as the walk sees it
            self.withheld ^= {block.cidr}
            self.pool.withhold(tuple(self.withheld))
            self.seen()

    @rule(seconds=st.sampled_from([1.0, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        """Whatever has cooled is free again, block by block in the order in which they have cooled."""
        self.now += seconds
        due = [(first, each) for each in self.giving if (first := each.oldest_cooling()) is not None]
        for _, each in sorted(due, key=lambda pair: (*pair[0], self.line.index(pair[1]))):
            each.thaw(self.now)
            self.seen()

    @rule()
    def take_next(self) -> None:
        chosen = self.pool.choose(self.now)
        if chosen is not None:
            chosen[0].take(chosen[1])
            self.seen()

    @rule(number=NUMBERS)
    def take(self, number: int) -> None:
        each = self.at(number)
        if each is not None and each.is_free(FIRST + number):
            each.take(FIRST + number)
            self.seen()

    @rule(number=NUMBERS, cools=st.sampled_from([None, 5.0, 30.0]))
    def release(self, number: int, cools: float | None) -> None:
        each = self.at(number)
        if each is not None:
            each.release(FIRST + number, None if cools is None else self.now + cools)
            self.pool.prune()
            self.seen()

    @rule(number=NUMBERS)
    def park(self, number: int) -> None:
        each = self.at(number)
        if each is not None:
            each.park(FIRST + number)
            self.seen()

    @rule(spare=st.integers(0, 12))
    def give_up(self, spare: int) -> None:
        self.pool.give_up(lambda _: spare)
        self.seen()

    @rule()
    def much_ado(self) -> None:
        """One address comes and goes so often that what is out of date in the lines must be thrown away."""
        each = self.at(0)
        if each is not None and each.block.cidr.size == 1 and each.is_free(FIRST):
            for _ in range(2 * SLACK):
                each.take(FIRST)
                each.release(FIRST)
            self.seen()
            if each in self.giving:  # it was given back again and again
                self.line.remove(each)
                self.line.append(each)

    # -- the same by a walk

    @invariant()
    def numbers(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool, giving = self.pool, self.giving
        assert pool.free == sum(each.free for each in giving)
        assert pool.cooling == sum(each.cooling for each in giving)
        assert pool.total == sum(each.total for each in giving)
        assert pool.held == sum(each.used + each.parked for each in pool.ranges)
        kept = sum(each.parked for each in pool.ranges)
        assert pool.in_use == pool.held - kept + sum(each.gateway is not None for each in giving)
        assert pool.listed == tuple(sorted(each.block.cidr for each in pool.ranges))

    @invariant()
    def next_address(self) -> None:
        if not hasattr(self, "pool"):
            return
        giving = self.giving
        chosen = self.pool.choose(self.now)
        first = next((each for each in self.line if each in giving and each.free), None)
        if first is not None:
            assert chosen == (first, first.choose(self.now))
            return
        cooling = [(*found, each) for each in giving if (found := each.oldest_cooling()) is not None]
        if cooling:
            until, address, _ = min(cooling, key=lambda entry: entry[:2])
            assert chosen is not None
            assert chosen[1] == address
            assert chosen[0].oldest_cooling() == (until, address)
        elif self.parked:
            assert chosen == (self.parked[0], self.parked[0].oldest_parked())
        else:
            assert chosen is None

    @invariant()
    def who_holds_what(self) -> None:
        if not hasattr(self, "pool"):
            return
        for number in range(17):
            holding = [each for each in self.pool.ranges if each.contains(FIRST + number)]
            assert set(self.pool.holding(FIRST + number)) == set(holding)
            in_service = [each for each in holding if not self.pool.is_removed(each)]
            found = self.pool.find(FIRST + number)
            assert found is min(in_service or holding, key=lambda each: each.block.cidr.size, default=None)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
