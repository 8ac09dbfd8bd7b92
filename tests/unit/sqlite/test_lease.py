"""The lease row: of two writers on one version, one wins; and our own election runs on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from omnipam.core.errors import Conflict, Invalid, NotFound, Unavailable
from omnipam.runtime.election import LeaseLock, Record
from omnipam.runtime.sqlite.lease import SqliteLease
from omnipam.runtime.sqlite.store import SqliteStore

A = Record("a", 15, "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:01.000000Z", 0)
B = Record("b", 15, "2026-01-01T00:00:02.000000Z", "2026-01-01T00:00:02.000000Z", 1)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/x.db"


@asynccontextmanager
async def opened(url: str, name: str = "operator", request_s: float = 5.0) -> AsyncIterator[SqliteLease]:
    lease = SqliteLease(url, name, request_s=request_s)
    await lease.open()
    try:
        yield lease
    finally:
        await lease.close()


async def test_a_lease_lives(url: str) -> None:
    async with opened(url) as lease, opened(url) as other, opened(url, "another") as another:
        port: LeaseLock = lease  # it fills the port
        assert await port.get() is None
        with pytest.raises(NotFound):
            await port.update(A, "1")
        created = await port.create(A)
        assert created.record == A
        assert await other.get() == created
        assert await another.get() is None
        with pytest.raises(Conflict):
            await other.create(B)
        written = await other.update(B, created.version)
        assert written.version != created.version
        with pytest.raises(Conflict):
            await lease.update(A, created.version)
        assert await lease.get() == written


async def test_of_many_at_once_one_wins(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        for act in (lambda lease: lease.create(A), lambda lease: lease.update(B, "1")):
            outcomes = await asyncio.gather(
                *(act(lease) for lease in (one, two, one, two)), return_exceptions=True
            )
            assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 3


async def test_unreadable(url: str) -> None:
    async with opened(url) as lease:
        await lease.create(A)
        with SqliteStore(url) as store, store.writing() as db:
            db.execute("UPDATE leases SET record = '{'")
        with pytest.raises(Invalid, match="lease operator cannot be read"):
            await lease.get()


async def test_a_locked_file_is_an_error_in_time(url: str) -> None:
    async with opened(url, request_s=0.1) as lease:
        with SqliteStore(url) as store, store.writing():
            outcomes = await asyncio.gather(*(lease.create(A) for _ in range(4)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert await lease.get() is None
    with pytest.raises(Unavailable):
        await lease.get()
