"""A process that publishes is killed at any moment: what it acknowledged is there, and what is there is whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

from omnipam.core.cidr import Cidr
from omnipam.core.values import Node
from omnipam.runtime.sqlite.store import SqliteStore

ROUNDS = 15
NODES = 8

CHILD = """
import asyncio, itertools, os, sys
from omnipam.core.allocator import Version
from omnipam.core.cidr import Cidr
from omnipam.core.drive import Publish
from omnipam.core.values import Block, Grant
from omnipam.runtime.sqlite.adapter import AsyncSqliteStore

async def publish(store, number):
    node = await store.read(f"n{number}")
    for turn in itertools.count(int(sys.argv[2])):
        block = Block("default", Cidr(32, (10 << 24) + (((turn % 4096) * 8 + number) << 8), 24))
        outcome = await store.publish(Publish(node, Grant((block,))))
        assert isinstance(outcome, Version), outcome
        os.write(1, f"{node.name} {outcome.version} {block.cidr.first}\\n".encode())  # acknowledged
        node = await store.read(node.name)

async def main():
    store = AsyncSqliteStore(sys.argv[1], author="child")
    await store.open()
    await asyncio.gather(*(publish(store, number) for number in range(8)))

asyncio.run(main())
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    url, dice = f"sqlite:///{tmp_path}/x.db", random.Random(3)
    with SqliteStore(url) as store:
        for number in range(NODES):
            store.add_node(Node(f"n{number}"))
    acknowledged: dict[str, tuple[int, int]] = {}
    total = 0
    for round_ in range(ROUNDS):
        command = [sys.executable, "-c", CHILD, url, str(round_ * 256)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            lines = [child.stdout.readline() for _ in range(dice.randrange(1, 120))]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
            errors = child.stderr.read()
        assert child.returncode == -signal.SIGKILL, errors
        for line in lines:
            if line.endswith(b"\n"):
                name, version, first = line.decode().split()
                acknowledged[name] = int(version), int(first)
                total += 1
        with SqliteStore(url) as store, store.reading() as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            taken: set[Cidr] = set()
            for node in store.nodes():
                assert node.unreadable == ()
                if node.name not in acknowledged:
                    continue
                version, first = acknowledged[node.name]
                assert int(node.version) >= version
                (block,) = node.holds.blocks
                if int(node.version) == version:
                    assert block.cidr.first == first
                assert block.cidr not in taken
                taken.add(block.cidr)
                newest = store.history(node.name, 1)[0]
                assert (newest.event, newest.cidr) == ("granted", str(block.cidr))
    assert total > ROUNDS * 20
