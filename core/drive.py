"""The turn: what a driver does with an allocator, without I/O; and the blocking driver, which is the virtual-clock one too.

Each turn: plan and start what is due, carry out what is ready, publish what is stale, read again what is uncertain.
`Drive` says what to do and is told what came of it; the asyncio shell in `runtime` and `settle` below only carry it out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from .allocator import (
    Allocator,
    Conflict,
    Denied,
    Gone,
    Outcome,
    Plan,
    Published,
    Step,
    Unknown,
    Version,
)
from .errors import Retryable
from .values import Grant, Node

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 60.0


class Publish(msgspec.Struct, frozen=True):
    """Write this grant onto this node, on the condition that the object still has `node.version`."""

    node: Node
    grant: Grant


class _HeldBack(msgspec.Struct):
    """What was seen of a node while its publish ran: the last state (None: gone), and every version that went by."""

    last: Node | None
    versions: set[str]


class Drive:
    """Folds events and answers per node, so that at most one write of a node is under way and no older state wins.

    While a publish runs or its answer is unknown, what is seen of that node is kept back until its outcome is known. After a
    write the watch still delivers older states: those are dropped until it shows the written version (or is listed anew).
    """

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.attempts: dict[str, int] = {}
        """Failed tries in a row, by node."""
        self._queue: deque[str] = deque()
        self._queued: set[str] = set()
        self._running: set[str] = set()
        self._reads: deque[str] = deque()
        self._reading: set[str] = set()
        self._held_back: dict[str, _HeldBack] = {}
        self._expected: dict[str, str] = {}
        self._later: list[tuple[float, str, bool]] = []

    # -- events

    def seen(self, node: Node, now: float) -> None:
        """The store shows this state of a node."""
        name = node.name
        if name in self._running or name in self._reading:
            self._hold_back(name, node, node.version)
            return
        if name in self._expected:
            if node.present and self._expected[name] != node.version:
                return
            del self._expected[name]
            if node.present:
                return  # our own write, which the allocator has from `published`
        self.allocator.seen(node, now)

    def expects(self, name: str, version: str) -> bool:
        """Whether a state with this version need not even be read: it is our own write, or older than it."""
        if name in self._running or name in self._reading:
            return False
        expected = self._expected.get(name)
        if expected is None:
            return False
        if expected == version:
            del self._expected[name]
        return True

    def gone(self, name: str, uid: str, now: float) -> None:
        """The store shows that the node and its machine are no more. `uid` empty: whichever it was."""
        if name in self._running or name in self._reading:
            self._hold_back(name, None, "")
            return
        node = self.allocator.node(name)
        if node is not None and uid and node.uid and node.uid != uid:
            return  # an earlier one of that name: we have read ahead of the watch
        self._forget(name)
        self.allocator.gone(name, now)

    def listed(self) -> None:
        """A new list began: whatever it shows is newer than our finished writes."""
        self._expected.clear()

    # -- what to do

    def plan(self, now: float) -> list[Plan]:
        """Plans and starts all that is due. Answers the plans that held something, for the log."""
        allocator = self.allocator
        made = []
        for name in allocator.due(now):
            plan = allocator.plan(name, now)
            allocator.start(plan, now)
            if plan.actions:
                made.append(plan)
        for name in allocator.stale():
            self._enqueue(name)
        later = self._later
        while later and later[0][0] <= now:
            _, name, is_read = heapq.heappop(later)
            if is_read:
                self._reads.append(name)
            else:
                self._enqueue(name)
        return made

    def ready(self, now: float) -> list[Step]:
        """Steps that the outside world must carry out now."""
        return self.allocator.ready(now)

    def next_publish(self) -> Publish | None:
        """The next grant to write; it counts as running until `published`. None: nothing now."""
        queue, allocator = self._queue, self.allocator
        while queue:
            name = queue.popleft()
            self._queued.discard(name)
            if name in self._running or name in self._reading:
                continue  # queued again when that ends
            node = allocator.node(name)
            if node is None or not node.present or node.ignored:
                continue
            grant = allocator.grant(name)
            if grant.shown_by(node.holds):
                continue
            self._running.add(name)
            return Publish(node, grant)
        return None

    def next_read(self) -> str | None:
        """The next node whose object must be read; it counts as running until `read`."""
        return self._reads.popleft() if self._reads else None

    @property
    def busy(self) -> bool:
        """Whether anything waits for an answer or to be handed out."""
        return bool(self._running or self._reading or self._queue)

    def wake(self, now: float) -> float | None:
        """When to look again without an event."""
        wake = self.allocator.wake(now)
        if self._later and (wake is None or self._later[0][0] < wake):
            wake = self._later[0][0]
        return wake

    # -- what came of it

    def finished(self, step: Step, outcome: Outcome, now: float) -> None:
        """What became of a step."""
        self.allocator.finish(step, outcome, now)

    def published(self, publish: Publish, outcome: Published, now: float) -> None:
        """What became of a write."""
        name = publish.node.name
        self._running.discard(name)
        self.allocator.published(name, publish.grant, outcome, now)
        match outcome:
            case Version(version):
                self.attempts.pop(name, None)
                held_back = self._held_back.pop(name, None)
                if held_back is None or (held_back.last is not None and version not in held_back.versions):
                    self._expected[name] = version
                elif held_back.last is None:
                    self.gone(name, "", now)
                elif held_back.last.version != version:
                    self.allocator.seen(held_back.last, now)
                self._enqueue(name)  # the grant may have changed meanwhile
            case Conflict() if name in self._held_back:
                self._release(name, now)
                self._enqueue(name)
            case Conflict() | Unknown() | Gone():
                self._reading.add(name)
                self._retry(name, now, is_read=True, at_once=not isinstance(outcome, Unknown))
            case Denied():
                self._retry(name, now, is_read=False)
                self._release(name, now)

    def read(self, name: str, node: Node | None, now: float) -> None:
        """What a read that began after the write ended has shown; None: neither object nor machine is there."""
        self._reading.discard(name)
        held_back = self._held_back.pop(name, None)
        if node is None:
            self._forget(name)
            self.allocator.gone(name, now)
            return
        before = self.allocator.node(name)
        passed = held_back is not None and node.version in held_back.versions
        if not passed and before is not None and before.version != node.version and node.present:
            self._expected[name] = node.version
        if passed and held_back is not None and held_back.last is not None:
            node = held_back.last
        self.allocator.seen(node, now)
        self._enqueue(name)

    def read_failed(self, name: str, now: float) -> None:
        """The read did not succeed: again later."""
        self._retry(name, now, is_read=True)

    # -- within

    def _enqueue(self, name: str) -> None:
        if name not in self._queued:
            self._queued.add(name)
            self._queue.append(name)

    def _hold_back(self, name: str, last: Node | None, version: str) -> None:
        held_back = self._held_back.get(name)
        if held_back is None:
            held_back = self._held_back[name] = _HeldBack(None, set())
        held_back.last = last
        held_back.versions.add(version)

    def _release(self, name: str, now: float) -> None:
        held_back = self._held_back.pop(name, None)
        if held_back is None:
            return
        if held_back.last is None:
            self.gone(name, "", now)
        else:
            self.allocator.seen(held_back.last, now)

    def _forget(self, name: str) -> None:
        self._expected.pop(name, None)
        self.attempts.pop(name, None)

    def _retry(self, name: str, now: float, *, is_read: bool, at_once: bool = False) -> None:
        attempt = self.attempts.get(name, 0)
        self.attempts[name] = attempt + 1
        delay = (
            0.0 if at_once and attempt == 0 else min(BACKOFF_FIRST_S * 2 ** min(attempt, 10), BACKOFF_MOST_S)
        )
        if delay:
            heapq.heappush(self._later, (now + delay, name, is_read))
        elif is_read:
            self._reads.append(name)
        else:
            self._enqueue(name)


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
