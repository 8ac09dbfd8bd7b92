"""Pools of the embedded store, changed at the command line under a running multi-pool operator: at once, and never one block twice."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.operator_process import SHORT_LEASE, OperatorProcess

from omnipam.core.cidr import Cidr, parse
from omnipam.core.values import Demand, Node
from omnipam.runtime.cli import main
from omnipam.runtime.sqlite.store import SqliteStore

MARS = ("--ipv4-cidr=10.20.0.0/26", "--ipv4-mask-size=28")


@pytest.fixture
def pool(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return lambda *words: main(["pool", *words, f"--store={url}", "--ipam=multi-pool"])


def operator(url: str, tmp_path: Path) -> OperatorProcess:
    return OperatorProcess(tmp_path, f"--store={url}", "--ipam=multi-pool", *SHORT_LEASE)


def has(store: SqliteStore, name: str) -> list[str]:
    node = store.node(name)
    return [str(block.cidr) for block in node.holds.blocks] if node is not None else []


def error(store: SqliteStore, name: str) -> str:
    node = store.node(name)
    return node.holds.error if node is not None else ""


def asks(name: str, needed: int) -> Node:
    return Node(name, demand=(Demand("mars", "ipv4", needed),))


def test_what_changes_at_the_command_line_is_taken_up_at_once(
    url: str, tmp_path: Path, store: SqliteStore, pool: Callable[..., int]
) -> None:
    assert pool("add", "mars", *MARS, "--reserved=10.20.0.0/26") == 0
    with operator(url, tmp_path) as op:
        op.until_leading()
        store.add_node(asks("a", 14))
        op.until(lambda: "what pool mars reserves leaves no IPv4 block" in error(store, "a"), "said why")
        op.until(lambda: "PoolReserved" in op.text(), "and in the log, of the pool too")
        assert pool("delete", "mars", "--reserved=10.20.0.0/26") == 0
        op.until(lambda: has(store, "a") == ["10.20.0.0/28"], "served as soon as nothing is reserved")
        op.until(lambda: not error(store, "a"), "cleared")
        store.add_node(asks("b", 14 * 5))
        op.until(lambda: len(has(store, "b")) == 3, "all there is")
        assert pool("add", "mars", "--ipv4-cidr=10.21.0.0/24") == 0
        began = time.monotonic()
        op.until(lambda: len(has(store, "b")) == 5, "what was added is used")
        assert time.monotonic() - began < 2.0  # 100 ms on a machine that is not shared
        assert pool("delete", "mars", "--ipv4-cidr=10.20.0.0/26") == 0
        op.until(lambda: has(store, "a") == ["10.20.0.0/28", "10.21.0.32/28"], "what drains is made up for")
        assert pool("delete", "mars") == 1, "it is in use"
        assert pool("add", "mars", *MARS) == 0
        op.until(lambda: not error(store, "a"), "healed")
        assert op.stop() == 0


def test_pools_change_while_the_operator_is_killed(
    url: str, tmp_path: Path, store: SqliteStore, pool: Callable[..., int]
) -> None:
    assert pool("add", "mars", *MARS) == 0
    chance = random.Random(7)
    names = [f"n{number}" for number in range(6)]
    for name in names:
        store.add_node(asks(name, 14))
    more = [f"--ipv4-cidr=10.2{number}.0.0/26" for number in range(1, 5)]
    for turn in range(6):
        with operator(url, tmp_path) as op:
            op.until_leading()
            for _ in range(4):
                given = chance.choice(more)
                there = {str(each.cidr) for spec in store.pools() for each in spec.ranges}
                assert pool("delete" if given.partition("=")[2] in there else "add", "mars", given) == 0
                store.ask(chance.choice(names), (Demand("mars", "ipv4", chance.choice((1, 14, 28, 60))),))
            if turn < 5:
                op.kill()
                continue
            pool("add", "mars", "--ipv4-cidr=10.30.0.0/16")

            def met(name: str) -> bool:
                node = store.node(name)
                ranges = [each.cidr for each in store.pools()[0].ranges]
                assert node is not None
                blocks = [b.cidr for b in node.holds.blocks if any(r.contains(b.cidr) for r in ranges)]
                return len(blocks) * 14 >= node.demand[0].needed

            op.until(lambda: all(map(met, names)), "all are served in the end")
    held: list[Cidr] = [each.block.cidr for each in store.grants()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(held, 2))
    assert all(cidr.length == 28 for cidr in held)
    assert parse("10.20.0.0/26") in {each.cidr for each in store.pools()[0].ranges}
