"""A loopback HTTP server whose answers, silences and hang-ups the test writes: the wire, without a Kubernetes behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from omnipam.runtime.kube.config import Auth, Cluster
from omnipam.runtime.kube.rest import Api

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """Answers with `answer`; remembers what came in; `arrived` is set by each request."""

    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            Seen(
                request.method, request.path, dict(request.query), dict(request.headers), await request.read()
            )
        )
        self.arrived.set()
        return await self.answer(request)

    def cluster(self, auth: Auth | None = None) -> Cluster:
        return Cluster(server=self.url, source="test", auth=auth or Auth())

    def api(self, **options: object) -> Api:
        cluster = options.pop("cluster", None) or self.cluster()
        return Api(cluster, user_agent="omnipam/test (unit)", **options)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Wire]:
    wire = Wire(answer)
    server = web.Server(wire.handle)
    runner = web.ServerRunner(server, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    wire.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield wire
    finally:
        await runner.cleanup()


def says(code: int, reason: str = "", message: str = "no", headers: dict[str, str] | None = None) -> Answer:
    """An answer with a Status, as the API server gives it."""

    async def answer(request: web.Request) -> web.Response:
        status = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}
        return web.Response(status=code, body=json.dumps(status).encode(), headers=headers)

    return answer


def gives(body: bytes, code: int = 200) -> Answer:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=code, body=body)

    return answer


async def hangs(request: web.Request) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


async def drops(request: web.Request) -> web.StreamResponse:
    """Resets the connection after the request came in whole."""
    assert request.transport is not None
    request.transport.abort()
    await asyncio.Event().wait()
    raise AssertionError


async def tears(request: web.Request) -> web.StreamResponse:
    """Sends half an answer, then resets."""
    response = web.StreamResponse()
    response.content_length = 1000
    await response.prepare(request)
    await response.write(b'{"half')
    assert request.transport is not None
    request.transport.abort()
    return response


def in_turn(*answers: Answer) -> Answer:
    """Each request gets the next answer; the last one stays."""
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        return await (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer
