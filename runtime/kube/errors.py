"""What an answer of the API server that is not a success means to us: the one place where codes become errors.

A mutation whose effect is in doubt becomes `OutcomeUnknown`; everything that surely did nothing is something else.
"""

from __future__ import annotations

import msgspec

from omnipam.core.errors import (
    Conflict,
    Denied,
    Invalid,
    NotFound,
    OmnipamError,
    OutcomeUnknown,
    Refused,
    Throttled,
    Unavailable,
)

from .meta import Status

LONGEST = 500  # characters of the server's message that reach a person


class Expired(Refused):
    """The version or continue token is older than the server's history (410): list anew."""

    reason = "Expired"


class AlreadyExists(Conflict):
    """Someone created it before us."""

    reason = "AlreadyExists"


_STATUS = msgspec.json.Decoder(Status)


def one_line(text: str) -> str:
    """Return the text on one line, cut to what a person reads."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def read_status(body: bytes) -> Status | None:
    """Return the Status in a body, or None where something else answered (a load balancer, a proxy)."""
    try:
        status = _STATUS.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return status if status.kind == "Status" else None


def refusal(
    what: str, code: int, body: bytes, *, mutation: bool, retry_after: str | None = None
) -> OmnipamError:
    """Return the error that an HTTP answer outside 2xx means.

    what: method and path, the beginning of the line.
    mutation: whether the request would have changed something.
    retry_after: the header's value; only seconds are understood (the API server sends nothing else).
    """
    status = read_status(body)
    return _error(what, code, status, body, mutation=mutation, retry_after=retry_after)


def event_error(what: str, status: Status) -> OmnipamError:
    """Return the error that the Status inside a watch's ERROR event means."""
    return _error(what, status.code or 500, status, b"", mutation=False, retry_after=None)


def _error(
    what: str, code: int, status: Status | None, body: bytes, *, mutation: bool, retry_after: str | None
) -> OmnipamError:
    reason = (status.reason if status else None) or ""
    said = (status.message if status else None) or body[: 4 * LONGEST].decode(errors="replace")
    text = one_line(f"{what}: {code} {reason}: {said}" if reason else f"{what}: {code}: {said}")
    match code:
        case 401:
            return Denied(f"{text} — the credentials were not accepted: renew them")
        case 403:
            return Denied(f"{text} — grant it in the (Cluster)Role of this account")
        case 404:
            return NotFound(text)
        case 409:
            return AlreadyExists(text) if reason == "AlreadyExists" else Conflict(text)
        case 410:
            return Expired(text)
        case 429:
            return Throttled(text, _seconds(status, retry_after))
        case 503 if status is not None:  # the API server itself says so, before doing anything
            return Unavailable(text)
        case _ if code >= 500 or code == 408:
            return OutcomeUnknown(text) if mutation else Unavailable(text)
        case _ if 300 <= code < 400:
            return Invalid(f"{text} — redirected: is this the address of a Kubernetes API server?")
        case _:
            return Invalid(text)


def _seconds(status: Status | None, header: str | None) -> float | None:
    if header is not None and header.strip().isdigit():
        return float(header)
    details = status.details if status else None
    return float(details.retry_after_seconds) if details and details.retry_after_seconds else None
