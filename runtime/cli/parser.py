"""Arguments: what is wrong with them is one line like any other error, and every command's common ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from omnipam.core.errors import Invalid

from ..config import KEYS, add_arguments
from ..config.values import read_namespace, shown
from . import streams

LONGEST = 4000
SHOWN = ("store", "ipam", "k8s-namespace", "lease-name")
"""Keys whose flags a command's help tells; all others are flags too."""


class Parser(argparse.ArgumentParser):
    """Raises Invalid instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise Invalid(f"{self.prog.removeprefix('omnipam ')}: {message}; see {self.prog} --help")

    def print_help(self, file: object = None) -> None:
        """Help is a result: where nobody reads it, that is no success (argparse would be silent)."""
        streams.write(self.format_help())

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments. Raises Invalid, and SystemExit after `--help`."""
        for word in words:
            if word.startswith("--") and word.endswith(
                "=--"
            ):  # some versions of argparse make a list of this value
                self.error(f"argument {word[:-3]}: -- is no value; give one, or leave the flag out")
        return self.parse_args(words)


def namespace(text: str) -> str:
    """The name of a namespace, as argparse reads it."""
    try:
        return read_namespace(text)
    except Invalid as error:
        raise argparse.ArgumentTypeError(f"{error}; write the namespace's name") from None


def bounded(text: str, flag: str) -> str:
    """The text as it is. Raises Invalid where it is longer than any value of the flag: numbers that long cannot be read."""
    if len(text) > LONGEST:
        raise Invalid(f"{flag} {shown(text)}: it has {len(text)} characters; write {LONGEST} at most")
    return text


def add_store(parser: argparse.ArgumentParser) -> None:
    """Where the store is, and every configuration key, of which the help tells only those that matter most."""
    add_arguments(parser)
    hidden = {key.field for key in KEYS if key.name not in SHOWN}
    for action in parser._actions:
        if action.dest in hidden and action.option_strings:
            action.help = argparse.SUPPRESS
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument(
        "--namespace",
        type=namespace,
        default="kube-system",
        metavar="NAME",
        help="where ConfigMap cilium-config lies (%(default)s)",
    )
    parser.epilog = "Every other configuration key is a flag as well: omnipam operator --help lists them."


def add_format(parser: argparse.ArgumentParser) -> None:
    """`-o table|json|yaml`."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="how to print (%(default)s)",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """`--dry-run`."""
    parser.add_argument("--dry-run", action="store_true", help="check and print, and change nothing")
