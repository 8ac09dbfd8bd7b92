"""State files that were cut, deleted or set aside when the agent was killed: what they held is kept, or missed aloud."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.agent.test_journal import allocation, opened, put

from omnipam.core.attachment import Stored
from omnipam.core.errors import Unavailable
from omnipam.core.reservations import Change
from omnipam.runtime.agent.journal import FILE, Journal, Opened

WAL = f"{FILE}-wal"


def killed(directory: Path) -> Path:
    """A state directory as a kill leaves it: reservations 0 and 1 in the file, 2 to 6 and the release of 1 in its -wal."""
    living = directory / "living"
    living.mkdir()
    journal = Journal(living)
    journal.open("1")
    journal.rewrite([Stored(allocation(0)), Stored(allocation(1))], "boot-1", "node-1")
    for number in range(2, 7):
        journal.commit([put(number)])
    journal.commit([Change(1, None)])
    state = directory / "state"
    shutil.copytree(living, state)
    journal.close()
    return state


def reopened(state: Path, moment: str = "77") -> Opened:
    journal = Journal(state)
    found = journal.open(moment)
    journal.commit([put(50)])
    journal.close()
    return found


def ids(found: Opened) -> list[int]:
    return sorted(row.allocation.id for row in found.rows)


def test_a_kill_alone_is_no_damage(tmp_path: Path) -> None:
    state = killed(tmp_path)
    found = reopened(state)
    assert (ids(found), found.lost, found.aside) == ([0, 2, 3, 4, 5, 6], "", None)
    found = reopened(state)
    assert (ids(found), found.lost, found.aside) == ([0, 2, 3, 4, 5, 6, 50], "", None)


def test_an_empty_file_is_not_a_new_one(tmp_path: Path) -> None:
    state = killed(tmp_path)
    wal = (state / WAL).read_bytes()
    (state / FILE).write_bytes(b"")
    found = reopened(state)
    assert "is empty" in found.lost
    assert found.aside == state / f"{FILE}.damaged-77"
    assert found.aside.read_bytes() == b""
    assert (state / f"{FILE}.damaged-77-wal").read_bytes() == wal, "SQLite would have deleted it"


def test_an_empty_file_alone_is_not_a_new_one(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"")
    assert "is empty" in reopened(tmp_path).lost


def test_a_wal_alone_is_not_nothing(tmp_path: Path) -> None:
    state = killed(tmp_path)
    wal = (state / WAL).read_bytes()
    (state / FILE).unlink()
    assert "is gone" in reopened(state).lost
    assert (state / f"{FILE}.damaged-77-wal").read_bytes() == wal


@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_a_wal_that_is_gone_is_missed(tmp_path: Path, damage: str) -> None:
    state = killed(tmp_path)
    (state / WAL).unlink() if damage == "deleted" else (state / WAL).write_bytes(b"")
    found = reopened(state)
    assert "has lost its -wal" in found.lost
    assert ids(found) == [0, 1], "what was in the file itself"


def test_a_wal_is_missed_from_the_first_moment(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "living")
    journal.path.parent.mkdir()
    journal.open("1")
    shutil.copytree(journal.path.parent, tmp_path / "state")
    journal.close()
    assert (tmp_path / "state" / WAL).stat().st_size > 0
    (tmp_path / "state" / WAL).unlink()
    assert "has lost its -wal" in reopened(tmp_path / "state").lost


def test_a_file_without_our_mark_is_not_a_new_one(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA journal_mode = WAL")
    assert (tmp_path / FILE).stat().st_size > 0
    assert "is not this agent's file" in reopened(tmp_path).lost


@pytest.mark.parametrize("table", ["reservations", "log"])
@pytest.mark.parametrize("word", ["hxld", ""])
def test_a_state_that_is_no_word_frees_nothing_silently(tmp_path: Path, table: str, word: str) -> None:
    journal, _, _ = opened(tmp_path)
    journal.rewrite([Stored(allocation(1)), Stored(allocation(2))], "boot-1", "node-1")
    journal.commit([put(3), put(4)])
    journal.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        if table == "log":
            (text,) = db.execute("SELECT changes FROM log").fetchone()
            db.execute("UPDATE log SET changes = ?", (text.replace(b'"held"', f'"{word}"'.encode(), 1),))
        else:
            db.execute("""UPDATE reservations SET record = replace(record, '"held"', ?) WHERE id = 1""", (f'"{word}"',))  # fmt: skip
    found = reopened(tmp_path)
    assert found.unreadable == 1
    assert found.lost
    assert ids(found) == ([1, 2, 4] if table == "log" else [2, 3, 4]), "the others stay, also of its row"
    assert all(row.released is None for row in found.rows)


@pytest.mark.parametrize("setting", ["boot", "node", "lost", "running"])
def test_a_setting_that_is_gone_is_damage(tmp_path: Path, setting: str) -> None:
    journal, _, _ = opened(tmp_path)
    journal.rewrite([Stored(allocation(1))], "boot-1", "node-1")
    journal.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("DELETE FROM settings WHERE name = ?", (setting,))
    found = reopened(tmp_path)
    assert (ids(found), found.unreadable) == ([1], 1)
    assert found.lost


def test_a_state_that_is_gone_beside_a_damaged_one(tmp_path: Path) -> None:
    """As a person leaves it, or a file system that lost a name: what can be read of the damaged one counts again."""
    state = killed(tmp_path)
    for name in ("", "-wal"):
        (state / f"{FILE}{name}").rename(state / f"{FILE}.damaged-5{name}")
    found = reopened(state)
    assert ids(found) == [0, 2, 3, 4, 5, 6]
    assert "damaged-5" in found.lost
    assert found.aside == state / f"{FILE}.damaged-5"


def test_nothing_that_was_set_aside_is_written_over(tmp_path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        (tmp_path / FILE).write_bytes(content * 1000)
        reopened(tmp_path, "1")
    kept = {path.name: path.read_bytes()[:5] for path in tmp_path.iterdir() if "damaged" in path.name}
    assert kept == {
        f"{FILE}.damaged-1": b"first",
        f"{FILE}.damaged-1-2": b"secon",
        f"{FILE}.damaged-1-3": b"third",
    }


KILLS = """
import json, os, shutil, signal, sys
from pathlib import Path
from omnipam.runtime.agent.journal import Journal

before, folder = Path(sys.argv[1]), Path(sys.argv[2])
steps = {"open", "os.remove", "os.rename", "sqlite3.connect"}


def life(state, number):
    left = number

    def hook(event, arguments):
        nonlocal left
        if event in steps and str(state) in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    Journal(state).open("77")
    os._exit(0)


number = 0
while True:
    number += 1
    state = folder / f"killed-{number:02}"
    shutil.copytree(before, state)
    child = os.fork()
    if child == 0:
        life(state, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([str(state), status]), flush=True)
    if status != -signal.SIGKILL:
        break
"""


@pytest.mark.parametrize("damage", ["row", "wal", "empty"])
def test_a_kill_at_any_step_of_setting_aside_loses_nothing(tmp_path: Path, damage: str) -> None:
    state = killed(tmp_path)
    match damage:
        case "row":
            with closing(sqlite3.connect(state / FILE, isolation_level=None)) as db:
                db.execute("UPDATE reservations SET record = '[' WHERE id = 0")
                db.execute("UPDATE settings SET value = '' WHERE name = 'running'")
                for suffix in ("", "-wal"):
                    shutil.copy(state / f"{FILE}{suffix}", tmp_path)
            for suffix in ("", "-wal"):
                shutil.copy(tmp_path / f"{FILE}{suffix}", state)
            expected = [2, 3, 4, 5, 6]
        case "wal":
            (state / WAL).unlink()
            expected = [0, 1]
        case _:
            (state / FILE).write_bytes(b"")
            expected = []
    originals = {suffix: (state / f"{FILE}{suffix}") for suffix in ("", "-wal")}
    content = {suffix: path.read_bytes() for suffix, path in originals.items() if path.exists()}
    lives = subprocess.run(
        [sys.executable, "-c", KILLS, str(state), str(tmp_path)], check=True, capture_output=True, text=True
    )
    ended = [json.loads(line) for line in lives.stdout.splitlines()]
    assert [status for _, status in ended] == [-signal.SIGKILL] * (len(ended) - 1) + [0], lives.stderr
    assert len(ended) > 10, "it was killed at many steps"
    for path, _ in ended:
        found = reopened(Path(path), "99")
        assert ids(found) == expected, path
        assert found.lost, path
        names = [f"{path}/{FILE}.damaged-{moment}" for moment in ("77", "99")]
        (aside,) = [name for name in names if Path(name).exists()]
        assert {suffix: Path(f"{aside}{suffix}").read_bytes() for suffix in content} == content, path
        again = reopened(Path(path), "100")
        assert ids(again) == [*expected, 50], path
        assert again.lost == found.lost, "until it is made good"
        left = {each.name for each in Path(path).iterdir() if "damaged" not in each.name}
        assert left <= {FILE, f"{FILE}-shm", f"{FILE}.part"}, "nothing that means anything is left over"


def test_a_kill_at_any_step_of_the_first_start_makes_no_alarm(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    lives = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "state"), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    ended = [json.loads(line) for line in lives.stdout.splitlines()]
    assert len(ended) > 5
    for path, _ in ended:
        found = reopened(Path(path))
        assert (found.rows, found.boot, found.lost, found.aside) == ((), "", "", None), path


def test_two_agents_cannot_both_make_it(tmp_path: Path) -> None:
    journal, _, _ = opened(tmp_path)
    slept: list[float] = []
    other = Journal(tmp_path, clock=lambda: sum(slept), sleep=slept.append)
    with pytest.raises(Unavailable, match="another agent runs on this --state-dir"):
        other.open("1")
    assert sum(slept) >= 5.0
    journal.commit([put(1)])
    journal.close()
    other.open("1")
    other.close()
