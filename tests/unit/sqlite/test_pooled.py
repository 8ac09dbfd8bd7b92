"""multi-pool on the embedded store: what nodes ask and give up, pools that come, and files of an earlier version."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from omnipam.core.allocator import Version
from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.errors import NotFound
from omnipam.core.selector import parse_selector
from omnipam.core.values import Block, Demand, Grant, Node, PoolRange, PoolSpec
from omnipam.runtime.sqlite import schema
from omnipam.runtime.sqlite.store import SqliteStore
from omnipam.runtime.sqlite.watch import Watch

MARS = PoolSpec(
    "mars",
    (PoolRange(parse("10.0.0.0/16"), 28, (24,)), PoolRange(parse("fd00::/104"), 120)),
    (parse("10.0.0.0/28"),),
    0.0,
    3,
    created=7.5,
    first_usable=True,
    last_usable=True,
    selector=parse_selector("zone in (a,b),!spot"),
)
ASKED = (Demand("mars", "ipv4", 16), Demand("mars", "ipv6", 8), Demand("moon", "ipv4", 1))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/x.db"


def test_demand_and_limits_are_kept(url: str) -> None:
    with SqliteStore(url) as store:
        node = Node("a", demand=ASKED, default_pool="mars", limits=(("mars", 2),))
        added = store.add_node(node)
        assert (added.demand, added.default_pool, added.limits) == (ASKED, "mars", (("mars", 2),))
        store.add_pool(MARS)
        assert store.pools() == (MARS,)
        assert store.pools() == (MARS,)


def test_an_agent_asks_and_gives_up(url: str) -> None:
    with SqliteStore(url, author="agent") as store:
        node = store.add_node(Node("a", demand=ASKED))
        blocks = tuple(Block("mars", parse(f"10.0.0.{place}/28")) for place in (16, 32))
        outcome = store.publish(Publish(node, Grant(blocks)))
        assert isinstance(outcome, Version)
        after = store.ask("a", ASKED[:1], without=(blocks[0].cidr,))
        assert (after.demand, after.holds.blocks) == (ASKED[:1], blocks[1:])
        assert after.version != outcome.version
        assert store.history("a", 1)[0].event == "returned"
        with pytest.raises(NotFound):
            store.ask("no-such", ())


def test_a_file_of_the_first_version_is_brought_forward(url: str, tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "x.db")
    for statement in schema.STEPS[0]:
        db.execute(statement)
    db.execute("INSERT INTO nodes (name, uid, created, version) VALUES ('a', 'u', 1.0, 1)")
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    with SqliteStore(url) as store:
        assert store.nodes() == (Node("a", "u", 1.0, "1"),)
        assert store.ask("a", ASKED).demand == ASKED


def test_a_row_that_is_no_pool_says_so_itself(url: str) -> None:
    with SqliteStore(url) as store:
        store.add_pool(MARS)
        with store.writing() as db:
            db.execute("INSERT INTO pools VALUES ('bad', '{')")
        bad, mars = store.pools()
        assert (bad.name, mars) == ("bad", MARS)
        assert bad.unreadable[0].hint


def test_pools_are_told_when_they_change(url: str) -> None:
    with SqliteStore(url) as store, SqliteStore(url) as other:
        watch = Watch(store, reads_pools=True)
        assert watch.list().pools == ()
        assert watch.poll().pools is None  # type: ignore[union-attr]
        other.add_pool(MARS)
        assert watch.poll().pools == (MARS,)  # type: ignore[union-attr]
        other.add_node(Node("a"))
        changes = watch.poll()
        assert changes is not None
        assert (changes.pools, len(changes.items)) == (None, 1)
        other.delete_pool("mars")
        assert watch.poll().pools == ()  # type: ignore[union-attr]
        assert Watch(store).list().pools is None


def test_a_row_of_demand_that_cannot_be_read_is_the_node_s_problem(url: str) -> None:
    with SqliteStore(url) as store:
        store.add_node(Node("a", demand=ASKED))
        with store.writing() as db:
            db.execute("UPDATE nodes SET demand = 'x'")
        (node,) = store.nodes()
        assert "column demand" in node.unreadable[0].text
        assert msgspec.structs.replace(node, unreadable=()).demand == ()
