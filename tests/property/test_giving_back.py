"""An address in use is never taken away, whatever either side saw late, wrote in vain, or forgot; and what nobody uses goes in the end."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import msgspec
import pytest

from omnipam.core.cidr import Cidr
from omnipam.core.giving_back import Dropped, Handshake
from omnipam.core.handshake import KEPT, MARKED, READY, RELEASED

DELAY_S, TIMEOUT_S = 180.0, 300.0


def ip(number: int) -> Cidr:
    return Cidr(32, number, 32)


A, B = ip(1), ip(2)


def handshake() -> Handshake:
    return Handshake(delay_s=DELAY_S, timeout_s=TIMEOUT_S)


def test_the_whole_way() -> None:
    one = handshake()
    assert one.look({A}, {}, {A, B}, 0.0) == frozenset()
    assert one.states({}) == {}
    assert one.wake() == DELAY_S
    one.look({A}, {}, {A, B}, DELAY_S)
    assert one.states({}) == {A: MARKED}
    assert one.look({A}, {A: MARKED}, {A, B}, 190.0) == frozenset()
    assert one.look({A}, {A: READY}, {A, B}, 200.0) == {A}
    assert one.states({A: READY}) == {A: READY}
    one.removing({A})
    assert one.look({A}, {A: READY}, {A, B}, 201.0) == frozenset(), "once is enough"
    one.removed({A}, 205.0)
    assert one.states({A: READY}) == {A: RELEASED}
    one.look((), {A: READY}, {B}, 206.0)
    assert one.states({A: READY}) == {A: RELEASED}, "the object does not say so yet"
    one.look((), {A: RELEASED}, {B}, 207.0)
    one.look((), {}, {B}, 210.0)
    assert one.states({}) == {}
    assert one.wake() is None


def test_a_veto_starts_the_delay_anew() -> None:
    one = handshake()
    one.look({A}, {}, {A}, 0.0)
    one.look({A}, {}, {A}, DELAY_S)
    assert one.look({A}, {A: KEPT}, {A}, 190.0) == frozenset()
    assert one.states({A: KEPT}) == {}
    one.look({A}, {}, {A}, 190.0 + DELAY_S - 1)
    assert one.states({}) == {}
    one.look({A}, {}, {A}, 190.0 + DELAY_S)
    assert one.states({}) == {A: MARKED}


def test_an_unanswered_mark_is_withdrawn() -> None:
    one = handshake()
    one.look({A}, {}, {A}, 0.0)
    one.look({A}, {}, {A}, DELAY_S)
    one.look({A}, {A: MARKED}, {A}, DELAY_S + TIMEOUT_S - 1)
    assert one.states({A: MARKED}) == {A: MARKED}
    one.look({A}, {A: MARKED}, {A}, DELAY_S + TIMEOUT_S)
    assert one.states({A: MARKED}) == {}


def test_a_late_answer_to_a_withdrawn_question_is_no_answer() -> None:
    """The agent may have seen the withdrawal and given the address, while we still see the old answer."""
    one = Handshake(delay_s=0.0, timeout_s=TIMEOUT_S)
    one.look({A}, {}, {A}, 0.0)
    assert one.look((), {A: READY}, {A}, 1.0) == frozenset()
    for now in (2.0, 3.0):
        assert one.look({A}, {A: READY}, {A}, now) == frozenset()
        assert one.states({A: READY}) == {}
    one.look({A}, {}, {A}, 4.0)
    assert one.states({}) == {A: MARKED}


def test_while_the_cloud_is_at_it_the_mark_stays() -> None:
    one = Handshake(delay_s=0.0, timeout_s=TIMEOUT_S)
    one.look({A}, {}, {A}, 0.0)
    assert one.look({A}, {A: READY}, {A}, 1.0) == {A}
    one.removing({A})
    one.look((), {A: READY}, {A}, 2.0)
    assert one.states({A: READY}) == {A: READY}
    one.kept({A})
    one.look((), {A: READY}, {A}, 3.0)
    assert one.states({A: READY}) == {}


def test_a_restart_goes_on_where_the_object_is() -> None:
    one = handshake()
    shown: Mapping[Cidr, str] = {A: READY, B: RELEASED}
    assert one.look({A}, shown, {A}, 0.0) == {A}
    assert one.states(shown) == {A: READY, B: RELEASED}


def test_what_an_agent_leaves_out_goes_after_the_delay_unless_it_comes_back() -> None:
    one = Dropped(delay_s=DELAY_S)
    assert one.look({A, B}, {A}, 0.0) == frozenset()
    assert one.wake() == DELAY_S
    assert one.look({A, B}, {A}, DELAY_S) == {B}
    assert one.look({A, B}, {A, B}, DELAY_S + 1) == frozenset()
    assert one.look({A, B}, {A}, DELAY_S + 2) == frozenset()
    assert one.look({A}, {A}, 2 * DELAY_S + 9) == frozenset()
    assert one.wake() is None


class Object(msgspec.Struct, frozen=True):
    version: int
    pool: frozenset[Cidr]
    releases: dict[Cidr, str]


ADDRESSES = [A, B]


class TwoSides:
    """The operator with our handshake, an agent by Cilium's rules, an object with a version, and a cloud; each step may go wrong."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.cloud = set(ADDRESSES)
        self.object = Object(1, frozenset(ADDRESSES), {})
        self.operator_sees = self.agent_sees = self.object
        self.handshake = Handshake(delay_s=10.0, timeout_s=60.0)
        self.at_work: frozenset[Cidr] = frozenset()
        self.in_use: set[Cidr] = set()
        self.spare = frozenset(ADDRESSES)
        self.unanswered = (
            False  # whether a write of the operator's was lost: it writes nothing before it has read
        )
        self.removals = 0

    def step(self) -> None:
        turns = (self.operator, self.agent, self.cloud_answers, self.operator_restarts)
        self.random.choices(turns, (10, 10, 3, 1))[0]()
        assert self.in_use <= self.cloud

    def chance(self, percent: int) -> bool:
        return self.random.random() * 100 < percent

    # -- the operator

    def operator(self) -> None:
        self.now += 5.0
        if self.chance(70):
            self.operator_reads()
        if self.chance(20):  # late, and without regard to what is in use, which is the agent's to say
            self.spare ^= {self.random.choice(ADDRESSES)}
        held = frozenset(self.cloud)
        ready = self.handshake.look(self.spare & held, self.operator_sees.releases, held, self.now)
        if ready and not self.at_work and self.chance(70):
            self.at_work = ready
            self.handshake.removing(ready)
        seen = self.operator_sees
        if self.unanswered or seen.version != self.object.version or self.chance(20):
            return
        self.object = Object(seen.version + 1, held, self.handshake.states(seen.releases))
        if self.chance(20):
            self.unanswered = True
        else:
            self.operator_sees = self.object

    def cloud_answers(self) -> None:
        if self.chance(70):
            self.cloud -= self.at_work
            self.removals += len(self.at_work)
            self.handshake.removed(self.at_work, self.now)
        else:
            self.handshake.kept(self.at_work)
        self.at_work = frozenset()

    def operator_restarts(self) -> None:
        """What it asked of the cloud last, a read of that has told it. The node may get an address anew."""
        if self.at_work:
            return
        self.handshake = Handshake(delay_s=10.0, timeout_s=60.0)
        self.operator_reads()
        self.cloud.add(self.random.choice(ADDRESSES))

    def operator_reads(self) -> None:
        self.operator_sees = self.object
        self.unanswered = False

    # -- the agent

    def agent(self) -> None:
        if self.chance(70):
            self.agent_sees = self.object
        seen = self.agent_sees
        if self.chance(30):
            self.in_use.discard(self.random.choice(ADDRESSES))
        comes = self.random.choice(ADDRESSES)
        if (
            self.chance(30)
            and comes in seen.pool
            and seen.releases.get(comes) not in (MARKED, READY, RELEASED)
        ):
            self.in_use.add(comes)
        if seen.version != self.object.version or self.chance(20):
            return
        answers = dict(seen.releases)
        for address, state in seen.releases.items():
            if state == MARKED:
                free = address in seen.pool and address not in self.in_use
                answers[address] = READY if free else KEPT
            elif state == RELEASED and address not in seen.pool:
                del answers[address]
        if answers != seen.releases:
            self.object = Object(seen.version + 1, seen.pool, answers)
            if self.chance(80):
                self.agent_sees = self.object


@pytest.mark.parametrize("part", range(10))
def test_what_is_in_use_is_never_taken_away(part: int) -> None:
    removals = 0
    for seed in range(part * 20, part * 20 + 20):
        sides = TwoSides(seed)
        for number in range(300):
            try:
                sides.step()
            except AssertionError as error:
                raise AssertionError(
                    f"seed {seed}, step {number}: {sides.in_use - sides.cloud} was in use"
                ) from error
        removals += sides.removals
    assert removals > 20, "else nothing was tried"
