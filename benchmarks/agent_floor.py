"""`python -m benchmarks.agent_floor bare|nothing FOLDER`: what the agent is measured against, on `FOLDER/agent.sock`.

bare: the agent's HTTP server; each request commits one row durably to SQLite, and that is all. nothing: the whole agent, on the
store `FOLDER/omnipam.db`, with a journal that writes nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from omnipam.core.attachment import Stored
from omnipam.core.node_agent import NodeAgent
from omnipam.core.reservations import Change
from omnipam.core.values import Facts
from omnipam.runtime.agent.agent import Agent, Settings
from omnipam.runtime.agent.http import Answer, Request, Serve
from omnipam.runtime.agent.journal import Journal
from omnipam.runtime.agent.listening import Listening
from omnipam.runtime.agent.sqlite_side import SqliteSide
from omnipam.runtime.clock import SteadyClock
from omnipam.runtime.logs import configure, logger


class Unwritten(Journal):
    """Takes everything and keeps nothing."""

    def commit(self, changes: Sequence[Change]) -> None:
        pass

    def rewrite(self, rows: Iterable[Stored], boot: str, node: str, lost: str = "") -> None:
        pass


def bare(folder: Path) -> Serve:
    """Two pragmas and three statements more than nothing."""
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        db.execute(f"PRAGMA {pragma}")
    db.execute("CREATE TABLE requests (id INTEGER PRIMARY KEY, target TEXT)")

    def serve(request: Request) -> Answer:
        db.execute("INSERT INTO requests (target) VALUES (?)", (request.target,))
        return Answer(201, b"{}")

    return serve


async def run_bare(folder: Path) -> None:
    await Listening(folder / "agent.sock", bare(folder)).open()
    await asyncio.Event().wait()


async def run_nothing(folder: Path) -> None:
    configure(level="warning")
    settings = Settings(
        node="node-1",
        mode="cluster-pool",
        families=("ipv4",),
        socket=folder / "agent.sock",
        state=folder / "state",
    )
    side = SqliteSide(
        f"sqlite:///{folder / 'omnipam.db'}", "node-1", pooled=False, facts=Facts(), log=logger()
    )
    await side.open()
    node = NodeAgent(families=("ipv4",), pooled=False)
    await Agent(
        settings,
        node,
        side,
        None,
        clock=SteadyClock().now,
        log=logger(),
        journal=Unwritten(settings.state),
    ).run()


if __name__ == "__main__":
    asyncio.run({"bare": run_bare, "nothing": run_nothing}[sys.argv[1]](Path(sys.argv[2])))
