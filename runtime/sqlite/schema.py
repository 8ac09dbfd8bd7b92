"""The tables, and how a file of an earlier version is brought forward. `PRAGMA user_version` says which version a file has.

Ranges are stored as two blobs, first and last address, 16 bytes big endian for both families, so that bytes sort as numbers.
"""

from __future__ import annotations

import sqlite3

from omnipam.core.errors import Invalid

APPLICATION_ID = 0x6F6D6E69  # "omni": tells our files from other programs' (PRAGMA application_id)

_VERSION_1 = (
    # One counter numbers all writes of nodes. `pruned`: deletions up to this number are forgotten.
    """CREATE TABLE revision (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1), number INTEGER NOT NULL, pruned INTEGER NOT NULL)""",
    "INSERT INTO revision VALUES (1, 0, 0)",
    # `version`: the counter at the last write. `facts`, `agent`: JSON, see rows.py. `error`: the status text.
    """CREATE TABLE nodes (
        name TEXT NOT NULL PRIMARY KEY, uid TEXT NOT NULL, created REAL NOT NULL, version INTEGER NOT NULL,
        present INTEGER NOT NULL DEFAULT 1, ignored INTEGER NOT NULL DEFAULT 0, instance TEXT NOT NULL DEFAULT '',
        facts TEXT NOT NULL DEFAULT '{}', agent TEXT NOT NULL DEFAULT '{}', error TEXT NOT NULL DEFAULT '')""",
    "CREATE UNIQUE INDEX nodes_by_version ON nodes (version)",
    # So that others learn of a deletion; forgotten after a while (store.DELETIONS_KEPT_S).
    """CREATE TABLE deletions (
        version INTEGER PRIMARY KEY, name TEXT NOT NULL, uid TEXT NOT NULL, at REAL NOT NULL)""",
    "CREATE TABLE pools (name TEXT NOT NULL PRIMARY KEY, spec TEXT NOT NULL)",
    # `position`: blocks keep the order in which they were published.
    """CREATE TABLE grants (
        id INTEGER PRIMARY KEY, node TEXT NOT NULL REFERENCES nodes (name), position INTEGER NOT NULL, pool TEXT NOT NULL,
        family TEXT NOT NULL CHECK (family IN ('ipv4', 'ipv6')),
        first BLOB NOT NULL CHECK (length(first) = 16), last BLOB NOT NULL CHECK (length(last) = 16),
        length INTEGER NOT NULL, first_usable INTEGER NOT NULL DEFAULT 0, last_usable INTEGER NOT NULL DEFAULT 0,
        UNIQUE (family, first, last))""",
    "CREATE INDEX grants_by_node ON grants (node, position)",
    # `event`: granted, returned, or problem, which has a text and no block.
    """CREATE TABLE history (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, node TEXT NOT NULL, event TEXT NOT NULL, pool TEXT NOT NULL DEFAULT '',
        cidr TEXT NOT NULL DEFAULT '', author TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '')""",
    "CREATE INDEX history_by_node ON history (node, id)",
    """CREATE TABLE kept (
        pool TEXT NOT NULL, cidr TEXT NOT NULL, owner TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (pool, cidr, owner))""",
    "CREATE TABLE leases (name TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, record TEXT NOT NULL)",
    "CREATE TABLE settings (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
)

_VERSION_2 = (
    # What the node's agent asks for, its own default pool and limits: JSON, see rows.py.
    "ALTER TABLE nodes ADD COLUMN demand TEXT NOT NULL DEFAULT '{}'",
)

STEPS: tuple[tuple[str, ...], ...] = (_VERSION_1, _VERSION_2)
"""Each leads from the version of its position to the next one. Released steps are never edited."""

VERSION = len(STEPS)


def pragma(db: sqlite3.Connection, name: str) -> int:
    """The value of a numeric pragma."""
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def check(db: sqlite3.Connection, path: object) -> bool:
    """Whether the file is at our version. Raises Invalid where it is another program's, or a later omnipam's."""
    application, version = pragma(db, "application_id"), pragma(db, "user_version")
    if application == APPLICATION_ID and version <= VERSION:
        return version == VERSION
    if application == APPLICATION_ID:
        raise Invalid(
            f"store {path} was written by a later omnipam (schema {version}, this one knows up to {VERSION}): "
            "upgrade omnipam, or pass --store with another path"
        )
    if application or version or db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise Invalid(
            f"store {path} is another program's SQLite database: pass --store with the path of a new file"
        )
    return False


def migrate(db: sqlite3.Connection, path: object) -> None:
    """Brings the file to our version, in one transaction. Two processes may do it at once. Raises Invalid as `check`."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if not check(db, path):  # again, now that nobody else can be at it
            for step in STEPS[pragma(db, "user_version") :]:
                for statement in step:
                    db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
