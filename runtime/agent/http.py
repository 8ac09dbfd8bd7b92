"""HTTP/1.1 on a unix socket, as little of it as the agent needs: one request at a time a connection, bodies with a length.

Requests are handed over in the order in which they arrive; an answer may come later. Whoever hangs up while his request waits has
it cancelled. Whoever does not read his answers gets no further ones, and is hung up on in the end: nobody else waits for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from .later import Later

MAX_HEAD = 16 * 1024
MAX_BODY = 8 * 1024 * 1024  # a GC lists every attachment of a node
STALLED_S = 30.0
"""How long a client may take nothing of an answer that it has not read."""
REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    422: "Unprocessable Content",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
_LINES = {code: f"HTTP/1.1 {code} {text}\r\n".encode() for code, text in REASONS.items()}


class Request(msgspec.Struct, frozen=True, gc=False):
    """target: path and query as they came. headers: by lower-case name."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Answer(msgspec.Struct, frozen=True, gc=False):
    """body: JSON; empty for none."""

    status: int
    body: bytes = b""


Serve = Callable[[Request], "Answer | Later"]
"""Answers at once or later, with an Answer; raises nothing."""


class BadRequest(Exception):
    """What came is no request that we can read. The connection ends with the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def problem(status: int, reason: str, message: str, details: object = None) -> Answer:
    """An error as ours are told."""
    body: dict[str, object] = {"reason": reason, "message": message}
    if details:
        body["details"] = details
    return Answer(status, msgspec.json.encode(body))


class Connection(asyncio.Protocol):
    """One client. At most one of these holds at a time, and while one does, nothing more of his is served: an answer is awaited, a
    turn of the loop is due to him, or he is stuck, not having read his answers.
    """

    def __init__(self, serve: Serve, connections: set[Connection]) -> None:
        self._serve, self._connections = serve, connections
        self._buffer = bytearray()
        self._pending: Later | None = None
        self._due = self._stuck = False
        self._held = False  # nothing more is read
        self._keep = True
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, chunk: bytes) -> None:
        self._buffer += chunk
        if self.idle:
            self._next()
        elif len(self._buffer) > MAX_HEAD:
            self._hold(True)

    def pause_writing(self) -> None:
        transport = self._transport
        if transport is not None:
            self._stuck = True
            self._hold(True)
            self._look_again(transport)

    def resume_writing(self) -> None:
        self._stuck = False
        if self._watch is not None:
            self._watch.cancel()
        self._go_on()

    @property
    def idle(self) -> bool:
        return self._pending is None and not self._due and not self._stuck

    def close(self) -> None:
        """Hangs up, once what was answered is read; serves nothing more."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _next(self) -> None:
        """Hands over the first request that has arrived."""
        try:
            request = self._read()
        except BadRequest as bad:
            self._keep = False
            self._send(problem(bad.status, "Invalid", str(bad)))
            return
        if request is None:
            self._hold(False)
            return
        answer = self._serve(request)
        if isinstance(answer, Later):
            if not answer.done():
                self._pending = answer
                self._hold(len(self._buffer) > MAX_HEAD)  # else we read on, to learn that he hangs up
                answer.add_done_callback(self._answered)
                return
            answer = _result(answer)
        self._send(answer)
        self._go_on()

    def _answered(self, later: Later) -> None:
        self._pending = None
        if self._transport is not None:  # else nobody is left to tell
            self._send(_result(later))
            self._go_on()

    def _go_on(self) -> None:
        """Serves what has arrived meanwhile, in the loop's next turn, since others want theirs; and before more is read."""
        if self._transport is None or self._stuck:
            return
        if self._buffer:
            self._due = True
            self._loop.call_soon(self._turn)
        self._hold(self._due)

    def _turn(self) -> None:
        self._due = False
        if self._transport is not None:
            self._next()

    def _hold(self, held: bool) -> None:
        if held is not self._held and self._transport is not None:
            self._held = held
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _look_again(self, transport: asyncio.Transport) -> None:
        unread = transport.get_write_buffer_size()
        self._watch = self._loop.call_later(STALLED_S, self._stalled, transport, unread)

    def _stalled(self, transport: asyncio.Transport, before: int) -> None:
        if transport.get_write_buffer_size() < before:  # slow, but he reads
            self._look_again(transport)
        else:
            transport.abort()

    def _send(self, answer: Answer) -> None:
        transport = self._transport
        if transport is None:
            return
        end = b"\r\n" if self._keep else b"Connection: close\r\n\r\n"
        if answer.status == 204:
            transport.write(_LINES[204] + end)
        else:
            length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(answer.body)
            transport.write(_LINES[answer.status] + length + end + answer.body)
        if not self._keep:
            self.close()

    def _read(self) -> Request | None:
        """The next request, None if not all of it is there. Raises BadRequest."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD:
                raise BadRequest(431, f"the head is longer than {MAX_HEAD} bytes")
            return None
        if end > MAX_HEAD:
            raise BadRequest(431, f"the head is longer than {MAX_HEAD} bytes")
        first, *lines = buffer[:end].decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
            raise BadRequest(400, "this is no HTTP/1.1 request")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise BadRequest(400, "a header line cannot be read")
            headers[name.lower()] = value.strip()
        if "transfer-encoding" in headers:
            raise BadRequest(411, "a body must have a Content-Length")
        text = headers.get("content-length", "0")
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise BadRequest(400, "Content-Length is no number")
        length = int(text)
        if length > MAX_BODY:
            raise BadRequest(413, f"the body is longer than {MAX_BODY} bytes")
        start = end + 4
        if len(buffer) < start + length:
            waits = headers.get("expect", "").lower() == "100-continue" and len(buffer) == start
            if waits and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body = bytes(buffer[start : start + length])
        del buffer[: start + length]
        option = headers.get("connection", "").lower()
        self._keep = option == "keep-alive" if words[2] == "HTTP/1.0" else option != "close"
        return Request(words[0], words[1], headers, body)


def _result(future: Later) -> Answer:
    if future.cancelled():
        return problem(503, "NotReady", "released, or ended, while it waited: ask again")
    error = future.exception()
    if error is not None:
        return problem(500, "Error", f"{type(error).__name__}: {error}")
    answer = future.result()
    assert isinstance(answer, Answer)
    return answer
