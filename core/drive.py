"""The turn: what a driver does with an allocator, without I/O.

Each turn: plan and start what is due, carry out what is ready, publish what is stale, read again what is uncertain.
`Drive` says what to do and is told what came of it; the asyncio shell in `runtime` and `blocking` only carry it out.
"""

from __future__ import annotations

import heapq
from collections import deque
from enum import IntEnum

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
from .values import Grant, Node

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 60.0
CATCH_UP_S = 1.0


class Publish(msgspec.Struct, frozen=True):
    """Write this grant onto this node, on the condition that the object still has `node.version`."""

    node: Node
    grant: Grant


class _HeldBack(msgspec.Struct):
    """What was seen of a node and not passed on: the last state (None: gone, of `uid`), and every version."""

    last: Node | None
    uid: str
    versions: set[str]


class _Kind(IntEnum):
    """What is due later for a node."""

    PUBLISH = 1
    READ = 2
    CATCH_UP = 3


class Drive:
    """Folds events and answers per node, so that at most one write of a node is under way and no older state wins.

    While a publish runs or its answer is unknown, what is seen of that node is kept back until its outcome is known. After a
    write or a read we may be *ahead* of the watch: what it shows until it shows that version is older, and dropped. A store
    need not show every version, and a list that ran meanwhile skips some: where the expected one does not come soon after
    another was dropped, the object is read again.
    """

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.attempts: dict[str, int] = {}
        """Failed tries in a row, by node."""
        self.asked = 0
        """How often a node asked to be written, for the metric."""
        self.mute: list[str] = []
        """Nodes whose grant cannot be written: no object, or ignored. For the driver to look at, and to empty."""
        self._queue: deque[str] = deque()
        self._queued: set[str] = set()
        self._running: set[str] = set()
        self._reads: deque[str] = deque()
        self._reading: set[str] = set()
        self._held_back: dict[str, _HeldBack] = {}
        self._expected: dict[
            str, str
        ] = {}  # the version that the watch must show before it is believed again
        self._ended: dict[
            str, str
        ] = {}  # the uid of an object that a read found missing before the watch said so
        self._doubted: set[str] = (
            set()
        )  # something was dropped: it is read again unless the watch catches up soon
        self._later: list[tuple[float, str, _Kind]] = []

    # -- events

    def seen(self, node: Node, now: float) -> None:
        """The store shows this state of a node."""
        if node.name in self._running or node.name in self._reading:
            self._hold_back(node.name, node, "", node.version)
        else:
            self._see(node, now)

    def expects(self, name: str, version: str) -> bool:
        """Whether a state with this version need not even be read: it is our own last write, and nothing else was missed."""
        if name in self._running or name in self._reading or name in self._doubted:
            return False
        if self._expected.get(name) != version:
            return False
        del self._expected[name]
        return True

    def gone(self, name: str, uid: str, now: float) -> None:
        """The store shows that the node and its machine are no more. `uid` empty: whichever it was."""
        if name in self._running or name in self._reading:
            self._hold_back(name, None, uid, "")
            return
        node = self.allocator.node(name)
        if node is not None and uid and node.uid and node.uid != uid:
            self._doubt(name, now)  # an earlier one of that name: we have read ahead of the watch
            return
        ended = self._ended.get(name)
        self._forget(name)
        if ended is not None and uid and uid != ended:
            self._ended[name] = ended  # what we know to have ended is yet to be shown
        self.allocator.gone(name, now)

    def listed(self) -> None:
        """A new list began: whatever it shows is newer than our finished writes."""
        self._expected.clear()
        self._ended.clear()

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
            self.asked += 1
            self._enqueue(name)
        later = self._later
        while later and later[0][0] <= now:
            _, name, kind = heapq.heappop(later)
            if kind is _Kind.PUBLISH:
                self._enqueue(name)
            elif kind is _Kind.READ:
                self._reads.append(name)
            elif name in self._doubted:
                self._doubted.discard(name)
                if name in self._running or name in self._reading:
                    self._doubt(name, now)
                else:
                    self._reading.add(name)
                    self._reads.append(name)
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
            if node is None:
                continue
            if not node.present or node.ignored:
                self.mute.append(name)
                continue
            grant = allocator.grant(name)
            if grant.shown_by(node.holds):
                self.attempts.pop(name, None)
                continue
            self._running.add(name)
            return Publish(node, grant)
        return None

    def next_read(self) -> str | None:
        """The next node whose object must be read; it counts as running until `read` or `read_failed`."""
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
        name, base = publish.node.name, publish.node.version
        self._running.discard(name)
        self.allocator.published(name, publish.grant, outcome, now)
        match outcome:
            case Version(version):
                self.attempts.pop(name, None)
                # Nothing differed: the store made no new version, and the watch will show none.
                self._rejoin(name, version, now, shown=version == base and name not in self._expected)
                self._enqueue(name)  # the grant may have changed meanwhile
            case Conflict() if self._is_news(name, base):
                self._release(name, now)
                self._enqueue(name)
            case Conflict() | Unknown() | Gone():
                self._reading.add(name)
                self._retry(name, now, _Kind.READ, at_once=not isinstance(outcome, Unknown))
            case Denied():
                self._retry(name, now, _Kind.PUBLISH)
                self._release(name, now)

    def read(self, name: str, node: Node | None, now: float) -> None:
        """What a read that began after the write ended has shown; None: neither object nor machine is there."""
        self._reading.discard(name)
        before = self.allocator.node(name)
        if node is None or not node.present:
            self._missing(name, node, before, now)
        else:
            shown = (
                before is not None
                and before.present
                and before.version == node.version
                and name not in self._expected
            )
            held_back = self._held_back.get(name)
            if held_back is None or not (shown or node.version in held_back.versions):
                self.allocator.seen(node, now)
            self._rejoin(name, node.version, now, shown=shown)
        self._enqueue(name)

    def read_failed(self, name: str, now: float) -> None:
        """The read did not succeed: again later."""
        self._retry(name, now, _Kind.READ)

    # -- within

    def _see(self, node: Node, now: float) -> None:
        name = node.name
        if node.present:
            ended = self._ended.get(name)
            if ended is not None and ended == node.uid:
                return  # a state from before its end, which we know of already
            if ended is not None or self._expected.get(name, node.version) != node.version:
                self._hold_back(name, node, "", node.version)
                self._doubt(name, now)
                return
        self._caught_up(name)
        self.allocator.seen(node, now)

    def _rejoin(self, name: str, version: str, now: float, *, shown: bool) -> None:
        """After a hold: follows the watch again. `version`: what the object had; shown: the watch had shown it before."""
        held_back = self._held_back.pop(name, None)
        if shown or (held_back is not None and version in held_back.versions):
            self._caught_up(name)
            if held_back is not None:
                self._deliver(name, held_back, now)
            return
        self._expected[name] = version
        self._ended.pop(name, None)
        if held_back is not None:
            self._doubt(name, now)  # it is older, unless a list ran meanwhile

    def _missing(self, name: str, node: Node | None, before: Node | None, now: float) -> None:
        """A read found no object, perhaps before the watch has shown that."""
        held_back = self._held_back.pop(name, None)
        last = None if held_back is None else held_back.last
        uid = before.uid if before is not None and before.present else ""
        self._expected.pop(name, None)
        self._doubted.discard(name)
        if held_back is not None and (last is None or (last.present and not (uid and last.uid == uid))):
            if last is None:  # gone altogether: were it there again, the watch would show it yet
                self._forget(name)
                self.allocator.gone(name, now)
            else:  # made anew
                self._see(last, now)
            return
        if uid and (last is None or last.present):
            self._ended[name] = uid
        if node is None:
            self.attempts.pop(name, None)
            self.allocator.gone(name, now)
        else:
            self.allocator.seen(node, now)

    def _is_news(self, name: str, base: str) -> bool:
        """Whether what was held back is newer than what a refused write was based on."""
        held_back = self._held_back.get(name)
        if held_back is None:
            return False
        expected = self._expected.get(name)
        if expected is None:
            return held_back.versions != {base}
        return expected in held_back.versions and held_back.versions != {expected}

    def _release(self, name: str, now: float) -> None:
        held_back = self._held_back.pop(name, None)
        if held_back is not None:
            if self._expected.get(name) in held_back.versions:
                self._caught_up(name)
            self._deliver(name, held_back, now)

    def _deliver(self, name: str, held_back: _HeldBack, now: float) -> None:
        if held_back.last is None:
            self.gone(name, held_back.uid, now)
        else:
            self._see(held_back.last, now)

    def _caught_up(self, name: str) -> None:
        self._held_back.pop(name, None)
        self._expected.pop(name, None)
        self._ended.pop(name, None)
        self._doubted.discard(name)

    def _forget(self, name: str) -> None:
        self._caught_up(name)
        self.attempts.pop(name, None)

    def _doubt(self, name: str, now: float) -> None:
        if name not in self._doubted:
            self._doubted.add(name)
            heapq.heappush(self._later, (now + CATCH_UP_S, name, _Kind.CATCH_UP))

    def _enqueue(self, name: str) -> None:
        if name not in self._queued:
            self._queued.add(name)
            self._queue.append(name)

    def _hold_back(self, name: str, last: Node | None, uid: str, version: str) -> None:
        held_back = self._held_back.get(name)
        if held_back is None:
            held_back = self._held_back[name] = _HeldBack(None, "", set())
        held_back.last, held_back.uid = last, uid
        held_back.versions.add(version)

    def _retry(self, name: str, now: float, kind: _Kind, *, at_once: bool = False) -> None:
        attempt = self.attempts.get(name, 0)
        self.attempts[name] = attempt + 1
        if at_once and attempt == 0:
            self._reads.append(name)
            return
        delay = min(BACKOFF_FIRST_S * 2 ** min(attempt, 10), BACKOFF_MOST_S)
        heapq.heappush(self._later, (now + delay, name, kind))
