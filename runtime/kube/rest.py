"""One request function against the API server: bytes in, bytes out, our errors.

Mutations are never repeated here (rule 5), except after a 401, which did nothing. There is no PUT (rule 1). A request counts
as started when the gate has let it pass; all that follows, connecting included, ends within its time-out. The gate is asked
once more when the connection is there, right before the first byte: a process may have been stopped in between.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakSet

import aiohttp
import msgspec
from yarl import URL

from omnipam.core.errors import OmnipamError, OutcomeUnknown, Unavailable

from . import credentials
from .config import Cluster
from .errors import one_line, refusal
from .gated import Gated
from .pacing import TokenBucket

Method = Literal["GET", "POST", "PATCH", "DELETE"]
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"
METADATA_OBJECT = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1,{JSON}"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
RENEW_AGAIN_S = 5.0  # a failing plugin is not started by every request
UNBUFFERED = 1  # bytes aiohttp may hold before it stops reading: what comes next then waits in the kernel
CLOSING_TURNS = (
    3  # of the loop, in which connections that were closed end; one that ended before would leave them open
)
CUT_TURNS = 20  # of the loop, in which connections end whose TLS was being closed politely, once they are cut
CONNECT_SHARE = 0.8  # of a request's time is for connecting: what ends there was surely not sent


class Api:
    """A connection to one API server; use as `async with Api(cluster, …) as api`.

    connections: requests in flight at most; watches and urgent requests (the Lease's) come on top.
    timeout_s: total time of a request unless it says otherwise; an operator passes lease duration − renew deadline.
    qps, burst: pacing of reads and of mutations, each by itself; 0 is none.
    gate: called right before each mutation starts that is not urgent, and again before its first byte is sent; raises an
    OmnipamError to forbid it. May be set later.
    patience_s: how long a 403 of a server that is not known to be ready is Unavailable; 0 is not at all. Until a starting API
    server has read its Roles it refuses everything.
    clock: monotonic, the loop's unless given; wall: seconds since 1970, for the expiry that exec plugins state.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        user_agent: str,
        connections: int = 32,
        timeout_s: float = 5.0,
        qps: float = 0.0,
        burst: int = 0,
        gate: Callable[[], None] | None = None,
        patience_s: float = 0.0,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.cluster = cluster
        self.gate = gate
        self._user_agent = user_agent
        self._connections = connections
        self._timeout_s = timeout_s
        self._pace = (qps, burst)
        self._patience_s = patience_s
        self._ready = False  # the server has said so since it was last away
        self._patient_until: float | None = None
        self._clock, self._wall = clock, wall
        self._times: dict[float, aiohttp.ClientTimeout] = {}
        self._fixed: dict[str, Any] = {}  # aiohttp's own keywords, the same for every request
        if cluster.server_name:
            self._fixed["server_hostname"] = cluster.server_name
        if cluster.proxy:
            self._fixed["proxy"] = URL(cluster.proxy)

    async def __aenter__(self) -> Self:
        self._now = self._clock or asyncio.get_running_loop().time
        self._slots = asyncio.Semaphore(self._connections)
        self._renewing = asyncio.Lock()
        qps, burst = self._pace
        self._reads = TokenBucket(qps, burst, clock=self._now) if qps > 0 else None
        self._mutations = TokenBucket(qps, burst, clock=self._now) if qps > 0 else None
        self._credential = await credentials.obtain(self.cluster.auth, clock=self._now, wall=self._wall)
        self._until = self._credential.until_s or float("inf")
        self._failed: tuple[float, OmnipamError] | None = (
            None  # until when renewing is not tried again, and why
        )
        self._retired: list[aiohttp.ClientSession] = []
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._sessions = self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (*self._sessions, *self._retired):
            await session.close()
        for _ in range(CLOSING_TURNS):
            await asyncio.sleep(0)
        # aiohttp closes the connection of a cancelled request politely: TLS waits for the server, and the loop may end before.
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for _ in range(CUT_TURNS):
            if all(each.fileno() < 0 for each in self._sockets):
                break
            await asyncio.sleep(0)

    async def request(
        self,
        method: Method,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        content_type: str | None = None,
        accept: str | None = None,
        timeout_s: float | None = None,
        urgent: bool = False,
    ) -> bytes:
        """Return the body of a 2xx answer.

        path, query: already percent-encoded (names of Kubernetes objects need none).
        urgent: not paced, not gated, not counted, on connections of their own: for the Lease, which must pass when all else
        waits, and not stand behind thirty handshakes because a write took the connection that was there.
        Raises what `errors.refusal` makes of an answer; Unavailable if surely nothing was sent, or for a read without
        an answer; OutcomeUnknown for a mutation whose answer was lost; whatever the gate raises.
        """
        if urgent:
            return await self._request(
                method, path, query, body, content_type, accept, timeout_s, urgent=True
            )
        bucket = self._reads if method == "GET" else self._mutations
        if bucket is not None:
            await bucket.take()
        async with self._slots:
            gate = self.gate if method != "GET" else None
            return await self._request(method, path, query, body, content_type, accept, timeout_s, gate=gate)

    async def get(
        self, path: str, query: str = "", *, accept: str | None = None, urgent: bool = False
    ) -> bytes:
        """Return an object or a page of a list."""
        return await self.request("GET", path, query=query, accept=accept, urgent=urgent)

    async def merge_patch(self, path: str, body: bytes, *, urgent: bool = False) -> bytes:
        """Write the fields in `body`; with `metadata.resourceVersion` in it, Conflict if the object moved on."""
        return await self.request("PATCH", path, body=body, content_type=MERGE_PATCH, urgent=urgent)

    async def create(self, path: str, body: bytes, *, urgent: bool = False) -> bytes:
        """Create an object in the collection at `path`. Raises AlreadyExists."""
        return await self.request("POST", path, body=body, content_type=JSON, urgent=urgent)

    async def delete(self, path: str, *, uid: str) -> bytes:
        """Delete the object only if it is still the one with this uid; Conflict if it is another by now."""
        body = msgspec.json.encode(
            {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        )
        return await self.request("DELETE", path, body=body, content_type=JSON)

    @asynccontextmanager
    async def stream(
        self, path: str, query: str, *, idle_s: float, gather_s: float = 0.0, accept: str | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch and yield its chunks. A stream silent for `idle_s` raises Unavailable, as a broken one does.

        gather_s: after each chunk the socket is left alone for this long, so that what comes in a rush comes as one chunk.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=idle_s)
        response = await self._send(
            "GET",
            path,
            query,
            None,
            None,
            accept,
            timeout,
            read_bufsize=UNBUFFERED if gather_s else None,
        )
        transport = response.connection.transport if response.connection is not None else None
        try:
            if response.status != 200:
                raise await self._refused("GET", path, response)
            try:
                async with aclosing(self._chunks(path, response, gather_s)) as chunks:
                    yield chunks
            except BaseException:
                # aiohttp has let go of a broken one, and closing does nothing to TLS whose peer ended while we did not read.
                if transport is not None:
                    transport.abort()
                raise
        finally:
            # Nobody waits for the rest; closing TLS politely would take a round trip, and outlive a loop that ends here.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def _request(
        self,
        method: Method,
        path: str,
        query: str,
        body: bytes | None,
        content_type: str | None,
        accept: str | None,
        timeout_s: float | None,
        *,
        gate: Callable[[], None] | None = None,
        urgent: bool = False,
    ) -> bytes:
        timeout = self._timeout(self._timeout_s if timeout_s is None else timeout_s)
        response = await self._send(
            method, path, query, body, content_type, accept, timeout, gate=gate, urgent=urgent
        )
        if 200 <= response.status < 300:
            try:
                return await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                raise self._lost(exc, method, path) from exc
        raise await self._refused(method, path, response)

    async def _send(
        self,
        method: Method,
        path: str,
        query: str,
        body: bytes | None,
        content_type: str | None,
        accept: str | None,
        timeout: aiohttp.ClientTimeout,
        *,
        gate: Callable[[], None] | None = None,
        urgent: bool = False,
        read_bufsize: int | None = None,
    ) -> aiohttp.ClientResponse:
        """Return the response once its head is there, after one more try with new credentials if it was a 401."""
        target = f"{self.cluster.server}{path}?{query}" if query else self.cluster.server + path
        url = URL(target, encoded=True)
        headers: dict[str, str] = {}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if accept is not None:
            headers["Accept"] = accept
        if self._now() >= self._until:
            await self._renew(self._credential, rejected=False)
        for last in (False, True):
            used = self._credential
            gated = None
            if gate is not None:
                gate()
                gated = Gated(body or b"", gate)
            try:
                response = await self._sessions[urgent].request(
                    method,
                    url,
                    data=gated or body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    read_bufsize=read_bufsize,
                    **self._fixed,
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as exc:
                if gated is not None and gated.refused is not None:  # nothing was sent
                    raise gated.refused from None
                raise self._lost(exc, method, path) from exc
            if response.status != 401 or last:
                break
            response.close()
            await self._renew(used, rejected=True)
        return response

    async def _renew(self, used: credentials.Credential, *, rejected: bool) -> None:
        """Obtain a new credential, unless another request has done so since `used`."""
        async with self._renewing:
            if self._credential is not used:
                return
            if self._failed is not None and self._now() < self._failed[0]:
                raise self._failed[1]
            try:
                fresh = await credentials.obtain(self.cluster.auth, clock=self._now, wall=self._wall)
            except OmnipamError as exc:
                if rejected or self.cluster.auth.exec is not None:
                    self._failed = (self._now() + RENEW_AGAIN_S, exc)
                    raise
                self._until = (
                    self._now() + credentials.REREAD_S
                )  # the file is being replaced: what we have may still do
                return
            new_certificate = (fresh.certificate, fresh.key) != (used.certificate, used.key)
            self._credential, self._until = fresh, fresh.until_s or float("inf")
            if new_certificate or fresh.headers != used.headers:
                # Connections know their certificate and sessions their headers: a new one. What is under way ends in the old.
                self._retired.extend(self._sessions)
                self._sessions = self._open()
            while len(self._retired) > 4:
                await self._retired.pop(0).close()

    def _open(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientSession]:
        """A session for all, and one for what is urgent."""
        secure = self.cluster.server.startswith("https:")
        tls = credentials.tls_context(self.cluster, self._credential) if secure else True
        return self._session(tls), self._session(tls)

    def _session(self, tls: ssl.SSLContext | bool) -> aiohttp.ClientSession:
        # No limit here: `_slots` is ours, so that the gate is asked after the wait for a connection, not before.
        connector = aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=self._socket)
        headers = [("User-Agent", self._user_agent), ("Accept", JSON), *self._credential.headers]
        session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            skip_auto_headers=("Accept-Encoding",),  # compressing a list costs both sides more than the bytes
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # aiohttp would send a DELETE again when its connection breaks (rule 5). It has no public switch; a test watches this one.
        session._retry_connection = False
        return session

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        if total_s not in self._times:
            # aiohttp rounds deadlines of ceil_threshold seconds and more up to a whole second; this one is a promise.
            self._times[total_s] = aiohttp.ClientTimeout(
                total=total_s, sock_connect=total_s * CONNECT_SHARE, ceil_threshold=float("inf")
            )
        return self._times[total_s]

    async def _refused(self, method: Method, path: str, response: aiohttp.ClientResponse) -> OmnipamError:
        try:
            body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            body = b""  # the code alone says enough
        error = refusal(
            f"{method} {path}",
            response.status,
            body,
            mutation=method != "GET",
            retry_after=response.headers.get("Retry-After"),
        )
        if response.status == 403 and self._patience_s and await self._may_be_starting():
            return Unavailable(f"{error}, unless the API server is still starting")
        return error

    async def _may_be_starting(self) -> bool:
        """Whether a server that refuses us may not yet know its Roles: it is not ready, and has not been for long."""
        if self._ready:
            return False
        if self._patient_until is None:
            self._patient_until = self._now() + self._patience_s
        if self._now() >= self._patient_until:
            return False
        response = await self._send("GET", "/readyz", "", None, None, None, self._timeout(self._timeout_s))
        response.close()
        self._ready = response.status == 200
        return not self._ready

    async def _chunks(
        self, path: str, response: aiohttp.ClientResponse, gather_s: float
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
                if gather_s:
                    await asyncio.sleep(gather_s)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise self._lost(exc, "GET", path) from exc

    def _lost(self, exc: Exception, method: Method, path: str) -> OmnipamError:
        server = self.cluster.server
        self._ready, self._patient_until = False, None  # it may come back as another
        match exc:
            case aiohttp.ClientConnectorCertificateError():
                why = one_line(str(exc.certificate_error))
                return Unavailable(
                    f"API server {server}: its certificate is not accepted ({why});"
                    f" check certificate-authority and tls-server-name in {self.cluster.source}"
                )
            case aiohttp.ClientConnectorError():
                why = one_line(exc.os_error.strerror or str(exc.os_error))
                return Unavailable(
                    f"API server {server} cannot be reached ({why}); check that it runs and the address"
                )
            case aiohttp.ConnectionTimeoutError():
                return Unavailable(
                    f"API server {server} cannot be reached (no connection in time); check the address"
                )
            case aiohttp.ClientHttpProxyError():
                return Unavailable(
                    f"API server {server} cannot be reached (proxy: {exc.status}); check proxy-url"
                )
        why = (
            "no answer in time" if isinstance(exc, TimeoutError) else one_line(str(exc)) or type(exc).__name__
        )
        if method == "GET":
            return Unavailable(f"{method} {path}: {why}")
        return OutcomeUnknown(f"{method} {path}: the answer was lost ({why}); it may have happened")
