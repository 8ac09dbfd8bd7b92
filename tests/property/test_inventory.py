"""Whose word counts: a mutation's answer over reads too close to it, the newest read, and nothing leaves after one read without it."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from omnipam.core.inventory import Interface, Inventory, Listing

GRACE_S = 60.0


def eni(name: str, instance: str = "i-1", *addresses: int, index: int = 0) -> Interface:
    return Interface(name, instance=instance, index=index, addresses=tuple(sorted(addresses)))


def inventory() -> Inventory:
    return Inventory(grace_s=GRACE_S)


def shown(inventory: Inventory, instance: str = "i-1") -> dict[str, tuple[int, ...]] | None:
    found = inventory.of(instance)
    return None if found is None else {each.id: each.addresses for each in found}


def test_what_was_never_read_is_unknown_and_not_nothing() -> None:
    one = inventory()
    assert one.of("i-1") is None
    one.take(Listing(10.0, ()))
    assert one.of("i-1") is None
    assert one.covered("i-1") == 10.0


def test_an_address_leaves_after_two_reads_without_it() -> None:
    one = inventory()
    assert one.take(Listing(10.0, (eni("a", "i-1", 1, 2, 3),))) == {"i-1"}
    assert one.take(Listing(20.0, (eni("a", "i-1", 1, 3),))) == frozenset()
    assert shown(one) == {"a": (1, 2, 3)}
    one.take(Listing(30.0, (eni("a", "i-1", 2, 3),)))  # 2 is back, 1 is missing for the first time
    assert shown(one) == {"a": (1, 2, 3)}
    assert one.take(Listing(40.0, (eni("a", "i-1", 2, 3),))) == {"i-1"}
    assert shown(one) == {"a": (2, 3)}


def test_an_interface_leaves_after_two_reads_without_it() -> None:
    one = inventory()
    one.take(Listing(10.0, (eni("a", "i-1", 1), eni("b", "i-1", 2, index=1))))
    one.take(Listing(20.0, (eni("a", "i-1", 1),)))
    assert shown(one) == {"a": (1,), "b": (2,)}
    one.take(Listing(20.0, (eni("a", "i-1", 1),)))  # the same read once more is no second one
    assert shown(one) == {"a": (1,), "b": (2,)}
    assert one.take(Listing(30.0, (eni("a", "i-1", 1),))) == {"i-1"}
    assert shown(one) == {"a": (1,)}


def test_reads_of_others_say_nothing_of_an_instance() -> None:
    one = inventory()
    one.take(Listing(10.0, (eni("a", "i-1", 1),)))
    for begun in (20.0, 30.0):
        one.take(Listing(begun, (), scope=frozenset(["i-2"])))
    assert shown(one) == {"a": (1,)}
    assert one.covered("i-2") == 30.0
    assert one.covered("i-1") == 10.0


def test_what_could_not_be_read_stays_as_it_was() -> None:
    """T8, T10: one instance's unreadable part affects that instance, and takes nothing from it."""
    one = inventory()
    one.take(Listing(10.0, (eni("a", "i-1", 1), eni("b", "i-2", 2))))
    for begun in (20.0, 30.0):
        one.take(Listing(begun, (eni("b", "i-2", 2, 3),), unread=frozenset(["i-1"])))
    assert shown(one) == {"a": (1,)}
    assert shown(one, "i-2") == {"b": (2, 3)}


def test_a_mutation_outweighs_reads_begun_within_the_grace() -> None:
    one = inventory()
    one.take(Listing(10.0, (eni("a", "i-1", 1),)))
    one.changed(eni("a", "i-1", 1, 2), 100.0)
    for begun in (99.0, 101.0, 159.0):
        assert one.take(Listing(begun, (eni("a", "i-1", 1),))) == frozenset()
    assert shown(one) == {"a": (1, 2)}
    one.take(Listing(160.0, (eni("a", "i-1", 1),)))
    assert shown(one) == {"a": (1, 2)}
    one.take(Listing(220.0, (eni("a", "i-1", 1),)))
    assert shown(one) == {"a": (1,)}


def test_what_we_removed_does_not_come_back_by_an_old_read() -> None:
    one = inventory()
    one.take(Listing(10.0, (eni("a", "i-1", 1), eni("b", "", 2))))
    one.removed("b", 100.0)
    assert one.free() == ()
    one.take(Listing(110.0, (eni("a", "i-1", 1), eni("b", "", 2))))
    assert one.free() == ()
    one.take(Listing(200.0, (eni("a", "i-1", 1), eni("b", "", 2))))
    assert [each.id for each in one.free()] == ["b"]


def test_an_interface_that_moved_is_of_one_instance() -> None:
    one = inventory()
    one.take(Listing(10.0, (eni("a", "i-1", 1), eni("b", "", 2))))
    assert one.take(Listing(20.0, (eni("a", "i-1", 1), eni("b", "i-1", 2, index=1)))) == {"i-1"}
    assert shown(one) == {"a": (1,), "b": (2,)}
    assert one.free() == ()


class Stale(RuleBasedStateMachine):
    """A cloud whose reads show any moment within the grace before they begin: what we hold is never less than what is certain."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.inventory = inventory()
        self.truth = {name: eni(name, "i-1", 1) for name in ("a", "b")}
        self.history: list[tuple[float, dict[str, Interface]]] = [(0.0, dict(self.truth))]
        self.inventory.take(Listing(self.now - GRACE_S, tuple(self.truth.values())))

    @rule(seconds=st.sampled_from([1.0, 20.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from("ab"), address=st.integers(2, 9))
    def assign(self, name: str, address: int) -> None:
        before = self.truth[name]
        after = msgspec.structs.replace(before, addresses=tuple(sorted({*before.addresses, address})))
        self._mutate(after)

    @rule(name=st.sampled_from("ab"), address=st.integers(2, 9))
    def unassign(self, name: str, address: int) -> None:
        before = self.truth[name]
        after = msgspec.structs.replace(
            before, addresses=tuple(each for each in before.addresses if each != address)
        )
        self._mutate(after)

    def _mutate(self, after: Interface) -> None:
        self.now += 0.5
        self.truth[after.id] = after
        self.history.append((self.now, dict(self.truth)))
        self.inventory.changed(after, self.now)

    @precondition(lambda self: self.history)
    @rule(age=st.floats(0.0, GRACE_S - 1.0), duration=st.floats(0.0, 30.0))
    def read(self, age: float, duration: float) -> None:
        begun = self.now
        moment = begun - age
        state = next(state for at, state in reversed(self.history) if at <= moment)
        self.now += duration
        self.inventory.take(Listing(begun, tuple(state.values())))

    @invariant()
    def we_know_what_is_true(self) -> None:
        """Only we change this cloud: so whatever stale reads show, we know it as it is."""
        assert shown(self.inventory) == {name: each.addresses for name, each in self.truth.items()}


TestStale = Stale.TestCase
TestStale.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
