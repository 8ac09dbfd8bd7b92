"""A person at the command line, on a machine of their own; and an operator that has been there."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from omnipam.core.allocator import Done, Outcome, Published, Settings, Step
from omnipam.core.blocking import VirtualClock, run
from omnipam.core.cidr import Family, parse
from omnipam.core.drive import Drive, Publish
from omnipam.core.values import Node, PoolRange, PoolSpec
from omnipam.providers.registry import find
from omnipam.runtime.cli import main
from omnipam.runtime.connect import SQLITE_LEASE
from omnipam.runtime.election import Record, micro_time
from omnipam.runtime.sqlite import lease
from omnipam.runtime.sqlite.store import SqliteStore


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def cells(self) -> list[list[str]]:
        """The table's lines, split where two spaces or more are."""
        return [re.split(" {2,}", line) for line in self.out.splitlines()]


class Console:
    """Runs commands in this process, on the store in `path` unless they name another."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._capsys = capsys

    def __call__(self, *words: str, store: str | None = None) -> Answer:
        self._capsys.readouterr()
        named = () if "--store" in words else ("--store", store or self.url)
        code = main([*words, *named])
        out, err = self._capsys.readouterr()
        return Answer(code, out, err)

    def refused(self, *words: str, code: int = 2) -> str:
        """The one line of a command that must fail."""
        answer = self(*words)
        assert answer.code == code, answer
        assert answer.out == ""
        lines = answer.err.splitlines()
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("omnipam: ")
        return lines[0]

    def store(self) -> SqliteStore:
        return SqliteStore(self.url, author="test")


def pool(
    *ranges: tuple[str, int], reserved: Sequence[str] = (), quarantine_s: float = 0.0, max_blocks: int = 1
) -> PoolSpec:
    """The pool `default`."""
    return PoolSpec(
        "default",
        tuple(PoolRange(parse(cidr), mask) for cidr, mask in ranges),
        tuple(map(parse, reserved)),
        quarantine_s,
        max_blocks,
    )


class _Port:
    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def perform(self, step: Step) -> Outcome:
        return Done()

    def publish(self, publish: Publish) -> Published:
        return self._store.publish(publish)

    def read(self, name: str) -> Node | None:
        return self._store.node(name)


def serve(console: Console, spec: PoolSpec, *, leads: bool = True) -> None:
    """As an operator in cluster-pool mode: records itself, grants all that it can, keeps what must outlive it."""
    families: list[Family] = []
    for each in spec.ranges:
        if each.cidr.family not in families:
            families.append(each.cidr.family)
    allocator = find("cluster-pool").build(Settings(tuple(families)))
    clock = VirtualClock(time.time())
    with console.store() as store:
        store.record("cluster-pool", (spec,))
        allocator.restore(store.nodes(), (spec,), store.kept(), clock.now())
        run(Drive(allocator), _Port(store), clock)
        store.keep(allocator.kept())
        lead(store, alive=leads)


def lead(store: SqliteStore, *, alive: bool, holder: str = "host-a") -> None:
    """Writes the lease row, as one that is held now, or was an hour ago."""
    stamp = micro_time(time.time() - (0 if alive else 3600))
    record = Record(holder, 15, stamp, stamp, 0)
    there = lease.read(store, SQLITE_LEASE)
    if there is None:
        lease.create(store, SQLITE_LEASE, record)
    else:
        lease.update(store, SQLITE_LEASE, record, there.version)
