"""The lease row: of two writers on one version, one wins; and our own election runs on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from omnipam.core.errors import Conflict, NotFound, Unavailable
from omnipam.runtime.election import Election, Elector, LeaseLock, LostLease, Record, Timing
from omnipam.runtime.sqlite.lease import SqliteLease, read
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


@pytest.mark.parametrize(
    ("column", "value"),
    [("record", "{"), ("record", 7), ("record", b"\xff"), ("version", "x"), ("version", 1.5)],
)
async def test_a_row_that_cannot_be_read_is_not_free(url: str, column: str, value: object) -> None:
    async with opened(url) as lease:
        await lease.create(A)
        with SqliteStore(url) as store, store.writing() as db:
            db.execute(f"UPDATE leases SET {column} = ?", (value,))
        with pytest.raises(Unavailable, match=r"table leases: row operator.*cannot be read.*delete the row"):
            await lease.get()
        for version in ("1", "2", str(value)):
            with pytest.raises(Conflict):
                await lease.create(B)
            if column != "record" or version != "1":  # over the version that it wrote itself, its writer may
                with pytest.raises(Conflict):
                    await lease.update(B, version)
        with SqliteStore(url) as store:
            shown = read(store, "operator")  # for who only looks: somebody has it, without end
            assert shown is not None
            assert shown.record.holder.startswith("unknown: ")
            assert shown.record.duration_s > 10**9


async def test_a_locked_file_is_an_error_in_time(url: str) -> None:
    async with opened(url, request_s=0.1) as lease:
        with SqliteStore(url) as store, store.writing():
            outcomes = await asyncio.gather(*(lease.create(A) for _ in range(4)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert await lease.get() is None
    with pytest.raises(Unavailable):
        await lease.get()


async def test_nobody_leads_on_a_row_that_cannot_be_read_until_it_is_mended(url: str) -> None:
    now, told, slept = 0.0, [], 0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        now, slept = now + seconds, slept + 1
        if slept == 40:  # long after any lease would have run out
            with SqliteStore(url) as store, store.writing() as db:
                db.execute("DELETE FROM leases")
        await asyncio.sleep(0)

    async with opened(url) as lease:
        await lease.create(A)
        with SqliteStore(url) as store, store.writing() as db:
            db.execute("UPDATE leases SET record = '{'")
        elector = Elector(
            Election("me", Timing(3, 2, 0.5)),
            lease,
            clock=lambda: now,
            wall=lambda: 0.0,
            jitter=lambda: 0.5,
            sleep=sleep,
            trouble=told.append,
        )
        await elector.acquire()
        assert slept == 40
        (error,) = told
        assert "delete the row" in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
async def test_a_file_that_is_not_the_path_s_any_more_ends_the_leader(
    url: str, tmp_path: Path, replaced: bool
) -> None:
    """Else two lead, each on a file that the other does not see."""
    async with opened(url) as lease:
        now = 0.0

        async def sleep(seconds: float) -> None:
            nonlocal now
            now += seconds
            await asyncio.sleep(0)

        elector = Elector(
            Election("me", Timing(3, 2, 0.5)),
            lease,
            clock=lambda: now,
            wall=lambda: 0.0,
            jitter=lambda: 0.5,
            sleep=sleep,
        )
        await elector.acquire()
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"x.db{suffix}").unlink()
        if replaced:
            async with opened(url) as other:
                await other.create(B)
        with pytest.raises(
            LostLease, match=r"x\.db (is not there any more|is another file now).*start again"
        ):
            await elector.renew()
        assert now == 0.5  # the first renewal
        with pytest.raises(LostLease):
            await lease.get()
