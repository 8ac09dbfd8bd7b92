"""What objects of others say reaches a console without steering it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from omnipam.runtime import logs

HOSTILE = "\x1b[31m10.0.0.0/24\x1b[0m\r\n\x00\x9b2J\u202e\u2028 ü"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """structlog's configuration is the process's."""
    kept = structlog.get_config()
    yield
    structlog.configure(**kept)


def said(monkeypatch: pytest.MonkeyPatch, form: str) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(form)
    log = logs.logger()
    log.warning(f"unmet demand {HOSTILE}", text=HOSTILE, objects=[HOSTILE], number=7)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("it broke", node="a")
    return stream.getvalue()


def test_a_console_is_not_steered_by_what_objects_say(monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(monkeypatch, "console")
    assert all(line.isprintable() for line in text.split("\n")), repr(text)
    first = text.split("\n", 1)[0]
    assert r"unmet demand \x1b[31m10.0.0.0/24\x1b[0m\r\n\x00\x9b2J\u202e\u2028 ü " in first
    assert first.count("x1b[31m10.0.0.0/24") == 3, "structlog may quote values, and their backslashes then"
    assert "number=7" in first
    assert "Traceback" in text
    assert "in said\n" in text, "a traceback keeps its lines"


def test_json_says_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(monkeypatch, "json")
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["text"] == HOSTILE
    assert first["event"] == f"unmet demand {HOSTILE}"
    assert HOSTILE in second["exception"]


@given(st.text())
def test_what_is_printable_stays_and_the_rest_is_escaped(text: str) -> None:
    shown = logs.printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()
