"""Opening the file, transactions on it, and SQLite's errors in our words."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from omnipam.core.errors import Invalid, OmnipamError, OutcomeUnknown, Unavailable

from ..election import LostLease
from . import schema
from .location import prepare_directory

_OTHER_PATH = "or pass --store with another path"
_RETRY_S = 0.01


class Replaced(LostLease):
    """The path names another file by now, or none: whoever works on that one does not see us, nor our lease."""

    reason = "Replaced"


def said(error: sqlite3.Error, path: object) -> OmnipamError:
    """The error for people: what happened to which file, and what to do."""
    match (
        getattr(error, "sqlite_errorcode", 0) & 0xFF
    ):  # the low byte is the primary code (sqlite.org/rescode.html)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"store {path} is locked by another process: try again, or end that process")
        case sqlite3.SQLITE_NOTADB:
            return Invalid(f"store {path} is not a SQLite database: move it away, {_OTHER_PATH}")
        case sqlite3.SQLITE_CORRUPT:
            return Invalid(f"store {path} is damaged ({error}): restore it from a backup, {_OTHER_PATH}")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return Invalid(
                f"store {path} cannot be written ({error}): let this user write the file and its directory, {_OTHER_PATH}"
            )
        case sqlite3.SQLITE_FULL:
            return Unavailable(f"store {path} cannot grow ({error}): free space on its file system")
    return Unavailable(f"store {path} failed ({error}): look at its file system")


@contextmanager
def in_our_words(path: object) -> Iterator[None]:
    """SQLite's errors leave the block as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise said(error, path) from error
    except (UnicodeEncodeError, OverflowError) as error:  # an argument that SQLite has no type for
        raise Invalid(f"store {path} cannot hold this value: {error}: use another") from error


def connect(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """A connection to the file, which is created if absent, at our schema's version.

    busy_s: how long a write waits for another process's. Raises Invalid, Unavailable.
    """
    prepare_directory(path)
    with in_our_words(path):
        db = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
        try:
            # Text of another's making may be no UTF-8, and one bad row must not hide the others.
            db.text_factory = partial(str, encoding="utf-8", errors="replace")
            with reading(db):  # one state: another process may be creating the tables
                ready = schema.check(db, path)
            _use_wal(db, path, busy_s)
            db.execute("PRAGMA synchronous = FULL")  # a commit that returned survives a loss of power
            db.execute("PRAGMA foreign_keys = ON")
            if not ready:
                schema.migrate(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _use_wal(db: sqlite3.Connection, path: Path, busy_s: float) -> None:
    """Readers and the writer do not block each other. Kept in the file, so mostly there already."""
    deadline = time.monotonic() + busy_s
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode").fetchone()[0]
            if mode != "wal":
                mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait here by itself
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)
    if mode != "wal":
        raise Invalid(
            f"store {path} cannot use a write-ahead log on this file system: put it on a local one, with --store"
        )


@contextmanager
def reading(db: sqlite3.Connection) -> Iterator[None]:
    """All reads in the block see one state. Within another transaction, they see that one's."""
    if db.in_transaction:
        yield
        return
    db.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(db)  # nothing was written


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """All writes in the block happen, durably, or none. Raises OutcomeUnknown where the commit itself failed."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        _roll_back(db)
        raise
    try:
        db.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(db)
        raise OutcomeUnknown(f"the commit failed ({error}): it may have happened") from error


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # some errors have ended it already
        db.execute("ROLLBACK")


class File:
    """An open file. Every method raises Unavailable where it cannot be used now (locked for longer than `busy_s`, disk full),
    Invalid where a person must mend it, OutcomeUnknown where a commit failed, Replaced where the path is another file's now."""

    def __init__(self, path: Path, *, busy_s: float) -> None:
        self.path = path
        self._db = connect(path, busy_s=busy_s)
        with in_our_words(path), reading(self._db):
            self._db.execute("SELECT 1 FROM sqlite_schema").fetchone()  # opens the log, too
        self._identity = self._identity_at_path()

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All reads within see one state."""
        with in_our_words(self.path), reading(self._db):
            yield self._db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All writes within happen, durably, or none."""
        self.check_place()
        with in_our_words(self.path), writing(self._db):
            yield self._db

    def check_place(self) -> None:
        """Raises Replaced where the path does not lead to this file any more. A few microseconds."""
        try:
            found = self._identity_at_path()
        except OSError:  # a directory that may not be entered any more: that says nothing of the file
            return
        if found != self._identity:
            what = "is another file now"
            if found[0] is None:
                what = "is not there any more"
            elif found[0] == self._identity[0]:
                what = f"has lost its log ({self.path.name}-wal and -shm are a part of it)"
            raise Replaced(
                f"store {self.path} {what}: it was moved, deleted or replaced while it was in use: put it back, and start again"
            )

    def _identity_at_path(self) -> tuple[tuple[int, int] | None, ...]:
        """Of the file, of its log and of the log's index: without any of them others work apart from us."""
        return tuple(_identity(f"{self.path}{end}") for end in ("", "-wal", "-shm"))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return there.st_dev, there.st_ino  # not used again for another file while we have this one open
