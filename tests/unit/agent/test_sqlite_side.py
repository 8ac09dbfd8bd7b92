"""The node's row in a real file: what becomes of blocks that the node uses and that are another's by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import CapturingLogger

from omnipam.core.allocator import Version
from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.errors import Unavailable
from omnipam.core.values import Block, Demand, Facts, Grant, Node
from omnipam.runtime.agent.side import Report
from omnipam.runtime.agent.sqlite_side import SqliteSide
from omnipam.runtime.sqlite.blocks import Overlap
from omnipam.runtime.sqlite.store import SqliteStore

ONE, TWO, THREE = (Block("default", parse(f"10.0.0.{n}/28")) for n in (16, 128, 144))
HALF = Block("default", parse("10.0.0.24/29"))
ASKS = (Demand("default", "ipv4", 33),)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'omnipam.db'}"


@pytest.fixture
def there(url: str) -> Iterator[SqliteStore]:
    """Another process's connection."""
    with SqliteStore(url) as store:
        store.add_node(Node("b"))
        yield store


def grant(there: SqliteStore, name: str, *held: Block) -> None:
    """The operator writes: these are the node's blocks."""
    node = there.node(name)
    assert node is not None
    assert isinstance(there.publish(Publish(node, Grant(held))), Version)


class Bench:
    """The side of node a, followed. held: the blocks that the node uses."""

    def __init__(self, url: str, *held: Block, pooled: bool = True) -> None:
        self.held = held
        self.said = CapturingLogger()
        log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            self.said, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self.side = SqliteSide(url, "a", pooled=pooled, facts=Facts(), log=log, held=lambda: self.held)
        self.seen: list[Node | None] = []

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 — there is no event for what a test waits for
                await asyncio.sleep(0.005)

    def report(self) -> Report:
        return Report(True, ASKS, self.held)

    @property
    def errors(self) -> list[str]:
        return [call.kwargs["why"] for call in self.said.calls if call.method_name == "error"]


@asynccontextmanager
async def running(url: str, *held: Block, pooled: bool = True) -> AsyncIterator[Bench]:
    bench = Bench(url, *held, pooled=pooled)
    await bench.side.open()
    task = asyncio.ensure_future(bench.side.follow(bench.seen.append))
    try:
        await bench.until(lambda: bench.seen)
        yield bench
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bench.side.close()


def blocks_of(node: Node | None) -> tuple[Block, ...]:
    assert node is not None
    return node.holds.blocks


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("others", [ONE, HALF])
async def test_a_row_made_anew_has_all_that_is_free(
    url: str, there: SqliteStore, pooled: bool, others: Block
) -> None:
    grant(there, "b", others)
    async with running(url, ONE, TWO, THREE, pooled=pooled) as bench:
        made = await bench.side.create(bench.report())
        assert blocks_of(made) == blocks_of(there.node("a")) == (TWO, THREE)
        assert blocks_of(there.node("b")) == (others,)
        assert {event.cidr for event in there.history("a")} == {"10.0.0.128/28", "10.0.0.144/28"}
        await bench.until(lambda: bench.side.impaired)
        said = f"10.0.0.16/28: it overlaps {others.cidr} of node b"
        assert bench.errors == [said]
        assert str(bench.side.impaired).startswith(said)
        bench.held = (TWO, THREE)  # the last of its pods is gone
        assert bench.side.impaired is None


async def test_what_was_taken_away_is_shown_again_as_far_as_it_is_free(url: str, there: SqliteStore) -> None:
    there.add_node(Node("a"))
    grant(there, "a", TWO)
    grant(there, "b", ONE)
    async with running(url, ONE, TWO, THREE) as bench:
        await bench.until(lambda: blocks_of(bench.seen[-1]) == (TWO, THREE))
        assert bench.side.impaired
        grant(there, "a")
        node = there.node("a")
        assert node is not None
        written = await bench.side.write(node, Report(True, ASKS, bench.held))
        assert (written.demand, blocks_of(written)) == (ASKS, (TWO, THREE))
        gives = Report(True, ASKS, (ONE, TWO), given_up=(THREE,))
        assert blocks_of(await bench.side.write(written, gives)) == (TWO,)


@pytest.mark.parametrize("pooled", [True, False])
async def test_what_another_gives_up_is_the_node_s_again(url: str, there: SqliteStore, pooled: bool) -> None:
    grant(there, "b", ONE)
    async with running(url, ONE, TWO, pooled=pooled) as bench:
        await bench.side.create(bench.report())
        await bench.until(lambda: bench.side.impaired)
        grant(there, "a", TWO, THREE)
        await bench.until(lambda: blocks_of(bench.seen[-1]) == (TWO, THREE))
        grant(there, "a", TWO)
        await bench.until(lambda: blocks_of(bench.seen[-1]) == (TWO,))
        grant(there, "b")
        await bench.until(lambda: bench.side.impaired is None)
        await bench.until(lambda: set(blocks_of(there.node("a"))) == {ONE, TWO})
        await bench.until(lambda: set(blocks_of(bench.seen[-1])) == {ONE, TWO})
        # Whoever takes it away now means it.
        grant(there, "a", TWO)
        await bench.until(lambda: blocks_of(bench.seen[-1]) == (TWO,))
        grant(there, "a", TWO, THREE)
        await bench.until(lambda: blocks_of(bench.seen[-1]) == (TWO, THREE))
        events = [(event.event, event.cidr) for event in there.history("a")]
        assert events.count(("granted", str(ONE.cidr))) == 1
        assert len(bench.errors) == 1


@pytest.mark.parametrize("pooled", [True, False])
async def test_the_next_life_knows_it_too(url: str, there: SqliteStore, pooled: bool) -> None:
    grant(there, "b", ONE)
    async with running(url, ONE, TWO, pooled=pooled) as bench:
        await bench.side.create(bench.report())
    async with running(url, ONE, TWO, pooled=pooled) as bench:
        await bench.until(lambda: bench.side.impaired)
    grant(there, "b")  # while no agent runs
    async with running(url, ONE, TWO, pooled=pooled) as bench:
        await bench.until(lambda: set(blocks_of(there.node("a"))) == {ONE, TWO})
        assert bench.side.impaired is None
        assert bench.errors == []


async def test_a_row_deleted_while_the_agent_runs(url: str, there: SqliteStore) -> None:
    there.add_node(Node("a"))
    grant(there, "a", ONE, TWO)
    async with running(url, ONE, TWO) as bench:
        there.delete_node("a")
        grant(there, "b", ONE)
        await bench.until(lambda: bench.seen[-1] is None)
        await bench.side.create(bench.report())
        await bench.until(lambda: bench.side.impaired)
        grant(there, "b")
        await bench.until(lambda: set(blocks_of(there.node("a"))) == {ONE, TWO})


async def test_what_is_its_own_by_another_name_is_nobody_else_s(url: str, there: SqliteStore) -> None:
    """As after a change of modes."""
    there.add_node(Node("a"))
    own = Block("other", ONE.cidr)
    grant(there, "a", own)
    async with running(url, ONE, TWO) as bench:
        await bench.until(lambda: TWO in blocks_of(there.node("a")))
        assert blocks_of(there.node("a")) == (own, TWO)
        assert bench.side.impaired is None
        assert bench.errors == []


async def test_a_look_that_fails_is_made_again(
    url: str, there: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnipam.runtime.agent.sqlite_side.AWAY_S", 0.0)
    grant(there, "b", ONE)
    async with running(url, ONE, TWO) as bench:
        store = bench.side._there()
        taken, tries = store.taken, list[str]()

        def failing(name: str, held: Sequence[Block]) -> tuple[Overlap, ...]:
            tries.append(name)
            if len(tries) < 3:
                raise Unavailable("the disk fails")
            return taken(name, held)

        monkeypatch.setattr(store, "taken", failing)
        await bench.side.create(bench.report())
        await bench.until(lambda: bench.side.impaired)
        assert len(tries) == 3


async def test_a_claim_that_fails_is_tried_again(
    url: str, there: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnipam.runtime.agent.sqlite_side.AWAY_S", 0.0)
    grant(there, "b", ONE)
    async with running(url, ONE, TWO) as bench:
        await bench.side.create(bench.report())
        await bench.until(lambda: bench.side.impaired)
        store = bench.side._there()
        claim, tries = store.claim, list[str]()

        def failing(name: str, held: Sequence[Block]) -> Node | None:
            tries.append(name)
            if len(tries) < 3:
                raise Unavailable("the disk is full")
            return claim(name, held)

        monkeypatch.setattr(store, "claim", failing)
        grant(there, "b")
        await bench.until(lambda: set(blocks_of(there.node("a"))) == {ONE, TWO})
        await bench.until(lambda: set(blocks_of(bench.seen[-1])) == {ONE, TWO})
        assert len(tries) == 3
