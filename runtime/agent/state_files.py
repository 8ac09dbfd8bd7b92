"""The agent's state file as a whole: made complete or not at all, and exchanged for a damaged one so that a kill loses nothing.

agent.db                the state, and its -wal while an agent runs or after a kill
agent.db.part           one that is being made; worth nothing
agent.db.mended-T       one that is complete and takes the place of a damaged one: whoever finds it ends the exchange
agent.db.damaged-T      a damaged one, as it was
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from .records import TABLES, Content, mark, read, replace

_SUFFIXES = ("-journal", "-wal", "-shm", "")
_DAMAGED, _MENDED = ".damaged-", ".mended-"
_PROBE_BYTES = 65536
"""More than SQLite wants at once for a start."""
_READ_WAIT_S = 5.0


def make(path: Path, content: Content) -> None:
    """A file of this content at path, durably, where nothing is yet or something that is given up. Raises OSError, sqlite3.Error."""
    _make_complete(path, content).rename(path)
    _sync(path.parent)


def exchange(path: Path, content: Content, aside: Path) -> None:
    """Moves what is at path to aside, and a file of this content to path. Raises OSError, sqlite3.Error.

    Killed before the new file has its name, nothing has happened; after that, `finish` goes on in the next life.
    """
    moment = aside.name.partition(_DAMAGED)[2]
    mended = path.with_name(f"{path.name}{_MENDED}{moment}")
    _make_complete(path, content).rename(mended)
    finish(path)


def finish(path: Path) -> None:
    """Ends an exchange that a kill broke off. Raises OSError."""
    for mended in _beside(path, _MENDED):
        _sync(path.parent)
        aside = path.with_name(f"{path.name}{_DAMAGED}{mended.name.partition(_MENDED)[2]}")
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        _sync(path.parent)
        mended.rename(path)
        _sync(path.parent)


def aside_name(path: Path, moment: str) -> Path:
    """Where a damaged file goes: a name that none has yet."""
    aside, number = path.with_name(f"{path.name}{_DAMAGED}{moment}"), 1
    while any(os.path.lexists(f"{aside}{suffix}") for suffix in _SUFFIXES):
        number += 1
        aside = path.with_name(f"{path.name}{_DAMAGED}{moment}-{number}")
    return aside


def last_aside(path: Path) -> Path | None:
    """The damaged file that was written last, if there is one."""
    every = [each for each in _beside(path, _DAMAGED) if not each.name.endswith(_SUFFIXES[:-1])]
    return max(every, key=lambda each: (each.stat().st_mtime_ns, each.name), default=None)


def salvaged(path: Path) -> Content:
    """What can be read of a damaged file, without writing to it."""
    nothing = Content(unreadable=1)
    if size(path) == 0:
        return nothing  # not even opened: SQLite takes a log beside an empty file for a stale one, and deletes it
    try:
        with contextlib.closing(read_only(path)) as db:
            return read(db, lenient=True)
    except (sqlite3.Error, ValueError, TypeError):
        return nothing


def size(path: Path) -> int:
    """In bytes; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def wal_of(path: Path) -> Path:
    """SQLite's log of what is not in the file itself yet."""
    return Path(f"{path}-wal")


def read_only(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_READ_WAIT_S)


def refusal(directory: Path) -> str:
    """Why the file system takes no file now, as it says itself, which SQLite does not tell; empty if it takes one."""
    path = directory / "agent.db.probe"
    try:
        try:
            with open(path, "wb", buffering=0) as file:
                if file.write(bytes(_PROBE_BYTES)) < _PROBE_BYTES:
                    return os.strerror(errno.ENOSPC)
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _make_complete(path: Path, content: Content) -> Path:
    part = path.with_name(f"{path.name}.part")
    for suffix in _SUFFIXES:
        Path(f"{part}{suffix}").unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN")
        for statement in TABLES:
            db.execute(statement)
        replace(db, content.rows, content.boot, content.node, content.lost)
        mark(db, running=False)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")  # once all is in the file itself
    return part


def _beside(path: Path, kind: str) -> list[Path]:
    prefix = path.name + kind
    return sorted(each for each in path.parent.iterdir() if each.name.startswith(prefix))


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
