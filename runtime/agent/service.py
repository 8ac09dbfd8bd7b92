"""Attachments as requests see them: decided at once or when an address appears, answered when it is on disk.

All of one key happens in the order in which it was asked for: a release ends what still waits for an address under its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from omnipam.core.attachment import Allocation, Key, NoAddress, NotYours, Request
from omnipam.core.errors import OmnipamError
from omnipam.core.node_agent import NodeAgent

from .commits import Commits
from .later import Later
from .metrics import Counts


class _Waiter:
    __slots__ = ("done", "request", "timer", "why")

    def __init__(self, request: Request, done: Later, why: OmnipamError) -> None:
        self.request, self.done, self.why = request, done, why
        self.timer: asyncio.TimerHandle | None = None


class Service:
    """clock: seconds since the epoch that do not jump. demanded: called when the node needs more (True: a pod waits) or less."""

    def __init__(
        self,
        agent: NodeAgent,
        commits: Commits,
        *,
        clock: Callable[[], float],
        demanded: Callable[[bool], None] = lambda urgent: None,
    ) -> None:
        self.agent = agent
        self.commits = commits
        self._clock = clock
        self.demanded = demanded
        self._waiters: list[_Waiter] = []
        self._deciding: dict[Key, dict[Later, str]] = {}  # with whom they are for
        self.counts = Counts()
        self.failing = False
        """Whether an attachment has waited in vain, and none has got an address since."""

    @property
    def waiting(self) -> int:
        """How many attachments wait for an address."""
        return len(self._waiters)

    def allocate(self, request: Request, wait_s: float) -> Later:
        """A future of (Allocation, whether it is new). Raises what `NodeAgent.allocate` raises; NoAddress comes by the future
        once `wait_s` is over."""
        try:
            return self._allocate(request)
        except NoAddress as none:
            self.counts.tried((want.family for want in request.wants), "exhausted")
            self.demanded(True)
            if wait_s <= 0:
                raise
            return self._wait(request, none, wait_s)

    def release(self, key: Key, owner: str | None = None) -> Later:
        """A future of the Allocation that was released, None if there was none. Raises NotYours."""
        waiters = [each for each in self._waiters if each.request.key == key]
        for asker in (*(each.request.owner for each in waiters), *self._deciding.get(key, {}).values()):
            if owner is not None and owner != asker:
                raise NotYours(f"{'/'.join(key)} is asked for by {asker}, not by {owner}")
        allocation = self.agent.release(key, self._clock(), owner)
        for later in list(self._deciding.pop(key, ())):
            later.cancel()
        for waiter in waiters:
            self._end(waiter)
            waiter.done.cancel()
        if allocation is None:
            return self.commits.add((), None)
        undo = partial(self.agent.undo_release, allocation, self.agent.displaced)
        done = self.commits.add(self.agent.drain(), allocation, undo)
        self._given_back(done, allocation)
        return done

    def collect(self, network: str, keep: Collection[tuple[str, str]]) -> Later:
        """Releases all of a network but these (container, interface). A future of what was released."""
        gone = [
            each for each in self.agent.allocations if each.key[0] == network and each.key[1:] not in keep
        ]
        now = self._clock()
        undos = []
        for each in gone:
            self.agent.release(each.key, now)
            undos.append(partial(self.agent.undo_release, each, self.agent.displaced))

        def undo() -> None:
            for each in reversed(undos):
                each()

        done = self.commits.add(self.agent.drain(), gone, undo)
        self._given_back(done, *gone)
        return done

    def keep(self, key: Key) -> Later:
        """It does not expire any more, once that is on disk."""
        before = self.agent.get(key)
        if before is None or self.agent.keep(key) is None:
            return self.commits.add((), None)
        return self.commits.add(self.agent.drain(), None, partial(self.agent.undo_keep, before))

    def deciding(self, key: Key, owner: str, future: Later) -> None:
        """This future's outcome will be an allocation of the key: a release of the key cancels it."""
        futures = self._deciding.setdefault(key, {})
        futures[future] = owner

        def ended(_: object) -> None:
            futures.pop(future, None)
            if not futures and self._deciding.get(key) is futures:
                del self._deciding[key]

        future.add_done_callback(ended)

    def look(self) -> None:
        """There may be addresses now: those that wait are served, first come first served."""
        dry: set[tuple[str, str]] = set()
        for waiter in list(self._waiters):
            if waiter.done.done():
                continue  # by what came of serving another
            places = {(want.pool, want.family) for want in waiter.request.wants}
            if places & dry:
                continue
            try:
                committed = self._allocate(waiter.request)
            except NoAddress as none:
                waiter.why = none
                dry.add((str(none.details["pool"]), str(none.details["family"])))
                continue
            except OmnipamError as error:
                self._end(waiter)
                waiter.done.set_exception(error)
                continue
            self._end(waiter)
            _chain(committed, waiter.done)

    def tick(self) -> None:
        """To be called now and then: reservations whose time is over, cooled addresses, pods that gave up."""
        now = self._clock()
        for key in self.agent.expired(now):
            self.release(key)
        if self.agent.tidy(now):
            self.demanded(False)
        self.commits.note(self.agent.drain())
        if self.commits.failure is not None:
            self.commits.rewrite()  # nobody may ask for anything while status says that the disk refuses

    def close(self) -> None:
        """Nobody waits any more."""
        for waiter in list(self._waiters):
            self._end(waiter)
            waiter.done.cancel()

    def _allocate(self, request: Request) -> Later:
        try:
            allocation, new = self.agent.allocate(request, self._clock())
        except NoAddress:
            raise
        except OmnipamError:
            self.counts.tried((want.family for want in request.wants), "error")
            raise
        if not new:
            return self.commits.add((), (allocation, False))
        done = self.commits.add(
            self.agent.drain(),
            (allocation, True),
            partial(self.agent.undo_allocate, allocation, self.agent.displaced),
        )
        done.add_done_callback(partial(self._count, request))
        self.failing = False
        self.demanded(False)
        return done

    def _count(self, request: Request, done: Later) -> None:
        families = (want.family for want in request.wants)
        self.counts.tried(families, "success" if done.exception() is None else "error")

    def _given_back(self, done: Later, *gone: Allocation) -> None:
        def count(done: Later) -> None:
            if done.exception() is None:
                self.counts.released(given.family for each in gone for given in each.given)

        done.add_done_callback(count)
        self.demanded(False)
        if self._waiters:
            self.look()

    def _wait(self, request: Request, why: NoAddress, wait_s: float) -> Later:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(request, Later(), why)
        waiter.timer = loop.call_later(wait_s, self._give_up, waiter)
        self._waiters.append(waiter)
        waiter.done.add_done_callback(lambda _: self._end(waiter))
        return waiter.done

    def _give_up(self, waiter: _Waiter) -> None:
        self._end(waiter)
        self.failing = True
        waiter.done.set_exception(waiter.why)

    def _end(self, waiter: _Waiter) -> None:
        if waiter.timer is not None:
            waiter.timer.cancel()
            waiter.timer = None
        if waiter in self._waiters:
            self._waiters.remove(waiter)


def _chain(source: Later, target: Later) -> None:
    def copy(done: Later) -> None:
        error = done.exception()
        if error is not None:
            target.set_exception(error)
        elif not done.cancelled():
            target.set_result(done.result())

    source.add_done_callback(copy)
