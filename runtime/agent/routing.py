"""Between a request and what it asks for: its path and query, addresses in them, and answers that come later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from omnipam.core.cidr import BITS, Family, parse_address
from omnipam.core.errors import Invalid, NotFound, OmnipamError

from .answers import NotReady, refused
from .http import Answer, problem
from .later import Later

BASE = "/v1/"

Served = Answer | Later


class Query(msgspec.Struct, frozen=True, gc=False):
    """A path's parts below the base, decoded, and its query; of a repeated name, the first value."""

    parts: list[str]
    values: dict[str, str]


def read_target(target: str) -> Query:
    """Raises NotFound where it is not below the base, Invalid where it cannot be decoded."""
    path, _, query = target.partition("?")
    if not path.startswith(BASE):
        raise NotFound(f"there is no {path}: all is below {BASE}")
    try:
        parts = path[len(BASE) :].rstrip("/").split("/")
        if "%" in path:
            parts = [unquote(part, errors="strict") for part in parts]
        values = {name: found[0] for name, found in parse_qs(query, errors="strict").items()} if query else {}
    except (UnicodeDecodeError, ValueError):
        raise Invalid("the path or query is not UTF-8, percent-encoded") from None
    return Query(parts, values)


def read_address(text: str, family: Family | None = None) -> int:
    """Raises Invalid."""
    found = parse_address(text)
    if family is not None and found.bits != BITS[family]:
        raise Invalid(f"{text} is not an {family} address")
    return found.first


def then(
    future: Later,
    answer: Callable[[Any], Answer],
    failed: Callable[[OmnipamError], Answer],
) -> Served:
    """The answer made of a future's result, or of its error. Cancelling it cancels the future."""
    if future.done():
        return _made(future, answer, failed)
    served = Later()

    def ended(done: Later) -> None:
        if not served.done():
            served.set_result(_made(done, answer, failed))

    def gone(made: Later) -> None:
        if made.cancelled():
            future.cancel()

    future.add_done_callback(ended)
    served.add_done_callback(gone)
    return served


def _made(done: Later, answer: Callable[[Any], Answer], failed: Callable[[OmnipamError], Answer]) -> Answer:
    if done.cancelled():
        return refused(NotReady("released while it waited: ask again"))
    error = done.exception()
    if isinstance(error, OmnipamError):
        return failed(error)
    if error is not None:
        return problem(500, "Error", f"{type(error).__name__}: {error}")
    try:
        return answer(done.result())
    except Exception as defect:  # noqa: BLE001 — else nobody would tell whoever waits
        return problem(500, "Error", f"{type(defect).__name__}: {defect}")
