"""The process's streams: results go to stdout, everything else to stderr. Either may be closed, full, or read by nobody.

Apart from `output`, since it is imported at every start.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from omnipam.core.errors import OmnipamError, Unavailable

LONGEST = 700
"""Characters of a line for a person: of a longer one, which quotes something without end, the middle is left out."""


def prepare() -> None:
    """Nothing that is opened later gets the number of a stream that is closed; what a stream cannot encode is escaped."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # it lives as long as we do, and logs want one
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail


def write(text: str) -> None:
    """Prints a result. Raises BrokenPipeError where nobody reads it, Unavailable where it cannot be written otherwise."""
    if sys.stdout is None:  # closed before we started
        raise Unavailable("the output cannot be written: stdout is closed; look at where it goes")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)
        raise
    except OSError as error:
        _forget(sys.stdout)
        raise Unavailable(f"the output cannot be written: {error.strerror}; look at where it goes") from error


def say(text: str) -> None:
    """Tells a person something that is no result. Where nobody can be told, nothing happens."""
    try:
        sys.stderr.write(f"{clean(text)}\n")
        sys.stderr.flush()
    except OSError:
        _forget(sys.stderr)


def trouble(error: OmnipamError) -> None:
    """Says each line of an error, none of them without end: what is wrong stands at its beginning, what to do at its end."""
    for line in str(error).splitlines() or [error.reason]:
        line = clean(line)
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]}…{line[-LONGEST // 2 :]}"
        say(f"omnipam: {line}")


def clean(text: str) -> str:
    """The text on one line, without what would steer a terminal: objects are written by others."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))


def _forget(stream: TextIO) -> None:
    """Nothing more is written to it, at exit neither, where it would fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        pass  # no file of the system's behind it
