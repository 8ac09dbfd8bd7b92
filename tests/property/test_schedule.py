"""Requests go in the order of need, within budgets, one a writer, none before what it needs; and all of them go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.budgets import Budget, TokenBucket
from omnipam.core.schedule import Schedule, Task, Urgency

START = 1_700_000_000.0


def schedule(**shapes: tuple[int, float]) -> Schedule:
    return Schedule({name: Budget(TokenBucket(*shape)) for name, shape in shapes.items()})


def numbers(tasks: list[Task]) -> list[int]:
    return [task.number for task in tasks]


def test_pods_that_wait_come_first_then_what_is_missing_then_names() -> None:
    one = schedule(assign=(1, 1.0))
    wishes = [("c", 0, 9), ("b", 0, 30), ("d", 2, 1), ("a", 0, 9)]
    one.add(
        Task(number, Urgency.of(name, waiting=waiting, missing=missing), ("assign",))
        for number, (name, waiting, missing) in enumerate(wishes)
    )
    order, now = [], START
    while (wake := one.wake(now)) is not None:
        now = max(now, wake)
        order += numbers(one.ready(now))
    assert order == [2, 1, 3, 0]


def test_a_spent_budget_holds_up_nobody_elses() -> None:
    one = schedule(create=(1, 0.1), assign=(5, 1.0), whole=(100, 10.0))
    one.add(
        [
            *(Task(number, Urgency.of("a"), ("create", "whole")) for number in range(3)),
            *(Task(number, Urgency.of("b"), ("assign", "whole")) for number in range(3, 6)),
        ]
    )
    assert numbers(one.ready(START)) == [0, 3, 4, 5]
    assert one.wake(START) == START + 10.0


def test_one_change_a_writer() -> None:
    one = schedule(put=(9, 9.0))
    one.add(
        Task(number, Urgency.of(str(number)), ("put",), lock="vm-1" if number < 2 else "vm-2")
        for number in range(3)
    )
    assert numbers(one.ready(START)) == [0, 2]
    assert one.wake(START) is None
    one.ended(0, done=True)
    assert numbers(one.ready(START)) == [1]


def test_what_needs_a_failure_is_dropped_with_all_behind_it() -> None:
    one = schedule(put=(9, 9.0))
    one.add(
        [
            Task(0, Urgency.of("a"), ("put",)),
            Task(1, Urgency.of("a"), ("put",), needs=frozenset([0])),
            Task(2, Urgency.of("a"), ("put",), needs=frozenset([1])),
            Task(3, Urgency.of("a"), ("put",)),
        ]
    )
    assert numbers(one.ready(START)) == [0, 3]
    assert one.ended(0, done=False) == [1, 2]
    assert len(one) == 0
    assert one.running == 1


def test_a_thousand_nodes_take_as_long_as_the_bucket_says() -> None:
    one = schedule(assign=(100, 5.0))
    one.add(Task(number, Urgency.of(f"{number:04}"), ("assign",)) for number in range(1000))
    now, gone = START, 0
    while (wake := one.wake(now)) is not None:
        now = max(now, wake)
        for task in one.ready(now):
            one.ended(task.number, done=True)
            gone += 1
    assert gone == 1000
    assert 179.0 < now - START < 181.0


plans = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
        st.sampled_from(["", "x", "y"]),
        st.frozensets(st.integers(0, 19), max_size=3),
        st.sampled_from([True, True, True, False]),
    ),
    max_size=20,
)


@given(plans, st.randoms(use_true_random=False))
def test_all_go_once_and_in_order(
    plan: list[tuple[str, int, str, frozenset[int], bool]], random: object
) -> None:
    one = schedule(a=(2, 0.5), b=(1, 3.0))
    tasks = [
        Task(
            number,
            Urgency.of(str(number), waiting=waiting),
            (api,),
            lock,
            frozenset(each for each in needs if each < number),
        )
        for number, (api, waiting, lock, needs, _) in enumerate(plan)
    ]
    one.add(tasks)
    now = START
    running: dict[int, Task] = {}
    done: set[int] = set()
    failed: set[int] = set()
    while True:
        for task in one.ready(now):
            assert task.number not in done | failed
            assert task.needs <= done
            assert not task.lock or task.lock not in {each.lock for each in running.values()}
            running[task.number] = task
        if running:
            number = random.choice(sorted(running))  # type: ignore[attr-defined]  # a random.Random
            del running[number]
            works = plan[number][4]
            dropped = one.ended(number, done=works)
            (done if works else failed).add(number)
            assert not dropped or not works
            failed |= set(dropped)
        elif (wake := one.wake(now)) is not None:
            now = max(now + 1e-6, wake)
        else:
            break
    assert done | failed == set(range(len(plan)))
    assert not done & failed
    assert len(one) == 0
