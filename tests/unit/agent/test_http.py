"""What comes over the socket that is no good request, and what comes in pieces."""

from __future__ import annotations

import asyncio
import os
import stat
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.agent.house import House

from omnipam.core.errors import Invalid
from omnipam.runtime.agent.http import MAX_BODY, Answer, Connection, Request
from omnipam.runtime.agent.listening import Listening


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/status SPDY/9\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"PUT /v1/gc HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
        (b"PUT /v1/gc HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET /v1/" + b"x" * 20000, 431),
        (b"GET /v2/status HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"BREW /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /v1/allocations/%ff/c/i HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"PUT /v1/allocations/n//i HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"PUT /v1/allocations/n/%0a/i HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
        (b"GET /v1/status HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_bad_requests_are_answered_and_the_next_is_served(
    tmp_path: Path, sent: bytes, status: int
) -> None:
    async with House(tmp_path) as house:
        answer = await house.raw(sent)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert (await house.ask("GET", "/v1/status"))[0] == 200


async def test_a_hundred_requests_at_once_on_one_connection(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/24"]}) as house:
        body = b'{"owner":"a/b"}'
        request = b"PUT /v1/allocations/n/c%d/i HTTP/1.1\r\nContent-Length: 15\r\n\r\n" + body
        sent = b"".join(request % number for number in range(100))
        answer = await house.raw(sent + b"GET /v1/status HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 201 Created") == 100
        assert answer.index(b'"c0"') < answer.index(b'"c57"') < answer.index(b'"c99"')
        assert len(list(house.agent.allocations)) == 100


async def test_who_asks_first_to_continue(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        reader, writer = await asyncio.open_unix_connection(str(house.listening.path))
        writer.write(
            b"PUT /v1/allocations/n/c/i HTTP/1.1\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: 2\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.read()).startswith(b"HTTP/1.1 201 ")
        writer.close()
        await writer.wait_closed()


class _Sink(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        pass


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=6), close=st.booleans())
def test_wherever_the_pieces_are_cut(cuts: list[int], close: bool) -> None:
    end = b"Connection: close\r\n" if close else b""
    sent = (
        b'PUT /a?b=c HTTP/1.1\r\nX-One: 1 \r\nContent-Length: 7\r\n\r\n{"a":1}'
        b"GET /second HTTP/1.1\r\n" + end + b"\r\n"
    )
    seen: list[Request] = []

    def serve(request: Request) -> Answer:
        seen.append(request)
        return Answer(204)

    transport = _Sink()
    connection = Connection(serve, set())
    connection.connection_made(transport)
    edges = sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})
    for start, stop in pairwise(edges):
        connection.data_received(sent[start:stop])
    assert [(each.method, each.target, each.body) for each in seen] == [
        ("PUT", "/a?b=c", b'{"a":1}'),
        ("GET", "/second", b""),
    ]
    assert seen[0].headers["x-one"] == "1"
    assert transport.written.count(b"HTTP/1.1 204 No Content\r\n") == 2
    assert transport.written.endswith(b"Connection: close\r\n\r\n") is close


def serve(request: Request) -> Answer:
    return Answer(204)


async def test_the_socket_is_its_owner_s_and_one_group_s(tmp_path: Path) -> None:
    listening = Listening(tmp_path / "run" / "agent.sock", serve, group=str(os.getgid()))
    await listening.open()
    found = os.stat(listening.path)
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    with pytest.raises(Invalid, match="another agent runs"):
        await Listening(listening.path, serve).open()
    await listening.close()
    assert not listening.path.exists()


async def test_where_others_could_take_its_place_it_is_not_made(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(Invalid, match="everybody may write to"):
        await Listening(tmp_path / "agent.sock", serve).open()
    os.chmod(tmp_path, 0o755)
    (tmp_path / "agent.sock").write_text("mine")
    with pytest.raises(Invalid, match="is another file"):
        await Listening(tmp_path / "agent.sock", serve).open()
    with pytest.raises(Invalid, match="there is no group"):
        Listening(tmp_path / "other.sock", serve, group="no such group")


async def test_a_dead_agent_s_socket_is_taken_over_and_a_successor_s_left(tmp_path: Path) -> None:
    first = Listening(tmp_path / "agent.sock", serve)
    await first.open()
    assert first._server is not None
    first._server.close()  # dead, and its file is there yet
    second = Listening(tmp_path / "agent.sock", serve)
    await second.open()
    await first.close()
    assert second.path.exists()
    await second.close()
