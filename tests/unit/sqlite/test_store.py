"""The blocking store: what it is told it tells again, and what is refused changes nothing."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnipam.core.allocator import Conflict, Denied, Gone, Published, Unknown, Version
from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.drive import Publish
from omnipam.core.errors import Invalid, NotFound, Refused
from omnipam.core.values import Agent, Block, Facts, Grant, Held, Kept, Node, PoolRange, PoolSpec, Problem
from omnipam.runtime.sqlite.store import SqliteStore
from omnipam.runtime.sqlite.values import Changes, Deletion, Event

NOW = 1_700_000_000.0


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/x.db"


@pytest.fixture
def store(url: str) -> Iterator[SqliteStore]:
    with SqliteStore(url, author="me", clock=lambda: NOW, busy_s=0.05) as store:
        yield store


def blocks(*texts: str, pool: str = "default") -> tuple[Block, ...]:
    return tuple(Block(pool, parse(text)) for text in texts)


def publish(store: SqliteStore, name: str, *texts: str, problems: tuple[Problem, ...] = ()) -> Published:
    node = store.node(name)
    assert node is not None
    return store.publish(Publish(node, Grant(blocks(*texts), problems)))


def edit(store: SqliteStore, statement: str, *values: object) -> None:
    with store.writing() as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute(statement, values)


# -- nodes

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
networks = st.one_of(
    st.builds(
        lambda first, length: Cidr(32, first, 32).widened(length),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda first, length: Cidr(128, first, 128).widened(length),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)
addresses = networks.map(lambda network: Cidr(network.bits, network.first, network.bits))
some_nodes = st.builds(
    Node,
    name=texts.filter(bool),
    uid=texts.filter(bool),
    created=st.floats(1, 1e12),
    present=st.just(True),
    ignored=st.booleans(),
    instance=texts,
    facts=st.builds(
        Facts,
        st.lists(addresses, max_size=3).map(tuple),
        st.lists(networks, max_size=3).map(tuple),
        st.dictionaries(texts, texts, max_size=3).map(lambda labels: tuple(labels.items())),
        st.booleans(),
        st.booleans(),
    ),
    agent=st.builds(
        Agent, st.lists(networks, max_size=3).map(tuple), st.lists(networks, max_size=3).map(tuple)
    ),
)
some_grants = st.builds(
    Grant,
    st.lists(st.builds(Block, texts, networks, st.booleans(), st.booleans()), max_size=3)
    .filter(lambda found: not any(a.cidr.overlaps(b.cidr) for i, a in enumerate(found) for b in found[:i]))
    .map(tuple),
    st.lists(st.builds(Problem, texts, texts.filter(bool), texts), max_size=2).map(tuple),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    with SqliteStore(f"sqlite:///{tmp_path_factory.mktemp('shared')}/x.db") as store:
        yield store


@settings(max_examples=60, deadline=None)
@given(node=some_nodes, grants=st.lists(some_grants, min_size=1, max_size=3))
def test_nothing_is_lost_from_node_to_row_to_node(
    shared: SqliteStore, node: Node, grants: list[Grant]
) -> None:
    added = shared.add_node(node)
    assert added == msgspec.structs.replace(node, version=added.version)
    assert shared.node(node.name) == added
    current = added
    for grant in grants:
        outcome = shared.publish(Publish(current, grant))
        assert isinstance(outcome, Version)
        current = msgspec.structs.replace(
            current, version=outcome.version, holds=Held(grant.blocks, grant.error)
        )
        assert grant.shown_by(current.holds)
        assert shared.node(node.name) == current
    assert shared.delete_node(node.name) == current
    assert shared.nodes() == ()


def test_add_makes_up_uid_and_time(store: SqliteStore) -> None:
    first, second = store.add_node(Node("a")), store.add_node(Node("b"))
    assert first.created == NOW
    assert first.uid
    assert first.uid != second.uid
    assert [node.name for node in store.nodes()] == ["a", "b"]


def test_add_refuses(store: SqliteStore) -> None:
    store.add_node(Node("a"))
    for node, text in (
        (Node("a"), "exists already"),
        (Node(""), "needs a name"),
        (Node("b\udcff"), "cannot hold this value"),
        (Node("b", holds=Held(blocks("10.0.0.0/24"))), "cannot be added with blocks"),
    ):
        with pytest.raises(Invalid, match=text):
            store.add_node(node)
    assert [node.name for node in store.nodes()] == ["a"]


def test_delete_frees_and_keeps_history(store: SqliteStore) -> None:
    store.add_node(Node("a", uid="1"))
    store.add_node(Node("b"))
    publish(store, "a", "10.0.0.0/24")
    with pytest.raises(NotFound):
        store.delete_node("a", uid="2")
    with pytest.raises(NotFound):
        store.delete_node("c")
    store.delete_node("a", uid="1")
    assert store.node("a") is None
    assert store.grants() == ()
    assert store.history("a") == (
        Event(NOW, "a", "returned", "default", "10.0.0.0/24", "me"),
        Event(NOW, "a", "granted", "default", "10.0.0.0/24", "me"),
    )
    assert isinstance(publish(store, "b", "10.0.0.0/24"), Version)
    assert len(store.history()) == 3
    assert store.history(limit=1)[0].node == "b"


def test_version_never_comes_back(store: SqliteStore) -> None:
    """A grant for a node that was deleted and added again must not reach the new one."""
    old = store.add_node(Node("a"))
    store.delete_node("a")
    store.add_node(Node("a"))
    assert store.publish(Publish(old, Grant(blocks("10.0.0.0/24")))) == Conflict()


# -- malformed rows


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("facts", "{", "facts"),
        ("facts", "[]", "facts"),
        ("facts", 7, "facts"),
        ("facts", '{"labels": {"a": 1}}', "facts"),
        ("facts", b"\xff\xfe", "facts"),
        ("facts", '{"podCIDRs": ["10.0.0.0/24", "10.0.0.0/99"]}', "10.0.0.0/99"),
        ("facts", '{"addresses": ["10.0.0.0/24"]}', "10.0.0.0/24"),
        ("agent", "null", "agent"),
        ("agent", '{"depleted": ["x"]}', "'x'"),
        ("created", "yesterday", "yesterday"),
    ],
)
def test_malformed_row_is_a_problem(store: SqliteStore, column: str, value: object, says: str) -> None:
    store.add_node(Node("a"))
    store.add_node(Node("b"))
    edit(store, f"UPDATE nodes SET {column} = ? WHERE name = 'a'", value)
    a, b = store.nodes()
    assert b.unreadable == ()
    (problem,) = a.unreadable
    assert says in problem.text
    assert column in problem.text
    assert "\n" not in str(problem)


def test_what_is_readable_of_a_malformed_row_is_read(store: SqliteStore) -> None:
    store.add_node(Node("a"))
    publish(store, "a", "10.0.0.0/24", "10.0.1.0/24")
    edit(store, "UPDATE grants SET length = 99 WHERE position = 0")
    edit(store, "UPDATE nodes SET facts = ?", '{"podCIDRs": ["10.8.0.0/24", "no"], "labels": {"a": "b"}}')
    (node,) = store.nodes()
    assert len(node.unreadable) == 2
    assert node.holds.blocks == blocks("10.0.1.0/24")
    assert node.facts.pod_cidrs == (parse("10.8.0.0/24"),)
    assert node.facts.labels == (("a", "b"),)


def test_an_unreadable_grant_is_still_in_the_way(store: SqliteStore) -> None:
    store.add_node(Node("a"))
    store.add_node(Node("b"))
    publish(store, "a", "10.0.0.0/24")
    edit(store, "UPDATE grants SET length = 99")
    outcome = publish(store, "b", "10.0.0.0/16")
    assert isinstance(outcome, Denied)
    assert "unreadable block of node a" in outcome.text
    assert isinstance(publish(store, "a", problems=(Problem("Unreadable", "it is"),)), Version)
    assert store.nodes()[0].unreadable  # left alone


def test_text_that_is_no_utf8(store: SqliteStore) -> None:
    store.add_node(Node("a"))
    edit(store, "UPDATE nodes SET instance = CAST(x'ff' AS TEXT)")
    assert store.nodes()[0].instance == "\N{REPLACEMENT CHARACTER}"


# -- publish


def test_publish_is_conditional(store: SqliteStore) -> None:
    node = store.add_node(Node("a"))
    assert store.publish(Publish(Node("z", version="1"), Grant())) == Gone()
    first = store.publish(Publish(node, Grant(blocks("10.0.0.0/24"))))
    assert isinstance(first, Version)
    assert store.publish(Publish(node, Grant(blocks("10.0.1.0/24")))) == Conflict()
    assert [each.block for each in store.grants()] == list(blocks("10.0.0.0/24"))


def test_publish_writes_nothing_where_nothing_differs(store: SqliteStore) -> None:
    store.add_node(Node("a"))
    first = publish(store, "a", "10.0.0.0/24")
    revision = store.revision()
    assert publish(store, "a", "10.0.0.0/24") == first
    assert store.revision() == revision


def test_node_without_object_is_gone(store: SqliteStore) -> None:
    node = store.add_node(Node("a", present=False))
    assert store.publish(Publish(node, Grant())) == Gone()


def test_overlap_is_denied_and_leaves_no_trace(store: SqliteStore) -> None:
    for name in "ab":
        store.add_node(Node(name))
    publish(store, "a", "10.0.0.0/24", "10.0.1.0/25")
    before, b = store.changes(None), store.node("b")
    outcome = publish(store, "b", "10.9.0.0/24", "10.0.0.0/16")
    assert outcome == Denied("Overlap", "node b cannot get 10.0.0.0/16: it overlaps 10.0.0.0/24 of node a")
    assert store.changes(None) == before
    assert store.node("b") == b
    assert store.history("b") == ()


def test_each_of_a_batch_for_itself(store: SqliteStore) -> None:
    a, b, c, d = (store.add_node(Node(name)) for name in "abcd")
    outcomes = store.publish_all(
        [
            Publish(a, Grant(blocks("10.0.0.0/24"))),
            Publish(b, Grant(blocks("10.7.0.0/24", "10.0.0.0/25"))),
            Publish(c, Grant(blocks("10.7.0.0/24"), (Problem("Bad", "no \udcff UTF-8"),))),
            Publish(d, Grant(blocks("10.7.0.0/24"))),
        ]
    )
    assert [type(outcome) for outcome in outcomes] == [Version, Denied, Denied, Version]
    assert [(each.node, str(each.block.cidr)) for each in store.grants()] == [
        ("a", "10.0.0.0/24"),
        ("d", "10.7.0.0/24"),
    ]
    assert {event.node for event in store.history()} == {"a", "d"}


def test_a_block_moves_within_a_batch(store: SqliteStore) -> None:
    store.add_node(Node("a"))
    b = store.add_node(Node("b"))
    publish(store, "a", "10.0.0.0/24")
    a = store.node("a")
    assert a is not None
    outcomes = store.publish_all([Publish(a, Grant()), Publish(b, Grant(blocks("10.0.0.0/24")))])
    assert [type(outcome) for outcome in outcomes] == [Version, Version]


def test_locked_is_denied(store: SqliteStore, url: str) -> None:
    node = store.add_node(Node("a"))
    with SqliteStore(url) as other, other.writing():
        outcome = store.publish(Publish(node, Grant(blocks("10.0.0.0/24"))))
    assert isinstance(outcome, Denied)
    assert outcome.reason == "Unavailable"
    assert isinstance(store.publish(Publish(node, Grant(blocks("10.0.0.0/24")))), Version)


def test_failed_commit_is_unknown(store: SqliteStore) -> None:
    node = store.add_node(Node("a"))
    with store.reading() as db:
        db.execute("PRAGMA foreign_keys")  # a connection in use

    class Failing:
        """The connection, whose commit fails as on a bad disk."""

        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def execute(self, statement: str, *values: object) -> object:
            if statement == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return self._db.execute(statement, *values)  # type: ignore[arg-type]  # passed on

        def __getattr__(self, name: str) -> object:
            return getattr(self._db, name)

    store._db = Failing(store._db)  # type: ignore[assignment]
    assert isinstance(store.publish(Publish(node, Grant(blocks("10.0.0.0/24")))), Unknown)
    store._db = store._db._db  # type: ignore[attr-defined]
    assert store.node("a") == node


def test_of_two_that_overlap_one_wins(url: str) -> None:
    """Two connections, as two processes have them, publish overlapping blocks at the same moment."""
    with SqliteStore(url) as store:
        for round_ in range(30):
            pair = [store.add_node(Node(f"{side}{round_}")) for side in "ab"]
            start, outcomes = threading.Barrier(2), []

            def run(
                node: Node, text: str, start: threading.Barrier = start, outcomes: list[Published] = outcomes
            ) -> None:
                with SqliteStore(url) as mine:
                    start.wait()
                    outcomes.append(mine.publish(Publish(node, Grant(blocks(text)))))

            threads = [
                threading.Thread(target=run, args=(node, f"10.{round_}.0.0/{length}"))
                for node, length in zip(pair, (24, 16), strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Denied", "Version"]
        assert len(store.grants()) == 30


# -- what changed


def test_changes_in_order(store: SqliteStore) -> None:
    a, _ = store.add_node(Node("a")), store.add_node(Node("b"))
    since = store.revision()
    publish(store, "b", "10.0.0.0/24")
    store.delete_node("a")
    again = store.add_node(Node("a"))
    changes = store.changes(since)
    assert changes == Changes(since + 3, (store.nodes()[1], Deletion("a", a.uid), again))
    assert store.changes(changes.revision) == Changes(changes.revision, ())


def test_deletions_are_forgotten_after_a_while(url: str) -> None:
    time = NOW
    with SqliteStore(url, clock=lambda: time) as store:
        for name in "abc":
            store.add_node(Node(name))
        since = store.revision()
        store.delete_node("a")
        between = store.revision()
        time += 3601
        store.delete_node("b")
        assert store.changes(since) is None
        changes = store.changes(between)
        assert changes is not None
        assert [item.name for item in changes.items] == ["b"]
        assert store.changes(store.revision() + 1) is None  # another file


# -- pools and the rest

POOL = PoolSpec(
    "blue",
    (PoolRange(parse("fd00::/104"), 120), PoolRange(parse("10.0.0.0/8"), 24)),
    (parse("10.0.0.0/16"),),
    60.5,
    3,
)


def test_pools(store: SqliteStore) -> None:
    store.add_pool(POOL)
    store.add_pool(PoolSpec("amber"))
    assert store.pools() == (PoolSpec("amber"), POOL)
    with pytest.raises(Invalid, match="exists already"):
        store.add_pool(POOL)
    node = store.add_node(Node("a"))
    store.publish(Publish(node, Grant(blocks("10.1.0.0/24", pool="blue"))))
    with pytest.raises(Refused, match=r"1 blocks granted \(one of node a\)"):
        store.delete_pool("blue")
    store.delete_node("a")
    store.delete_pool("blue")
    with pytest.raises(NotFound):
        store.delete_pool("blue")
    assert store.pools() == (PoolSpec("amber"),)


@pytest.mark.parametrize("spec", ['{"reserved": ["x"]}', "{", 7, b"\xff", ""])
def test_a_pool_whose_row_cannot_be_read_hides_no_other(store: SqliteStore, spec: object) -> None:
    store.add_pool(POOL)
    store.add_pool(PoolSpec("amber"))
    edit(store, "UPDATE pools SET spec = ? WHERE name = 'amber'", spec)
    amber, other = store.pools()
    assert other == POOL
    (problem,) = amber.unreadable
    assert problem.text.startswith("pool amber: its row cannot be read: ")
    assert problem.hint == "omnipam pool delete amber, and add it again"
    store.delete_pool("amber")
    assert store.pools() == (POOL,)


def test_settings(store: SqliteStore) -> None:
    assert store.settings().mode == ""
    store.record("cluster-pool", (POOL, PoolSpec("amber")))
    assert store.settings().mode == "cluster-pool"
    assert store.settings().pools == (POOL, PoolSpec("amber"))
    store.record("multi-pool", ())
    assert store.settings().mode == "multi-pool"
    assert store.settings().pools == ()


def test_kept(store: SqliteStore) -> None:
    one, two = Kept("default", parse("10.0.0.0/24"), until=NOW + 60), Kept("default", parse("fd00::/64"), "a")
    store.keep((two, one))
    assert store.kept() == (one, two)
    later = msgspec.structs.replace(one, until=NOW + 90)
    store.keep((later,))
    assert store.kept() == (later,)
    assert store.readable_kept() == ((later,), ())


@pytest.mark.parametrize(
    ("column", "value"),
    [("cidr", "x"), ("cidr", b"\xff"), ("cidr", ""), ("until", "soon"), ("owner", b"a"), ("pool", b"p")],
)
def test_a_kept_row_that_cannot_be_read_is_said_and_left(
    store: SqliteStore, column: str, value: object
) -> None:
    one, two = Kept("default", parse("10.0.0.0/24"), until=NOW + 60), Kept("default", parse("fd00::/64"), "a")
    store.keep((one, two))
    edit(store, f"UPDATE kept SET {column} = ? WHERE owner = ''", value)
    kept, (finding,) = store.readable_kept()
    assert kept == (two,)
    with pytest.raises(Invalid, match="table kept"):
        store.kept()
    assert finding.reason == "StateUnreadable"
    assert finding.text.startswith(f"store {store.path}, table kept: row (")
    assert repr(value) in finding.text
    assert finding.hint == "correct the row, or delete it if no pod uses that range"
    store.keep(())
    assert store.readable_kept() == ((), (finding,))  # only a person knows what it meant
    store.keep((one,))
    assert one in store.readable_kept()[0]


def test_a_value_without_end_is_said_in_part(store: SqliteStore) -> None:
    store.keep((Kept("default", parse("10.0.0.0/24")),))
    edit(store, "UPDATE kept SET cidr = ?", "x\n" * 10_000)
    _, (finding,) = store.readable_kept()
    assert len(finding.text) < 500
    assert "\n" not in finding.text


def test_report(store: SqliteStore) -> None:
    store.report("a", Problem("Full", "no space", "add a CIDR"))
    assert store.history("a") == (Event(NOW, "a", "problem", author="me", text="no space — add a CIDR"),)


def test_a_reader_does_not_block_the_writer(store: SqliteStore, url: str) -> None:
    store.add_node(Node("a", facts=Facts((parse_address("10.0.0.1"),))))
    with SqliteStore(url) as reader, reader.reading():
        before = reader.nodes()
        assert isinstance(publish(store, "a", "10.0.0.0/24"), Version)
        assert reader.nodes() == before
    with SqliteStore(url) as reader:
        assert reader.nodes() != before
