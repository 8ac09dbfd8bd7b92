"""The tables beside the nodes: pools that were added, ranges that are kept, what the operator recorded of itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from omnipam.core.errors import Conflict, Invalid, NotFound, Refused
from omnipam.core.values import Finding, Kept, PoolSpec, Problem

from . import rows
from .connection import File
from .values import Recorded

LONGEST = 80
"""Characters of a value that an error quotes."""


class PoolTables(File):
    """Raises as `File`."""

    def _check_lease(self, db: sqlite3.Connection) -> None:
        """Raises LostLease where what only a leader writes must not be written."""

    def pools(self) -> tuple[PoolSpec, ...]:
        """The pools that were added, by name. A row that is no pool says so itself, in `unreadable`."""
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
                    f"pool {spec.name} exists already in {self.path}: add to that one, or choose another name"
                )
            db.execute("INSERT INTO pools VALUES (?, ?)", (spec.name, rows.pool_json(spec)))

    def change_pool(self, before: PoolSpec, after: PoolSpec) -> None:
        """Has a pool be so, if it is still as it was before. Raises Conflict if not, NotFound if it is gone."""
        with self.writing() as db:
            row = db.execute("SELECT spec FROM pools WHERE name = ?", (before.name,)).fetchone()
            if row is None:
                raise NotFound(f"pool {before.name} is not in {self.path}: see omnipam pool list")
            if rows.pool_of(before.name, row[0]) != before:
                raise Conflict(f"pool {before.name} was changed meanwhile: look at it, and try again")
            db.execute("UPDATE pools SET spec = ? WHERE name = ?", (rows.pool_json(after), before.name))

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
                    f"pool {name} has {used} blocks granted (one of node {example}): delete those nodes, or wait until their agents "
                    f"give them up; omnipam pool add {name} --reserved RANGE keeps more from being granted"
                )
            db.execute("DELETE FROM pools WHERE name = ?", (name,))

    def kept(self) -> tuple[Kept, ...]:
        """Sorted. Raises Invalid where a row cannot be read: `readable_kept` goes on without it."""
        kept, findings = self.readable_kept()
        if findings:
            raise Invalid(str(findings[0]))
        return kept

    def readable_kept(self) -> tuple[tuple[Kept, ...], tuple[Finding, ...]]:
        """Sorted, and a finding for each row that cannot be read."""
        with self.reading() as db:
            found = _kept(db)
        findings = tuple(
            Finding(
                "StateUnreadable",
                ("Table/kept",),
                f"store {self.path}, table kept: row {_shown(row)} cannot be read ({_short(str(why))}): "
                "the range that it keeps from being granted is not known",
                "correct the row, or delete it if no pod uses that range",
            )
            for row, why in found.items()
            if isinstance(why, Invalid)
        )
        return tuple(sorted(kept for kept in found.values() if isinstance(kept, Kept))), findings

    def keep(self, kept: Sequence[Kept]) -> None:
        """Replaces what is kept, but for rows that cannot be read: only a person knows what they meant."""
        wanted = {(each.pool, str(each.cidr), each.owner, each.until) for each in kept}
        with self.writing() as db:
            self._check_lease(db)
            had = {row for row, kept in _kept(db).items() if isinstance(kept, Kept)}
            db.executemany(
                "DELETE FROM kept WHERE pool = ? AND cidr = ? AND owner = ?",
                [each[:3] for each in had - wanted],
            )
            db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)", sorted(wanted - had))

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


def _kept(db: sqlite3.Connection) -> dict[tuple[object, ...], Kept | Invalid]:
    """The rows of table kept, each with what it says, or why it cannot be read."""
    found: dict[tuple[object, ...], Kept | Invalid] = {}
    for row in db.execute("SELECT pool, cidr, owner, until FROM kept ORDER BY pool, cidr, owner"):
        try:
            found[row] = rows.kept_of(row)
        except Invalid as error:
            found[row] = error
    return found


def _shown(row: tuple[object, ...]) -> str:
    names = ("pool", "cidr", "owner", "until")
    return f"({', '.join(f'{name} {_short(repr(value))}' for name, value in zip(names, row, strict=True))})"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
