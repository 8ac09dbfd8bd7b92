"""Structured logs: pretty on a terminal, JSON elsewhere, always on stderr; each line about a node carries its name.

What it quotes of objects, others have written. JSON escapes it; before a console, `printable` does.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Literal, TextIO

import structlog

Format = Literal["auto", "console", "json"]


def configure(form: str = "auto", level: str = "info") -> None:
    """Sets up structlog for the process. Call once, before the first line."""
    pretty = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback)
        if pretty
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _escape if pretty else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger() -> structlog.typing.FilteringBoundLogger:
    """The process's logger."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return bound


def printable(text: str) -> str:
    r"""The text without what would steer a terminal or begin a line: `\x1b`, `\n`, `\u202e` are spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _escape(
    log: structlog.typing.WrappedLogger, name: str, entry: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Values that are no text are shown by `repr`, which escapes by itself."""
    for key, value in entry.items():
        if isinstance(value, str):
            entry[key] = printable(value)
    return entry


def _traceback(stream: TextIO, error: structlog.typing.ExcInfo) -> None:
    """A plain traceback, which keeps its lines."""
    whole = io.StringIO()
    structlog.dev.plain_traceback(whole, error)
    stream.write("\n".join(map(printable, whole.getvalue().split("\n"))))
