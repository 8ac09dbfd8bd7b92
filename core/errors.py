"""The errors of omnipam: one small tree, each with a reason that a machine can read.

OmnipamError
├── Invalid            the input is wrong: a person must change it
├── Exhausted          no space: heals by itself when some frees
├── Refused            the other side said no: Conflict (someone wrote before us), NotFound, Denied
└── Retryable          try again: Unavailable (nothing happened), Throttled, OutcomeUnknown (look before retrying)
"""

from __future__ import annotations

from typing import ClassVar


class OmnipamError(Exception):
    """Root. `reason` is stable and meant for programs; the text is meant for people and is one line."""

    reason: ClassVar[str] = "Error"


class Invalid(OmnipamError):
    """The input is wrong. The text says which value, and why."""

    reason = "Invalid"


class Exhausted(OmnipamError):
    """A pool or a limit is used up."""

    reason = "Exhausted"


class Refused(OmnipamError):
    """The other side answered, and the answer was no."""

    reason = "Refused"


class Conflict(Refused):
    """The object changed since it was read: read it again."""

    reason = "Conflict"


class NotFound(Refused):
    """It is not there."""

    reason = "NotFound"


class Denied(Refused):
    """We lack the right. A person must grant it."""

    reason = "Denied"


class Retryable(OmnipamError):
    """Nothing is wrong with the request."""

    reason = "Retryable"


class Unavailable(Retryable):
    """It could not be reached, and nothing happened there."""

    reason = "Unavailable"


class Throttled(Retryable):
    """Too many requests. `retry_after_s`: what the other side asked for, if it did."""

    reason = "Throttled"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutcomeUnknown(Retryable):
    """The answer was lost: it may or may not have happened. Read before trying again."""

    reason = "OutcomeUnknown"
