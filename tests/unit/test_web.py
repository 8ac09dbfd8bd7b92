"""The operator's pages, over real sockets: what is answered to whom, and that nobody can hold it up."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnipam.core.errors import Invalid
from omnipam.runtime import web as module
from omnipam.runtime.web import Answer, Web, text


def broken() -> Answer:
    raise RuntimeError("nothing there")


PAGES = {"/healthz": lambda: text(200, "ok"), "/busy": lambda: text(503, "not ready"), "/broken": broken}


@pytest_asyncio.fixture
async def port() -> AsyncIterator[int]:
    web = Web(PAGES)
    yield await web.open("127.0.0.1", 0, "key")
    await web.close()


async def ask(port: int, request: bytes, *, end: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("line", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1", b"200 OK", b"ok\n"),
        (b"GET /healthz?verbose HTTP/1.0", b"200 OK", b"ok\n"),
        (b"HEAD /healthz HTTP/1.1", b"200 OK", b""),
        (b"GET /busy HTTP/1.1", b"503 Service Unavailable", b"not ready\n"),
        (b"GET /broken HTTP/1.1", b"500 Internal Server Error", b"RuntimeError: nothing there\n"),
        (b"GET / HTTP/1.1", b"404 Not Found", b"not here; there are /broken, /busy, /healthz\n"),
        (b"POST /healthz HTTP/1.1", b"405 Method Not Allowed", b"only GET is served here\n"),
        (b"GET /healthz", b"400 Bad Request", b"bad request\n"),
        (b"\xff\xfe \x00 HTTP/1.1", b"405 Method Not Allowed", b"only GET is served here\n"),
    ],
)
async def test_answers(port: int, line: bytes, status: bytes, body: bytes) -> None:
    head, _, answered = (await ask(port, line + b"\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert answered == body
    if not line.startswith(b"HEAD"):
        assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head


async def test_a_head_without_end_is_dropped(port: int) -> None:
    assert await ask(port, b"GET /healthz HTTP/1.1\r\nX: " + b"x" * (3 * module.MAX_HEAD)) == b""
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")


async def test_a_head_that_stops_halfway_is_dropped(port: int) -> None:
    assert await ask(port, b"GET /healthz HTTP/1.1\r\n", end=True) == b""


async def test_who_says_nothing_is_dropped_and_holds_up_nobody(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    silent = [asyncio.ensure_future(ask(port, b"")) for _ in range(20)]
    await asyncio.sleep(0)
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
    assert await asyncio.gather(*silent) == [b""] * 20


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_request_breaks_it(request_bytes: bytes) -> None:
    answer = Web(PAGES)._answer(request_bytes + b"\r\n\r\n")
    assert answer.status in module.REASONS


async def test_a_port_in_use_is_said_in_one_line() -> None:
    first, second = Web(PAGES), Web(PAGES)
    port = await first.open("127.0.0.1", 0, "one")
    with pytest.raises(Invalid, match=rf"^the-key: 127\.0\.0\.1:{port} is in use; free the port, or set"):
        await second.open("127.0.0.1", port, "the-key")
    await second.close()
    await first.close()


async def test_an_address_that_is_none_is_said_in_one_line() -> None:
    with pytest.raises(Invalid, match=r"^the-key: 192\.0\.2\.1:0 cannot be listened on \(.+\); ") as raised:
        await Web(PAGES).open("192.0.2.1", 0, "the-key")
    assert "\n" not in str(raised.value)


async def test_closed_it_listens_no_more() -> None:
    web = Web(PAGES)
    port = await web.open("127.0.0.1", 0, "key")
    await web.close()
    await web.close()
    with pytest.raises(OSError):
        await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")


async def test_a_family_that_the_machine_has_not_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int, backlog: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(address, family=family, backlog=backlog)

    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]

    async def resolve(*args: object, **options: object) -> list[tuple[object, ...]]:
        return list(both)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    web = Web(PAGES)
    port = await web.open("localhost", 0, "key")
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
    await web.close()
    both.pop()
    with pytest.raises(Invalid, match=r"^key: localhost:0 cannot be listened on \(Cannot assign requested"):
        await web.open("localhost", 0, "key")


async def test_all_addresses_have_one_port() -> None:
    web = Web(PAGES)
    port = await web.open("", 0, "key")
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
    assert {each.sockets[0].getsockname()[1] for each in web._servers} == {port}
    await web.close()
