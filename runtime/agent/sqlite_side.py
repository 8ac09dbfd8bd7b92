"""The node's row in the embedded store, on a thread of its own; other processes' changes are looked for often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

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
        """Adds a node whose row was deleted, with the blocks that it still uses; without those that others have by now."""
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
            change, _ = blocks.replace_free(db, node.name, held)
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
        """Writes demand, gives blocks up, and shows those that were taken away and are still free, in this version of the row.

        Raises Conflict, NotFound.
        """
        with self.writing() as db:
            node = self._same(name, version)
            asking = msgspec.structs.replace(node, demand=report.demand)
            change, _ = blocks.replace_free(db, name, report.shown_blocks(node))
            db.execute(
                "UPDATE nodes SET demand = ?, version = ? WHERE name = ?",
                (rows.demand_json(asking), self._advance(db), name),
            )
            self._remember(self._clock(), name, change)
            return self._nodes("WHERE n.name = ?", (name,))[0]

    def taken(self, name: str, held: Sequence[Block]) -> tuple[blocks.Overlap, ...]:
        """Which of these blocks are, at least in part, other nodes'."""
        with self.reading() as db:
            found = [blocks.overlap_of(db, block.cidr) for block in held]
        return tuple(each for each in found if each is not None and each.node != name)

    def claim(self, name: str, held: Sequence[Block]) -> Node | None:
        """Gives the node what is free of these blocks, beside what it has. Answers it as it is then; None: it is not there."""
        with self.writing() as db:
            node = next(iter(self._nodes("WHERE n.name = ?", (name,))), None)
            if node is None:
                return None
            change, _ = blocks.replace_free(db, name, (*node.holds.blocks, *held))
            if not change.granted:
                return node
            db.execute("UPDATE nodes SET version = ? WHERE name = ?", (self._advance(db), name))
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
    """url: the store's. facts: what the row says of the machine. pools: told which pools there are, by name.

    held: the blocks that the node uses. Those that its row does not show may be granted to others, so that an address is given
    twice: it happens where the row was deleted while no agent ran.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        pooled: bool,
        facts: Facts,
        log: structlog.typing.FilteringBoundLogger,
        pools: Callable[[Mapping[str, frozenset[Family]]], None] = lambda pools: None,
        held: Callable[[], Iterable[Block]] = tuple,
    ) -> None:
        self._url, self.name, self._pooled, self._facts = url, name, pooled, facts
        self._log, self._pools, self._held = log, pools, held
        self._taken: tuple[blocks.Overlap, ...] | None = None  # None: not looked yet
        self._owed: set[Cidr] = set()  # what is claimed as soon as it is nobody's
        self._unlooked = False  # whether we wrote what others' blocks may be in the way of
        self._worker = Worker(f"node {name} in {url}")
        self._store: _Rows | None = None

    @property
    def impaired(self) -> str | None:
        """Which blocks that the node uses are others' by now; None: none are."""
        held = {block.cidr for block in self._held()}
        taken = ", ".join(str(each) for each in self._taken or () if each.cidr in held)
        if not taken:
            return None
        return f"{taken}: addresses are in use twice; start the pods that have one here anew"

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

        def tell(node: Node | None) -> None:
            nonlocal told
            version = node.version if node is not None else ""
            if version != told:
                told = version
                seen(node)

        while True:
            try:
                outside = await self._worker.call(lambda: self._there().outside_changes())
                if outside != before or self._unlooked:
                    self._unlooked = False
                    if self._pooled:
                        found = await self._worker.call(self._read_pools)
                        if found != pools:
                            pools = found
                            self._pools(found)
                    node = await self.read()
                    tell(node)  # before a look: what was taken away without being in use is not held any more
                    if node is not None:
                        tell(await self._look(node))
                    before = outside
            except OmnipamError:
                self._unlooked = True
                await asyncio.sleep(AWAY_S)
            await asyncio.sleep(POLL_S)

    async def read(self) -> Node | None:
        return await self._worker.call(lambda: self._there().node(self.name))

    async def create(self, report: Report) -> Node | None:
        node = Node(self.name, facts=self._facts, demand=report.demand)
        try:
            made = await self._worker.call(lambda: self._there().add_with_blocks(node, report.held))
        except Conflict:
            return None
        self._unlooked = True
        return made

    async def write(self, node: Node, report: Report) -> Node:
        if self._pooled:
            written = await self._worker.call(lambda: self._there().asked(self.name, node.version, report))
            self._unlooked = self._unlooked or bool(report.lacking(node))
            return written

        def said(word: str) -> tuple[Cidr, ...]:
            return tuple(sorted(cidr for cidr, state in report.states if state == word))

        agent = Agent(said("depleted"), said("released"))
        return await self._worker.call(lambda: self._there().say(self.name, node.version, agent))

    async def _look(self, node: Node) -> Node | None:
        """Whose the blocks are that the node uses and its row does not show. Answers the row as it is then.

        What was another's and is nobody's now is the node's again; so is, in each life once, what is nobody's.
        """
        lacking = Report(True, held=tuple(self._held())).lacking(node)
        taken = await self._worker.call(lambda: self._there().taken(self.name, lacking)) if lacking else ()
        if self._taken is None:
            self._owed.update(each.cidr for each in lacking)
        self._owed.update(each.cidr for each in taken)
        for each in taken:
            if each not in (self._taken or ()):
                self._log.error("a block that pods use here is another node's", why=str(each))
        self._taken = taken
        free = [
            each
            for each in lacking
            if each.cidr in self._owed and all(each.cidr != other.cidr for other in taken)
        ]
        if not free:
            return node
        claimed = await self._worker.call(lambda: self._there().claim(self.name, free))
        self._owed.difference_update(each.cidr for each in free)
        return claimed

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
