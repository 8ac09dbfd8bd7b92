"""The node's side under arbitrary requests, changes of its blocks, restarts and boots: no address twice, none lost, none foreign."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omnipam.core.attachment import (
    Allocation,
    Key,
    NoAddress,
    NotForPods,
    PoolMismatch,
    Request,
    Stored,
    Want,
)
from omnipam.core.cidr import Cidr, parse
from omnipam.core.errors import Conflict
from omnipam.core.node_agent import NodeAgent
from omnipam.core.uplink import Uplink
from omnipam.core.values import Block

POOLS = ("default", "blue")
BLOCKS = {  # two of each pool's overlap the other's
    "default": ["10.0.0.0/29", "10.0.0.8/29", "10.0.0.0/28", "fd00::/125"],
    "blue": ["10.0.0.0/28", "10.1.0.0/29", "fd00::/124"],
}
SINGLE = ["10.0.0.1/32", "10.0.0.3/32", "10.0.0.9/32", "10.0.0.30/32", "fd00::5/128"]
"""In a cloud; some of them lie in other blocks."""
ALL = [Block(pool, parse(text)) for pool, texts in BLOCKS.items() for text in texts]
ALL += [Block("default", parse(text)) for text in SINGLE]
UPLINKS = [Uplink("eni-1", prefixes=tuple(block.cidr for block in ALL))]
AVOID = frozenset((32, parse("10.0.0.0/32").first + number) for number in (2, 3, 9))
KEYS = [("net", f"c{n}", "eth0") for n in range(8)]
COOL_S = 30.0


class Node(RuleBasedStateMachine):
    """Beside the agent there are: what is on disk, what the node's object shows, and what was answered to whom."""

    @initialize(both=st.booleans(), cloud=st.booleans(), shown=st.lists(st.sampled_from(ALL), unique=True))
    def begin(self, both: bool, cloud: bool, shown: list[Block]) -> None:
        self.cloud = cloud
        self.withheld: set[Cidr] = set()
        self.families = ("ipv4", "ipv6") if both else ("ipv4",)
        self.now = 1000.0
        self.disk: dict[int, Stored] = {}
        self.shown = [block for block in shown if cloud or block.cidr.size > 1]
        self.answered: dict[Key, Allocation] = {}
        self.start(booted=False)
        self.agent.blocks_seen(self.shown)

    def start(self, *, booted: bool) -> None:
        self.agent = NodeAgent(
            families=self.families,
            pooled=True,
            gateway=not self.cloud,
            rounded=not self.cloud,
            cool_down_s=COOL_S,
            pre_allocate={"default": 2},
        )
        self.agent.uplinks_seen(UPLINKS)
        self.agent.withhold(self.withheld)
        doubles = self.agent.load(self.disk.values(), self.now, booted=booted)
        assert not doubles, "what is on disk is consistent"
        self.write()

    def write(self) -> None:
        for change in self.agent.drain():
            if change.stored is None:
                self.disk.pop(change.id, None)
            else:
                self.disk[change.id] = change.stored

    # -- what others do

    @rule(block=st.sampled_from(ALL))
    def grant(self, block: Block) -> None:
        if block not in self.shown and (self.cloud or block.cidr.size > 1):
            self.shown.append(block)
        self.agent.forget_told([block])
        self.agent.blocks_seen(self.shown)

    @rule(data=st.data())
    @precondition(lambda self: self.shown)
    def withdraw(self, data: st.DataObject) -> None:
        self.shown.remove(data.draw(st.sampled_from(self.shown)))
        self.agent.blocks_seen(self.shown)

    @rule(those=st.sets(st.sampled_from(ALL)))
    def withhold(self, those: set[Block]) -> None:
        self.withheld = {block.cidr for block in those if block.cidr.size == 1}
        self.agent.withhold(self.withheld)

    @rule(seconds=st.sampled_from([1.0, 10.0, 40.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.agent.tidy(self.now)
        self.write()

    @rule()
    def restart(self) -> None:
        self.start(booted=False)
        self.agent.blocks_seen(self.shown)
        for key, allocation in self.answered.items():
            assert self.agent.get(key) == allocation

    @rule()
    def boot(self) -> None:
        self.now += 60.0
        self.start(booted=True)
        self.agent.blocks_seen(self.shown)
        self.answered = {key: each for key, each in self.answered.items() if each.owner == "router"}
        assert {each.key for each in self.agent.allocations} == set(self.answered)

    # -- requests

    @rule(
        key=st.sampled_from(KEYS),
        pool=st.sampled_from(POOLS),
        sticky=st.booleans(),
        owner=st.sampled_from(["router", "shop/db-0", "shop/db-1", "shop/web"]),
        avoid=st.sampled_from([AVOID, frozenset[tuple[int, int]]()]),
        fails=st.booleans(),
    )
    def add(
        self,
        key: Key,
        pool: str,
        sticky: bool,
        owner: str,
        avoid: frozenset[tuple[int, int]],
        fails: bool,
    ) -> None:
        kept = {each.id for each in self.agent.parked}
        wants = tuple(Want(family, pool) for family in self.families)
        try:
            allocation, new = self.agent.allocate(
                Request(key, owner, wants, sticky=sticky, avoid=avoid), self.now
            )
        except NoAddress:
            asked = {(each.pool, each.family) for each in self.agent.demand(self.now)}
            assert {(pool, family) for family in self.families} <= asked, "all families at once"
            return
        except Conflict:
            held = self.answered[key]
            assert held.owner != owner or [given.family for given in held.given] != list(self.families)
            return
        if key in self.answered:
            assert not new
            assert allocation == self.answered[key]
            return
        assert not avoid.intersection(given.place for given in allocation.given)
        assert new
        assert [given.family for given in allocation.given] == list(self.families)
        assert not self.withheld.intersection(given.block.cidr for given in allocation.given)
        if fails:  # the disk refuses: as if nothing had been
            self.agent.drain()
            self.agent.undo_allocate(allocation, self.agent.displaced)
            assert {each.id for each in self.agent.parked} == kept
            self.disk = {each.allocation.id: each for each in self.agent.stored()}
            return
        self.answered[key] = allocation
        self.write()

    @rule(key=st.sampled_from(KEYS), number=st.integers(0, 31))
    def add_exactly(self, key: Key, number: int) -> None:
        address = parse("10.0.0.0/32").first + number
        request = Request(key, "shop/static", (Want("ipv4", "default", address),))
        holder = self.agent.holder(32, address)
        try:
            allocation, new = self.agent.allocate(request, self.now)
        except (Conflict, PoolMismatch, NoAddress, NotForPods):
            return
        if new:
            assert holder is None
            self.answered[key] = allocation
            self.write()

    @rule(key=st.sampled_from(KEYS), fails=st.booleans())
    def delete(self, key: Key, fails: bool) -> None:
        kept = {each.id for each in self.agent.parked}
        released = self.agent.release(key, self.now)
        assert released == self.answered.get(key)
        if released is not None and fails:
            self.agent.drain()
            self.agent.undo_release(released, self.agent.displaced)
            assert {each.id for each in self.agent.parked} == kept
            self.disk = {each.allocation.id: each for each in self.agent.stored()}
            return
        self.answered.pop(key, None)
        self.write()

    @rule(lands=st.booleans())
    def give_up(self, lands: bool) -> None:
        before = {(each.pool, each.cidr) for each in self.shown}
        self.agent.give_up(self.now)
        released = self.agent.released()
        used = {given.place for each in self.answered.values() for given in each.given}
        for block in released:
            assert (block.pool, block.cidr) in before
            inside = [address for bits, address in used if holds(block.cidr, bits, address)]
            covered = [each for each in self.agent.listed() if each.cidr.overlaps(block.cidr)]
            assert not inside or covered, "nothing in use is given up"
        self.agent.told(released)
        if lands:
            gone = {(each.pool, each.cidr) for each in released}
            self.shown = [each for each in self.shown if (each.pool, each.cidr) not in gone]
            self.agent.blocks_seen(self.shown)
        else:
            self.agent.untold(released)

    @rule()
    def all_end(self) -> None:
        """Then every address is free again, and what was kept for others is the owners'."""
        for key in list(self.answered):
            assert self.agent.release(key, self.now) is not None
        self.answered.clear()
        self.now += 1000.0
        self.agent.tidy(self.now)
        self.write()
        parked = sum(len(each.given) for each in self.agent.parked)
        for state in self.agent.states(self.now):
            assert state.cooling == 0
            assert state.total - 3 * parked <= state.free <= state.total, (
                "more than once where blocks overlap"
            )
        if not parked:
            shown = {(each.pool, each.cidr) for each in self.shown}
            assert {(each.pool, each.cidr) for each in self.agent.listed()} <= shown

    # -- what is always true

    @invariant()
    def no_address_twice_and_none_foreign(self) -> None:
        if not hasattr(self, "agent"):
            return
        places = [given.place for each in self.agent.allocations for given in each.given]
        assert len(places) == len(set(places))
        assert {each.key: each for each in self.agent.allocations} == self.answered
        for each in self.agent.allocations:
            for given in each.given:
                cidr = given.block.cidr
                assert cidr.size == 1 or cidr.first < given.address < cidr.last
                assert (given.gateway is None) is self.cloud
                assert given.address != given.gateway
                assert holds(cidr, given.bits, given.address)

    @invariant()
    def disk_says_the_same(self) -> None:
        if not hasattr(self, "agent"):
            return
        held = {each.allocation.id for each in self.disk.values() if each.released is None}
        assert held == {each.id for each in self.agent.allocations}
        assert set(self.disk) == {each.allocation.id for each in self.agent.stored()}

    @invariant()
    def numbers_add_up(self) -> None:
        if not hasattr(self, "agent"):
            return
        shown = {(each.pool, each.cidr) for each in self.shown}
        for state in self.agent.states(self.now):
            marked = {
                given.place
                for each in (*self.agent.allocations, *self.agent.parked)
                for given in each.given
                if (given.pool, given.family) == (state.pool, state.family)
                and ((given.pool, given.block.cidr) in shown or each in self.answered.values())
            }
            assert state.used >= len(marked), "what is held or kept for its owner is not free"
            assert min(state.used, state.free, state.cooling, state.total) >= 0
            assert state.free + state.cooling <= state.total


def holds(cidr: Cidr, bits: int, address: int) -> bool:
    return cidr.bits == bits and cidr.first <= address <= cidr.last


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
