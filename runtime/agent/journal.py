"""The agent's reservations on disk: one SQLite file that this process has to itself, synced at every commit.

Changes are appended to a log, one row a commit, which costs a busy node least; now and then it is folded into the table of
reservations. A damaged file is set aside, never written: what can be read of it is salvaged, and the caller learns that it was so.

SQLite takes a file for a good one whose -wal somebody deleted or emptied, though what was written last is in there. Hence the file
itself says whether an agent runs: while it says so, there is a -wal that is not empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from omnipam.core.attachment import Stored
from omnipam.core.errors import Invalid, OmnipamError, OutcomeUnknown, Unavailable
from omnipam.core.reservations import Change

from . import state_files
from .records import APPLICATION_ID, VERSION, Content, changed, encode, mark, read, replace

FILE = "agent.db"
BUSY_S = 5.0
_LOOK_S = 0.05
FOLD_AT = 2000
"""Changes in the log, at the least, before it is folded; more where there are more reservations."""


class Damaged(OmnipamError):
    """The file cannot be relied on."""

    reason = "Damaged"


class Opened(msgspec.Struct, frozen=True):
    """rows: what was reserved. boot: the boot id that they are of, empty in a new file. unreadable: rows that were no reservation.

    lost: why reservations may be missing, found now or told to `rewrite` in an earlier life.
    aside: where a damaged file is now; then rows are those that could be salvaged of it.
    """

    rows: tuple[Stored, ...]
    boot: str
    node: str
    unreadable: int = 0
    lost: str = ""
    aside: Path | None = None


class Journal:
    """The open file; blocking, for one thread at a time. Raises Unavailable where the file cannot be written now.

    sleep, clock: for the wait for another agent that still ends.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = directory / FILE
        self._clock, self._sleep = clock, sleep
        self._db: sqlite3.Connection | None = None
        self._lock = -1
        self._logged = 0

    def open(self, moment: str) -> Opened:
        """Opens it, made anew if it is absent or damaged. moment: goes into the name of a file that is set aside.

        Raises Invalid where it cannot be opened at all, Unavailable where another agent has it.
        """
        try:
            with self._in_our_words():
                self._lock_directory()
                state_files.finish(self.path)
            unreadable, aside = 0, None
            try:
                with self._in_our_words():
                    self._prepare()
            except Damaged as damage:
                with self._in_our_words():
                    unreadable, aside = self._mend(str(damage), moment)
            with self._in_our_words():
                content = self._start()
        except BaseException:
            self.close()
            raise
        return Opened(content.rows, content.boot, content.node, unreadable, content.lost, aside)

    def close(self) -> None:
        """Without it, the next life takes the file for damaged, unless the process is killed."""
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(
                sqlite3.Error
            ):  # a disk that refuses: the next life will think the worst
                _checkpoint(db)  # first: the mark then needs no space that the -wal does not have
                mark(db, running=False)
            db.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def commit(self, changes: Sequence[Change]) -> None:
        """Writes all of it, durably, or nothing. Raises OutcomeUnknown: then only `rewrite` may follow, which settles it."""
        if self._db is None:
            raise Unavailable(f"state {self.path} is closed")
        content = encode([changed(change) for change in changes])
        try:  # one statement is a transaction by itself, and takes two calls less than one that says so
            self._db.execute("INSERT INTO log (changes) VALUES (?)", (content,))
        except sqlite3.Error as error:
            raise OutcomeUnknown(self._refused(error)) from error
        self._logged += len(changes)

    def full(self, recorded: int) -> bool:
        """Whether it is time for `rewrite`. recorded: how many reservations there are."""
        return self._logged >= max(FOLD_AT, 4 * recorded)

    def rewrite(self, rows: Iterable[Stored], boot: str, node: str, lost: str = "") -> None:
        """Makes the file say exactly this. lost: why reservations may be missing. Raises Unavailable, OutcomeUnknown."""
        db = self._db
        if db is None:
            raise Unavailable(f"state {self.path} is closed")
        committing = False
        try:
            db.execute("BEGIN IMMEDIATE")
            replace(db, rows, boot, node, lost)
            committing = True
            db.execute("COMMIT")
        except sqlite3.Error as error:
            try:
                if db.in_transaction:
                    db.execute("ROLLBACK")
            except sqlite3.Error:
                committing = True
            text = self._refused(error)
            raise OutcomeUnknown(text) if committing else Unavailable(text) from error
        self._logged = 0
        with contextlib.suppress(
            sqlite3.Error
        ):  # it is durable already: this only makes the -wal matter less
            _checkpoint(db)

    def _refused(self, error: sqlite3.Error) -> str:
        why = state_files.refusal(self.path.parent) or str(error)
        return f"state {self.path} cannot be written ({why}): look at its file system"

    def _lock_directory(self) -> None:
        """Whole files are made and moved below: SQLite's own lock would come too late. Raises Unavailable, OSError."""
        self._lock = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        deadline = self._clock() + BUSY_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._clock() >= deadline:
                    raise self._in_use() from None
                self._sleep(_LOOK_S)
            else:
                return

    def _prepare(self) -> None:
        """Sees to it that there is a file that we can go on with. Raises Damaged where there is one that we cannot."""
        if self.path.exists():
            self._inspect()
        elif state_files.size(state_files.wal_of(self.path)):
            raise Damaged(f"state {self.path} is gone, and its -wal is not")
        elif state_files.last_aside(self.path) is not None:
            raise Damaged(f"state {self.path} is gone, which was made after a damaged one")
        else:
            state_files.make(self.path, Content())

    def _inspect(self) -> None:
        """Looks at the file without writing to it. Raises Damaged where it is none that we could go on with."""
        if not self.path.is_file():
            raise Invalid(f"state {self.path} is not a file: move it away, or use another --state-dir")
        if not self.path.stat().st_size:  # before SQLite sees it, which would delete the -wal
            raise Damaged(f"state {self.path} is empty")
        has_wal = state_files.size(state_files.wal_of(self.path)) > 0
        with contextlib.closing(state_files.read_only(self.path)) as db:
            application = _pragma(db, "application_id")
            if application == APPLICATION_ID and _pragma(db, "user_version") > VERSION:
                raise Invalid(
                    f"state {self.path} was written by a later omnipam: upgrade, or use another --state-dir"
                )
            if application != APPLICATION_ID:
                raise Damaged(f"state {self.path} is not this agent's file")
            if [row[0] for row in db.execute("PRAGMA quick_check(1)")] != ["ok"]:
                raise Damaged(f"state {self.path} is damaged")
            content = read(db)
            if content.unreadable:
                raise Damaged(f"state {self.path} has rows that cannot be read")
            if content.running and not has_wal:
                raise Damaged(f"state {self.path} has lost its -wal, and what was written last with it")

    def _mend(self, damage: str, moment: str) -> tuple[int, Path]:
        """Puts a file in the place of the damaged one that has what could be read of it. Its unreadable rows, and where it is."""
        aside = state_files.aside_name(self.path, moment)
        earlier = None if self.path.exists() else state_files.last_aside(self.path)
        content = state_files.salvaged(earlier or self.path)
        lost = f"{damage}; as it was it is {earlier or aside}"
        state_files.exchange(self.path, msgspec.structs.replace(content, lost=lost), aside)
        return content.unreadable, earlier or aside

    def _start(self) -> Content:
        self.path.chmod(0o600)
        db = self._db = sqlite3.connect(
            self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # a commit that returned survives a loss of power
        mark(db, running=True)
        _checkpoint(db)
        return read(db)

    @contextlib.contextmanager
    def _in_our_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise self._in_use() from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
                raise Damaged(f"state {self.path} is damaged ({error})") from error
            raise self._unusable(state_files.refusal(self.path.parent) or str(error)) from error

    def _in_use(self) -> Unavailable:
        return Unavailable(f"state {self.path} is in use: another agent runs on this --state-dir")

    def _unusable(self, why: str) -> Invalid:
        return Invalid(f"state {self.path} cannot be opened ({why}): look at its directory and file system")


def _checkpoint(db: sqlite3.Connection) -> None:
    """Copies all of the -wal into the file. It is not cut: an empty one means that somebody did it."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
