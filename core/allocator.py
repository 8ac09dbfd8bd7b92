"""The interface that all modes implement: a state machine without I/O, which a driver feeds and whose plans it carries out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from .cidr import Cidr, Family
from .values import Capacity, Finding, Grant, Kept, Node, PoolSpec, Problem


class TakeBlock(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Takes one block of a family from a pool. `expected`: the block that it would be if nothing else is taken before."""

    pool: str
    family: Family
    expected: Cidr


class ReturnBlock(msgspec.Struct, frozen=True, gc=False, tag=True):
    """Gives a block back to its pool (by way of the quarantine, if there is one)."""

    pool: str
    cidr: Cidr


Action = TakeBlock | ReturnBlock


class Planned(msgspec.Struct, frozen=True):
    """One action of a plan and why. `needs`: positions in the plan that must be done before."""

    action: Action
    reason: str
    needs: tuple[int, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """All that takes one node to its goal, in order, and what stays unmet. `node` None: the account's own."""

    node: str | None
    actions: tuple[Planned, ...] = ()
    problems: tuple[Problem, ...] = ()
    priority: int = 0


class Step(msgspec.Struct, frozen=True):
    """An action that may start now and needs the outside world. Pool modes have none: they do all in `start`."""

    number: int
    node: str | None
    action: Action


class Done(msgspec.Struct, frozen=True, tag=True):
    """It happened."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It did not happen. `retry_at`: when another try makes sense; None: when something changes."""

    reason: str
    text: str
    retry_at: float | None = None


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """The answer was lost: it may have happened. Only a read decides."""

    text: str = ""


Outcome = Done | Failed | Unknown


class Version(msgspec.Struct, frozen=True, tag=True):
    """The grant was written, and this is the object's version now."""

    version: str


class Conflict(msgspec.Struct, frozen=True, tag=True):
    """Someone wrote the object before us: nothing of ours was written, or not all. Read again."""


class Gone(msgspec.Struct, frozen=True, tag=True):
    """The object is not there (any more)."""


class Denied(msgspec.Struct, frozen=True, tag=True):
    """The store refused it, or cannot be reached: nothing was written. Tried again later, more slowly each time."""

    reason: str
    text: str


Published = Version | Conflict | Gone | Denied | Unknown


class Allocator(Protocol):
    """One mode. Not thread-safe; never waits, calls out or reads a clock: `now` is seconds since the epoch, passed in.

    A block is *taken* (ours, in no object yet), *held* (seen in the object), or *given up*; only the last returns it to the
    pool. Before `restore` nothing is granted.
    """

    def restore(
        self, nodes: Iterable[Node], pools: Iterable[PoolSpec], kept: Iterable[Kept], now: float
    ) -> None:
        """Learns all there is, in any order, before anything new is given. Once more with the same is the same."""

    def seen(self, node: Node, now: float) -> None:
        """A node appeared or changed. An older state of it is never harmful, only more work."""

    def gone(self, name: str, now: float) -> None:
        """The node and its machine are no more: all that it had goes back. Unknown names are fine."""

    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        """The pools as they are from now on. Raises Invalid, and changes nothing, if they make no sense; where pools come one
        by one from others, one that makes none stays as it was, and `findings` says so."""

    def due(self, now: float) -> list[str]:
        """Nodes whose plan may now hold something, most urgent first; each is answered once until it changes again."""

    def plan(self, name: str, now: float) -> Plan:
        """What would be done for this node. Pure: twice the same answer, no state touched."""

    def start(self, plan: Plan, now: float) -> None:
        """Reserves what the plan uses. What is no longer there becomes a Problem of the node."""

    def ready(self, now: float) -> list[Step]:
        """Steps that may be carried out now; each is answered once."""

    def finish(self, step: Step, outcome: Outcome, now: float) -> None:
        """What became of a step."""

    def stale(self) -> list[str]:
        """Nodes whose grant may differ from what their object says; each is answered once until it changes again."""

    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        """What became of publishing this grant."""

    def wake(self, now: float) -> float | None:
        """When `due` or `ready` may next have something without an event; None: never."""

    def grant(self, name: str) -> Grant:
        """What the node may use. Publishable at any moment; empty for unknown names."""

    def node(self, name: str) -> Node | None:
        """The node as last seen, with our own confirmed writes."""

    def kept(self) -> tuple[Kept, ...]:
        """What must outlive us beside the node objects, sorted."""

    def findings(self) -> tuple[Finding, ...]:
        """What stands now, sorted."""

    def capacity(self) -> Capacity:
        """What there is and what is used."""


class Settings(msgspec.Struct, frozen=True):
    """What a mode is built from, beside its pools.

    grace_s: how long a node may be without what others must give it, before that is a problem.
    services: the service ranges, where known: pools should not overlap them.
    """

    families: tuple[Family, ...] = ("ipv4",)
    grace_s: float = 60.0
    services: tuple[Cidr, ...] = ()


class Provider(msgspec.Struct, frozen=True):
    """A mode by name; registered under the entry point group `omnipam.providers`.

    reads_machines: whether it needs the Kubernetes Nodes whole, or only to know that they exist.
    reads_pools: whether its pools, and what nodes ask of them, are in the store; else its pools are configured.
    """

    mode: str
    build: Callable[[Settings], Allocator]
    reads_machines: bool = False
    reads_pools: bool = False
