"""What an agent answers to an operator that wants addresses back."""

from __future__ import annotations

from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.handshake import KEPT, MARKED, READY, RELEASED, Units, answers, withheld

FREE, HELD, STRANGE = (parse_address(f"10.0.0.{number}") for number in (1, 2, 99))
PREFIX = parse("10.0.1.0/28")
INSIDE, BESIDE = parse_address("10.0.1.3"), parse_address("10.0.1.4")
POOL = {FREE, HELD, INSIDE, BESIDE}
UNITS = Units([PREFIX])


def answered(*releases: tuple[Cidr, str], busy: Cidr = HELD) -> dict[Cidr, str]:
    return dict(answers(releases, pool=POOL, busy=[busy], units=UNITS))


def test_a_mark_is_answered_by_whether_it_is_in_use_and_in_the_pool() -> None:
    assert answered((FREE, MARKED), (HELD, MARKED), (STRANGE, MARKED)) == {
        FREE: READY,
        HELD: KEPT,
        STRANGE: KEPT,
    }


def test_own_answers_stay() -> None:
    assert answered((FREE, READY), (FREE, KEPT), (HELD, KEPT)) == {}


def test_ready_of_what_is_in_use_after_all_is_taken_back() -> None:
    assert answered((HELD, READY)) == {HELD: KEPT}


def test_released_is_struck_out_once_the_pool_does_not_show_it() -> None:
    assert answered((FREE, RELEASED)) == {}
    assert answered((STRANGE, RELEASED)) == {STRANGE: ""}


def test_one_address_in_use_keeps_its_prefix() -> None:
    assert answered((INSIDE, MARKED), (BESIDE, READY), busy=INSIDE) == {INSIDE: KEPT, BESIDE: KEPT}
    assert answered((INSIDE, MARKED)) == {INSIDE: READY}


def test_what_may_go_at_any_moment_is_not_given_nor_is_the_rest_of_its_prefix() -> None:
    for word in (MARKED, READY, RELEASED):
        assert withheld([(FREE, word)], POOL, UNITS) == {FREE}
        assert withheld([(INSIDE, word)], POOL, UNITS) == {INSIDE, BESIDE}
        assert withheld([(INSIDE, word)], [PREFIX, FREE], UNITS) == {PREFIX}
    assert withheld([(FREE, KEPT), (INSIDE, KEPT)], POOL, UNITS) == frozenset()


def test_units_know_prefixes_of_both_families_and_sizes() -> None:
    wide = parse("fd00::/80")
    units = Units([PREFIX, wide])
    assert units.of(INSIDE) == PREFIX
    assert units.of(FREE) == FREE
    assert units.of(parse_address("fd00::7")) == wide
    assert units.of(PREFIX) == PREFIX
    assert units.of(parse("10.0.0.0/8")) == parse("10.0.0.0/8")
