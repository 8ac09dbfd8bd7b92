"""The grants in the database: which overlaps which, and one node's replaced by others. Within the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from omnipam.core.cidr import BITS, Cidr
from omnipam.core.values import Block

Row = tuple[str, str, str, bytes, int, int, int]
"""node, pool, family, first, length, first_usable, last_usable."""

COLUMNS = "g.node, g.pool, g.family, g.first, g.length, g.first_usable, g.last_usable"


class Overlap(msgspec.Struct, frozen=True):
    """A block that cannot be granted, and the one in its way."""

    cidr: Cidr
    node: str
    other: Cidr | None

    def __str__(self) -> str:
        other = "an unreadable block" if self.other is None else str(self.other)
        return f"{self.cidr}: it overlaps {other} of node {self.node}"


class Change(msgspec.Struct, frozen=True):
    """What replacing a node's blocks did."""

    granted: tuple[Block, ...] = ()
    returned: tuple[Block, ...] = ()


def key(address: int) -> bytes:
    """An address as the blob that stands for it; sorts as the number does."""
    return address.to_bytes(16, "big")


def block_of(row: Row) -> Block | None:
    """The block in a row; None where the row is no network."""
    _, pool, family, first, length, first_usable, last_usable = row
    bits = BITS.get(family)  # type: ignore[call-overload]  # any text may stand there
    if bits is None or not isinstance(first, bytes) or not isinstance(length, int) or not 0 <= length <= bits:
        return None
    start = int.from_bytes(first, "big")
    if start >> bits or start & ((1 << (bits - length)) - 1):
        return None
    return Block(pool, Cidr(bits, start, length), bool(first_usable), bool(last_usable))


def overlapping(db: sqlite3.Connection, cidr: Cidr) -> Row | None:
    """A grant that shares an address with `cidr`: the widest around it, else the first within.

    Two look-ups on the index, whose cost does not depend on how many grants there are. Networks nest: what overlaps either begins within `cidr`, or is one of the (at most 128) networks around it.
    """
    within = db.execute(
        f"SELECT {COLUMNS} FROM grants g WHERE g.family = ? AND g.first BETWEEN ? AND ? ORDER BY g.first, g.last LIMIT 1",
        (cidr.family, key(cidr.first), key(cidr.last)),
    ).fetchone()
    around: list[bytes] = []
    for length in range(cidr.length):
        wider = cidr.widened(length)
        around += key(wider.first), key(wider.last)
    containing = None
    if around:
        places = ",".join(["(?,?)"] * cidr.length)
        # CROSS JOIN: SQLite then looks each pair up, rather than trying all grants on the pairs.
        containing = db.execute(
            f"WITH wider (first, last) AS (VALUES {places}) SELECT {COLUMNS} FROM wider w CROSS JOIN grants g "
            "ON g.family = ? AND g.first = w.first AND g.last = w.last LIMIT 1",
            (*around, cidr.family),
        ).fetchone()
    found: Row | None = containing or within
    return found


def overlap_of(db: sqlite3.Connection, cidr: Cidr) -> Overlap | None:
    """What is in the way of granting `cidr`, if anything is."""
    other = overlapping(db, cidr)
    if other is None:
        return None
    stands = block_of(other)
    return Overlap(cidr, other[0], stands.cidr if stands else None)


def replace(db: sqlite3.Connection, node: str, blocks: Sequence[Block]) -> Change | Overlap:
    """Makes `blocks`, in this order, the node's own. On an Overlap, the first, the caller must roll back.

    Only blocks that are new are checked: what the node has stays its own. Rows that are no network are left alone.
    """
    change, overlaps = replace_free(db, node, blocks)
    return overlaps[0] if overlaps else change


def replace_free(
    db: sqlite3.Connection, node: str, blocks: Sequence[Block]
) -> tuple[Change, tuple[Overlap, ...]]:
    """As `replace`, but without those of `blocks` that overlap others: which, in order, and what is in their way."""
    rows = db.execute(
        f"SELECT {COLUMNS}, g.id, g.position FROM grants g WHERE g.node = ? ORDER BY g.position, g.id",
        (node,),
    ).fetchall()
    had: dict[tuple[str, Cidr], tuple[Block, int, int]] = {}
    for *row, number, position in rows:
        block = block_of(tuple(row))
        if block is not None:
            had[block.pool, block.cidr] = block, number, position
    wanted = {(block.pool, block.cidr) for block in blocks}
    returned = [entry for identity, entry in had.items() if identity not in wanted]
    db.executemany("DELETE FROM grants WHERE id = ?", [(number,) for _, number, _ in returned])
    granted, overlaps = list[Block](), list[Overlap]()
    position = 0
    for block in blocks:
        if (block.pool, block.cidr) not in wanted:
            overlaps.append(Overlap(block.cidr, node, block.cidr))  # twice in one grant
            continue
        wanted.discard((block.pool, block.cidr))
        entry = had.get((block.pool, block.cidr))
        if entry is None:
            overlap = overlap_of(db, block.cidr)
            if overlap is not None:
                overlaps.append(overlap)
                continue
            db.execute(
                "INSERT INTO grants (node, position, pool, family, first, last, length, first_usable, last_usable) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(
                        node,
                        position,
                        block.pool,
                        block.cidr.family,
                        key(block.cidr.first),
                        key(block.cidr.last),
                    ),
                    *(block.cidr.length, block.first_usable, block.last_usable),
                ),
            )
            granted.append(block)
        elif entry[0] != block or entry[2] != position:
            db.execute(
                "UPDATE grants SET position = ?, first_usable = ?, last_usable = ? WHERE id = ?",
                (position, block.first_usable, block.last_usable, entry[1]),
            )
        position += 1
    return Change(tuple(granted), tuple(block for block, _, _ in returned)), tuple(overlaps)
