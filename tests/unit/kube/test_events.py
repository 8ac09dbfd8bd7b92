"""Events over the wire: what is written when, and what is swallowed."""

from __future__ import annotations

import json
import re

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kube.wire import serving

from omnipam.core.errors import Denied
from omnipam.core.values import Node, Problem
from omnipam.runtime.kube.events import LONGEST_MESSAGE, Recorder, cut, stamp

FULL = Problem("PoolExhausted", "allocator full")


class Clock:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.text(max_size=2000))
def test_a_message_fits(text: str) -> None:
    short = cut(text)
    assert len(short.encode()) <= LONGEST_MESSAGE
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_times_are_kubernetes_times() -> None:
    assert stamp(1_767_225_600.9) == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("length", [1, 63, 253])
async def test_names_are_names_whatever_the_nodes(length: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=201)

    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock())
        await recorder.report(Node(("a." * 200)[: length - 1] + "b"), FULL)
        name = json.loads(wire.seen[0].body)["metadata"]["name"]
    assert len(name) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", name)


async def test_what_was_not_written_is_counted_with_the_next() -> None:
    codes = [500, 201, 404, 201]

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status"}, status=codes[len(wire.seen) - 1])

    clock = Clock()
    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=clock, wall=Clock())
        await recorder.report(Node("a", uid="u"), FULL)  # lost
        await recorder.report(Node("a", uid="u"), FULL)
        await recorder.report(Node("a", uid="u"), FULL)  # says the same: only counted
        clock.now += 60.0
        await recorder.report(Node("a", uid="u"), FULL)  # the server has forgotten it: made anew
    assert [(seen.method, json.loads(seen.body)["count"]) for seen in wire.seen] == [
        ("POST", 1),
        ("POST", 2),
        ("PATCH", 4),
        ("POST", 4),
    ]


async def test_an_event_whose_answer_was_lost_is_found_and_patched() -> None:
    answers = [(500, {}), (409, {"kind": "Status", "reason": "AlreadyExists"}), (200, {})]

    async def answer(request: web.Request) -> web.StreamResponse:
        code, body = answers[len(wire.seen) - 1]
        return web.json_response(body, status=code)

    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock())
        await recorder.report(Node("a", uid="u"), FULL)
        await recorder.report(Node("a", uid="u"), FULL)
    assert [seen.method for seen in wire.seen] == ["POST", "POST", "PATCH"]
    assert json.loads(wire.seen[2].body)["count"] == 2


async def test_another_message_is_written_at_once() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock())
        await recorder.report(Node("a"), FULL)
        await recorder.report(Node("a"), Problem("PoolExhausted", "allocator full", "add a CIDR"))
    assert [seen.method for seen in wire.seen] == ["POST", "PATCH"]
    assert json.loads(wire.seen[1].body)["message"] == "allocator full — add a CIDR"


async def test_a_missing_right_is_said() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "no"}, status=403)

    async with serving(answer) as wire, wire.api() as api:
        with pytest.raises(Denied):
            await Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock()).report(Node("a"), FULL)
