"""When the node's object is written, and whose sight of it is believed: an object in memory with a late and unreliable watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from tests.unit.agent.house import SILENT

from omnipam.core.attachment import NoAddress, Request, Want
from omnipam.core.cidr import parse
from omnipam.core.errors import Conflict, OmnipamError, OutcomeUnknown, Unavailable
from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import Agent, Block, Held, Node
from omnipam.runtime.agent.half import Blocks
from omnipam.runtime.agent.publisher import Publisher
from omnipam.runtime.agent.side import Report


def block(text: str) -> Block:
    return Block("default", parse(text))


ONE, TWO, THREE = (block(f"10.0.0.{n}/28") for n in (0, 16, 32))


class Object:
    """The node's object. The watch tells only when the test says so."""

    def __init__(self, *blocks: Block) -> None:
        self.node: Node | None = Node("a", uid="u", version="1", holds=Held(blocks))
        self.reports: list[Report] = []
        self.faults: list[OmnipamError] = []
        self.before_answer: Callable[[], None] = lambda: None
        self._seen: Callable[[Node | None], None] | None = None
        self.following = asyncio.Event()

    async def follow(self, seen: Callable[[Node | None], None]) -> None:
        self._seen = seen
        self.following.set()
        seen(self.node)
        await asyncio.Event().wait()

    async def read(self) -> Node | None:
        return self.node

    async def create(self, report: Report) -> Node | None:
        self.reports.append(report)
        self.node = Node("a", uid="v", version="50", demand=report.demand, holds=Held(report.held))
        return self.node

    async def write(self, node: Node, report: Report) -> Node:
        self.reports.append(report)
        await asyncio.sleep(0)
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, OutcomeUnknown):
                self.land(node, report)
            raise fault
        if self.node is None or self.node.version != node.version:
            raise Conflict("it moved on")
        written = self.land(node, report)
        self.before_answer()
        return written

    def land(self, node: Node, report: Report) -> Node:
        self.node = msgspec.structs.replace(
            node,
            version=str(int(node.version) + 1),
            demand=report.demand,
            holds=Held(report.shown_blocks(node)) if report.pooled else node.holds,
            agent=Agent(
                *(
                    tuple(sorted(cidr for cidr, state in report.states if state == word))
                    for word in ("depleted", "released")
                )
            ),
        )
        return self.node

    def change(self, *blocks: Block) -> Node:
        """The operator writes."""
        assert self.node is not None
        version = str(int(self.node.version) + 1)
        self.node = msgspec.structs.replace(self.node, version=version, holds=Held(blocks))
        return self.node

    def tell(self, node: Node | None) -> None:
        assert self._seen is not None
        self._seen(node)


class Bench:
    def __init__(self, object_: Object, *, pooled: bool = True) -> None:
        self.object = object_
        self.agent = NodeAgent(
            families=("ipv4",), pooled=pooled, pre_allocate={"default": 8} if pooled else {}, cool_down_s=0.0
        )
        self.changes = self.looks = 0
        half = Blocks(self.agent, clock=lambda: 1.0)
        self.publisher = Publisher(half, object_, changed=self._changed, log=SILENT, spacing_s=0.05)

        publish = self.publisher._publish

        async def counted() -> bool:
            wrote = await publish()
            self.looks += 1
            return wrote

        self.publisher._publish = counted  # type: ignore[method-assign]  # nothing else tells of a look without a write

    def _changed(self) -> None:
        self.changes += 1

    def allocate(self, name: str) -> None:
        try:
            self.agent.allocate(Request(("n", name, "i"), name, (Want("ipv4", "default"),)), 1.0)
        except NoAddress:
            self.publisher.demanded(True)

    def listed(self) -> list[str]:
        return [str(each.cidr) for each in self.agent.listed()]

    async def looked(self) -> None:
        """Until the publisher has looked twice more at what is to be written: the first look may have begun before."""
        for _ in range(2):
            before = self.looks
            self.publisher.demanded(True)
            await self.until(lambda before=before: self.looks > before and not self.publisher._writing)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 — there is no event for what a test waits for
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(object_: Object, *, pooled: bool = True) -> AsyncIterator[Bench]:
    bench = Bench(object_, pooled=pooled)
    tasks = [asyncio.ensure_future(work) for work in (bench.publisher.follow(), bench.publisher.write())]
    try:
        yield bench
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def needed(object_: Object) -> int:
    assert object_.node is not None
    return sum(each.needed for each in object_.node.demand)


async def test_demand_is_said_at_once_and_then_it_is_quiet() -> None:
    object_ = Object()
    async with running(object_) as bench:
        await bench.until(lambda: needed(object_) == 8)
        object_.tell(object_.change(ONE))
        await bench.until(lambda: bench.listed())
        await bench.until(lambda: needed(object_) == 16)
        writes = len(object_.reports)
        await bench.looked()
        assert len(object_.reports) == writes


async def test_a_pod_that_waits_does_not_wait_for_the_spacing() -> None:
    object_ = Object(ONE)
    async with running(object_) as bench:
        bench.publisher._spacing_s = 1000.0
        await bench.until(lambda: needed(object_) == 16)
        for number in range(14):
            bench.allocate(f"c{number}")
        await bench.until(lambda: needed(object_) == 24)


async def test_an_older_sight_does_not_bring_back_what_was_given_up() -> None:
    object_ = Object(ONE, TWO, THREE)
    async with running(object_) as bench:
        await bench.until(lambda: object_.node and len(object_.node.holds.blocks) == 2)
        await bench.until(lambda: len(bench.listed()) == 2)
        late = Node("a", uid="u", version="1", holds=Held((ONE, TWO, THREE)))
        object_.tell(late)
        for number in range(26):
            bench.allocate(f"c{number}")
        assert len(bench.listed()) == 2
        bench.allocate("waits")
        assert len(list(bench.agent.allocations)) == 26, "nothing of the third block"
        object_.tell(object_.change(ONE, TWO, THREE))
        await bench.until(lambda: len(bench.listed()) == 3)


async def test_what_the_operator_wrote_while_we_wrote_is_not_lost() -> None:
    object_ = Object(ONE)

    def grant() -> None:
        object_.before_answer = lambda: None
        object_.tell(object_.change(ONE, TWO))  # it lands and is told before our own answer arrives

    object_.before_answer = grant
    async with running(object_) as bench:
        await bench.until(lambda: len(bench.listed()) == 2)


async def test_a_conflict_is_read_and_written_again() -> None:
    object_ = Object(ONE)
    async with running(object_) as bench:
        await bench.until(lambda: needed(object_) == 16)
        object_.change(ONE, TWO)  # the watch has not told
        for number in range(14):
            bench.allocate(f"c{number}")
        await bench.until(lambda: needed(object_) == 24)
        assert bench.listed() == ["10.0.0.0/28", "10.0.0.16/28"]


async def test_a_lost_answer_is_looked_up() -> None:
    object_ = Object(ONE, TWO, THREE)
    object_.faults = [OutcomeUnknown("lost")]
    async with running(object_) as bench:
        await bench.until(lambda: len(bench.listed()) == 2)
        await bench.until(lambda: not bench.publisher.error and len(bench.agent.released()) == 0)
        assert object_.node is not None
        assert len(object_.node.holds.blocks) == 2


async def test_a_server_that_is_away_is_tried_again_and_its_block_is_ours_meanwhile() -> None:
    object_ = Object(ONE, TWO, THREE)
    object_.faults = [Unavailable("away")] * 3
    async with running(object_) as bench:
        await bench.until(lambda: object_.node and needed(object_) == 16)
        assert bench.publisher.error == ""
        await bench.until(lambda: len(bench.listed()) == 2)


async def test_what_the_object_says_of_the_node_is_told_without_new_blocks() -> None:
    object_ = Object(ONE)
    async with running(object_) as bench:
        await bench.until(lambda: needed(object_) == 16)
        before = bench.changes
        marked = msgspec.structs.replace(object_.change(ONE), default_pool="blue")
        object_.node = marked
        object_.tell(marked)
        assert bench.changes == before + 1
        object_.tell(object_.change(ONE))
        assert bench.changes == before + 1, "nothing else was said"


async def test_it_is_made_anew_with_what_it_held() -> None:
    object_ = Object(ONE)
    async with running(object_) as bench:
        await bench.until(lambda: bench.listed())
        bench.allocate("c1")
        object_.node = None
        object_.tell(None)
        await bench.until(lambda: object_.node is not None)
        assert object_.reports[-1].held == (ONE,) or object_.node
        assert [each.held for each in object_.reports if each.held][-1] == (ONE,)
        assert bench.listed() == ["10.0.0.0/28"]


async def test_a_block_in_use_that_is_taken_away_is_claimed_once() -> None:
    object_ = Object(ONE, TWO)
    async with running(object_) as bench:
        await bench.until(lambda: len(bench.listed()) == 2)
        bench.allocate("c1")
        object_.tell(object_.change(TWO))
        await bench.until(lambda: object_.node and ONE in object_.node.holds.blocks)
        object_.tell(object_.change(TWO))
        await bench.until(lambda: object_.node and needed(object_) > 0)
        await bench.looked()
        assert object_.node is not None
        assert ONE not in object_.node.holds.blocks, "whoever takes it away twice means it"
        assert bench.listed() == ["10.0.0.0/28", "10.0.0.16/28"], "and its pod keeps its address"


async def test_cluster_pool_a_block_that_is_said_to_be_released_is_not_used_again() -> None:
    """Whatever else changes in the object: the operator may drop it at any moment."""
    object_ = Object(ONE, TWO)
    async with running(object_, pooled=False) as bench:
        await bench.until(lambda: object_.node and object_.node.agent.released == (TWO.cidr,))
        assert object_.node is not None
        object_.tell(object_.change(ONE, TWO))
        for number in range(13):
            bench.allocate(f"c{number}")
        bench.allocate("waits")
        assert len(list(bench.agent.allocations)) == 13
        await bench.until(lambda: object_.node and object_.node.agent.depleted == (ONE.cidr,))
    async with running(object_, pooled=False) as again:  # and not by the agent's next life
        await again.until(again.listed)
        assert again.listed() == ["10.0.0.0/28"]
        object_.tell(object_.change(ONE))
        await again.until(lambda: object_.node and not object_.node.agent.released)
        assert again.agent.released() == ()


async def test_cluster_pool_says_depleted_before_all_is_gone() -> None:
    object_ = Object(ONE)
    async with running(object_, pooled=False) as bench:
        await bench.until(bench.listed)
        for number in range(10):
            bench.allocate(f"c{number}")
        await bench.looked()
        assert object_.reports == [], "three of thirteen are free"
        bench.allocate("c10")
        bench.publisher.demanded(False)
        await bench.until(lambda: object_.node and object_.node.agent.depleted == (ONE.cidr,))
