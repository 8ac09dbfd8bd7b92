"""A budget never lets more through than the cloud's own bucket would, learns from refusals, and comes back."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.budgets import RECOVERY_S, Budget, TokenBucket, Window

START = 1_700_000_000.0
gaps = st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60)


def spend(budget: Budget, gaps: list[float]) -> list[float]:
    """Calls, each as early as the budget lets it after a pause."""
    now, made = START, []
    for gap in gaps:
        now = budget.free_at(now + gap)
        budget.take(now)
        made.append(now)
    return made


@given(gaps, st.integers(1, 100), st.floats(0.1, 20), st.sampled_from([1.0, 0.5]))
def test_a_token_bucket_is_never_overdrawn(
    gaps: list[float], capacity: int, refill: float, share: float
) -> None:
    made = spend(Budget(TokenBucket(capacity, refill), share=share), gaps)
    for first, start in enumerate(made):
        for last in range(first, len(made)):
            allowed = max(1.0, capacity * share) + refill * share * (made[last] - start)
            assert last - first + 1 <= allowed + 1e-3


@given(gaps, st.integers(1, 20))
def test_a_window_is_never_overdrawn(gaps: list[float], limit: int) -> None:
    made = spend(Budget(Window(limit, 60.0)), gaps)
    for minute in {math.floor(each / 60) for each in made}:
        assert sum(1 for each in made if math.floor(each / 60) == minute) <= limit


def test_a_full_bucket_is_spent_at_once_and_then_at_its_rate() -> None:
    budget = Budget(TokenBucket(100, 5))
    made = spend(budget, [0.0] * 1000)
    assert made[99] == START
    assert made[-1] - START == 180.0 or abs(made[-1] - START - 180.0) < 0.1


@given(st.integers(1, 6), st.sampled_from([TokenBucket(50, 5), Window(500, 60.0)]))
def test_refusals_teach_once_each_pause_and_are_forgotten_slowly(
    times: int, shape: TokenBucket | Window
) -> None:
    budget = Budget(shape)
    now = START
    for _ in range(times):
        budget.refused(now)
        budget.refused(now)  # another call that was under way
        assert budget.free_at(now) > now
        now = budget.free_at(now)
    assert math.isclose(budget.factor, 0.5**times, rel_tol=0.2)
    budget.free_at(now + RECOVERY_S / 10)
    assert budget.factor < 0.5**times + 0.11
    budget.free_at(now + 2 * RECOVERY_S)
    assert budget.factor == 1.0


def test_what_the_cloud_asks_for_is_waited_for() -> None:
    budget = Budget(TokenBucket(50, 5))
    budget.refused(START, until=START + 900.0)
    assert budget.free_at(START + 1.0) == START + 900.0


def test_more_calls_than_the_bucket_holds_go_when_it_is_full() -> None:
    budget = Budget(TokenBucket(5, 1))
    budget.take(START, 5)
    assert budget.free_at(START, 20) == START + 5.0
