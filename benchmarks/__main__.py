"""`python -m benchmarks [NAME…]`: run benchmarks, print their tables, write their results. Exit 1 if a row misses its target."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module

from tests.kube.binary import NoServer
from tests.kube.processes import StartFailed

from . import table
from .machine import note
from .runs import RunFailed

NAMES = ("ledger", "operator_start", "operator_restart", "operator_20000", "multi_pool", "agent", "cni")
MISSED, USAGE = 1, 2


def _rows(name: str) -> object:
    """What the module of that name makes; imported late, so that one benchmark needs nothing of the others."""
    return import_module(f"{__package__}.{name}").rows()


BENCHMARKS: Mapping[str, Callable[[], object]] = {name: partial(_rows, name) for name in NAMES}


def main(
    argv: Sequence[str] | None = None, benchmarks: Mapping[str, Callable[[], object]] = BENCHMARKS
) -> int:
    """Run those named, or all, one after the other; a benchmark that cannot be run counts as missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(benchmarks)} (default: all)")
    names = parser.parse_args(argv).names or list(benchmarks)
    for name in names:
        if name not in benchmarks:
            print(f"benchmarks: {name!r} is none; use {', '.join(benchmarks)}", file=sys.stderr)
            return USAGE
    print(f"# {note()}", file=sys.stderr, flush=True)
    code = 0
    for name in names:
        began = time.monotonic()
        try:
            rows = table.rows_of(benchmarks[name]())
        except (NoServer, StartFailed, RunFailed) as error:
            print(f"benchmarks: {name} did not run: {error}", file=sys.stderr, flush=True)
            code = MISSED
            continue
        table.write(name, rows)
        print(f"# {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        print(table.render(rows), end="\n\n", flush=True)
        if not all(row.ok for row in rows):
            code = MISSED
    return code


if __name__ == "__main__":
    sys.exit(main())
