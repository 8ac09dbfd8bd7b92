"""The command `omnipam`: the first word names a module of this package, and only that one is imported.

A command's module has `add(parser)`, which declares its arguments, and `run(args)`, which answers the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol, cast

from omnipam.core.errors import Invalid, OmnipamError

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
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    try:
        return _dispatch(words)
    except OmnipamError as error:
        from .output import say

        for line in str(error).splitlines() or [error.reason]:
            say(f"omnipam: {line}")
        return USAGE if isinstance(error, Invalid) else FOUND
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else ""
    if first == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"omnipam {version('omnipam')}\n")
        return 0
    if first in ("", "-h", "--help", "help"):
        (sys.stdout if first else sys.stderr).write(_help())
        return 0 if first else USAGE
    if first not in COMMANDS:
        raise Invalid(f"{first!r} is no command; use one of {', '.join(COMMANDS)}, or see omnipam --help")

    from importlib import import_module

    from .parser import Parser

    command = cast(Command, import_module(f".{first}", __name__))
    parser = Parser(prog=f"omnipam {first}", description=f"{COMMANDS[first].capitalize()}.")
    command.add(parser)
    try:
        args = parser.parse_args(words[1:])
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
