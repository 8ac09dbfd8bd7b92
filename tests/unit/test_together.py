"""Tasks that end together: whose error is raised, and that nothing is left running."""

from __future__ import annotations

import asyncio

import pytest

from omnipam.runtime.together import Together


class Marked(Exception):
    """An error of the test's own."""


async def forever(ended: list[str], name: str = "forever") -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append(name)


async def fail(after: asyncio.Event | None = None) -> None:
    if after is not None:
        await after.wait()
    raise Marked


async def test_the_first_error_is_raised_as_it_is_and_ends_the_others() -> None:
    ended: list[str] = []

    async def work() -> None:
        async with Together() as together:
            together.start(forever(ended))
            together.start(fail())
            await together.first_error()

    with pytest.raises(Marked):
        await work()
    assert ended == ["forever"]


async def test_until_answers_the_result_and_leaves_the_others_running() -> None:
    ended: list[str] = []

    async def seven() -> int:
        return 7

    async with Together() as together:
        together.start(forever(ended))
        assert await together.until(together.start(seven())) == 7
        assert not ended
    assert ended == ["forever"]


async def test_an_error_of_another_interrupts_until() -> None:
    ended: list[str] = []

    async def work() -> None:
        async with Together() as together:
            waited = together.start(forever(ended))
            together.start(fail())
            await together.until(waited)

    with pytest.raises(Marked):
        await work()
    assert ended == ["forever"]


async def test_what_is_started_while_somebody_waits_counts() -> None:
    """A leader's renewal is started by the very task that is waited for."""
    ended: list[str] = []
    go = asyncio.Event()

    async def starts_another(together: Together) -> None:
        together.start(fail(go))
        go.set()
        await forever(ended)

    async def work() -> None:
        async with Together() as together:
            await together.until(together.start(starts_another(together)))

    with pytest.raises(Marked):
        await work()
    assert ended == ["forever"]


async def test_an_error_that_came_before_anybody_waited_is_raised() -> None:
    async def work() -> None:
        async with Together() as together:
            await asyncio.wait((together.start(fail()),))
            await together.first_error()

    with pytest.raises(Marked):
        await work()


async def test_when_all_end_well_there_is_no_error() -> None:
    async with Together() as together:
        together.start(asyncio.sleep(0))
        together.start(asyncio.sleep(0))
        await together.first_error()


async def test_an_error_of_the_body_ends_them_too() -> None:
    ended: list[str] = []

    async def work() -> None:
        async with Together() as together:
            together.start(forever(ended))
            await asyncio.sleep(0)
            raise Marked

    with pytest.raises(Marked):
        await work()
    assert ended == ["forever"]
