"""The overlap check is exact, however ranges nest; and replacing a node's blocks changes just what differs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.cidr import Cidr, parse
from omnipam.core.values import Block
from omnipam.runtime.sqlite import blocks, schema


@st.composite
def cidrs(draw: st.DrawFn) -> Cidr:
    """Few bits that differ, so that many nest; near the ends of the space, too."""
    bits = draw(st.sampled_from((32, 128)))
    length = draw(st.one_of(st.integers(0, bits), st.integers(0, 4), st.integers(bits - 4, bits)))
    first = draw(st.integers(0, 15)) << (bits - 4) | draw(st.integers(0, 15))
    return Cidr(bits, first, bits).widened(length)


def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(db, "memory")
    return db


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    db = database()
    db.execute("INSERT INTO nodes (name, uid, created, version) VALUES ('a', 'a', 0, 1), ('b', 'b', 0, 2)")
    yield db
    db.close()


@given(st.lists(cidrs(), max_size=12, unique=True), cidrs())
def test_overlap_is_what_all_pairs_say(held: list[Cidr], wanted: Cidr) -> None:
    """Even where what is held overlaps itself, as after an edit by hand."""
    db = database()
    db.executemany(
        "INSERT INTO grants (node, position, pool, family, first, last, length) VALUES ('a', 0, 'p', ?, ?, ?, ?)",
        [(each.family, blocks.key(each.first), blocks.key(each.last), each.length) for each in held],
    )
    found = blocks.overlapping(db, wanted)
    db.close()
    naive = [each for each in held if each.overlaps(wanted)]
    if found is None:
        assert naive == []
    else:
        block = blocks.block_of(found)
        assert block is not None
        assert block.cidr in naive


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(cidrs(), max_size=4)), max_size=12))
def test_grants_never_overlap(tries: list[tuple[str, list[Cidr]]]) -> None:
    db = database()
    db.execute(
        "INSERT INTO nodes (name, uid, created, version) VALUES ('a', 'a', 0, 1), ('b', 'b', 0, 2), ('c', 'c', 0, 3)"
    )
    model: dict[str, list[Cidr]] = {}
    for node, wanted in tries:
        others = [each for name, held in model.items() if name != node for each in held]
        fine = not any(each.overlaps(other) for each in wanted for other in others) and not any(
            one.overlaps(two) for index, one in enumerate(wanted) for two in wanted[:index]
        )
        db.execute("BEGIN")
        change = blocks.replace(db, node, [Block("p", each) for each in wanted])
        assert fine == isinstance(change, blocks.Change)
        db.execute("COMMIT" if fine else "ROLLBACK")
        if fine:
            model[node] = wanted
    for node, held in model.items():
        rows = db.execute(
            f"SELECT {blocks.COLUMNS} FROM grants g WHERE node = ? ORDER BY position", (node,)
        ).fetchall()
        assert [blocks.block_of(row) for row in rows] == [Block("p", each) for each in held]
    db.close()


def test_look_ups_use_the_index(db: sqlite3.Connection) -> None:
    plans: list[str] = []
    db.set_trace_callback(plans.append)
    blocks.overlapping(db, parse("fd00::/120"))
    db.set_trace_callback(None)
    assert len(plans) == 2
    for statement in plans:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
        (grants,) = [step for step in steps if " g " in f"{step} "]
        assert grants.startswith("SEARCH g USING INDEX")
        assert "family=? AND first" in grants


def test_replace_tells_what_changed(db: sqlite3.Connection) -> None:
    one, two, three = (Block("p", parse(f"10.0.{number}.0/24")) for number in (1, 2, 3))
    assert blocks.replace(db, "a", (one, two)) == blocks.Change((one, two), ())
    assert blocks.replace(db, "a", (two, one)) == blocks.Change()
    assert blocks.replace(db, "a", (three, two)) == blocks.Change((three,), (one,))
    assert blocks.replace(db, "b", (one,)) == blocks.Change((one,), ())
    assert blocks.replace(db, "a", ()) == blocks.Change((), (three, two))


def test_block_moves_between_pools(db: sqlite3.Connection) -> None:
    before, after = Block("p", parse("10.0.1.0/24")), Block("q", parse("10.0.1.0/24"), True, True)
    blocks.replace(db, "a", (before,))
    assert blocks.replace(db, "a", (after,)) == blocks.Change((after,), (before,))


def test_same_block_twice(db: sqlite3.Connection) -> None:
    block = Block("p", parse("10.0.1.0/24"))
    assert isinstance(blocks.replace(db, "a", (block, block)), blocks.Overlap)


def test_overlap_says_who_and_what(db: sqlite3.Connection) -> None:
    blocks.replace(db, "a", (Block("p", parse("10.0.1.0/25")),))
    overlap = blocks.replace(db, "b", (Block("q", parse("10.0.0.0/16")),))
    assert str(overlap) == "10.0.0.0/16: it overlaps 10.0.1.0/25 of node a"


@given(st.lists(cidrs(), max_size=6, unique=True), st.lists(cidrs(), max_size=8), st.data())
def test_of_what_overlaps_the_rest_is_taken(
    others: list[Cidr], wanted: list[Cidr], data: st.DataObject
) -> None:
    """As if each block came alone, in turn; what the node has and still wants stays."""
    db = database()
    db.execute("INSERT INTO nodes (name, uid, created, version) VALUES ('a', 'a', 0, 1), ('b', 'b', 0, 2)")
    theirs, _ = blocks.replace_free(db, "b", [Block("p", each) for each in others])
    has = data.draw(st.lists(st.sampled_from(wanted), unique=True)) if wanted else []
    had, _ = blocks.replace_free(db, "a", [Block("p", each) for each in has])
    change, overlaps = blocks.replace_free(db, "a", [Block("p", each) for each in wanted])
    kept, lost = list[Cidr](), list[Cidr]()
    for index, each in enumerate(wanted):
        stays = Block("p", each) in had.granted and each not in wanted[:index]
        in_the_way = [block.cidr for block in theirs.granted] + kept
        in_the_way += [block.cidr for block in had.granted if block.cidr in wanted and block.cidr not in kept]
        fine = stays or not any(each.overlaps(other) for other in in_the_way)
        (kept if fine else lost).append(each)
    rows = db.execute(
        f"SELECT {blocks.COLUMNS}, position FROM grants g WHERE node = 'a' ORDER BY position"
    ).fetchall()
    db.close()
    assert [blocks.block_of(row[:-1]) for row in rows] == [Block("p", each) for each in kept]
    assert [row[-1] for row in rows] == list(range(len(kept)))
    assert [overlap.cidr for overlap in overlaps] == lost
    assert {overlap.node for overlap in overlaps} <= {"a", "b"}
    assert set(change.granted) == {Block("p", each) for each in kept} - set(had.granted)


@pytest.mark.parametrize(
    "row",
    [
        ("a", "p", "ipv5", bytes(16), 24, 0, 0),
        ("a", "p", "ipv4", bytes(16), 33, 0, 0),
        ("a", "p", "ipv4", bytes(16), -1, 0, 0),
        ("a", "p", "ipv4", b"\xff" * 16, 24, 0, 0),
        ("a", "p", "ipv6", b"\xff" * 16, 24, 0, 0),
        ("a", "p", "ipv6", "text", 24, 0, 0),
        ("a", "p", "ipv6", bytes(16), "24", 0, 0),
    ],
)
def test_row_that_is_no_network(row: blocks.Row) -> None:
    assert blocks.block_of(row) is None
