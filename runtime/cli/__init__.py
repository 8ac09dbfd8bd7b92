"""The command `omnipam`: the first word names a module of this package, and only that one is imported.

A command's module has `add(parser)`, which declares its arguments, and `run(args)`, which answers the exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from omnipam.core.errors import Invalid, OmnipamError

from . import streams

COMMANDS = {
    "operator": "watch the store and grant: the main job",
    "agent": "the node side: gives pods their addresses",
    "node": "add, list, show and delete nodes",
    "pool": "add, list, show and delete pools, and how full they are",
    "plan": "what would be done, for which node, and why",
    "check": "audit of a store; --fix repairs what is safe",
    "cni": "put the CNI plugin in place",
}
FOUND, USAGE = 1, 2
"""Exit codes beside 0: problems were found or the store is away; the command line or configuration is wrong."""
BROKEN_PIPE, INTERRUPTED = 141, 130
"""Exit codes of a program that the signal had ended."""


class Command(Protocol):
    """A module that is a command."""

    def add(self, parser: object) -> None: ...

    def run(self, args: object) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and answers its exit code. Errors are lines on stderr, never a traceback for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    streams.prepare()
    before = _end_well() if words[:1] == ["operator"] else {}
    try:
        return _dispatch(words)
    except OmnipamError as error:
        streams.trouble(error)
        return USAGE if isinstance(error, Invalid) else FOUND
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        for number, handler in before.items():
            if handler is not None:  # set by no Python: it cannot be put back
                signal.signal(number, handler)


def _end_well() -> dict[signal.Signals, signal._HANDLER]:
    """Has signals end the process with 0 while it still imports: it serves, and nothing was started yet. Returns what they did.

    The command's own take their place. The interpreter's own start, before any code of ours, is not covered.
    """
    stop: signal._HANDLER = lambda number, frame: os._exit(0)  # an exception may be lost amid an import
    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: signal.SIG_IGN}
    try:
        return {number: signal.signal(number, handler) for number, handler in wanted.items()}
    except ValueError:  # not in the main thread: whoever called us has the signals
        return {}


def _dispatch(words: list[str]) -> int:
    if not words:
        for line in _help().splitlines():
            streams.say(line)
        return USAGE
    first = words[0]
    if first == "--version":
        from importlib.metadata import version

        streams.write(f"omnipam {version('omnipam')}\n")
        return 0
    if first in ("-h", "--help", "help"):
        streams.write(_help())
        return 0
    if first not in COMMANDS:
        raise Invalid(f"{first!r} is no command; use one of {', '.join(COMMANDS)}, or see omnipam --help")

    from importlib import import_module

    from .parser import Parser

    command = cast(Command, import_module(f".{first}", __name__))
    parser = Parser(prog=f"omnipam {first}", description=f"{COMMANDS[first].capitalize()}.")
    command.add(parser)
    try:
        args = parser.read(words[1:])
    except SystemExit as end:  # --help
        return int(end.code or 0)
    return command.run(args)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        (
            "usage: omnipam COMMAND …",
            "",
            "IP address management for Kubernetes.",
            "",
            *lines,
            "",
            "omnipam COMMAND --help tells a command's arguments, omnipam --version the version.",
            "",
        )
    )
