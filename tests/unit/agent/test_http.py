"""What comes over the socket that is no good request, what comes in pieces, and clients who do not read."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.agent.house import House

from omnipam.core.errors import Invalid
from omnipam.runtime.agent.http import MAX_BODY, MAX_HEAD, STALLED_S, Answer, Connection, Request, Serve
from omnipam.runtime.agent.later import Later
from omnipam.runtime.agent.listening import Listening

NESTED = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"


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
        (
            b"PUT /v1/allocations/n/c/i HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(NESTED), NESTED),
            400,
        ),
        (
            b"POST /v1/gc HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(NESTED), NESTED),
            400,
        ),
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

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

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

    async def receive() -> None:
        connection = Connection(serve, set())
        connection.connection_made(transport)
        edges = sorted({0, len(sent), *(cut % len(sent) for cut in cuts)})
        for start, stop in pairwise(edges):
            connection.data_received(sent[start:stop])
            while not connection.idle:  # noqa: ASYNC110 — a few turns of the loop
                await asyncio.sleep(0)

    asyncio.run(receive())
    assert [(each.method, each.target, each.body) for each in seen] == [
        ("PUT", "/a?b=c", b'{"a":1}'),
        ("GET", "/second", b""),
    ]
    assert seen[0].headers["x-one"] == "1"
    assert transport.written.count(b"HTTP/1.1 204 No Content\r\n") == 2
    assert transport.written.endswith(b"Connection: close\r\n\r\n") is close


GET = b"GET /%d HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def listens(folder: Path, serve: Serve) -> AsyncIterator[Listening]:
    listening = Listening(folder / "agent.sock", serve)
    await listening.open()
    try:
        yield listening
    finally:
        await listening.close(patience_s=0.0)


@contextmanager
def client(listening: Listening) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.setblocking(False)
        made.connect(str(listening.path))
        yield made


async def whole(link: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    loop, found = asyncio.get_running_loop(), bytearray()
    while chunk := await loop.sock_recv(link, 65536):
        found += chunk
    return bytes(found)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 — there is no event for what a test waits for
            await asyncio.sleep(0)


async def turns(number: int = 50) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_who_does_not_read_is_served_no_further_and_nobody_waits_for_him(tmp_path: Path) -> None:
    seen: list[str] = []

    def serve(request: Request) -> Answer:
        seen.append(request.target)
        return Answer(200, b'"%b"' % (b"x" * 20_000))

    loop, count = asyncio.get_running_loop(), 40_000
    async with listens(tmp_path, serve) as listening:
        with client(listening) as deaf, client(listening) as other:
            sending = asyncio.create_task(
                loop.sock_sendall(deaf, b"".join(GET % number for number in range(count)))
            )
            await until(lambda: listening.has_one_client() is False and len(seen) > 5)
            await loop.sock_sendall(other, b"GET /other HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert (await whole(other)).startswith(b"HTTP/1.1 200 ")
            assert len(seen) < 200
            assert not sending.done()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def test_who_reads_late_gets_every_answer_in_order(tmp_path: Path) -> None:
    seen: list[str] = []

    def serve(request: Request) -> Answer:
        seen.append(request.target)
        return Answer(200, b"<%b>%b" % (request.target.encode(), b"x" * 5_000))

    loop, count = asyncio.get_running_loop(), 3_000
    async with listens(tmp_path, serve) as listening:
        with client(listening) as late:
            last = b"GET /last HTTP/1.1\r\nConnection: close\r\n\r\n"
            sending = asyncio.create_task(
                loop.sock_sendall(late, b"".join(GET % number for number in range(count)) + last)
            )
            await until(lambda: any(not each.idle for each in listening._connections) and len(seen) > 5)
            answers = await whole(late)
            await sending
    assert [part.partition(b">")[0] for part in answers.split(b"<")[1:]] == [
        *(b"/%d" % number for number in range(count)),
        b"/last",
    ]


async def test_of_many_requests_sent_at_once_the_others_wait_for_one_only(tmp_path: Path) -> None:
    seen: list[str] = []

    def serve(request: Request) -> Answer:
        seen.append(request.target)
        return Answer(204)

    async with listens(tmp_path, serve) as listening:
        with client(listening) as greedy, client(listening) as modest:
            await until(lambda: len(listening._connections) == 2)
            greedy.send(b"".join(GET % number for number in range(1000)))
            modest.send(b"GET /modest HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert (await whole(modest)).startswith(b"HTTP/1.1 204 ")
            assert seen.index("/modest") <= 3
            greedy.shutdown(socket.SHUT_WR)  # whoever says no more gets what he asked for
            assert (await whole(greedy)).count(b"HTTP/1.1 204 ") == 1000
    assert [each for each in seen if each != "/modest"] == [f"/{number}" for number in range(1000)]


async def test_before_it_ends_it_answers_what_has_arrived(tmp_path: Path) -> None:
    async with listens(tmp_path, serve) as listening:
        with client(listening) as asks:
            await until(lambda: len(listening._connections) == 1)
            asks.send(b"".join(GET % number for number in range(100)))
            await until(lambda: any(not each.idle for each in listening._connections))
            await listening.close()
            assert (await whole(asks)).count(b"HTTP/1.1 204 ") == 100


@pytest.mark.parametrize("option", [b"keep-alive", b"close"])
async def test_who_stays_stuck_is_hung_up_on_and_who_is_slow_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: bytes
) -> None:
    def serve(request: Request) -> Answer:
        return Answer(200, b"x" * 4_000_000)

    loop, now = asyncio.get_running_loop(), [0.0]
    async with listens(tmp_path, serve) as listening:
        with client(listening) as slow:
            monkeypatch.setattr(loop, "time", lambda: now[0])
            await loop.sock_sendall(slow, b"GET / HTTP/1.1\r\nConnection: %b\r\n\r\n" % option)
            await turns()
            (connection,) = listening._connections
            assert connection._stuck
            for _ in range(5):
                assert len(await loop.sock_recv(slow, 300_000)) > 0
                await turns()
                now[0] += STALLED_S + 1.0
                await turns()
                assert connection in listening._connections
            now[0] += STALLED_S + 1.0
            await turns()
            assert connection not in listening._connections
            assert len(await whole(slow)) < 4_000_000


async def test_of_who_waits_no_more_is_taken_than_a_bit(tmp_path: Path) -> None:
    waiting: list[Later] = []

    def serve(request: Request) -> Later:
        waiting.append(Later())
        return waiting[-1]

    loop = asyncio.get_running_loop()
    async with listens(tmp_path, serve) as listening:
        with client(listening) as asks:
            sending = asyncio.create_task(loop.sock_sendall(asks, b"".join(GET % n for n in range(100_000))))
            await until(lambda: bool(waiting))
            (connection,) = listening._connections
            await until(lambda: connection._held)
            await turns()
            assert len(waiting) == 1
            assert len(connection._buffer) <= MAX_HEAD + 256 * 1024
            assert not sending.done()
            waiting[0].set_result(Answer(204))
            await until(lambda: len(waiting) == 2)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


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
