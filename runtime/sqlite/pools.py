"""The tables beside the nodes: pools that were added, ranges that are kept, what the operator recorded of itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from omnipam.core.cidr import parse
from omnipam.core.errors import Invalid, NotFound, Refused
from omnipam.core.values import Kept, PoolSpec, Problem

from . import rows
from .connection import File
from .values import Recorded


class PoolTables(File):
    """Raises as `File`."""

    def _check_lease(self, db: sqlite3.Connection) -> None:
        """Raises LostLease where what only a leader writes must not be written."""

    def pools(self) -> tuple[PoolSpec, ...]:
        """The pools that were added, by name. Raises Invalid where a row is no pool."""
        with self.reading() as db:
            found = db.execute("SELECT name, spec FROM pools ORDER BY name").fetchall()
        return tuple(rows.pool_of(name, spec) for name, spec in found)

    def pool_states(self) -> tuple[PoolSpec, ...]:
        """The pools as an allocator is told of them: a row that is no pool says so itself."""
        with self.reading() as db:
            found = db.execute("SELECT name, spec FROM pools ORDER BY name").fetchall()
        states = []
        for name, text in found:
            try:
                states.append(rows.pool_of(name, text))
            except Invalid as error:
                problem = Problem("PoolRefused", str(error), f"omnipam pool delete {name}, and add it again")
                states.append(PoolSpec(name, max_blocks=0, unreadable=(problem,)))
        return tuple(states)

    def add_pool(self, spec: PoolSpec) -> None:
        """Adds a pool. Raises Invalid if there is one of that name."""
        if not spec.name:
            raise Invalid("a pool needs a name")
        with self.writing() as db:
            if db.execute("SELECT 1 FROM pools WHERE name = ?", (spec.name,)).fetchone():
                raise Invalid(
                    f"pool {spec.name} exists already in {self.path}: delete it first, or choose another name"
                )
            db.execute("INSERT INTO pools VALUES (?, ?)", (spec.name, rows.pool_json(spec)))

    def delete_pool(self, name: str) -> None:
        """Deletes a pool. Raises NotFound, and Refused while a node has a block of it."""
        with self.writing() as db:
            if not db.execute("SELECT 1 FROM pools WHERE name = ?", (name,)).fetchone():
                raise NotFound(f"pool {name} is not in {self.path}: see omnipam pool list")
            used, example = db.execute(
                "SELECT count(*), min(node) FROM grants WHERE pool = ?", (name,)
            ).fetchone()
            if used:
                raise Refused(
                    f"pool {name} has {used} blocks granted (one of node {example}): delete its nodes first"
                )
            db.execute("DELETE FROM pools WHERE name = ?", (name,))

    def kept(self) -> tuple[Kept, ...]:
        """Sorted. Raises Invalid where a row is no CIDR: to skip it might grant it."""
        with self.reading() as db:
            found = db.execute("SELECT pool, cidr, owner, until FROM kept").fetchall()
        try:
            return tuple(sorted(Kept(pool, parse(cidr), owner, until) for pool, cidr, owner, until in found))
        except Invalid as error:
            raise Invalid(f"store {self.path}, table kept: {error}: correct or delete the row") from error

    def keep(self, kept: Sequence[Kept]) -> None:
        """Replaces what is kept."""
        wanted = {(each.pool, str(each.cidr), each.owner, each.until) for each in kept}
        with self.writing() as db:
            self._check_lease(db)
            had = set(db.execute("SELECT pool, cidr, owner, until FROM kept"))
            db.executemany(
                "DELETE FROM kept WHERE pool = ? AND cidr = ? AND owner = ?",
                [each[:3] for each in had - wanted],
            )
            db.executemany("INSERT INTO kept VALUES (?, ?, ?, ?)", sorted(wanted - had))

    def settings(self) -> Recorded:
        """What the operator recorded. Raises Invalid where it cannot be read."""
        with self.reading() as db:
            found = dict(db.execute("SELECT name, value FROM settings"))
        return Recorded(found.get("mode", ""), rows.pools_of(found["pools"]) if "pools" in found else ())

    def record(self, mode: str, pools: Sequence[PoolSpec]) -> None:
        """Says which mode and pools serve this store. Writes nothing if that is what it says."""
        wanted = {"mode": mode, "pools": rows.pools_json(pools)}
        with self.reading() as db:
            if dict(db.execute("SELECT name, value FROM settings")).items() >= wanted.items():
                return
        with self.writing() as db:
            self._check_lease(db)
            db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", wanted.items())
