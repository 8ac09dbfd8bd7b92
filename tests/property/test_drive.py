"""The drive under shuffled events, answers and lists: what the allocator is told of an object never goes back in time."""

from __future__ import annotations

from omnipam.core.allocator import Settings
from omnipam.core.cidr import parse
from omnipam.core.values import Node, PoolRange, PoolSpec
from omnipam.fixtures.contract import Subject, allocator_machine
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
    by_hand=(parse("10.0.0.0/30"), parse("10.0.0.4/30")),
)

TestDriveUnderShuffledEvents = allocator_machine(SUBJECT, examples=80).TestCase
