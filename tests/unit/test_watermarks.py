"""How many addresses a node gets and gives back: Cilium's own vectors, the warm targets' formulas, the scaler's example, and what no policy may do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.watermarks import PREFIX_SIZE, Scaler, Targets, Usage, WarmTargets, Watermarks


@pytest.mark.parametrize(
    ("available", "used", "pre", "least", "most", "needed"),
    [
        (0, 0, 8, 0, 0, 8),
        (8, 7, 8, 0, 0, 7),
        (0, 0, 8, 10, 0, 10),
        (10, 8, 8, 10, 0, 6),
        (10, 10, 1, 10, 0, 1),
        (14, 14, 8, 0, 15, 1),
        (15, 15, 8, 0, 15, 0),
        (20, 5, 8, 0, 15, 0),
        (0, 0, 8, 0, 4, 4),
        (16, 3, 8, 0, 0, 0),
    ],
)
def test_cilium_needs(available: int, used: int, pre: int, least: int, most: int, needed: int) -> None:
    marks = Watermarks(pre_allocate=pre, min_allocate=least, max_allocate=most)
    assert marks.to_add(Usage(available, used)) == needed


@pytest.mark.parametrize(
    ("available", "used", "pre", "least", "above", "excess"),
    [
        (27, 10, 4, 15, 4, 8),
        (19, 10, 4, 15, 4, 0),
        (20, 10, 4, 15, 4, 1),
        (16, 3, 8, 0, 0, 5),
        (11, 3, 8, 0, 0, 0),
        (30, 10, 8, 16, 0, 12),
        (30, 17, 8, 16, 0, 5),
        (24, 9, 8, 8, 8, 0),
        (40, 17, 8, 8, 8, 7),
        (4, 2, 1, 3, 0, 1),
    ],
)
def test_cilium_gives_back(available: int, used: int, pre: int, least: int, above: int, excess: int) -> None:
    marks = Watermarks(pre_allocate=pre, min_allocate=least, max_above_watermark=above)
    assert marks.spare(Usage(available, used)) == excess


def test_the_cap_is_one_on_the_total_whatever_is_added() -> None:
    """Cilium caps only what is needed, and adds the rest afterwards (T15)."""
    marks = Watermarks(pre_allocate=8, max_allocate=12, max_above_watermark=10)
    assert marks.to_add(Usage(4, 4)) == 8
    assert marks.to_add(Usage(4, 4, waiting=50)) == 8


def test_what_is_above_the_watermark_comes_only_with_something_that_is_missing() -> None:
    marks = Watermarks(pre_allocate=8, max_above_watermark=4)
    assert marks.to_add(Usage(8, 0)) == 0
    assert marks.to_add(Usage(8, 1)) == 1 + 4


def test_pods_that_wait_are_served_and_leave_the_watermark() -> None:
    assert Watermarks(pre_allocate=8).to_add(Usage(8, 0, waiting=20)) == 20


@pytest.mark.parametrize(
    ("targets", "usage", "add"),
    [
        (WarmTargets(warm_ip=5), Usage(10, 8), 3),
        (WarmTargets(warm_ip=2, minimum_ip=20), Usage(10, 8), 10),
        (WarmTargets(minimum_ip=20), Usage(20, 8), 0),
        (WarmTargets(warm_prefix=1), Usage(16, 3, free_prefixes=0), 16),
        (WarmTargets(warm_prefix=1), Usage(32, 3, free_prefixes=1), 0),
        (WarmTargets(warm_prefix=1), Usage(32, 3, waiting=14, free_prefixes=1), 16),
        (WarmTargets(), Usage(14, 1, per_interface=14), 14),
        (WarmTargets(), Usage(28, 14, per_interface=14), 0),
        (WarmTargets(warm_eni=0), Usage(14, 14, per_interface=14), 14),
        (WarmTargets(warm_eni=0), Usage(14, 13, per_interface=14), 0),
        (WarmTargets(warm_ip=1, warm_prefix=9, warm_eni=9), Usage(4, 3, per_interface=14), 0),
        (Scaler(), Usage(0, 0), 16),
        (Scaler(), Usage(16, 9), 16),
        (Scaler(), Usage(16, 8), 0),
        (Scaler(), Usage(16, 0, waiting=60), 64),
        (Scaler(), Usage(240, 239), 10),
        (Scaler(), Usage(5, 5, exhausted=True), 1),
    ],
)
def test_other_policies_add(targets: Targets, usage: Usage, add: int) -> None:
    assert targets.to_add(usage) == add


@pytest.mark.parametrize(
    ("targets", "usage", "spare"),
    [
        (WarmTargets(warm_ip=5), Usage(20, 8), 7),
        (WarmTargets(warm_ip=5, minimum_ip=18), Usage(20, 8), 2),
        (WarmTargets(minimum_ip=0), Usage(20, 8), 12),
        (WarmTargets(warm_prefix=1), Usage(48, 3, free_prefixes=2), 16),
        (WarmTargets(), Usage(42, 14, per_interface=14), 14),
        (WarmTargets(), Usage(42, 15, per_interface=14), 0),
        (Scaler(), Usage(48, 24), 16),
        (Scaler(), Usage(48, 25), 0),
        (Scaler(), Usage(5, 2, exhausted=True), 2),
    ],
)
def test_other_policies_give_back(targets: Targets, usage: Usage, spare: int) -> None:
    assert targets.spare(usage) == spare


small = st.integers(0, 60)
usages = st.builds(
    lambda available, used, waiting, most, whole, free, full: Usage(
        available, min(used, available), waiting, most, whole, min(free, available // PREFIX_SIZE), full
    ),
    st.integers(0, 200),
    st.integers(0, 200),
    small,
    st.none() | st.integers(0, 250),
    st.integers(1, 49),
    st.integers(0, 12),
    st.booleans(),
)
targets = st.one_of(
    st.builds(Watermarks, small, small, small, small),
    st.builds(
        WarmTargets, st.none() | small, st.none() | small, st.none() | st.integers(0, 5), st.integers(0, 3)
    ),
    st.builds(
        lambda batch, request, more, most: Scaler(batch, request, request + 100 + more, max(batch, most)),
        st.integers(1, 32),
        st.integers(1, 100),
        st.integers(0, 100),
        st.integers(1, 250),
    ),
)


@given(targets, usages)
def test_no_policy_adds_beyond_the_most_or_gives_back_what_is_in_use(policy: Targets, usage: Usage) -> None:
    add, spare = policy.to_add(usage), policy.spare(usage)
    assert add >= 0
    assert spare >= 0
    if usage.most is not None:
        assert usage.available + add <= max(usage.most, usage.available)
    if usage.waiting == 0 and not isinstance(policy, WarmTargets):
        assert spare <= usage.available - usage.used


@given(targets, usages)
def test_what_was_added_is_not_given_back(policy: Targets, usage: Usage) -> None:
    """Else a node would grow and shrink in turn."""
    if (add := policy.to_add(usage)) == 0:
        return
    assert policy.spare(usage) == 0 or isinstance(policy, Watermarks)
    if isinstance(policy, WarmTargets) and policy.warm_prefix is not None:
        return  # its count of free prefixes is another one then
    after = Usage(
        usage.available + add, usage.used, usage.waiting, usage.most, usage.per_interface, 0, usage.exhausted
    )
    assert policy.spare(after) == 0
