"""The node's row in the embedded store, on a thread of its own; other processes' changes are looked for often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from omnipam.core.cidr import FAMILIES, Cidr, Family
from omnipam.core.errors import Conflict, Invalid, NotFound, OmnipamError
from omnipam.core.values import Agent, Block, Facts, Node

from ..sqlite import blocks, rows
from ..sqlite.store import BUSY_S, SqliteStore
from ..sqlite.worker import Worker
from .side import Report

POLL_S = 0.05
AWAY_S = 1.0


class _Rows(SqliteStore):
    """The store, with what only a node's agent writes."""

    def add_with_blocks(self, node: Node, held: tuple[Block, ...]) -> Node:
        """Adds a node whose row was deleted, with the blocks that it still uses; without them if others have them by now."""
        with self.writing() as db:
            if db.execute("SELECT 1 FROM nodes WHERE name = ?", (node.name,)).fetchone():
                raise Conflict(f"node {node.name} is there by now")
            db.execute(
                "INSERT INTO nodes (name, uid, created, version, facts, demand) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(node.name, self._new_uid(), self._clock(), self._advance(db)),
                    *(rows.facts_json(node.facts), rows.demand_json(node)),
                ),
            )
            if held:
                change = blocks.replace(db, node.name, held)
                if isinstance(change, blocks.Change):
                    self._remember(self._clock(), node.name, change)
            return self._nodes("WHERE n.name = ?", (node.name,))[0]

    def say(self, name: str, version: str, agent: Agent) -> Node:
        """Writes the agent's half of this version of the row. Raises Conflict, NotFound."""
        with self.writing() as db:
            self._same(name, version)
            db.execute(
                "UPDATE nodes SET agent = ?, version = ? WHERE name = ?",
                (rows.agent_json(agent), self._advance(db), name),
            )
            return self._nodes("WHERE n.name = ?", (name,))[0]

    def asked(self, name: str, version: str, report: Report) -> Node:
        """Writes demand, and gives blocks up, in this version of the row. Raises Conflict, NotFound."""
        with self.writing() as db:
            node = self._same(name, version)
            asking = msgspec.structs.replace(node, demand=report.demand)
            change = blocks.replace(db, name, report.shown_blocks(node))
            if not isinstance(change, blocks.Change):
                change = blocks.replace(
                    db, name, [each for each in node.holds.blocks if each not in report.given_up]
                )
            db.execute(
                "UPDATE nodes SET demand = ?, version = ? WHERE name = ?",
                (rows.demand_json(asking), self._advance(db), name),
            )
            if isinstance(change, blocks.Change):
                self._remember(self._clock(), name, change)
            return self._nodes("WHERE n.name = ?", (name,))[0]

    def _same(self, name: str, version: str) -> Node:
        node = next(iter(self._nodes("WHERE n.name = ?", (name,))), None)
        if node is None:
            raise NotFound(f"node {name} is not in {self.path}")
        if node.version != version:
            raise Conflict(f"node {name} was written meanwhile")
        return node


class SqliteSide:
    """url: the store's. facts: what the row says of the machine. pools: told which pools there are, by name."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        pooled: bool,
        facts: Facts,
        pools: Callable[[Mapping[str, frozenset[Family]]], None] = lambda pools: None,
    ) -> None:
        self._url, self.name, self._pooled, self._facts = url, name, pooled, facts
        self._pools = pools
        self._worker = Worker(f"node {name} in {url}")
        self._store: _Rows | None = None

    async def open(self) -> None:
        self._worker.start()
        await self._worker.call(self._open)

    async def close(self) -> None:
        await self._worker.call(self._close)
        await self._worker.stop()

    async def follow(self, seen: Callable[[Node | None], None]) -> None:
        before: int | None = None
        told: str | None = None
        pools: Mapping[str, frozenset[Family]] | None = None
        while True:
            try:
                outside = await self._worker.call(lambda: self._there().outside_changes())
                if outside != before:
                    if self._pooled:
                        found = await self._worker.call(self._read_pools)
                        if found != pools:
                            pools = found
                            self._pools(found)
                    node = await self.read()
                    version = node.version if node is not None else ""
                    if version != told:
                        told = version
                        seen(node)
                    before = outside
            except OmnipamError:
                await asyncio.sleep(AWAY_S)
            await asyncio.sleep(POLL_S)

    async def read(self) -> Node | None:
        return await self._worker.call(lambda: self._there().node(self.name))

    async def create(self, report: Report) -> Node | None:
        node = Node(self.name, facts=self._facts, demand=report.demand)
        try:
            return await self._worker.call(lambda: self._there().add_with_blocks(node, report.held))
        except Conflict:
            return None

    async def write(self, node: Node, report: Report) -> Node:
        if self._pooled:
            return await self._worker.call(lambda: self._there().asked(self.name, node.version, report))

        def said(word: str) -> tuple[Cidr, ...]:
            return tuple(sorted(cidr for cidr, state in report.states if state == word))

        agent = Agent(said("depleted"), said("released"))
        return await self._worker.call(lambda: self._there().say(self.name, node.version, agent))

    def _read_pools(self) -> Mapping[str, frozenset[Family]]:
        return {
            spec.name: frozenset(
                family for family in FAMILIES if any(each.cidr.family == family for each in spec.ranges)
            )
            for spec in self._there().pools()
        }

    def _open(self) -> None:
        self._store = _Rows(self._url, author=f"agent {self.name}", clock=time.time, busy_s=BUSY_S)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def _there(self) -> _Rows:
        if self._store is None:
            raise Invalid(f"store {self._url} is closed")
        return self._store
