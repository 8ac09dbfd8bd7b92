"""What to type instead: commands that a cluster's own tool must carry out."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from typing import Any

from . import output


def refuse(args: argparse.Namespace, text: str, command: str) -> int:
    """Says why not, and prints the line to type instead."""
    output.say(f"omnipam: {args.command}: {text}")
    output.say(command)
    return 2


def apply(manifest: Mapping[str, Any], context: str | None, *, verb: str = "apply") -> str:
    """One line for a shell that creates the object, or changes it to be so; with verb `create`, only the former."""
    return f"printf %s {shlex.quote(json.dumps(manifest))} | kubectl{with_context(context)} {verb} -f -"


def with_context(context: str | None) -> str:
    return f" --context {shlex.quote(context)}" if context else ""
