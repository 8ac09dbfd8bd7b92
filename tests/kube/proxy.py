"""A proxy on loopback that breaks the line between a client and the API server, on command.

Given the server's certificate it ends TLS and begins it again, so that a fault can pick its request by the first
bytes of it (`rb"PATCH /apis/cilium.io/"`). Given none it passes bytes on as they are, and a pattern sees ciphertext.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar
from urllib.parse import urlsplit

from tests.kube.ports import free_port

T = TypeVar("T")

CHUNK = 1 << 18
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0 s: closing sends a reset, and what was not sent yet is forgotten."""
LANDING_S = 5.0
"""How long the server has for a request whose client went away."""


@dataclass(slots=True)
class _Trap:
    """A fault that waits for `left` more requests that begin with `pattern`."""

    pattern: re.Pattern[bytes]
    answer: bool
    """True: the server gets the request, the client no answer. False: the server does not even get the request."""
    left: int


@dataclass(slots=True, eq=False)
class _Line:
    """One client's connection and, once the server is reached, ours to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    doomed: bool = False
    """The next bytes of the server are the answer that gets lost."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """The server has said something since the client last did."""

    def cut(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None and not writer.transport.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()


class Proxy:
    """Listens on `url` from construction until `stop()`. Every method may be called from any thread and event loop."""

    def __init__(
        self,
        target: str,
        *,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        """target: the server's URL; `server_tls` faces the client and `client_tls` the server: both or neither."""
        address = urlsplit(target)
        self._target = (address.hostname or "127.0.0.1", address.port or 443)
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self.accepted = 0
        """Connections taken since the start."""
        self.lost = 0
        """Requests and answers that `lose_request` and `lose_answer` have taken."""
        self.greeted: Callable[[int], object] = lambda connections: None
        """Called when a client's handshake is done, before a byte of it is read, with how many there have been."""
        self._greetings = 0
        self._delay_s = 0.0
        self._traps: list[_Trap] = []
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._accepting: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"proxy-{self._port}", daemon=True
        )
        self._thread.start()
        self._await(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._lines)

    def cut(self) -> None:
        """Drop all connections now, with a reset. New ones are served."""
        self._call(self._cut)

    def blackhole(self) -> None:
        """Go silent: connections are accepted and stay open, nothing passes, either way, until `resume()`."""
        self._call(self._flowing.clear)

    def refuse(self) -> None:
        """Refuse new connections, as when nothing listens. Open ones live on: `cut()` them too for a dead server."""
        self._await(self._stop_listening())

    def delay(self, seconds: float) -> None:
        """Hold each piece of what the server says, watch events too, for so long."""
        self._call(lambda: setattr(self, "_delay_s", seconds))

    def lose_answer(self, pattern: bytes = b"", times: int = 1) -> None:
        """The fault after the effect: let the next request that begins so reach the server, cut before its answer.

        pattern: a regular expression, matched from the first byte that the client sends at a time. Without TLS of
        the proxy's own it means the next bytes at all, and the connection must be past its handshake.
        """
        trap = _Trap(re.compile(pattern, re.DOTALL), answer=True, left=times)
        self._call(lambda: self._traps.append(trap))

    def lose_request(self, pattern: bytes = b"", times: int = 1) -> None:
        """The fault before the effect: cut when the next request that begins so arrives. `pattern` as above."""
        trap = _Trap(re.compile(pattern, re.DOTALL), answer=False, left=times)
        self._call(lambda: self._traps.append(trap))

    def resume(self) -> None:
        """End every fault: listen, pass everything on at once (what was held too), forget what was to be lost."""
        self._await(self._resume())

    def stop(self) -> None:
        """Cut everything and end. May be called twice."""
        if self._loop.is_closed():
            return
        self._await(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, action: Callable[[], object]) -> None:
        async def call() -> None:
            action()

        self._await(call())

    def _cut(self) -> None:
        for line in self._lines:
            line.cut()

    async def _listen(self) -> None:
        if self._accepting is None:
            listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
            listener.setblocking(False)
            self._accepting = asyncio.create_task(self._accept(listener))

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None

    async def _resume(self) -> None:
        self._traps.clear()
        self._delay_s = 0.0
        self._flowing.set()
        await self._listen()

    async def _shut_down(self) -> None:
        await self._stop_listening()
        self._cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # the aborted transports close their sockets

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                self.accepted += 1
                task = asyncio.create_task(self._serve(client))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            await self._flowing.wait()  # before the handshake: a black hole shakes no hands
            reader = asyncio.StreamReader(limit=CHUNK)
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._server_tls
            )
        except BaseException as error:
            accepted.close()
            if isinstance(error, OSError):
                return
            raise
        self._greetings += 1
        self.greeted(self._greetings)
        line = _Line(asyncio.StreamWriter(transport, protocol, reader, self._loop))
        self._lines.add(line)
        try:
            with suppress(OSError):
                answers, line.server = await asyncio.open_connection(
                    *self._target, ssl=self._client_tls, limit=CHUNK
                )
                ways = {
                    asyncio.create_task(self._forward_requests(line, reader)),
                    asyncio.create_task(self._forward_answers(line, answers)),
                }
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.wait(ways)
        finally:
            line.cut()
            self._lines.discard(line)

    async def _forward_requests(self, line: _Line, reader: asyncio.StreamReader) -> None:
        assert line.server is not None
        line.answered.set()
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                await self._flowing.wait()
                trap = self._trap(chunk)
                if trap is not None and not trap.answer:
                    self.lost += 1
                    return
                line.doomed = line.doomed or trap is not None
                line.answered.clear()
                line.server.write(chunk)
                await line.server.drain()
        # The client gave up. What it asked for still lands: a server that saw the end too would stop working on it.
        with suppress(TimeoutError):
            await asyncio.wait_for(line.answered.wait(), LANDING_S)

    async def _forward_answers(self, line: _Line, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                line.answered.set()
                await asyncio.sleep(self._delay_s)
                await self._flowing.wait()
                if line.doomed:
                    self.lost += 1
                    return
                line.client.write(chunk)
                await line.client.drain()
            line.client.close()  # the server ended it in good order, and so do we: what was written still goes out
            await line.client.wait_closed()

    def _trap(self, chunk: bytes) -> _Trap | None:
        for trap in self._traps:
            if trap.left and trap.pattern.match(chunk):
                trap.left -= 1
                return trap
        return None
