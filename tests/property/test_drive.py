"""The drive under shuffled events, answers and lists: what the allocator is told of an object never goes back in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from omnipam.core.allocator import Settings
from omnipam.core.cidr import parse
from omnipam.core.values import Node, PoolRange, PoolSpec
from omnipam.fixtures.allocator_machine import AllocatorMachine
from omnipam.fixtures.contract import Subject, allocator_machine
from omnipam.fixtures.subject import name_of
from omnipam.providers.cluster_pool import ClusterPool


class OnlyForward(ClusterPool):
    """Refuses an older state of an object that it knows a newer one of. (The store in memory numbers its versions.)"""

    def __init__(self) -> None:
        super().__init__(Settings())
        self._newest: dict[str, int] = {}

    def seen(self, node: Node, now: float) -> None:
        before = self.node(node.name)
        if node.present:
            if before is not None and before.present and before.uid == node.uid:
                assert int(node.version) >= int(before.version), f"{node.version} after {before.version}"
            ended = self._newest.get(node.uid, 0)
            assert int(node.version) >= ended, f"{node.version} of an object that ended at {ended}"
        super().seen(node, now)

    def gone(self, name: str, now: float) -> None:
        before = self.node(name)
        if before is not None and before.present:
            self._newest[before.uid] = int(before.version)
        super().gone(name, now)


POOL = PoolSpec(ranges=(PoolRange(parse("10.0.0.0/24"), 30),), max_blocks=3)
SUBJECT = Subject(
    build=OnlyForward,
    pools=lambda blocks: (POOL,),
    origin=__file__,
    specs=((POOL,),),
    by_hand=(parse("10.0.0.0/30"), parse("10.0.0.4/30"), parse("10.0.0.0/29")),
)

TestDriveUnderShuffledEvents = allocator_machine(SUBJECT, examples=80).TestCase


def _granted_twice_after_a_kill(machine: AllocatorMachine) -> None:
    machine.begin(asks_first=False, served=2, unserved=0)
    machine.a_node_goes(machine_first=False, name=name_of(0))
    machine.a_list_begins_anew(name=name_of(0), write=False)
    machine.an_object_vanishes(name=name_of(1))
    machine.a_node_comes(machine=False, number=0)
    machine.a_node_comes(machine=False, number=1)
    machine.events_come(machines=0, objects=1)
    machine.a_hand_writes_ranges(choice=[0], name=name_of(1))
    machine.it_is_killed(arrived=False)


def _released_and_won_back(machine: AllocatorMachine) -> None:
    machine.begin(asks_first=False, served=1, unserved=1)
    machine.an_agent_reports(depleted=False, name=name_of(0), released=0)
    machine.a_hand_writes_ranges(choice=[0], name=name_of(1))
    machine.marks_change(broken=False, ignored=True, name=name_of(1))
    machine.a_node_goes(machine_first=False, name=name_of(1))


def _freed_while_something_is_freed(machine: AllocatorMachine) -> None:
    machine.begin(asks_first=False, served=2, unserved=1)
    machine.a_hand_writes_ranges(choice=[0, 1], name=name_of(0))
    machine.a_hand_writes_ranges(choice=[2], name=name_of(2))
    machine.a_node_goes(machine_first=False, name=name_of(0))


def _replaced_by_what_an_ignored_one_shows(machine: AllocatorMachine) -> None:
    machine.begin(asks_first=False, served=0, unserved=2)
    machine.a_hand_writes_ranges(choice=[0], name=name_of(0))
    machine.a_hand_writes_ranges(choice=[0], name=name_of(1))
    machine.marks_change(broken=False, ignored=True, name=name_of(1))
    machine.a_hand_writes_ranges(choice=[1], name=name_of(0))


def _gone_after_its_list_was_changed_twice(machine: AllocatorMachine) -> None:
    machine.begin(asks_first=False, served=2, unserved=0)
    machine.a_hand_writes_ranges(choice=[0, 1], name=name_of(0))
    machine.a_node_goes(machine_first=False, name=name_of(0))
    machine.events_come(machines=0, objects=1)
    machine.a_node_comes(machine=False, number=0)
    machine.a_list_begins_anew(name=name_of(0), write=False)
    machine.an_object_vanishes(name=name_of(1))


def _vanished_while_it_showed_a_block_twice(machine: AllocatorMachine) -> None:
    machine.begin(asks_first=False, served=2, unserved=0)
    machine.a_hand_writes_ranges(choice=[4, 1], name=name_of(1))
    machine.an_object_vanishes(name=name_of(1))
    machine.a_node_comes(machine=False, number=1)


STORIES = (
    _vanished_while_it_showed_a_block_twice,
    _granted_twice_after_a_kill,
    _released_and_won_back,
    _freed_while_something_is_freed,
    _replaced_by_what_an_ignored_one_shows,
    _gone_after_its_list_was_changed_twice,
)


@pytest.mark.parametrize("story", STORIES)
def test_what_the_machine_once_found_stays_mended(story: Callable[[AllocatorMachine], None]) -> None:
    machine = allocator_machine(SUBJECT)()
    assert isinstance(machine, AllocatorMachine)
    story(machine)
    machine.nothing_is_given_twice()
    machine.teardown()
