"""The port to where nodes live: what a store tells the operator, and what the operator asks of it. Kubernetes and SQLite fill it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from omnipam.core.allocator import Published
from omnipam.core.drive import Publish
from omnipam.core.values import Finding, Kept, Node, PoolSpec, Problem


class Sink(Protocol):
    """Where a store pours what it sees. Called on the event loop; never waits.

    The order is: `listed`, `seen` for all there is, `synced`, then `seen` and `gone` as it changes. A store that lost track lists
    anew: `listed`, `seen` for all, `gone` for what is missing now, `synced`.
    """

    def listed(self) -> None:
        """A list begins, at this moment: what follows is at least as new."""

    def seen(self, node: Node) -> None:
        """A node as it is."""

    def gone(self, name: str, uid: str) -> None:
        """Neither the node's object nor its machine is there any more."""

    def pools(self, specs: Sequence[PoolSpec]) -> None:
        """All pools as they are, where the mode's pools are in the store: before `synced`, and whenever one changes."""

    def synced(self) -> None:
        """All there is has been seen."""

    def expects(self, name: str, version: str) -> bool:
        """Whether this state need not even be read: it is our own last write, seen again."""

    def away(self, reason: str) -> None:
        """The store cannot be reached; it keeps trying. Said once."""

    def back(self) -> None:
        """It can be reached again."""

    def finding(self, finding: Finding) -> None:
        """Something about the store itself that a person should know; said once each."""


class Store(Protocol):
    """Where nodes live. Raises Retryable where it is away, Denied where we lack a right."""

    async def open(self) -> None:
        """Makes ready: connects, creates what is absent (definitions, tables). Raises Unavailable, Denied, Invalid."""

    async def close(self) -> None:
        """Stops; what is under way ends within the request time-out."""

    async def follow(self, sink: Sink) -> None:
        """Lists, then follows changes, until cancelled. Heals by itself; only Denied ends it."""

    def relist(self) -> None:
        """Begins a new list now; what `follow` delivers from then on is of that list or newer."""

    async def publish(self, publish: Publish) -> Published:
        """Writes a grant, conditional on the version; only our fields; nothing where nothing differs. Never raises what a
        `Published` can say."""

    async def read(self, name: str) -> Node | None:
        """The node as it is now; None: neither object nor machine is there. Raises Retryable."""

    async def remove(self, name: str, uid: str) -> None:
        """Deletes a node's object, if it still is the one with this uid. Missing is fine."""

    async def kept(self) -> tuple[Kept, ...]:
        """What was kept by an earlier leader."""

    async def keep(self, kept: Sequence[Kept]) -> None:
        """Replaces what is kept."""

    async def record(self, mode: str, pools: Sequence[PoolSpec]) -> None:
        """Says which mode and pools serve this store, for commands that have no configuration. Nothing on Kubernetes."""

    async def add_pool(self, spec: PoolSpec) -> bool:
        """Makes a pool. False: there is one of that name, and it stays as it is."""

    async def report(self, node: Node | None, problem: Problem) -> None:
        """Shows a failure where a person looks: a Kubernetes Event, a line of history; at a limited rate.

        node: None for what concerns the configuration.
        """

    async def report_pool(self, name: str, problem: Problem) -> None:
        """The same, of a pool."""
