"""The contract bites: allocators with one fault each, of which every one is caught with only the required fields of `Subject`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from omnipam.core.allocator import Conflict, Gone, Plan, Published, Settings, Unknown
from omnipam.core.cidr import parse
from omnipam.core.errors import Invalid
from omnipam.core.values import Grant, Kept, Node, PoolRange, PoolSpec, Problem
from omnipam.core.waiting import Waiting
from omnipam.fixtures.contract import AllocatorContract, House, Subject, allocator_machine
from omnipam.fixtures.memory_store import Fault
from omnipam.providers.cluster_pool import ClusterPool


def _give_back_fresh(allocator: ClusterPool, name: str) -> None:
    record = allocator._records.get(name)
    for cidr in record.fresh if record is not None else ():
        allocator._claims.forget(allocator._records[name], cidr, 0.0)
    if record is not None:
        allocator._look_at(record)


class FreesOnUnknown(ClusterPool):
    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        super().published(name, grant, outcome, now)
        if isinstance(outcome, Unknown):
            _give_back_fresh(self, name)


class FreesOnConflict(ClusterPool):
    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        super().published(name, grant, outcome, now)
        if isinstance(outcome, Conflict):
            _give_back_fresh(self, name)


class FreesOnGone(ClusterPool):
    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        super().published(name, grant, outcome, now)
        if isinstance(outcome, Gone):
            self.gone(name, now)


class UidBlind(ClusterPool):
    """Takes an object that was made anew for another node: what the old one had is free."""

    def seen(self, node: Node, now: float) -> None:
        before = self.node(node.name)
        if before is not None and before.present and node.present and before.uid != node.uid:
            self.gone(node.name, now)
        super().seen(node, now)


class TakesVanishedForGone(ClusterPool):
    def seen(self, node: Node, now: float) -> None:
        if node.present:
            super().seen(node, now)
        else:
            self.gone(node.name, now)


class ForgetsWhatWasKept(ClusterPool):
    def restore(
        self, nodes: Iterable[Node], pools: Iterable[PoolSpec], kept: Iterable[Kept], now: float
    ) -> None:
        super().restore(nodes, pools, (), now)


class IgnoresQuarantine(ClusterPool):
    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        super().pools([msgspec.structs.replace(spec, quarantine_s=0.0) for spec in specs], now)


class IgnoresReserved(ClusterPool):
    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        super().pools([msgspec.structs.replace(spec, reserved=()) for spec in specs], now)


class GrantsBeforeRestore(ClusterPool):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._restored = True


class PlansByTaking(ClusterPool):
    def plan(self, name: str, now: float) -> Plan:
        plan = super().plan(name, now)
        for _ in plan.actions:
            self._space.take("ipv4", name)
        return plan


class OrdersByASet(ClusterPool):
    def due(self, now: float) -> list[str]:
        return list(set(super().due(now)))


class WritesOnEveryTurn(ClusterPool):
    turns = 0

    def seen(self, node: Node, now: float) -> None:
        self.turns += 1
        super().seen(node, now)
        self._stale.append(node.name)

    def grant(self, name: str) -> Grant:
        given = super().grant(name)
        return msgspec.structs.replace(given, problems=(Problem("Turn", str(self.turns), "wait"),))


class NeverServesTheWaiting(ClusterPool):
    def due(self, now: float) -> list[str]:
        self._waiting = Waiting()
        return super().due(now)


class DropsForeignRanges(ClusterPool):
    def grant(self, name: str) -> Grant:
        given = super().grant(name)
        return msgspec.structs.replace(
            given, blocks=tuple(block for block in given.blocks if self._space.inside(block.cidr))
        )


class TakesAnOlderStateForARelease(ClusterPool):
    def seen(self, node: Node, now: float) -> None:
        record = self._records.get(node.name)
        if record is not None and node.present and not node.holds.blocks:
            for cidr in record.blocks:
                self._claims.forget(record, cidr, now)
        super().seen(node, now)


class NeverReturns(ClusterPool):
    def gone(self, name: str, now: float) -> None:
        pass


class ServesTheYoungest(ClusterPool):
    def due(self, now: float) -> list[str]:
        return super().due(now)[::-1]


class WritesTheIgnored(ClusterPool):
    def seen(self, node: Node, now: float) -> None:
        super().seen(msgspec.structs.replace(node, ignored=False), now)


MACHINE = "machine"
TEETH = [
    (FreesOnUnknown, "test_a_lost_answer_returns_nothing[after]"),
    (FreesOnConflict, "test_a_lost_answer_returns_nothing[half]"),
    (FreesOnGone, "test_an_object_missing_at_a_write_is_not_the_nodes_end"),
    (UidBlind, "test_an_object_made_anew_is_still_the_same_machines"),
    (TakesVanishedForGone, MACHINE),
    (TakesVanishedForGone, "test_what_stays_with_a_name_is_given_to_nobody_else"),
    (ForgetsWhatWasKept, MACHINE),
    (ForgetsWhatWasKept, "test_a_returned_block_waits_out_its_quarantine"),
    (IgnoresQuarantine, MACHINE),
    (IgnoresQuarantine, "test_a_returned_block_waits_out_its_quarantine"),
    (IgnoresReserved, "test_what_is_reserved_is_granted_to_nobody"),
    (GrantsBeforeRestore, "test_nothing_is_granted_before_restore"),
    (PlansByTaking, "test_plan_is_pure"),
    (OrdersByASet, "test_plan_is_the_same_in_every_process"),
    (WritesOnEveryTurn, "test_a_restart_writes_nothing"),
    (NeverServesTheWaiting, "test_exhaustion_is_said_and_heals_oldest_first"),
    (DropsForeignRanges, "test_what_lies_outside_every_pool_stays_and_is_nobody_elses"),
    (TakesAnOlderStateForARelease, "test_an_older_state_after_a_publish_is_no_release"),
    (NeverReturns, "test_gone_returns_everything"),
    (ServesTheYoungest, "test_exhaustion_is_said_and_heals_oldest_first"),
    (WritesTheIgnored, "test_what_may_not_be_written_is_not"),
]


def _pools(blocks: int) -> tuple[PoolSpec, ...]:
    return (PoolSpec(ranges=tuple(PoolRange(parse(f"10.0.0.{4 * n}/30"), 30) for n in range(blocks))),)


def required(mode: type[ClusterPool], origin: str = __file__) -> Subject:
    """A subject with the required fields only."""
    return Subject(build=lambda: mode(Settings()), pools=_pools, origin=origin)


def run(subject: Subject, test: str) -> None:
    """One part of the contract, with the same examples each time. Raises what it finds."""
    if test == MACHINE:
        quick = settings(
            max_examples=150,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        run_state_machine_as_test(allocator_machine(subject), settings=quick)
        return

    class Contract(AllocatorContract):
        pass

    Contract.subject = subject
    name, _, fault = test.rstrip("]").partition("[")
    call = getattr(Contract(), name)
    if fault:
        call(Fault(fault))
    elif "house" in inspect.signature(call).parameters:
        call(House(subject))
    else:
        call()


def origin_of(mode: type[ClusterPool], folder: Path) -> str:
    """A file that holds the subject, for other processes."""
    path = folder / "subject_of.py"
    path.write_text(
        f"import runpy\nhere = runpy.run_path({__file__!r})\n"
        f"SUBJECT = here['required'](here.get({mode.__name__!r}))\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("mode", "test"), TEETH, ids=[f"{mode.__name__}-{test.removeprefix('test_')}" for mode, test in TEETH]
)
def test_a_fault_is_caught(mode: type[ClusterPool], test: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, Invalid)):
        run(required(mode, origin_of(mode, tmp_path)), test)


@pytest.mark.parametrize("test", sorted({test for _, test in TEETH}))
def test_what_has_no_fault_passes(test: str, tmp_path: Path) -> None:
    run(required(ClusterPool, origin_of(ClusterPool, tmp_path)), test)
