"""Two looks, one interval apart: what was an orphan at both goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnipam.runtime.garbage import Garbage, Orphan

A, B = Orphan("a", "1"), Orphan("b", "2")


def test_an_orphan_goes_after_an_interval_and_not_before() -> None:
    garbage = Garbage(300.0)
    assert garbage.tick([A], 0.0) == []
    assert garbage.tick([A], 299.9) == []
    assert garbage.tick([A], 300.0) == [A]


def test_one_that_could_not_be_deleted_comes_again() -> None:
    garbage = Garbage(300.0)
    garbage.tick([A], 0.0)
    assert garbage.tick([A], 300.0) == garbage.tick([A], 301.0) == [A]


def test_a_node_that_came_back_is_no_candidate_any_more() -> None:
    garbage = Garbage(300.0)
    garbage.tick([A], 0.0)
    garbage.tick([], 150.0)
    assert garbage.tick([A], 300.0) == []
    assert garbage.tick([A], 600.0) == [A]


def test_one_that_came_back_between_two_looks_starts_over_too() -> None:
    garbage = Garbage(300.0)
    garbage.tick([A], 0.0)
    assert garbage.tick([Orphan("a", "1", absence=1)], 300.0) == []


def test_a_namesake_starts_over() -> None:
    garbage = Garbage(300.0)
    garbage.tick([A], 0.0)
    assert garbage.tick([Orphan("a", "other")], 300.0) == []


def test_zero_switches_it_off() -> None:
    garbage = Garbage(0.0)
    assert garbage.tick([A], 0.0) == garbage.tick([A], 1e9) == []


looks = st.lists(st.tuples(st.floats(0.1, 500.0), st.sets(st.sampled_from([A, B]))), min_size=1, max_size=12)


@given(looks)
def test_only_what_was_an_orphan_at_each_look_of_an_interval_goes(
    steps: list[tuple[float, set[Orphan]]],
) -> None:
    garbage, now = Garbage(300.0), 0.0
    history: list[tuple[float, set[Orphan]]] = []
    for pause, orphans in steps:
        now += pause
        history.append((now, orphans))
        for doomed in garbage.tick(orphans, now):
            run = []
            for when, there in reversed(history):
                if doomed not in there:
                    break
                run.append(when)
            assert now - run[-1] >= 300.0
