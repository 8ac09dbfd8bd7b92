"""What the agent's state file holds: its tables, one reservation as it is written, and all of them read back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal

import msgspec

from omnipam.core.attachment import Allocation, Given, Stored
from omnipam.core.cidr import format_address, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.reservations import Change
from omnipam.core.values import Block

APPLICATION_ID = 0x6F6D6E61  # "omna"
VERSION = 1
TABLES = (
    "CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
    # record: JSON, see Record.
    "CREATE TABLE reservations (id INTEGER PRIMARY KEY, record TEXT NOT NULL)",
    # What came since, in order. changes: a JSON array of records; of one id, the last one counts.
    "CREATE TABLE log (id INTEGER PRIMARY KEY, changes BLOB NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
RUNNING = "running"
"""The setting that is "1" while an agent has the file open."""
_SETTINGS = frozenset(("boot", "node", "lost", RUNNING))
"""A file without one of them is damaged: it is made with all."""
_PUT = "INSERT OR REPLACE INTO settings VALUES (?, ?)"


class GivenRecord(msgspec.Struct, array_like=True):
    """One address: its text, its block's pool, CIDR, and whether first and last are usable; its gateway, empty for none."""

    address: str
    pool: str
    block: str
    gateway: str = ""
    first: bool = False
    last: bool = False


class Record(msgspec.Struct, array_like=True):
    """state: parked is kept for its owner. released: seconds since the epoch, for cooling and parked.

    In the log, one without addresses only gives an earlier one another state.
    """

    id: int
    state: Literal["held", "cooling", "parked", "gone"]
    released: float = 0.0
    key: tuple[str, str, str] = ("", "", "")
    owner: str = ""
    addresses: list[GivenRecord] = []
    since: float = 0.0
    sticky: bool = False
    expires: float | None = None


class Content(msgspec.Struct, frozen=True):
    """All of a file. rows: what is reserved. boot: the boot id that they are of, empty in a new file. node: whose they are.

    lost: why reservations may be missing. running: whether its agent was not stopped. unreadable: rows that say nothing.
    """

    rows: tuple[Stored, ...] = ()
    boot: str = ""
    node: str = ""
    lost: str = ""
    running: bool = False
    unreadable: int = 0


encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(Record)
_records = msgspec.json.Decoder(list[Record])
_raw_records = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE = (msgspec.MsgspecError, TypeError, UnicodeError)


def changed(change: Change) -> tuple[object, ...]:
    """A change as it is written to the log."""
    stored = change.stored
    if stored is None:
        return change.id, "gone"
    if stored.released is not None:  # it is on record, and has only another state now
        return change.id, "parked" if stored.parked else "cooling", stored.released
    return fields_of(stored)


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


def replace(db: sqlite3.Connection, rows: Iterable[Stored], boot: str, node: str, lost: str) -> None:
    """Makes the tables say this; within the caller's transaction."""
    db.execute("DELETE FROM log")
    db.execute("DELETE FROM reservations")
    db.executemany(
        "INSERT INTO reservations VALUES (?, ?)",
        [(row.allocation.id, encode(fields_of(row)).decode()) for row in rows],
    )
    db.executemany(_PUT, (("boot", boot), ("node", node), ("lost", lost)))


def mark(db: sqlite3.Connection, *, running: bool) -> None:
    """Says whether an agent has the file open."""
    db.execute(_PUT, (RUNNING, "1" if running else ""))


def read(db: sqlite3.Connection, *, lenient: bool = False) -> Content:
    """lenient: where the file breaks off, what came before. Raises sqlite3.Error if not."""
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
    bad += not settings.keys() >= _SETTINGS
    for (text,) in rows("SELECT record FROM reservations ORDER BY id"):
        try:
            record = _record.decode(text)
        except _UNREADABLE:
            bad += 1
        else:
            found[record.id] = record
    for (text,) in rows("SELECT changes FROM log ORDER BY id"):
        records, unreadable = _logged(text)
        bad += unreadable
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
    boot, node, lost, running = (str(settings.get(name, "")) for name in ("boot", "node", "lost", RUNNING))
    return Content(tuple(stored), boot, node, lost, bool(running), bad)


def _logged(text: bytes) -> tuple[list[Record], int]:
    """A row of the log, and how much of it is no record: one bad record hides none that came with it."""
    try:
        return _records.decode(text), 0
    except _UNREADABLE:
        pass
    records, bad = [], 0
    try:
        each_raw = _raw_records.decode(text)
    except _UNREADABLE:
        return [], 1
    for raw in each_raw:
        try:
            records.append(_record.decode(raw))
        except _UNREADABLE:
            bad += 1
    return records, bad
