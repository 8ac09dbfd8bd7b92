"""The request function against a server that misbehaves on the wire."""

from __future__ import annotations

import asyncio
import socket
import sys

import aiohttp
import pytest
from aiohttp import web
from tests.unit.kube.wire import drops, gives, hangs, in_turn, says, serving, tears

from omnipam.core.errors import (
    Conflict,
    Denied,
    Invalid,
    NotFound,
    OmnipamError,
    OutcomeUnknown,
    Throttled,
    Unavailable,
)
from omnipam.runtime.election import LostLease
from omnipam.runtime.kube.config import Auth, Cluster, Exec
from omnipam.runtime.kube.errors import AlreadyExists, Expired
from omnipam.runtime.kube.pacing import TokenBucket
from omnipam.runtime.kube.rest import Api, Method

PATH = "/apis/cilium.io/v2/ciliumnodes/n1"


@pytest.mark.parametrize(
    ("code", "reason", "read", "mutation"),
    [
        (400, "BadRequest", Invalid, Invalid),
        (401, "Unauthorized", Denied, Denied),
        (403, "Forbidden", Denied, Denied),
        (404, "NotFound", NotFound, NotFound),
        (409, "Conflict", Conflict, Conflict),
        (409, "AlreadyExists", AlreadyExists, AlreadyExists),
        (410, "Expired", Expired, Expired),
        (422, "Invalid", Invalid, Invalid),
        (429, "TooManyRequests", Throttled, Throttled),
        (500, "InternalError", Unavailable, OutcomeUnknown),
        (502, "", Unavailable, OutcomeUnknown),
        (503, "ServiceUnavailable", Unavailable, Unavailable),
        (504, "Timeout", Unavailable, OutcomeUnknown),
    ],
)
async def test_codes_become_our_errors(
    code: int, reason: str, read: type[OmnipamError], mutation: type[OmnipamError]
) -> None:
    async with serving(says(code, reason, "line one\nline two")) as wire, wire.api() as api:
        for method, expected in (
            ("GET", read),
            ("PATCH", mutation),
            ("POST", mutation),
            ("DELETE", mutation),
        ):
            with pytest.raises(OmnipamError) as caught:
                await api.request(method, PATH, body=b"{}" if method != "GET" else None)
            assert type(caught.value) is expected
            assert str(caught.value).startswith(f"{method} {PATH}: {code}")
            assert "line one line two" in str(caught.value)


async def test_a_server_that_is_starting_and_refuses_all_is_not_there_yet() -> None:
    """Until a kube-apiserver has read its Roles it answers 403, to /readyz too; then /readyz is 500 for a while."""
    now, readyz = 0.0, 403

    async def starting(request: web.Request) -> web.StreamResponse:
        return await says(readyz if request.path == "/readyz" else 403, "Forbidden")(request)

    async with serving(starting) as wire, wire.api(patience_s=30, clock=lambda: now) as api:
        for answer in (403, 500, 403):
            readyz = answer
            with pytest.raises(Unavailable, match=r"403 Forbidden.*grant it.*unless the API server is still"):
                await api.get(PATH)
            now += 10
        asked = len(wire.seen)
        for method in ("GET", "PATCH"):  # it lasts: a person must act
            with pytest.raises(Denied):
                await api.request(method, PATH, body=b"{}" if method == "PATCH" else None)
        assert len(wire.seen) == asked + 2


async def test_a_server_that_is_ready_and_refuses_means_it() -> None:
    async def ready(request: web.Request) -> web.StreamResponse:
        return await says(200 if request.path == "/readyz" else 403, "Forbidden")(request)

    async with serving(ready) as wire, wire.api(patience_s=30) as api:
        for _ in range(2):
            with pytest.raises(Denied):
                await api.merge_patch(PATH, b"{}")
        assert [seen.path for seen in wire.seen] == [PATH, "/readyz", PATH]  # that it is ready is known then
        wire.answer = drops
        with pytest.raises(Unavailable):
            await api.get(PATH)
        wire.answer = says(403, "Forbidden")  # it came back, and is starting
        with pytest.raises(Unavailable):
            await api.get(PATH)


async def test_503_of_a_load_balancer_may_have_happened() -> None:
    async with serving(gives(b"upstream connect error", 503)) as wire, wire.api() as api:
        with pytest.raises(OutcomeUnknown):
            await api.merge_patch(PATH, b"{}")
        with pytest.raises(Unavailable):
            await api.get(PATH)


async def test_retry_after_is_read_from_the_header_or_the_status() -> None:
    async with serving(says(429, "TooManyRequests", headers={"Retry-After": "7"})) as wire, wire.api() as api:
        with pytest.raises(Throttled) as caught:
            await api.get(PATH)
        assert caught.value.retry_after_s == 7
    body = b'{"kind":"Status","code":429,"details":{"retryAfterSeconds":3}}'
    async with serving(gives(body, 429)) as wire, wire.api() as api:
        with pytest.raises(Throttled) as caught:
            await api.get(PATH)
        assert caught.value.retry_after_s == 3


@pytest.mark.parametrize("method", ["PATCH", "POST", "DELETE"])
@pytest.mark.parametrize("fault", [drops, tears, hangs])
async def test_a_lost_answer_to_a_mutation_is_an_unknown_outcome_and_is_not_repeated(
    fault, method: Method
) -> None:
    async with serving(fault) as wire, wire.api(timeout_s=0.3) as api:
        with pytest.raises(OutcomeUnknown, match="may have happened"):
            await api.request(method, PATH, body=b"{}")
        assert len(wire.seen) == 1


@pytest.mark.parametrize("fault", [drops, tears, hangs])
async def test_a_lost_answer_to_a_read_is_unavailable(fault) -> None:
    async with serving(fault) as wire, wire.api(timeout_s=0.3) as api:
        with pytest.raises(Unavailable):
            await api.get(PATH)


async def test_nobody_listening_is_unavailable_even_for_a_mutation() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: refused
        server = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        async with Api(Cluster(server=server, source="test"), user_agent="t") as api:
            with pytest.raises(Unavailable, match=f"API server {server} cannot be reached"):
                await api.merge_patch(PATH, b"{}")


async def test_a_stale_idle_connection_does_not_repeat_a_mutation() -> None:
    """A kept-alive connection that the server closed as we sent: the answer is lost, whatever the method."""
    async with serving(in_turn(gives(b"{}"), drops)) as wire, wire.api() as api:
        await api.get(PATH)
        with pytest.raises(OutcomeUnknown):
            await api.merge_patch(PATH, b"{}")
        assert [seen.method for seen in wire.seen] == ["GET", "PATCH"]


async def test_headers_query_and_body_arrive_as_given() -> None:
    async with serving(gives(b'{"a":1}')) as wire, wire.api() as api:
        assert (
            await api.get("/api/v1/nodes", "limit=5&continue=a%3D%2Fb", accept="application/json;as=X")
            == b'{"a":1}'
        )
        await api.merge_patch(PATH, b'{"spec":{}}')
    read, patch = wire.seen
    assert read.query == {"limit": "5", "continue": "a=/b"}
    assert read.headers["User-Agent"] == "omnipam/test (unit)"
    assert read.headers["Accept"] == "application/json;as=X"
    assert "Accept-Encoding" not in read.headers
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert patch.headers["Accept"] == "application/json"
    assert patch.body == b'{"spec":{}}'


async def test_a_server_below_a_path_keeps_its_path() -> None:
    async with serving(gives(b"{}")) as wire:
        cluster = Cluster(server=f"{wire.url}/k8s/clusters/c-1", source="test")
        async with wire.api(cluster=cluster) as api:
            await api.get("/api/v1/nodes")
    assert wire.seen[0].path == "/k8s/clusters/c-1/api/v1/nodes"


async def test_delete_names_the_uid_it_means() -> None:
    async with serving(gives(b"{}")) as wire, wire.api() as api:
        await api.delete(PATH, uid="u-1")
    assert b'"preconditions":{"uid":"u-1"}' in wire.seen[0].body


async def test_redirects_are_not_followed() -> None:
    async def elsewhere(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/login"})

    async with serving(elsewhere) as wire, wire.api() as api:
        with pytest.raises(Invalid, match="is this the address of a Kubernetes API server"):
            await api.get(PATH)
        assert len(wire.seen) == 1


async def test_a_401_renews_the_token_once_and_tries_again(tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    async def strict(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] == "Bearer new":
            return await gives(b"{}")(request)
        return await says(401, "Unauthorized")(request)

    async with serving(strict) as wire, wire.api(cluster=wire.cluster(Auth(token_file=token))) as api:
        token.write_text("new\n")
        assert await api.merge_patch(PATH, b"{}") == b"{}"
        assert await api.get(PATH) == b"{}"
        assert [seen.headers["Authorization"] for seen in wire.seen] == [
            "Bearer old",
            "Bearer new",
            "Bearer new",
        ]
        token.write_text("bad\n")
        api_seen = len(wire.seen)
        await api.get(PATH)  # not yet re-read: still the good one
        assert len(wire.seen) == api_seen + 1


async def test_a_401_that_stays_is_denied_after_two_tries() -> None:
    async with (
        serving(says(401, "Unauthorized")) as wire,
        wire.api(cluster=wire.cluster(Auth(token="t"))) as api,
    ):
        with pytest.raises(Denied, match="renew them"):
            await api.get(PATH)
        assert len(wire.seen) == 2


async def test_a_plugin_that_fails_is_not_started_by_every_request(tmp_path) -> None:
    runs, code = tmp_path / "runs", tmp_path / "plugin.py"
    code.write_text(
        f"import sys; runs = open({str(runs)!r}, 'a+'); runs.seek(0); first = not runs.read(); runs.write('x')\n"
        'first or sys.exit("log in")\n'
        'print(\'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"t"}}\')'
    )
    plugin = Exec(
        api_version="client.authentication.k8s.io/v1",
        command=sys.executable,
        args=(str(code),),
        env=(),
        install_hint="",
    )
    now = 0.0
    async with (
        serving(says(401)) as wire,
        wire.api(cluster=wire.cluster(Auth(exec=plugin)), clock=lambda: now) as api,
    ):
        results = await asyncio.gather(*(api.get(PATH) for _ in range(10)), return_exceptions=True)
        (said,) = {str(result) for result in results}
        assert said.startswith(f"credential plugin {sys.executable}: exit 1: log in")
        assert runs.read_text() == "xx"  # once for the start, once for all ten
        now += 6
        with pytest.raises(Denied):
            await api.get(PATH)
        assert runs.read_text() == "xxx"


async def test_a_token_file_is_read_again_after_a_minute(tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    now = 1000.0
    async with (
        serving(gives(b"{}")) as wire,
        wire.api(cluster=wire.cluster(Auth(token_file=token)), clock=lambda: now) as api,
    ):
        await api.get(PATH)
        token.write_text("two")
        now += 59
        await api.get(PATH)
        now += 2
        await api.get(PATH)
        token.unlink()
        now += 61
        await api.get(PATH)  # being replaced: the last one may still do
    assert [seen.headers["Authorization"] for seen in wire.seen] == [
        "Bearer one",
        "Bearer one",
        "Bearer two",
        "Bearer two",
    ]


async def test_no_more_requests_in_flight_than_connections_and_the_gate_is_asked_last() -> None:
    """What waits for a connection is asked when it gets one, not when it was called."""
    free = asyncio.Event()
    full = asyncio.Event()
    inside = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal inside
        inside += 1
        if inside == 2:
            full.set()
        await free.wait()
        return web.Response(body=b"{}")

    def closed() -> None:
        raise Denied("closed")

    async with serving(slow) as wire, wire.api(connections=2) as api:
        tasks = [asyncio.create_task(api.merge_patch(PATH, b"{}")) for _ in range(5)]
        await full.wait()
        api.gate = closed
        assert len(wire.seen) == 2
        free.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [bytes, bytes, Denied, Denied, Denied]
    assert len(wire.seen) == 2


async def test_urgent_requests_pass_gate_pacing_and_queue() -> None:
    def closed() -> None:
        raise Denied("closed")

    async with serving(hangs) as wire, wire.api(connections=1, qps=0.001, burst=1, timeout_s=5) as api:
        waiting = asyncio.create_task(api.get(PATH))
        await wire.arrived.wait()
        wire.answer = gives(b"{}")
        api.gate = closed
        assert await api.merge_patch(PATH, b"{}", urgent=True) == b"{}"
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_what_is_urgent_has_a_connection_of_its_own() -> None:
    """Else the writes of a leader that begins take the Lease's, and its renewal stands behind all their handshakes."""
    ports: list[tuple[str, int]] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append((request.method, request.transport.get_extra_info("peername")[1]))
        return web.Response(body=b"{}")

    async with serving(answer) as wire, wire.api() as api:
        await api.get(PATH, urgent=True)
        await asyncio.gather(*(api.merge_patch(PATH, b"{}") for _ in range(5)))
        await api.get(PATH, urgent=True)
        kept = [port for method, port in ports if method == "GET"]
        assert kept[0] == kept[1]
        assert kept[0] not in {port for method, port in ports if method == "PATCH"}


async def test_reads_are_not_gated() -> None:
    def closed() -> None:
        raise Denied("closed")

    async with serving(gives(b"{}")) as wire, wire.api(gate=closed) as api:
        assert await api.get(PATH) == b"{}"


async def test_token_bucket_lets_the_burst_through_and_then_the_rate() -> None:
    now = 0.0
    starts: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    bucket = TokenBucket(10, 5, clock=lambda: now, sleep=sleep)
    for _ in range(8):
        await bucket.take()
        starts.append(round(now, 6))
    assert starts == [0, 0, 0, 0, 0, 0.1, 0.2, 0.3]
    now += 100  # an idle bucket fills to the burst and no further
    starts.clear()
    for _ in range(7):
        await bucket.take()
        starts.append(round(now - 100.3, 6))
    assert starts == [0, 0, 0, 0, 0, 0.1, 0.2]


async def test_errors_carry_no_token() -> None:
    auth = Auth(token="SECRET", password="SECRET", username="u", certificate=b"SECRET", key=b"SECRET")
    async with serving(drops) as wire, wire.api(cluster=wire.cluster(auth)) as api:
        with pytest.raises(OutcomeUnknown) as caught:
            await api.merge_patch(PATH, b"{}")
        assert "SECRET" not in f"{caught.value} {api.cluster!r} {api._credential!r}"


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("method", ["PATCH", "POST", "DELETE"])
async def test_a_gate_that_closes_while_it_connects_lets_no_byte_out(method: Method, warm: bool) -> None:
    """A leader that slept between the gate and the first byte: what it began is not sent, and is known not to be."""
    now = 0.0

    def gate() -> None:
        if now >= 10:
            raise LostLease("lost")

    async def sleep_through(*_: object) -> None:
        nonlocal now
        now = 11.0

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(sleep_through)
    trace.on_connection_reuseconn.append(sleep_through)
    trace.freeze()
    async with serving(gives(b"{}")) as wire, wire.api(gate=gate) as api:
        if warm:
            await api.get(PATH)
        api._sessions[0].trace_configs.append(trace)
        with pytest.raises(LostLease, match=r"^lost$"):
            await api.request(method, PATH, body=b"{}")
        assert now == 11.0
        api._sessions[0].trace_configs.clear()
        now = 0.0
        await api.request(method, PATH, body=b"{}")  # on a connection of its own: the other one is closed
        assert [seen.method for seen in wire.seen] == ["GET"] * warm + [method]


async def test_a_mutation_without_a_body_asks_the_gate_too() -> None:
    asked = 0

    def gate() -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise LostLease("lost")

    async with serving(gives(b"{}")) as wire, wire.api(gate=gate) as api:
        with pytest.raises(LostLease):
            await api.request("DELETE", PATH)
        assert wire.seen == []
        await api.request("DELETE", PATH)
        assert [(seen.method, seen.body) for seen in wire.seen] == [("DELETE", b"")]
