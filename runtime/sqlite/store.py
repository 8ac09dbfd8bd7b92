"""`SqliteStore`: the embedded store, blocking. One object per thread; any number of processes on one file."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence

import msgspec

from omnipam.core.allocator import Conflict, Denied, Gone, Published, Unknown, Version
from omnipam.core.cidr import Cidr
from omnipam.core.drive import Publish
from omnipam.core.errors import Invalid, NotFound, OutcomeUnknown
from omnipam.core.values import Demand, Node, Problem

from ..election import LostLease
from . import blocks, rows
from .connection import in_our_words, said, writing
from .location import path_of
from .pools import PoolTables
from .values import Changes, Deletion, Event, Granted

BUSY_S = 5.0
"""How long a write waits for another process's. A write takes milliseconds, so this is a process that hangs."""

DELETIONS_KEPT_S = 3600.0
"""How long a deletion can be followed. Who looked away for longer lists anew."""


class _Holder(msgspec.Struct):
    holder: str


_HOLDER = msgspec.json.Decoder(_Holder)


def _new_uid() -> str:
    return str(uuid.uuid4())


class SqliteStore(PoolTables):
    """Nodes, pools, grants and their history in one file. Raises as `File`; a URL that is none is Invalid.

    author: who writes, for the history. clock: seconds since the epoch.
    lease: what an operator writes (grants, kept ranges, what it records) is written only while `author` holds this lease; the
    row is looked at in the writing transaction, so a process that slept through its lease does no harm. Empty: no such check.
    """

    def __init__(
        self,
        url: str,
        *,
        author: str = "",
        lease: str = "",
        clock: Callable[[], float] = time.time,
        new_uid: Callable[[], str] = _new_uid,
        busy_s: float = BUSY_S,
    ) -> None:
        super().__init__(path_of(url), busy_s=busy_s)
        self._author = author
        self._lease = lease
        self._clock = clock
        self._new_uid = new_uid

    # -- nodes

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, by name."""
        with self.reading():
            return self._nodes("ORDER BY n.name")

    def node(self, name: str) -> Node | None:
        with self.reading():
            return next(iter(self._nodes("WHERE n.name = ?", (name,))), None)

    def add_node(self, node: Node) -> Node:
        """Adds a node by its name, instance, facts, agent's half, demand and flags, and answers it as stored. It holds nothing yet.

        `uid` and `created` are made up where they are empty. Raises Invalid if there is one of that name.
        """
        if not node.name:
            raise Invalid("a node needs a name")
        if node.holds.blocks:
            raise Invalid(f"node {node.name} cannot be added with blocks: they are granted by the operator")
        with self.writing() as db:
            if db.execute("SELECT 1 FROM nodes WHERE name = ?", (node.name,)).fetchone():
                raise Invalid(
                    f"node {node.name} exists already in {self.path}: delete it first, or choose another name"
                )
            db.execute(
                "INSERT INTO nodes (name, uid, created, version, present, ignored, instance, facts, agent, demand) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(
                        node.name,
                        node.uid or self._new_uid(),
                        node.created or self._clock(),
                        self._advance(db),
                    ),
                    *(node.present, node.ignored, node.instance),
                    *(rows.facts_json(node.facts), rows.agent_json(node.agent), rows.demand_json(node)),
                ),
            )
            return self._nodes("WHERE n.name = ?", (node.name,))[0]

    def ask(self, name: str, demand: Sequence[Demand], *, without: Sequence[Cidr] = ()) -> Node:
        """The agent's half in multi-pool: what it asks for from now on, and the blocks that it gives up. Raises NotFound."""
        with self.writing() as db:
            node = next(iter(self._nodes("WHERE n.name = ?", (name,))), None)
            if node is None:
                raise NotFound(f"node {name} is not in {self.path}: see omnipam node list")
            asking = msgspec.structs.replace(node, demand=tuple(demand))
            kept = [block for block in node.holds.blocks if block.cidr not in without]
            change = blocks.replace(db, name, kept)
            assert isinstance(change, blocks.Change)  # fewer than before overlap nothing
            db.execute(
                "UPDATE nodes SET demand = ?, version = ? WHERE name = ?",
                (rows.demand_json(asking), self._advance(db), name),
            )
            self._remember(self._clock(), name, change)
            return self._nodes("WHERE n.name = ?", (name,))[0]

    def delete_node(self, name: str, *, uid: str = "") -> Node:
        """Deletes a node; what it held is free. Answers the node as it was. `uid` empty: whichever it is. Raises NotFound."""
        with self.writing() as db:
            node = next(iter(self._nodes("WHERE n.name = ?", (name,))), None)
            if node is None or (uid and node.uid != uid):
                raise NotFound(f"node {name} is not in {self.path}: see omnipam node list")
            now = self._clock()
            self._remember(now, name, blocks.Change(returned=node.holds.blocks))
            db.execute("DELETE FROM grants WHERE node = ?", (name,))
            db.execute("DELETE FROM nodes WHERE name = ?", (name,))
            old = db.execute(
                "SELECT max(version) FROM deletions WHERE at < ?", (now - DELETIONS_KEPT_S,)
            ).fetchone()[0]
            if old is not None:
                db.execute("DELETE FROM deletions WHERE version <= ?", (old,))
                db.execute("UPDATE revision SET pruned = ?", (old,))
            db.execute("INSERT INTO deletions VALUES (?, ?, ?, ?)", (self._advance(db), name, node.uid, now))
            return node

    # -- what changed

    def outside_changes(self) -> int:
        """A number that changes when another connection has written anything; cheap enough to ask every 50 ms."""
        with in_our_words(self.path):
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def revision(self) -> int:
        """The number of the last write of a node."""
        with self.reading() as db:
            return self._number(db)

    def changes(self, since: int | None) -> Changes | None:
        """What changed after a revision, in order; with None, all there is. Answers None if that is too long ago to tell."""
        with self.reading() as db:
            number, pruned = self._number(db), self._number(db, "pruned")
            if since is None:
                return Changes(number, self._nodes("ORDER BY n.version"))
            if since == number:
                return Changes(number, ())
            if since < pruned or since > number:  # the latter: another file was put in its place
                return None
            found: list[tuple[int, Node | Deletion]] = [
                (int(node.version), node)
                for node in self._nodes("WHERE n.version > ? ORDER BY n.version", (since,))
            ]
            found += [
                (version, Deletion(name, uid))
                for version, name, uid in db.execute(
                    "SELECT version, name, uid FROM deletions WHERE version > ?", (since,)
                )
            ]
            found.sort(key=lambda item: item[0])
            return Changes(number, tuple(item for _, item in found))

    # -- grants

    def publish(self, publish: Publish) -> Published:
        """Writes one grant. See `publish_all`."""
        return self.publish_all((publish,))[0]

    def publish_all(self, publishes: Sequence[Publish]) -> list[Published]:
        """Writes grants in one transaction, each for itself: one that is refused leaves the others be. Never raises what a
        `Published` can say, but LostLease. An answer is given when all are on disk."""
        try:
            self.check_place()
            with writing(self._db):
                self._check_lease(self._db)
                return [self._publish(self._db, publish) for publish in publishes]
        except OutcomeUnknown as error:
            return [Unknown(f"store {self.path}: {error}")] * len(publishes)
        except sqlite3.Error as error:
            refused = said(error, self.path)
            return [Denied(refused.reason, str(refused))] * len(publishes)

    def _publish(self, db: sqlite3.Connection, publish: Publish) -> Published:
        """Within the transaction. What is wrong with this one alone leaves no trace."""
        db.execute("SAVEPOINT one")
        kept = False
        try:
            outcome = self._published(db, publish)
            kept = isinstance(outcome, Version)
        except (sqlite3.IntegrityError, sqlite3.DataError, ValueError, OverflowError) as error:
            outcome = Denied(
                "Invalid", f"node {publish.node.name!r}: store {self.path} refused the grant: {error}"
            )
        if not kept:
            db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")
        return outcome

    def _published(self, db: sqlite3.Connection, publish: Publish) -> Published:
        node, grant = publish.node, publish.grant
        row = db.execute("SELECT version, present, error FROM nodes WHERE name = ?", (node.name,)).fetchone()
        if row is None or not row[1]:
            return Gone()
        if str(row[0]) != node.version:
            return Conflict()
        if grant.blocks == node.holds.blocks and grant.error == row[2]:
            return Version(node.version)
        change = blocks.replace(db, node.name, grant.blocks)
        if isinstance(change, blocks.Overlap):
            return Denied("Overlap", f"node {node.name} cannot get {change}")
        version = self._advance(db)
        db.execute(
            "UPDATE nodes SET error = ?, version = ? WHERE name = ?", (grant.error, version, node.name)
        )
        self._remember(self._clock(), node.name, change)
        return Version(str(version))

    def grants(self) -> tuple[Granted, ...]:
        """All blocks that nodes have, by address, IPv4 first. Rows that are no network are left out (see `Node.unreadable`)."""
        with self.reading() as db:
            found = db.execute(
                f"SELECT {blocks.COLUMNS} FROM grants g ORDER BY g.family, g.first, g.last"
            ).fetchall()
        return tuple(Granted(row[0], block) for row in found if (block := blocks.block_of(row)) is not None)

    def history(self, node: str | None = None, limit: int = 100) -> tuple[Event, ...]:
        """The last `limit` events, of all nodes or one, newest first."""
        with self.reading() as db:
            found = db.execute(
                "SELECT at, node, event, pool, cidr, author, text FROM history "
                + ("" if node is None else "WHERE node = ? ")
                + "ORDER BY id DESC LIMIT ?",
                (limit,) if node is None else (node, limit),
            ).fetchall()
        return tuple(Event(*row) for row in found)

    def report(self, node: str, problem: Problem) -> None:
        """Adds a failure to the history: a node's, or (empty) the configuration's."""
        with self.writing() as db:
            db.execute(
                "INSERT INTO history (at, node, event, author, text) VALUES (?, ?, 'problem', ?, ?)",
                (self._clock(), node, self._author, str(problem)),
            )

    # -- within

    def _nodes(self, clause: str, values: tuple[object, ...] = ()) -> tuple[Node, ...]:
        granted: dict[str, list[blocks.Row]] = {}
        for row in self._db.execute(
            f"SELECT {blocks.COLUMNS} FROM grants g JOIN nodes n ON n.name = g.node "
            f"{clause.partition('ORDER')[0]} ORDER BY g.node, g.position, g.id",
            values,
        ):
            granted.setdefault(row[0], []).append(row)
        return tuple(
            rows.node_of(row, granted.get(row[0], ()))
            for row in self._db.execute(f"SELECT {rows.NODE_COLUMNS} FROM nodes n {clause}", values)
        )

    def _check_lease(self, db: sqlite3.Connection) -> None:
        if not self._lease:
            return
        row = db.execute("SELECT record FROM leases WHERE name = ?", (self._lease,)).fetchone()
        try:
            holder = _HOLDER.decode(row[0]).holder if row is not None else ""
        except (msgspec.MsgspecError, TypeError) as error:
            raise LostLease(
                f"store {self.path}, table leases: row {self._lease} cannot be read ({error}); restart to stand again"
            ) from error
        if holder != self._author:
            raise LostLease(
                f"lease {self._lease} in {self.path}: {holder or 'nobody'} holds it now; restart to stand again"
            )

    def _advance(self, db: sqlite3.Connection) -> int:
        number = self._number(db) + 1
        db.execute("UPDATE revision SET number = ?", (number,))
        return number

    def _number(self, db: sqlite3.Connection, column: str = "number") -> int:
        row = db.execute(f"SELECT {column} FROM revision").fetchone()
        if row is None or not isinstance(row[0], int):
            raise Invalid(
                f"store {self.path}, table revision: {column} is {row and row[0]!r}, which is no number:"
                " write the largest version in table nodes there, or restore a backup"
            )
        return row[0]

    def _remember(self, at: float, node: str, change: blocks.Change) -> None:
        self._db.executemany(
            "INSERT INTO history (at, node, event, pool, cidr, author) VALUES (?, ?, ?, ?, ?, ?)",
            [(at, node, "returned", each.pool, str(each.cidr), self._author) for each in change.returned]
            + [(at, node, "granted", each.pool, str(each.cidr), self._author) for each in change.granted],
        )
