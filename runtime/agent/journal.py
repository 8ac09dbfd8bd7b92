"""The agent's reservations on disk: one SQLite file that this process has to itself, synced at every commit.

Changes are appended to a log, one row a commit, which costs a busy node least; now and then it is folded into the table of
reservations. A damaged file is set aside, never written: what can be read of it is salvaged, and the caller learns that it was so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from omnipam.core.attachment import Allocation, Given, Stored
from omnipam.core.cidr import format_address, parse, parse_address
from omnipam.core.errors import Invalid, OmnipamError, OutcomeUnknown, Unavailable
from omnipam.core.reservations import Change
from omnipam.core.values import Block

APPLICATION_ID = 0x6F6D6E61  # "omna"
VERSION = 1
FILE = "agent.db"
BUSY_S = 5.0
_TABLES = (
    "CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    # record: JSON, see Record.
    "CREATE TABLE reservations (id INTEGER PRIMARY KEY, record TEXT NOT NULL)",
    # What came since, in order. changes: a JSON array of records; of one id, the last one counts.
    "CREATE TABLE log (id INTEGER PRIMARY KEY, changes BLOB NOT NULL)",
)
FOLD_AT = 2000
"""Changes in the log, at the least, before it is folded; more where there are more reservations."""


class GivenRecord(msgspec.Struct, array_like=True):
    """One address: its text, its block's pool, CIDR, and whether first and last are usable; its gateway, empty for none."""

    address: str
    pool: str
    block: str
    gateway: str = ""
    first: bool = False
    last: bool = False


class Record(msgspec.Struct, array_like=True):
    """state: held, cooling, parked (kept for its owner), or gone. released: seconds since the epoch, for cooling and parked.

    In the log, one without addresses only gives an earlier one another state.
    """

    id: int
    state: str
    released: float = 0.0
    key: tuple[str, str, str] = ("", "", "")
    owner: str = ""
    addresses: list[GivenRecord] = []
    since: float = 0.0
    sticky: bool = False
    expires: float | None = None


_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(Record)
_records = msgspec.json.Decoder(list[Record])


class Damaged(OmnipamError):
    """The file cannot be relied on."""

    reason = "Damaged"


class Opened(msgspec.Struct, frozen=True):
    """rows: what was reserved. boot: the boot id that they are of, empty in a new file. unreadable: rows that were no reservation.

    lost: why reservations may be missing, as `rewrite` was told in an earlier life.
    aside: where a damaged file was moved to; then rows are those that could be salvaged of it.
    """

    rows: tuple[Stored, ...]
    boot: str
    node: str
    unreadable: int = 0
    lost: str = ""
    aside: Path | None = None


class Journal:
    """The open file; blocking, for one thread at a time. Raises Unavailable where the file cannot be written now."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self._db: sqlite3.Connection | None = None
        self._logged = 0

    def open(self, moment: str) -> Opened:
        """Opens it, made anew if it is absent or damaged. moment: goes into the name of a file that is set aside.

        Raises Invalid where it cannot be opened at all, Unavailable where another agent has it.
        """
        try:
            return self._open()
        except Damaged:
            self.close()
            rows, boot, node, bad, lost = _salvaged(self.path)
            aside = self.path.with_name(f"{FILE}.damaged-{moment}")
            for suffix in ("-wal", "-shm", ""):
                source = Path(f"{self.path}{suffix}")
                if source.exists():
                    source.rename(f"{aside}{suffix}")
            fresh = self._open()
            if bad:
                lost = f"the state was damaged; as it was it is {aside}"
            self.rewrite(rows, boot or fresh.boot, node, lost)
            return Opened(rows, boot, node, bad, lost, aside)

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def commit(self, changes: Sequence[Change]) -> None:
        """Writes all of it, durably, or nothing. Raises OutcomeUnknown: then only `rewrite` may follow, which settles it."""
        if self._db is None:
            raise Unavailable(f"state {self.path} is closed")
        content = _encode([_changed(change) for change in changes])
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
            db.execute("DELETE FROM log")
            db.execute("DELETE FROM reservations")
            db.executemany(
                "INSERT INTO reservations VALUES (?, ?)",
                [(row.allocation.id, _encode(fields_of(row)).decode()) for row in rows],
            )
            db.executemany(
                "INSERT OR REPLACE INTO settings VALUES (?, ?)",
                (("boot", boot), ("node", node), ("lost", lost)),
            )
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

    def _refused(self, error: sqlite3.Error) -> str:
        return f"state {self.path} cannot be written ({error}): look at its file system"

    def _open(self) -> Opened:
        with self._in_our_words():
            if self.path.exists():
                self._inspect()
            db = self._db = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # a commit that returned survives a loss of power
            db.execute("BEGIN EXCLUSIVE")
            if not _pragma(db, "application_id"):
                for statement in _TABLES:
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
            self.path.chmod(0o600)
            return Opened(*_read(db))

    def _inspect(self) -> None:
        """Looks at the file without writing to it. Raises Damaged where it is none that we could go on with."""
        db = _read_only(self.path)
        try:
            empty = db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
            application = _pragma(db, "application_id")
            if application == APPLICATION_ID and _pragma(db, "user_version") > VERSION:
                raise Invalid(
                    f"state {self.path} was written by a later omnipam: upgrade, or use another --state-dir"
                )
            if application != APPLICATION_ID and not (empty and not application):
                raise Damaged(f"state {self.path} is not this agent's file")
            if [row[0] for row in db.execute("PRAGMA quick_check(1)")] != ["ok"]:
                raise Damaged(f"state {self.path} is damaged")
            if application == APPLICATION_ID and _read(db)[3]:
                raise Damaged(f"state {self.path} has rows that cannot be read")
        finally:
            db.close()

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Unavailable(
                    f"state {self.path} is in use: another agent runs on this --state-dir"
                ) from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
                raise Damaged(f"state {self.path} is damaged ({error})") from error
            raise Invalid(f"state {self.path} cannot be opened ({error}): check the directory") from error


def fields_of(stored: Stored) -> tuple[object, ...]:
    """A reservation as it is written: the fields of its Record, in order."""
    allocation = stored.allocation
    return (
        allocation.id,
        "held" if stored.released is None else "parked" if stored.parked else "cooling",
        stored.released or 0.0,
        allocation.key,
        allocation.owner,
        [(str(given), *_of_block(given.block, given.gateway)) for given in allocation.given],
        allocation.since,
        allocation.sticky,
        allocation.expires,
    )


@lru_cache(maxsize=1024)
def _of_block(block: Block, gateway: int | None) -> tuple[object, ...]:
    """What each of its addresses' records says of it: a node has few blocks, and many addresses of each."""
    text = "" if gateway is None else format_address(gateway, block.cidr.bits)
    return block.pool, str(block.cidr), text, block.first_usable, block.last_usable


def stored_of(record: Record) -> Stored:
    """Raises Invalid where it makes no sense."""
    given = []
    for each in record.addresses:
        block = Block(each.pool, parse(each.block), each.first, each.last)
        address = parse_address(each.address)
        if not block.cidr.contains(address):
            raise Invalid(f"{each.address} is not in {each.block}")
        gateway = parse_address(each.gateway).first if each.gateway else None
        given.append(Given(block.cidr.family, address.first, block, gateway))
    if not given:
        raise Invalid("a reservation without an address")
    allocation = Allocation(
        *(record.id, record.key, record.owner, tuple(given)),
        *(record.since, record.sticky, record.expires),
    )
    held = record.state == "held"
    return Stored(allocation, None if held else record.released, record.state == "parked")


def _changed(change: Change) -> tuple[object, ...]:
    stored = change.stored
    if stored is None:
        return change.id, "gone"
    if stored.released is not None:  # it is on record, and has only another state now
        return change.id, "parked" if stored.parked else "cooling", stored.released
    return fields_of(stored)


def _read(db: sqlite3.Connection, *, lenient: bool = False) -> tuple[tuple[Stored, ...], str, str, int, str]:
    """The first fields of Opened. lenient: where the file breaks off, what came before."""
    settings: dict[str, object] = {}
    found: dict[int, Record] = {}
    bad = 0

    def rows(statement: str) -> Iterator[tuple[Any, ...]]:
        nonlocal bad
        try:
            yield from db.execute(statement)
        except sqlite3.DatabaseError:
            if not lenient:
                raise
            bad += 1

    settings.update(rows("SELECT name, value FROM settings"))
    for (text,) in rows("SELECT record FROM reservations ORDER BY id"):
        try:
            record = _record.decode(text)
        except (msgspec.MsgspecError, TypeError, UnicodeError):
            bad += 1
        else:
            found[record.id] = record
    for (text,) in rows("SELECT changes FROM log ORDER BY id"):
        try:
            records = _records.decode(text)
        except (msgspec.MsgspecError, TypeError, UnicodeError):
            bad += 1
        else:
            for record in records:
                before = found.get(record.id)
                if before is not None and not record.addresses:
                    before.state, before.released = record.state, record.released
                else:
                    found[record.id] = record
    stored = []
    for record in found.values():
        if record.state != "gone":
            try:
                stored.append(stored_of(record))
            except Invalid:
                bad += 1
    boot, node, lost = (str(settings.get(name, "")) for name in ("boot", "node", "lost"))
    return tuple(stored), boot, node, bad, lost


def _salvaged(path: Path) -> tuple[tuple[Stored, ...], str, str, int, str]:
    """What can be read of a damaged file, without writing to it."""
    try:
        db = _read_only(path)
    except sqlite3.Error:
        return (), "", "", 1, ""
    try:
        return _read(db, lenient=True)
    except (sqlite3.Error, ValueError, TypeError):
        return (), "", "", 1, ""
    finally:
        db.close()


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
