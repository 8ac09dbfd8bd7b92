"""What the embedded store tells beyond core's values: who has a block, what happened, what changed."""

from __future__ import annotations

import msgspec

from omnipam.core.values import Block, Node, PoolSpec


class Granted(msgspec.Struct, frozen=True):
    """One block and who has it."""

    node: str
    block: Block


class Event(msgspec.Struct, frozen=True):
    """One line of history. event: `granted`, `returned` (both with pool and cidr), or `problem` (with text).

    at: seconds since the epoch. author: who did it.
    """

    at: float
    node: str
    event: str
    pool: str = ""
    cidr: str = ""
    author: str = ""
    text: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """What the operator said of itself: the mode that serves this store, empty if none ever did, and its pools."""

    mode: str = ""
    pools: tuple[PoolSpec, ...] = ()


class Deletion(msgspec.Struct, frozen=True):
    """A node that was deleted."""

    name: str
    uid: str


class Changes(msgspec.Struct, frozen=True):
    """What happened up to a revision, in order. pools: all pools, if they changed, or were not told of yet."""

    revision: int
    items: tuple[Node | Deletion, ...]
    pools: tuple[PoolSpec, ...] | None = None
