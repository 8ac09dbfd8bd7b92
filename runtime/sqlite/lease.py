"""Which operator leads: `SqliteLease`, the lease as a row. On a connection and a thread of its own, so nothing delays a renewal."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from omnipam.core.errors import Conflict, NotFound, Unavailable

from ..election import Held, Record
from .store import SqliteStore
from .worker import T, Worker

_decoder = msgspec.json.Decoder(Record)

UNENDING_S = 10**10
"""How long a row that cannot be read is held: nobody knows by whom, so it is never free."""


class SqliteLease:
    """The `LeaseLock` port. Versions count writes of the row.

    request_s: the longest a call may take; one that waited in line for longer is not begun (`Timing.request_s`).
    """

    def __init__(
        self, url: str, name: str, *, request_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._request_s = request_s
        self._monotonic = monotonic
        # Half for the wait in line behind an earlier call, half for the wait for other processes.
        self._open_store: Callable[[], SqliteStore] = lambda: SqliteStore(url, busy_s=request_s / 2)
        self._worker = Worker(f"lease {name} in {url}")
        self._store: SqliteStore | None = None

    async def open(self) -> None:
        """Raises Unavailable, Invalid as `SqliteStore`; may be called again then, and when it is open."""
        if self._store is not None:
            return
        self._worker.start()
        try:
            await self._worker.call(self._open)
        except BaseException:
            await self._worker.stop()
            raise

    async def close(self) -> None:
        try:
            await self._worker.call(self._close)
        except Unavailable:
            pass  # closed already
        await self._worker.stop()

    async def get(self) -> Held | None:
        def job(store: SqliteStore) -> Held | None:
            try:
                return _read(store, self._name)
            except _Unreadable as error:
                raise Unavailable(f"{error}: nobody leads until then") from error

        return await self._call(job)

    async def create(self, record: Record) -> Held:
        return await self._call(lambda store: create(store, self._name, record))

    async def update(self, record: Record, version: str) -> Held:
        return await self._call(lambda store: update(store, self._name, record, version))

    async def _call(self, job: Callable[[SqliteStore], T]) -> T:
        latest = self._monotonic() + self._request_s / 2

        def run() -> T:
            if self._store is None:
                raise Unavailable("the store is not open")
            if self._monotonic() > latest:
                raise Unavailable(
                    f"lease {self._name}: {self._store.path} did not answer within {self._request_s:g} s"
                )
            self._store.check_place()
            return job(self._store)

        return await self._worker.call(run)

    def _open(self) -> None:
        self._store = self._open_store()

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


class _Unreadable(Exception):
    """The text says which row, why, and what to do."""


def read(store: SqliteStore, name: str) -> Held | None:
    """The lease, for who only looks; None if there is none. A row that cannot be read shows a holder that says so, without end."""
    try:
        return _read(store, name)
    except _Unreadable as error:
        return Held(Record(f"unknown: {error}", UNENDING_S, "", "", 0), "")


def _read(store: SqliteStore, name: str) -> Held | None:
    with store.reading() as db:
        row = db.execute("SELECT record, version FROM leases WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    try:
        if not isinstance(row[1], int):
            raise TypeError(f"its version is {row[1]!r}")
        return Held(_decoder.decode(row[0]), str(row[1]))
    except (msgspec.MsgspecError, TypeError) as error:
        raise _Unreadable(
            f"store {store.path}, table leases: row {name} cannot be read ({error}): delete the row once no operator runs"
        ) from error


def create(store: SqliteStore, name: str, record: Record) -> Held:
    """Raises Conflict if there is one."""
    with store.writing() as db:
        if db.execute("SELECT 1 FROM leases WHERE name = ?", (name,)).fetchone():
            raise Conflict(f"lease {name}: another process has created it in {store.path}")
        db.execute("INSERT INTO leases VALUES (?, 1, ?)", (name, _text(record)))
    return Held(record, "1")


def update(store: SqliteStore, name: str, record: Record, version: str) -> Held:
    """Raises Conflict if the version is another, NotFound if there is no lease."""
    with store.writing() as db:
        row = db.execute("SELECT version FROM leases WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"lease {name} is not in {store.path} any more")
        if not isinstance(row[0], int) or str(row[0]) != version:
            raise Conflict(f"lease {name}: another process has written it in {store.path}")
        db.execute(
            "UPDATE leases SET version = version + 1, record = ? WHERE name = ?", (_text(record), name)
        )
    return Held(record, str(int(row[0]) + 1))


def _text(record: Record) -> str:
    return msgspec.json.encode(record).decode()
