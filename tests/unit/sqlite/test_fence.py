"""Who does not hold the lease writes nothing that an operator writes, however sure it is of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from omnipam.core.allocator import Version
from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.values import DEFAULT_POOL, Block, Grant, Kept, Node, Problem
from omnipam.runtime.election import LostLease, Record
from omnipam.runtime.sqlite import lease
from omnipam.runtime.sqlite.adapter import AsyncSqliteStore
from omnipam.runtime.sqlite.store import SqliteStore

LEASE = "omnipam-operator"
GRANT = Grant((Block(DEFAULT_POOL, parse("10.1.0.0/24")),))
WRITES: dict[str, Callable[[SqliteStore, Node], object]] = {
    "publish": lambda store, node: store.publish(Publish(node, GRANT)),
    "keep": lambda store, node: store.keep([Kept(DEFAULT_POOL, parse("10.2.0.0/24"), until=9.0)]),
    "record": lambda store, node: store.record("cluster-pool", ()),
}


def held_by(holder: str) -> Record:
    return Record(holder, 15, "", "", 0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/omnipam.db"


def content(store: SqliteStore) -> object:
    return store.grants(), store.kept(), store.settings(), store.revision(), store.history()


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("holder", ["other", "", None])
def test_only_the_holder_writes(url: str, what: str, holder: str | None) -> None:
    with SqliteStore(url, author="me", lease=LEASE) as store:
        node = store.add_node(Node("n"))
        if holder is not None:
            lease.create(store, LEASE, held_by(holder))
        before = content(store)
        with pytest.raises(LostLease, match=f"{holder or 'nobody'} holds it now"):
            WRITES[what](store, node)
        assert content(store) == before
        if holder is None:
            lease.create(store, LEASE, held_by("me"))
        else:
            lease.update(store, LEASE, held_by("me"), "1")
        WRITES[what](store, node)
        assert content(store) != before


def test_a_row_that_cannot_be_read_is_nobodys(url: str) -> None:
    with SqliteStore(url, author="me", lease=LEASE) as store:
        node = store.add_node(Node("n"))
        with store.writing() as db:
            db.execute("INSERT INTO leases VALUES (?, 1, '{')", (LEASE,))
        with pytest.raises(LostLease, match=r"table leases.*cannot be read"):
            store.publish(Publish(node, GRANT))


@pytest.mark.parametrize("what", [*WRITES, "add_node"])
@pytest.mark.parametrize("lead", [LEASE, ""])
def test_nothing_is_written_into_a_file_that_is_gone_from_its_path(
    url: str, tmp_path: Path, what: str, lead: str
) -> None:
    with SqliteStore(url, author="me", lease=lead) as store:
        node = store.add_node(Node("n"))
        lease.create(store, LEASE, held_by("me"))
        WRITES[what](store, node) if what in WRITES else store.add_node(Node("m"))
        before = content(store)
        (tmp_path / "omnipam.db").rename(tmp_path / "elsewhere.db")
        act = WRITES.get(what, lambda store, node: store.add_node(node))
        if what == "record":
            act = lambda store, node: store.record("multi-pool", ())
        with pytest.raises(LostLease, match="is not there any more"):
            act(store, msgspec.structs.replace(node, name="later"))
        assert content(store) == before
        (tmp_path / "elsewhere.db").rename(tmp_path / "omnipam.db")
        store.add_node(Node("back"))


async def test_all_that_wait_for_one_commit_learn_that_the_lease_is_lost(url: str) -> None:
    with SqliteStore(url) as other:
        nodes = [other.add_node(Node(f"n{number}")) for number in range(5)]
        lease.create(other, LEASE, held_by("other"))
        store = AsyncSqliteStore(url, author="me", lease=LEASE)
        await store.open()
        writes = [store.publish(Publish(node, GRANT)) for node in nodes]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(outcome, LostLease) for outcome in outcomes)
        lease.update(other, LEASE, held_by("me"), "1")
        assert isinstance(await store.publish(Publish(nodes[0], GRANT)), Version)
        await store.close()


async def test_nothing_starts_while_the_gate_is_shut(url: str) -> None:
    def shut() -> None:
        raise LostLease("not leading")

    store = AsyncSqliteStore(url, author="me")
    await store.open()
    with SqliteStore(url) as other:
        node = other.add_node(Node("n"))
        store.gate = shut
        with pytest.raises(LostLease):
            await store.publish(Publish(node, GRANT))
        with pytest.raises(LostLease):
            await store.report(None, Problem("R", "text"))
        assert not other.grants()
        assert not other.history()
        store.gate = lambda: None
        assert isinstance(await store.publish(Publish(node, GRANT)), Version)
        await store.report(None, Problem("R", "text"))
        assert [(event.node, event.event) for event in other.history()] == [("", "problem"), ("n", "granted")]
    await store.close()


async def test_after_a_failed_opening_it_can_be_opened_again(url: str, tmp_path: Path) -> None:
    file = tmp_path / "omnipam.db"
    file.write_bytes(b"no database at all" * 100)
    store = AsyncSqliteStore(url, author="me")
    for _ in range(2):
        with pytest.raises(Exception, match="is not a SQLite database"):
            await store.open()
    file.unlink()
    await store.open()
    await store.open()
    assert await store.kept() == ()
    await store.close()


async def test_publishing_after_the_end_is_answered(url: str) -> None:
    store = AsyncSqliteStore(url, author="me")
    await store.open()
    with SqliteStore(url) as other:
        node = other.add_node(Node("n"))
    await store.close()
    async with asyncio.timeout(10):
        for _ in range(3):
            assert type(await store.publish(Publish(node, GRANT))).__name__ == "Denied"
