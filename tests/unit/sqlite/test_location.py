"""Where the file is, what may stand there already, and what a person is told."""

from __future__ import annotations

import re
import sqlite3
import threading
from pathlib import Path

import pytest

from omnipam.core.errors import Invalid, OmnipamError, Unavailable
from omnipam.core.values import Node
from omnipam.runtime.sqlite import schema
from omnipam.runtime.sqlite.location import default_url, path_of
from omnipam.runtime.sqlite.store import SqliteStore


def refusal(url: str, kind: type[OmnipamError], **options: float) -> str:
    with pytest.raises(kind) as caught:
        SqliteStore(url, **options).close()  # type: ignore[arg-type]  # only busy_s
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a.db", "a.db"),
        ("sqlite:///dir/a.db", "dir/a.db"),
        ("sqlite:////var/a.db", "/var/a.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert path_of(url) == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        *("", "kubernetes", "sqlite://", "sqlite:///", "sqlite://host/a.db", "sqlite:///a/", "postgres:///a"),
        *("sqlite:///:memory:", "sqlite:///a.db?mode=ro", "sqlite:///a.db#x", "/a.db", "sqlite:///a%00b"),
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(Invalid, match=re.escape(repr(url))):
        path_of(url)


def test_default() -> None:
    assert default_url({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == "sqlite:////s/omnipam/omnipam.db"
    assert path_of(default_url({"XDG_STATE_HOME": "/a?b#c%20d"})) == Path("/a?b#c%20d/omnipam/omnipam.db")
    assert default_url({"HOME": "/h"}) == "sqlite:////h/.local/state/omnipam/omnipam.db"
    assert (
        default_url({"XDG_STATE_HOME": "s", "HOME": "/h"}) == "sqlite:////h/.local/state/omnipam/omnipam.db"
    )
    assert path_of(default_url({"HOME": "/50%25"})) == Path("/50%25/.local/state/omnipam/omnipam.db")
    with pytest.raises(Invalid, match="XDG_STATE_HOME"):
        default_url({})


def test_directory_is_created_for_its_owner_only(tmp_path: Path) -> None:
    SqliteStore(f"sqlite:///{tmp_path}/a/b/x.db").close()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b/x.db").is_file()


def test_directory_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be created (Not a directory" in refusal(f"sqlite:///{tmp_path}/file/a/x.db", Invalid)


def test_path_is_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(f"sqlite:///{tmp_path}", Invalid)


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is no database, and long enough to be looked at" * 50)
    assert "is not a SQLite database" in refusal(f"sqlite:///{tmp_path}/x.db", Invalid)


def test_another_programs_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as db:
        db.execute("CREATE TABLE theirs (a)")
    db.close()
    assert "another program's" in refusal(f"sqlite:///{tmp_path}/x.db", Invalid)


def test_newer_schema(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    SqliteStore(url).close()
    db = sqlite3.connect(tmp_path / "x.db")
    db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    assert f"schema {schema.VERSION + 1}" in refusal(url, Invalid)


def test_older_schema_is_brought_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with SqliteStore(url) as store:
        added = store.add_node(Node("a"))
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, ("CREATE TABLE later (a)",)))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with SqliteStore(url) as store, store.reading() as db:
        assert store.node("a") == added
        assert db.execute("SELECT count(*) FROM later").fetchone() == (0,)


def test_failed_migration_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    SqliteStore(url).close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*schema.STEPS, ("CREATE TABLE later (a)", "no SQL")))
        patch.setattr(schema, "VERSION", schema.VERSION + 1)
        refusal(url, Unavailable)
    with SqliteStore(url) as store, store.reading() as db:
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'later'").fetchone()


def test_locked(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with SqliteStore(url) as store, SqliteStore(url, busy_s=0.01) as other:
        with store.writing(), pytest.raises(Unavailable, match="locked by another process"):
            other.add_node(Node("a"))
        other.add_node(Node("a"))


def test_read_only_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    with SqliteStore(url) as store:
        with store.reading() as db:
            db.execute(
                "PRAGMA query_only = ON"
            )  # what a file without the right to write answers, as root, too
        with pytest.raises(Invalid, match="cannot be written"):
            store.add_node(Node("a"))


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    url, failures, start = f"sqlite:///{tmp_path}/a/x.db", [], threading.Barrier(8)

    def open_it(name: str) -> None:
        start.wait()
        try:
            with SqliteStore(url, busy_s=30) as store:
                store.add_node(Node(name))
        except OmnipamError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it, args=(f"n{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with SqliteStore(url) as store:
        assert len(store.nodes()) == 8
