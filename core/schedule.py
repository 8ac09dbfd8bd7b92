"""Which request to a cloud goes next: the most urgent node first, within each API's budget, one running change a writer. Pure; the clock is passed in.

A request waits for what it needs, for its writer, and for its budgets. Independent APIs proceed side by side: a queue whose budget
is spent holds up nobody else's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

import msgspec

from .budgets import Budget


class Urgency(msgspec.Struct, frozen=True, order=True, gc=False):
    """Sorts the most urgent first: pods that wait, then what is missing, then the name. All but the name are counts, negated by `of`."""

    waiting: int = 0
    missing: int = 0
    name: str = ""

    @classmethod
    def of(cls, name: str, *, waiting: int = 0, missing: int = 0) -> Urgency:
        return cls(-waiting, -missing, name)


class Task(msgspec.Struct, frozen=True):
    """One request. number: unique, and growing with time. draws: the budgets that it spends one call of each; the first names its API.

    lock: what no other may change meanwhile; empty: nothing. needs: numbers of those that must be done before.
    """

    number: int
    urgency: Urgency
    draws: tuple[str, ...]
    lock: str = ""
    needs: frozenset[int] = frozenset()


_Entry = tuple[Urgency, int]


class Schedule:
    """budgets: by the names that tasks draw on."""

    def __init__(self, budgets: Mapping[str, Budget]) -> None:
        self._budgets = budgets
        self._tasks: dict[int, Task] = {}  # neither running nor ended
        self._queues: dict[str, list[_Entry]] = {}  # by API: what could go, most urgent first
        self._blocked: dict[str, list[int]] = {}  # by lock
        self._locked: dict[str, int] = {}
        self._missing: dict[int, set[int]] = {}  # what each waits for
        self._dependents: dict[int, list[int]] = {}
        self._running: dict[int, Task] = {}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._tasks)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, tasks: Iterable[Task], done: Iterable[int] = ()) -> None:
        """Queues them. done: numbers that need not be waited for any more."""
        over = set(done)
        for task in tasks:
            self._tasks[task.number] = task
            missing = set(task.needs) - over
            if missing:
                self._missing[task.number] = missing
                for number in missing:
                    self._dependents.setdefault(number, []).append(task.number)
            else:
                self._enqueue(task)

    def drop(self, numbers: Iterable[int]) -> list[int]:
        """Takes out those that wait, with all that need them. Answers their numbers."""
        dropped = []
        stack = sorted(numbers, reverse=True)
        while stack:
            number = stack.pop()
            if self._tasks.pop(number, None) is not None:
                dropped.append(number)
                self._missing.pop(number, None)
            stack += self._dependents.pop(number, ())
        return dropped

    def ready(self, now: float) -> list[Task]:
        """What may go now, most urgent first; it counts as running from here on."""
        going = []
        for api in sorted(self._queues):
            queue = self._queues[api]
            while queue:
                number = queue[0][1]
                task = self._tasks.get(number)
                if task is None:
                    heapq.heappop(queue)
                    continue
                if task.lock and task.lock in self._locked:
                    heapq.heappop(queue)
                    self._blocked.setdefault(task.lock, []).append(number)
                    continue
                if any(self._budgets[each].free_at(now) > now for each in task.draws):
                    break
                heapq.heappop(queue)
                for each in task.draws:
                    self._budgets[each].take(now)
                del self._tasks[number]
                self._running[number] = task
                if task.lock:
                    self._locked[task.lock] = number
                going.append(task)
            if not queue:
                del self._queues[api]
        return sorted(going, key=lambda task: (task.urgency, task.number))

    def ended(self, number: int, *, done: bool) -> list[int]:
        """A running one has ended. Not done: all that need it are dropped, and answered."""
        task = self._running.pop(number)
        if task.lock:
            del self._locked[task.lock]
            for blocked in self._blocked.pop(task.lock, ()):
                if blocked in self._tasks:
                    self._enqueue(self._tasks[blocked])
        if not done:
            return self.drop(self._dependents.pop(number, ()))
        for dependent in self._dependents.pop(number, ()):
            missing = self._missing.get(dependent)
            if missing is None:
                continue
            missing.discard(number)
            if not missing:
                del self._missing[dependent]
                self._enqueue(self._tasks[dependent])
        return []

    def wake(self, now: float) -> float | None:
        """When `ready` may next have something without an event; None: never."""
        times = []
        for queue in self._queues.values():
            while queue and queue[0][1] not in self._tasks:
                heapq.heappop(queue)
            if queue:
                task = self._tasks[queue[0][1]]
                times.append(max(self._budgets[each].free_at(now) for each in task.draws))
        return min(times, default=None)

    # -- within

    def _enqueue(self, task: Task) -> None:
        heapq.heappush(self._queues.setdefault(task.draws[0], []), (task.urgency, task.number))
