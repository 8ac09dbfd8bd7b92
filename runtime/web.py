"""The few pages that an operator serves: `/healthz`, `/readyz`, `/metrics`. GET and HEAD only, one answer a connection."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping

import msgspec

from omnipam.core.errors import Invalid

MAX_HEAD = 8192
PATIENCE_S = 5.0
BACKLOG = 100
ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Answer(msgspec.Struct, frozen=True):
    """What a page answers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Page = Callable[[], Answer]


def text(status: int, words: str) -> Answer:
    """A line of plain text."""
    return Answer(status, f"{words}\n".encode())


class Web:
    """Serves pages on one address."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._servers: list[asyncio.Server] = []

    async def open(self, host: str, port: int, key: str) -> int:
        """Listens, and answers the port (the one chosen, if `port` is 0). `host` empty: on all addresses.

        key: where the address was configured. Raises Invalid where it cannot be listened on.
        """
        try:
            for bound in await _bind(host, port):
                self._servers.append(await asyncio.start_server(self._serve, sock=bound, limit=MAX_HEAD))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            why = "is in use" if in_use else f"cannot be listened on ({error.strerror or error})"
            raise Invalid(f"{key}: {host}:{port} {why}; free the port, or set another address") from None
        chosen: int = self._servers[0].sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Listens no more."""
        while self._servers:
            self._servers.pop().close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                answer = self._answer(head)
                lines = (
                    f"HTTP/1.1 {answer.status} {REASONS[answer.status]}",
                    f"Content-Type: {answer.content_type}",
                    f"Content-Length: {len(answer.body)}",
                    "Connection: close",
                )
                writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
                if not head.startswith(b"HEAD "):
                    writer.write(answer.body)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone, or speaks no HTTP
        finally:
            writer.close()

    def _answer(self, head: bytes) -> Answer:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return text(400, "bad request")
        if words[0] not in (b"GET", b"HEAD"):
            return text(405, "only GET is served here")
        page = self._pages.get(words[1].split(b"?", 1)[0].decode("latin-1"))
        if page is None:
            return text(404, f"not here; there are {', '.join(sorted(self._pages))}")
        try:
            return page()
        except Exception as error:  # noqa: BLE001 — whoever asked must see it, and the next may ask
            return text(500, f"{type(error).__name__}: {error}")


async def _bind(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of `host`. Families that this machine has not are passed over: many a container knows the
    name `localhost` for ::1, too, and has no IPv6. Raises OSError if none is left, or one is taken."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    absent: OSError | None = None
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        if bound and not port:
            address = (address[0], bound[0].getsockname()[1], *address[2:])
        try:
            bound.append(socket.create_server(address, family=family, backlog=BACKLOG))
        except OSError as error:
            if error.errno in ABSENT:
                absent = error
                continue
            for each in bound:
                each.close()
            raise
    if not bound:
        raise absent or OSError(errno.EADDRNOTAVAIL, "no such address")
    return bound
