"""`omnipam cni`: the CNI plugin, put where a container runtime finds it."""

from __future__ import annotations

import argparse
from pathlib import Path

from omnipam.core.errors import Invalid

from ..cni.install import install_conflist, install_plugin, interpreter
from ..cni.netconf import SOCKET, STATE, Failure, read_socket, read_state
from . import output
from .parser import add_dry_run


def add(parser: argparse.ArgumentParser) -> None:
    """The verbs and their arguments."""
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    install = verbs.add_parser(
        "install", help="put omnipam-cni, and if wanted a network configuration, in place"
    )
    install.add_argument(
        "--bin-dir",
        default="/opt/cni/bin",
        metavar="D",
        help="where the runtime looks for plugins (%(default)s)",
    )
    install.add_argument(
        "--conf-dir", metavar="D", help="also write a network configuration there, unless there is one"
    )
    install.add_argument(
        "--python",
        default=interpreter(),
        metavar="PATH",
        help="the plugin's interpreter, as the host sees it (%(default)s)",
    )
    install.add_argument(
        "--socket",
        default=SOCKET,
        metavar="PATH",
        help="the agent's, for the network configuration (%(default)s)",
    )
    install.add_argument(
        "--state-dir",
        default=STATE,
        metavar="D",
        help="the agent's, for the network configuration (%(default)s)",
    )
    add_dry_run(install)


def run(args: argparse.Namespace) -> int:
    """Carries out the verb. Raises OmnipamError."""
    for flag, value in (("--bin-dir", args.bin_dir), ("--conf-dir", args.conf_dir)):
        if value == "":
            raise Invalid(f"{flag}: it is empty; name a directory")
    for flag, value, read in (
        ("--socket", args.socket, read_socket),
        ("--state-dir", args.state_dir, read_state),
    ):
        if value == "":
            raise Invalid(f"{flag}: it is empty; leave it out for the agent's default")
        try:
            read(value, flag)
        except Failure as failure:  # what the plugin would say at each call
            raise Invalid(f"{failure.msg}: {failure.details!r}; the plugin could not use it") from None
    done = [install_plugin(Path(args.bin_dir), python=args.python, dry_run=args.dry_run)]
    if args.conf_dir is not None:
        done.append(
            install_conflist(
                Path(args.conf_dir), socket=args.socket, state_dir=args.state_dir, dry_run=args.dry_run
            )
        )
    output.write("".join(f"{line}\n" for line in done))
    return 0
