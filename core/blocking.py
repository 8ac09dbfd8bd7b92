"""The blocking driver: a turn's work carried out one by one, on the machine's clock or on a virtual one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .allocator import Allocator, Outcome, Plan, Published, Step
from .drive import Drive, Publish
from .errors import Retryable
from .values import Grant, Node


class Port(Protocol):
    """What the blocking driver carries things out with."""

    def perform(self, step: Step) -> Outcome:
        """Carries out one step."""

    def publish(self, publish: Publish) -> Published:
        """Writes one grant."""

    def read(self, name: str) -> Node | None:
        """The node's object as it is now. Raises Retryable where that cannot be told."""


class Clock(Protocol):
    """Time passed in: the machine's, or a virtual one that jumps."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Waits, or jumps."""


class VirtualClock:
    """A clock that moves only when told to sleep. `simulate` and the tests run hours on it in milliseconds."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def run(
    drive: Drive,
    port: Port,
    clock: Clock,
    *,
    until: float | None = None,
    each: Callable[[Plan], None] | None = None,
) -> None:
    """Turns until nothing is left to do now and nothing wakes before `until` (seconds since the epoch; None: stop when idle)."""
    while True:
        now = clock.now()
        plans = drive.plan(now)
        if each is not None:
            for plan in plans:
                each(plan)
        acted = bool(plans)
        for step in drive.ready(now):
            acted = True
            drive.finished(step, port.perform(step), clock.now())
        while (publish := drive.next_publish()) is not None:
            acted = True
            drive.published(publish, port.publish(publish), clock.now())
        while (name := drive.next_read()) is not None:
            acted = True
            try:
                node = port.read(name)
            except Retryable:
                drive.read_failed(name, clock.now())
            else:
                drive.read(name, node, clock.now())
        if acted:
            continue
        wake = drive.wake(clock.now())
        if wake is None or until is None or wake > until:
            return
        clock.sleep(max(0.0, wake - clock.now()))


def settle(
    allocator: Allocator, node: Node, port: Port, clock: Clock, *, until: float | None = None
) -> Grant:
    """Takes one node as far as it goes now, and answers its grant: the whole of embedding, after `restore`."""
    drive = Drive(allocator)
    drive.seen(node, clock.now())
    run(drive, port, clock, until=until)
    return allocator.grant(node.name)
