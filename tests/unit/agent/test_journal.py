"""Reservations on disk: what comes back, who has the file, and what becomes of a damaged one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from omnipam.core.attachment import Allocation, Given, Stored
from omnipam.core.cidr import parse
from omnipam.core.errors import Invalid, Unavailable
from omnipam.core.reservations import Change
from omnipam.core.values import Block
from omnipam.runtime.agent.journal import FILE, FOLD_AT, Journal

V4, V6 = Block("default", parse("10.0.0.0/24")), Block("blue", parse("fd00::/64"), True, False)


def allocation(id_: int, owner: str = "shop/web") -> Allocation:
    given = (
        Given("ipv4", V4.cidr.first + 2 + id_, V4, V4.cidr.first + 1),
        Given("ipv6", V6.cidr.first + 2**40 + id_, V6, None),
    )
    return Allocation(id_, ("net", f"c{id_}", "eth0"), owner, given, 1000.5, True, 2000.25)


def put(id_: int) -> Change:
    return Change(id_, Stored(allocation(id_)))


def opened(directory: Path) -> tuple[Journal, dict[int, Stored], str]:
    journal = Journal(directory)
    found = journal.open("1")
    return journal, {row.allocation.id: row for row in found.rows}, found.boot


def test_everything_comes_back_in_its_last_state(tmp_path: Path) -> None:
    journal, rows, boot = opened(tmp_path)
    assert (rows, boot) == ({}, "")
    journal.rewrite([Stored(allocation(1))], "boot-1", "node-1")
    journal.commit([put(2), put(3)])
    journal.commit([Change(1, Stored(allocation(1), 5.0)), Change(2, None), put(4)])
    journal.commit([Change(4, Stored(allocation(4), 6.0, parked=True))])
    journal.close()
    journal, rows, boot = opened(tmp_path)
    assert boot == "boot-1"
    assert rows == {
        1: Stored(allocation(1), 5.0),
        3: Stored(allocation(3)),
        4: Stored(allocation(4), 6.0, parked=True),
    }
    journal.rewrite(rows.values(), boot, "node-1")
    journal.close()
    journal, again, _ = opened(tmp_path)
    journal.close()
    assert again == rows


def test_the_log_is_folded_before_it_is_long(tmp_path: Path) -> None:
    journal, _, _ = opened(tmp_path)
    for _ in range(FOLD_AT // 100):
        assert not journal.full(0)
        journal.commit([put(number) for number in range(100)])
    assert journal.full(0)
    assert not journal.full(FOLD_AT)
    journal.rewrite([], "b", "n")
    assert not journal.full(0)
    journal.close()


def test_two_agents_cannot_have_it(tmp_path: Path) -> None:
    journal, _, _ = opened(tmp_path)
    other = Journal(tmp_path)
    other_busy = "omnipam.runtime.agent.journal.BUSY_S"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_busy, 0.1)
        with pytest.raises(Unavailable, match="another agent runs on this --state-dir"):
            other.open("1")
    other.close()
    journal.close()


@pytest.mark.parametrize("damage", ["text", "empty pages", "middle", "foreign"])
def test_a_damaged_file_is_set_aside_whole(tmp_path: Path, damage: str) -> None:
    journal, _, _ = opened(tmp_path)
    journal.rewrite([Stored(allocation(number)) for number in range(200)], "boot-1", "node-1")
    journal.close()
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    match damage:
        case "text":
            content[:] = b"this is no database\n" * 50
        case "empty pages":
            content[4096:] = bytes(len(content) - 4096)
        case "middle":
            content[-4096 * 6 :] = b"\xff" * (4096 * 6)
        case "foreign":
            path.unlink()
            with sqlite3.connect(path) as other:
                other.execute("CREATE TABLE theirs (id INTEGER)")
            other.close()
            content = bytearray(path.read_bytes())
    path.write_bytes(content)
    journal = Journal(tmp_path)
    found = journal.open("77")
    assert found.aside == tmp_path / f"{FILE}.damaged-77"
    assert found.aside.read_bytes() == content, "not a byte of it was written"
    assert found.unreadable > 0
    expected = {number: Stored(allocation(number)) for number in range(200)}
    for row in found.rows:
        assert row == expected[row.allocation.id], "what is salvaged is right"
    if damage == "middle":
        assert found.rows, "and what can be, is"
    journal.commit([put(201)])
    journal.close()
    journal, rows, _ = opened(tmp_path)
    journal.close()
    assert set(rows) == {201} | {row.allocation.id for row in found.rows}


def test_one_bad_row_hides_no_other(tmp_path: Path) -> None:
    journal, _, _ = opened(tmp_path)
    journal.rewrite([Stored(allocation(1)), Stored(allocation(2))], "boot-1", "node-1")
    journal.close()
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("UPDATE reservations SET record = '[1]' WHERE id = 1")
        other.execute("INSERT INTO log (changes) VALUES ('nonsense')")
    other.close()
    journal = Journal(tmp_path)
    found = journal.open("1")
    journal.close()
    assert [row.allocation.id for row in found.rows] == [2]
    assert found.unreadable == 2
    assert found.aside is not None, "what could not be read is not written over"
    with sqlite3.connect(found.aside) as kept:
        assert kept.execute("SELECT record FROM reservations WHERE id = 1").fetchone() == ("[1]",)
    kept.close()


def test_a_loss_is_known_until_it_is_made_good(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is no database\n" * 50)
    journal = Journal(tmp_path)
    assert "damaged" in journal.open("1").lost
    journal.close()  # killed before anything was made good
    journal = Journal(tmp_path)
    found = journal.open("2")
    assert "damaged-1" in found.lost
    journal.rewrite(found.rows, "boot-1", "node-1")
    journal.close()
    journal = Journal(tmp_path)
    assert journal.open("3").lost == ""
    journal.close()


def test_a_later_version_is_left_alone(tmp_path: Path) -> None:
    journal, _, _ = opened(tmp_path)
    journal.close()
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(Invalid, match="later omnipam"):
        Journal(tmp_path).open("1")
