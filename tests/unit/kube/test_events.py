"""Events over the wire: what is written when, and what is swallowed."""

from __future__ import annotations

import json
import re

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.kube.wire import serving

from omnipam.core.errors import Denied, Retryable, Throttled
from omnipam.core.values import Node, Problem
from omnipam.runtime.kube.events import BURST, LONGEST_MESSAGE, Recorder, cut, stamp

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


async def test_what_was_not_written_raises_and_counts_once_when_it_is() -> None:
    codes = [500, 201, 404, 201]

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status"}, status=codes[len(wire.seen) - 1])

    clock = Clock()
    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=clock, wall=Clock())
        with pytest.raises(Retryable):
            await recorder.report(Node("a", uid="u"), FULL)
        await recorder.report(Node("a", uid="u"), FULL)
        await recorder.report(Node("a", uid="u"), FULL)  # says the same: only counted
        clock.now += 60.0
        await recorder.report(Node("a", uid="u"), FULL)  # the server has forgotten it: made anew
    assert [(seen.method, json.loads(seen.body)["count"]) for seen in wire.seen] == [
        ("POST", 1),
        ("POST", 1),
        ("PATCH", 3),
        ("POST", 3),
    ]


async def test_beyond_the_rate_nothing_is_sent_and_it_is_said_when_to_come_again() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    clock = Clock()
    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=clock, wall=Clock())
        for number in range(BURST):
            await recorder.report(Node(f"n{number}"), FULL)
        for _ in range(3):
            with pytest.raises(Throttled) as caught:
                await recorder.report(Node("late"), FULL)
        assert caught.value.retry_after_s == 1.0
        assert len(wire.seen) == BURST
        clock.now += 1.0
        await recorder.report(Node("late"), FULL)
    assert json.loads(wire.seen[-1].body)["involvedObject"]["name"] == "late"
    assert json.loads(wire.seen[-1].body)["count"] == 1


async def test_an_event_whose_answer_was_lost_is_found_and_patched() -> None:
    answers = [(500, {}), (409, {"kind": "Status", "reason": "AlreadyExists"}), (200, {})]

    async def answer(request: web.Request) -> web.StreamResponse:
        code, body = answers[len(wire.seen) - 1]
        return web.json_response(body, status=code)

    async with serving(answer) as wire, wire.api() as api:
        recorder = Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock())
        with pytest.raises(Retryable):
            await recorder.report(Node("a", uid="u"), FULL)
        await recorder.report(Node("a", uid="u"), FULL)
    assert [seen.method for seen in wire.seen] == ["POST", "POST", "PATCH"]
    assert json.loads(wire.seen[2].body)["count"] == 1


async def test_what_the_server_refuses_for_good_is_swallowed() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "no"}, status=422)

    async with serving(answer) as wire, wire.api() as api:
        await Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock()).report(Node("a"), FULL)
    assert len(wire.seen) == 1


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


async def test_what_an_object_says_steers_no_terminal_that_shows_its_event() -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({})

    hostile = Problem("Unreadable", "podCIDRs: \x1b[31m\u202e\x00\n", "mend it")
    async with serving(answer) as wire, wire.api() as api:
        await Recorder(api, namespace="kube-system", clock=Clock(), wall=Clock()).report(Node("a"), hostile)
    assert json.loads(wire.seen[0].body)["message"] == r"podCIDRs: \x1b[31m\u202e\x00\n — mend it"
