"""What each answer to either half of a write means: the table that keeps a grant from being given twice."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from tests.unit.kube.test_join import Told
from tests.unit.kube.wire import Wire, serving

from omnipam.core.allocator import Conflict, Denied, Gone, Published, Unknown, Version
from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.errors import Unavailable
from omnipam.core.values import Block, Grant, Node, Problem
from omnipam.runtime.election import LostLease
from omnipam.runtime.kube.join import Following
from omnipam.runtime.kube.rest import Api
from omnipam.runtime.kube.store import KubernetesStore

BLOCKS = (Block("default", parse("10.0.0.0/24")),)
BOTH = Grant(BLOCKS, (Problem("PoolExhausted", "allocator full"),))
NODE = Node("a", uid="u", version="1")
OK = 200
CUT = 0


def store(api: Api) -> KubernetesStore:
    return KubernetesStore(
        api, namespace="kube-system", reads_machines=False, clock=asyncio.get_running_loop().time, wall=float
    )


async def published(answers: list[int], grant: Grant = BOTH, node: Node = NODE) -> tuple[Published, Wire]:
    """Publish to a server that answers with these codes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        code = answers[len(wire.seen) - 1]
        if code == CUT:
            assert request.transport is not None
            request.transport.abort()
        if code == OK:
            return web.json_response({"metadata": {"resourceVersion": f"{len(wire.seen) + 1}"}})
        return web.json_response({"kind": "Status", "code": code, "message": "no"}, status=code)

    async with serving(answer) as wire, wire.api() as api:
        return await store(api).publish(Publish(node, grant)), wire


async def test_the_status_is_written_on_the_version_that_the_spec_left() -> None:
    outcome, wire = await published([OK, OK])
    assert outcome == Version("3")
    assert [seen.path.rpartition("/a")[2] for seen in wire.seen] == ["", "/status"]
    assert [json.loads(seen.body)["metadata"]["resourceVersion"] for seen in wire.seen] == ["1", "2"]


async def test_a_healthy_grant_is_one_write() -> None:
    outcome, wire = await published([OK], Grant(BLOCKS))
    assert (outcome, len(wire.seen)) == (Version("2"), 1)
    assert wire.seen[0].headers["Content-Type"] == "application/merge-patch+json"


FIRST = {
    404: Gone,
    409: Conflict,
    403: Denied,
    422: Denied,
    429: Denied,
    503: Denied,
    500: Unknown,
    504: Unknown,
    CUT: Unknown,
}
SECOND = {404: Gone, 409: Conflict} | dict.fromkeys((403, 422, 429, 503, 500, CUT), Unknown)


@pytest.mark.parametrize(("code", "kind"), FIRST.items())
async def test_the_first_half(code: int, kind: type[Published]) -> None:
    outcome, wire = await published([code])
    assert (type(outcome), len(wire.seen)) == (kind, 1)


@pytest.mark.parametrize(("code", "kind"), SECOND.items())
async def test_after_the_first_half_nothing_was_written_is_never_said(
    code: int, kind: type[Published]
) -> None:
    outcome, wire = await published([OK, code])
    assert (type(outcome), len(wire.seen)) == (kind, 2)


async def test_an_answer_that_says_nothing_is_unknown() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"<html>")

    async with serving(answer) as wire, wire.api() as api:
        assert isinstance(await store(api).publish(Publish(NODE, BOTH)), Unknown)


async def test_without_a_version_nothing_is_sent() -> None:
    outcome, wire = await published([], node=Node("a", uid="u"))
    assert (outcome, wire.seen) == (Conflict(), [])


async def test_a_lost_lease_ends_it_and_nothing_is_sent() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        raise AssertionError("sent")

    def gate() -> None:
        raise LostLease("we lead no more")

    async with serving(answer) as wire, wire.api(gate=gate) as api:
        with pytest.raises(LostLease):
            await store(api).publish(Publish(NODE, BOTH))
        with pytest.raises(LostLease):
            await store(api).report(NODE, BOTH.problems[0])
    assert wire.seen == []


async def test_a_read_that_crosses_deletions_is_made_again() -> None:
    """A deletion that the watch shows while the answer is on its way may be of this very node."""

    async def answer(request: web.Request) -> web.StreamResponse:
        following = reader._following
        assert following is not None
        if len(wire.seen) == 1:
            following.vanished += 1
            return web.json_response({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}})
        return web.json_response({"kind": "Status"}, status=404)

    async with serving(answer) as wire, wire.api() as api:
        reader = store(api)
        reader._following = Following(Told(), owed=frozenset(), reads_machines=False, clock=float)
        assert await reader.read("a") is None
        assert len(wire.seen) == 2


async def test_reads_that_always_cross_deletions_end() -> None:

    async def answer(request: web.Request) -> web.StreamResponse:
        assert reader._following is not None
        reader._following.vanished += 1
        return web.json_response({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}})

    async with serving(answer) as wire, wire.api() as api:
        reader = store(api)
        reader._following = Following(Told(), owed=frozenset(), reads_machines=False, clock=float)
        with pytest.raises(Unavailable):
            await reader.read("a")
