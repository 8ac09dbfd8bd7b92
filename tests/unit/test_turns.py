"""The asyncio driver over an unkind store in memory: what is written, how often, at most how much at once, and what is said."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from omnipam.core.allocator import Published, Settings
from omnipam.core.cidr import parse
from omnipam.core.drive import Drive, Publish
from omnipam.core.errors import Denied, Throttled, Unavailable
from omnipam.core.values import Capacity, Kept, Node, PoolRange, PoolSpec, Problem
from omnipam.fixtures.memory_store import Fault, MemoryStore
from omnipam.providers.registry import find
from omnipam.runtime.election import LostLease
from omnipam.runtime.metrics import Metrics
from omnipam.runtime.operator import turns as module
from omnipam.runtime.operator.turns import Turns
from omnipam.runtime.operator.unwritten import TRIES


def pool(cidr: str = "10.1.0.0/16", mask: int = 24, quarantine_s: float = 0.0) -> PoolSpec:
    return PoolSpec(ranges=(PoolRange(parse(cidr), mask),), quarantine_s=quarantine_s)


class World:
    """A store, a mode and its turns. Writes wait while `open` is cleared."""

    def __init__(self, *, mode: str = "cluster-pool", spec: PoolSpec | None = None, limit: int = 4) -> None:
        self.now = 1_700_000_000.0
        self.memory = MemoryStore(lambda: self.now)
        self.provider = find(mode)
        self.spec = () if mode == "kubernetes" else (spec or pool(),)
        self.open = asyncio.Event()
        self.open.set()
        self.under_way = self.most = 0
        self.names: list[str] = []
        self.reported: list[tuple[str, str]] = []
        self.kept: list[tuple[Kept, ...]] = []
        self.fail: Exception | None = None
        self.fail_keep: list[Exception] = []
        self.found: list[float] = []
        self.logs = LogCapture()
        self.metrics = Metrics(self._capacity, lambda: ())
        allocator = self.provider.build(Settings(grace_s=0.0))
        self.drive = Drive(allocator)
        self.turns = Turns(
            self.drive,
            self,  # type: ignore[arg-type]  # the half of a Store that turns use
            clock=lambda: self.now,
            metrics=self.metrics,
            log=structlog.wrap_logger(None, processors=[self.logs]),
            limit=limit,
            found=lambda: self.found.append(self.now),
        )

    def _capacity(self) -> Capacity:
        return self.drive.allocator.capacity()

    # -- the store's half

    async def publish(self, publish: Publish) -> Published:
        self.names.append(publish.node.name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.open.wait()
            await asyncio.sleep(0)
            if self.fail is not None:
                raise self.fail
            return self.memory.publish(publish)
        finally:
            self.under_way -= 1

    async def read(self, name: str) -> Node | None:
        await asyncio.sleep(0)
        return self.memory.read(name)

    async def keep(self, kept: Sequence[Kept]) -> None:
        await asyncio.sleep(0)
        if self.fail_keep:
            raise self.fail_keep.pop(0)
        self.kept.append(tuple(kept))

    async def report(self, node: Node | None, problem: Problem) -> None:
        assert node is not None
        self.reported.append((node.name, problem.reason))
        if self.fail is not None:
            raise self.fail

    # -- the test's

    def restore(self) -> None:
        self.drive.allocator.restore(self.memory.nodes(), self.spec, (), self.now)
        self.memory.skip()
        self.turns.restored(())

    def deliver(self) -> None:
        self.memory.deliver(self.drive)
        self.turns.changed()

    def served(self) -> dict[str, list[str]]:
        return {
            node.name: [str(block.cidr) for block in node.holds.blocks]
            for node in self.memory.objects.values()
            if node.holds.blocks
        }

    def said(self, event: str) -> list[Any]:
        return [entry for entry in self.logs.entries if entry["event"].startswith(event)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets the loop turn, the watch deliver and time pass until it is so."""
        for _ in range(20_000):
            if condition():
                return
            self.now += 0.01
            self.deliver()
            await asyncio.sleep(0)
        raise AssertionError("it did not come to be")


@asynccontextmanager
async def running(world: World) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(world.turns.run())
    yield task
    task.cancel()
    await world.turns.drain(1.0)
    await asyncio.gather(task, return_exceptions=True)


async def test_each_node_is_written_once_and_never_more_than_the_limit_at_a_time() -> None:
    world = World(limit=4)
    for number in range(40):
        world.memory.add(f"n{number}")
    world.restore()
    async with running(world):
        await world.until(lambda: len(world.served()) == 40)
        assert world.most == 4
        assert sorted(world.names) == sorted(world.memory.objects)
        world.deliver()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(world.names) == 40
    sync = world.metrics.sync
    assert sync.queued >= 40
    assert sync.folds >= 40
    assert world.metrics.publishes == {"Version": 40}


async def test_a_node_is_never_written_twice_at_once() -> None:
    world = World(limit=8)
    world.memory.add("n")
    world.restore()
    world.open.clear()
    async with running(world):
        await world.until(lambda: world.under_way == 1)
        for _ in range(5):
            world.memory.change("n")
            world.deliver()
            await asyncio.sleep(0)
        assert world.under_way == 1
        world.open.set()
        await world.until(lambda: world.served() == {"n": ["10.1.0.0/24"]})


@pytest.mark.parametrize("seed", range(10))
async def test_it_ends_well_whatever_becomes_of_the_writes(seed: int) -> None:
    chance = random.Random(seed)
    world = World(limit=3, spec=pool("10.1.0.0/20"))
    for number in range(12):
        world.memory.add(f"n{number}")
    world.restore()
    world.memory.faults.extend(chance.choice(list(Fault)) for _ in range(20))
    world.memory.read_faults = 5
    async with running(world):
        for step in range(60):
            if step == 30:
                world.memory.remove("n3")
                world.memory.add("later")
            world.deliver()
            world.now += chance.random()
            await asyncio.sleep(0)
        while world.memory.land():
            pass
        await world.until(lambda: len(world.served()) == 12)
        await world.until(lambda: not world.drive.busy)
    blocks = [cidr for cidrs in world.served().values() for cidr in cidrs]
    assert len(set(blocks)) == 12


async def test_what_is_unmet_is_said_once_and_when_it_is_over() -> None:
    world = World(spec=pool("10.1.0.0/24"))
    world.memory.add("a")
    world.memory.add("b")
    world.restore()
    async with running(world):
        await world.until(lambda: world.reported)
        for _ in range(3):
            world.memory.change("b")
            world.deliver()
            await asyncio.sleep(0)
        assert world.reported == [("b", "PoolExhausted")]
        assert world.metrics.problems == {"PoolExhausted": 1}
        (line,) = world.said("unmet demand")
        assert line["node"] == "b"
        assert not world.said("recovered")
        world.memory.remove("a")
        await world.until(lambda: "b" in world.served())
        await world.until(lambda: world.said("recovered"))
        assert world.reported == [("b", "PoolExhausted")]


async def test_what_an_earlier_operator_has_said_is_not_said_again() -> None:
    world = World(spec=pool("10.1.0.0/24"))
    world.memory.add("a")
    world.memory.add("b")
    world.restore()
    async with running(world):
        await world.until(lambda: world.memory.objects["b"].holds.error)
    after = World(spec=pool("10.1.0.0/24"))
    after.memory = world.memory
    after.restore()
    async with running(after):
        for _ in range(20):
            after.deliver()
            await asyncio.sleep(0)
        assert not after.reported
        assert not after.names
        world.memory.remove("a")
        await after.until(lambda: after.said("recovered"))


async def test_the_problems_of_a_node_that_cannot_be_written_are_said_once_too() -> None:
    world = World(mode="kubernetes")
    world.memory.add_machine("bare")
    world.restore()
    async with running(world):
        await world.until(lambda: world.reported)
        for _ in range(3):
            world.drive.seen(world.memory.nodes()[0], world.now)
            world.turns.changed()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert world.reported == [("bare", "NoPodCIDR")]
        assert not world.names
        world.drive.gone("bare", "", world.now)
        world.turns.gone("bare")
        world.drive.seen(world.memory.nodes()[0], world.now)
        world.turns.changed()
        await world.until(lambda: len(world.reported) == 2)  # another machine of that name


async def test_a_refusal_that_hits_all_is_one_line() -> None:
    world = World(limit=8)
    for number in range(30):
        world.memory.add(f"n{number}")
    world.memory.faults.extend([Fault.DENIED] * 60)
    world.restore()
    async with running(world):
        await world.until(lambda: world.metrics.publishes["Denied"] == 60)
        warned = [line for line in world.said("grant not written") if line["log_level"] == "warning"]
        assert len(warned) == 1
        await world.until(lambda: len(world.served()) == 30)


async def test_grants_that_are_refused_time_and_again_are_one_finding_and_their_nodes_unserved() -> None:
    world = World(limit=8)
    for number in range(30):
        world.memory.add(f"n{number:02}")
    world.restore()
    world.memory.faults.extend([Fault.DENIED] * (30 * TRIES))
    async with running(world):
        await world.until(lambda: world.metrics.publishes["Denied"] == 30 * TRIES)
        assert not world.turns.unwritten.findings(), "a moment's trouble is none"
        assert not world.reported
        world.memory.faults.extend([Fault.DENIED] * 30)
        await world.until(lambda: world.turns.unwritten.unserved() == 30)
        (finding,) = world.turns.unwritten.findings()
        assert finding.reason == "GrantNotWritten"
        assert "30 nodes" in finding.text
        assert finding.hint
        assert finding.objects == tuple(f"CiliumNode/n{number:02}" for number in range(10))
        await world.until(lambda: len(world.reported) == 30)
        assert {reason for _, reason in world.reported} == {"GrantNotWritten"}
        assert world.metrics.problems == {"GrantNotWritten": 30}
        assert world.found
        await world.until(lambda: len(world.served()) == 30)
        assert not world.turns.unwritten.findings()
        assert not world.turns.unwritten.unserved()
        assert len(world.reported) == 30


async def test_a_node_that_lacks_its_block_anyway_is_not_counted_twice_and_says_both() -> None:
    world = World(spec=pool("10.1.0.0/24"))
    world.memory.add("a")
    world.restore()
    async with running(world):
        await world.until(lambda: world.served())
        world.memory.faults.extend([Fault.DENIED] * 30)
        world.memory.add("b")
        await world.until(lambda: world.turns.unwritten.findings())
        assert world.drive.allocator.capacity().unserved + world.turns.unwritten.unserved() == 1
        await world.until(lambda: len(world.reported) == 2)
        assert world.reported == [("b", "GrantNotWritten"), ("b", "PoolExhausted")]


async def test_a_node_that_is_gone_or_was_mended_by_others_is_no_finding() -> None:
    world = World()
    for name in "ab":
        world.memory.add(name)
    world.memory.faults.extend([Fault.DENIED] * 400)
    world.restore()
    async with running(world):
        await world.until(lambda: len(world.turns.unwritten.standing()) == 2)
        world.memory.remove("a")
        await world.until(lambda: list(world.turns.unwritten.standing()) == ["b"])
        world.turns.gone("a")
        node = world.drive.allocator.node("b")
        assert node is not None
        wanted = world.drive.allocator.grant("b")
        world.memory.change("b", blocks=[block.cidr for block in wanted.blocks])
        await world.until(lambda: not world.turns.unwritten.findings())


async def test_what_found_the_store_busy_is_reported_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAKE_UP_S", 0.0)
    world = World(spec=pool("10.1.0.0/24"), limit=1)
    for name in "abcd":
        world.memory.add(name)
    world.restore()
    shown: list[str] = []
    tries = 0

    async def report(node: Node | None, problem: Problem) -> None:
        nonlocal tries
        tries += 1
        if tries % 5:
            raise Throttled("slowly", 1.0)
        assert node is not None
        shown.append(node.name)

    world.report = report  # type: ignore[method-assign]
    async with running(world):
        await world.until(lambda: len(shown) == 3)
        assert sorted(shown) == ["b", "c", "d"]
        before = tries
        for _ in range(50):
            await asyncio.sleep(0)
        assert tries == before


async def test_what_others_have_mended_is_not_reported_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAKE_UP_S", 0.0)
    world = World()
    world.memory.add("a")
    world.memory.faults.extend([Fault.DENIED] * 400)
    world.restore()
    tries = 0

    async def report(node: Node | None, problem: Problem) -> None:
        nonlocal tries
        tries += 1
        raise Throttled("slowly", 1.0)

    world.report = report  # type: ignore[method-assign]
    async with running(world):
        await world.until(lambda: tries > 3)
        wanted = world.drive.allocator.grant("a")
        world.memory.change("a", blocks=[block.cidr for block in wanted.blocks])
        await world.until(lambda: not world.turns.unwritten.standing())
        before = tries
        for _ in range(50):
            await asyncio.sleep(0)
        assert tries <= before + 1


async def test_draining_does_not_wait_for_what_is_owed() -> None:
    world = World(spec=pool("10.1.0.0/24"))
    for name in "ab":
        world.memory.add(name)
    world.restore()

    async def report(node: Node | None, problem: Problem) -> None:
        raise Throttled("slowly", 1.0)

    world.report = report  # type: ignore[method-assign]
    async with running(world):
        await world.until(lambda: world.said("not reported"))
        began = asyncio.get_running_loop().time()
        await world.turns.drain(60.0)
        assert asyncio.get_running_loop().time() - began < 0.5


async def test_an_event_that_cannot_be_written_harms_nothing() -> None:
    world = World(spec=pool("10.1.0.0/24"))
    world.memory.add("a")
    world.memory.add("b")
    world.restore()

    async def denied(node: Node | None, problem: Problem) -> None:
        raise Denied("no events here")

    world.report = denied  # type: ignore[method-assign]
    async with running(world) as task:
        await world.until(lambda: world.said("not reported"))
        assert not task.done()


@pytest.mark.parametrize("where", ["publish", "keep", "report"])
async def test_a_lost_lease_ends_the_turns(where: str) -> None:
    world = World(spec=pool("10.1.0.0/24", quarantine_s=60))
    world.memory.add("a")
    world.restore()
    lost = LostLease("leader election: the lease is lost")
    if where == "publish":
        world.fail = lost
    async with running(world) as task:
        if where != "publish":
            await world.until(lambda: world.served())
        if where == "keep":
            world.fail_keep.append(lost)
            world.memory.remove("a")
        if where == "report":

            async def raises(node: Node | None, problem: Problem) -> None:
                raise lost

            world.report = raises  # type: ignore[method-assign]
            world.memory.add("b")
        await world.until(task.done)
        assert task.exception() is lost


async def test_what_is_kept_is_written_again_until_it_is_there_the_newest_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEEP_RETRY_S", (0.0, 0.0))
    world = World(spec=pool("10.1.0.0/22", quarantine_s=3600))
    for name in "abc":
        world.memory.add(name)
    world.restore()
    world.fail_keep.extend(Unavailable("away") for _ in range(3))
    async with running(world):
        await world.until(lambda: len(world.served()) == 3)
        for name in "abc":
            world.memory.remove(name)
        await world.until(lambda: world.turns.unwritten.findings())
        (finding,) = world.turns.unwritten.findings()
        assert (finding.reason, "away" in finding.text) == ("StateNotWritten", True)
        await world.until(lambda: world.kept and len(world.kept[-1]) == 3)
        assert len(world.said("what is kept from being granted could not be written")) == 3
        assert world.turns.unwritten.findings() == ()
        before = len(world.kept)
        for _ in range(20):
            world.deliver()
            await asyncio.sleep(0)
        assert len(world.kept) == before


async def test_draining_starts_nothing_more_and_waits_for_what_is_under_way() -> None:
    world = World(limit=2)
    for number in range(10):
        world.memory.add(f"n{number}")
    world.restore()
    world.open.clear()
    task = asyncio.ensure_future(world.turns.run())
    await world.until(lambda: world.under_way == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    draining = asyncio.ensure_future(world.turns.drain(60.0))
    await asyncio.sleep(0)
    assert not draining.done()
    world.open.set()
    await draining
    assert len(world.served()) == len(world.names) == 2


async def test_draining_gives_up_on_what_takes_too_long() -> None:
    world = World(limit=2)
    world.memory.add("n")
    world.restore()
    world.open.clear()
    task = asyncio.ensure_future(world.turns.run())
    await world.until(lambda: world.under_way == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await world.turns.drain(0.0)
    assert world.under_way == 0
