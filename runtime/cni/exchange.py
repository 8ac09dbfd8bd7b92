"""One HTTP exchange with the agent over its unix socket, by hand: http.client would cost more than all the rest of a call."""

from __future__ import annotations

import json
import socket
import time

MOST_HEAD, MOST_BODY = 1 << 16, 1 << 24
"""Bytes that an answer may have: whoever sends more is no agent."""
_CHUNK = 1 << 16
_AGAIN_S = 0.02


class NoAnswer(Exception):
    """The agent is away, silent, or what came is no answer. The text says which, in one line.

    maybe_done: the request had left, so it may have been carried out.
    """

    def __init__(self, text: str, *, maybe_done: bool) -> None:
        super().__init__(text)
        self.maybe_done = maybe_done


def exchange(
    path: str, method: str, target: str, body: object = None, *, timeout_s: float
) -> tuple[int, object]:
    """The status and the decoded JSON body (None if there is none) of one request on a connection of its own.

    target: begins with /, percent-encoded. timeout_s: for all of it. Raises NoAnswer.
    """
    deadline = time.monotonic() + timeout_s
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
    if content:
        head += "Content-Type: application/json\r\n"
    sent = False
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            _connect(connection, path, deadline)
            sent = True
            connection.settimeout(_left(deadline))
            connection.sendall(f"{head}\r\n".encode("ascii") + content)
        except TimeoutError:
            raise NoAnswer(
                f"{path}: nobody took the request within {timeout_s:g} s", maybe_done=sent
            ) from None
        except OSError as error:
            # An answer may be there all the same: a server that refuses a request need not read it all.
            if not sent:
                raise NoAnswer(f"{path}: {error.strerror or error}", maybe_done=False) from None
        try:
            status, answer = _receive(connection, deadline)
        except TimeoutError:
            raise NoAnswer(f"{path}: no answer within {timeout_s:g} s", maybe_done=True) from None
        except OSError as error:
            raise NoAnswer(f"{path}: {error.strerror or error}", maybe_done=True) from None
        except (ValueError, RecursionError) as error:
            raise NoAnswer(f"{path}: {error}", maybe_done=True) from None
    return status, answer


def _connect(connection: socket.socket, path: str, deadline: float) -> None:
    """A full backlog answers EAGAIN at once (unix(7)), whatever the timeout: an agent that is there will come to it. Raises OSError."""
    while True:
        connection.settimeout(_left(deadline))
        try:
            connection.connect(path)
        except BlockingIOError:
            time.sleep(min(_AGAIN_S, _left(deadline)))
        else:
            return


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _receive(connection: socket.socket, deadline: float) -> tuple[int, object]:
    """Raises OSError if the connection breaks or the time is over, ValueError for what is no HTTP/1.1 or no JSON."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            if len(received) > MOST_HEAD:
                raise ValueError("the answer's head does not end")
            more = _more(connection, deadline)
            if not more:
                raise ValueError("the connection was closed without a whole answer")
            received += more
        head, _, received = received.partition(b"\r\n\r\n")
        status, length = _read_head(head)
        if status >= 200:  # the others are announcements
            break
    if status == 204:
        return status, None
    if length is not None and length > MOST_BODY:
        raise ValueError(f"the answer has {length} bytes, which no agent sends")
    parts, size = [received], len(received)
    while length is None or size < length:
        more = _more(connection, deadline)
        if not more:
            break
        parts.append(more)
        size += len(more)
        if size > MOST_BODY:
            raise ValueError("the answer does not end")
    if length is not None and size < length:
        raise ValueError(f"the connection was closed after {size} of the answer's {length} bytes")
    content = b"".join(parts)[:length]
    try:
        return status, json.loads(content) if content else None
    except (ValueError, RecursionError):
        if status >= 400:
            return status, content.decode("utf-8", "replace")
        raise ValueError("the answer is no JSON") from None


def _more(connection: socket.socket, deadline: float) -> bytes:
    connection.settimeout(_left(deadline))
    return connection.recv(_CHUNK)


def _read_head(head: bytes) -> tuple[int, int | None]:
    """Status and Content-Length."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise ValueError("what answered does not speak HTTP/1.1")
    length = None
    for line in lines:
        name, _, value = line.partition(":")
        value = value.strip()
        if name.lower() == "content-length":
            if not (value.isascii() and value.isdigit() and len(value) < 19):
                raise ValueError("the answer has a Content-Length that is no number")
            length = int(value)
        elif name.lower() == "transfer-encoding":
            raise ValueError(f"the answer is {value[:40]}, which no agent sends")
    return int(code), length
