"""HTTP/1.1 on a unix socket, as little of it as the agent needs: one request at a time a connection, bodies with a length.

Requests are handed over in the order in which they arrive; an answer may come later. Whoever hangs up while his request waits has
it cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from .later import Later

MAX_HEAD = 16 * 1024
MAX_BODY = 8 * 1024 * 1024  # a GC lists every attachment of a node
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
    """One client."""

    def __init__(self, serve: Serve, connections: set[Connection]) -> None:
        self._serve, self._connections = serve, connections
        self._buffer = bytearray()
        self._pending: Later | None = None
        self._keep = True
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        if self._pending is not None:
            self._pending.cancel()

    def data_received(self, chunk: bytes) -> None:
        self._buffer += chunk
        if self._pending is None:
            self._next()
        elif len(self._buffer) > MAX_HEAD and self._transport is not None:
            self._transport.pause_reading()

    @property
    def idle(self) -> bool:
        return self._pending is None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _next(self) -> None:
        """Hands over the requests that have arrived, up to one whose answer takes a while."""
        while self._transport is not None and self._buffer:
            try:
                request = self._read()
            except BadRequest as bad:
                self._keep = False
                self._send(problem(bad.status, "Invalid", str(bad)))
                return
            if request is None:
                return
            answer = self._serve(request)
            if isinstance(answer, Later):
                if not answer.done():
                    self._pending = answer
                    answer.add_done_callback(self._answered)
                    return
                answer = _result(answer)
            self._send(answer)

    def _answered(self, later: Later) -> None:
        self._pending = None
        if self._transport is None:
            return  # nobody is left to tell
        self._send(_result(later))
        if self._transport is not None and self._buffer:
            self._transport.resume_reading()
            self._next()

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
            transport.close()
            self._transport = None

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
