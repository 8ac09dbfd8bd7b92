"""Leader election on a lease, by client-go's rules, so that its leaders and ours can never lead at once.

Three parts: `LeaseLock`, the port to where the record lies; `Election`, a state machine without I/O or clock; `Elector`, the
asyncio shell. Rules as in client-go `tools/leaderelection`: nobody reads another's clock. A record is as old as the time since
*we* saw it change, on our own monotonic clock, so clocks may differ by anything and may run unequally fast by the ratio of
lease duration to renew deadline. Stricter than client-go in two ways: an unreleased lease is taken only after the longer of its
holder's duration and ours; and a holder may start work only until renew deadline after the *start* of its last confirmed write.
"""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Awaitable, Callable
from typing import NoReturn, Protocol

import msgspec

from omnipam.core.errors import Conflict, Denied, Invalid, NotFound, OmnipamError

JITTER = 1.2  # client-go's JitterFactor: candidates wait up to 1 + 1.2 retry periods
MOST_TRANSITIONS = (
    2**31 - 1
)  # an int32 in the API, which refuses more, and with it the whole record: it is only a statistic


class LostLease(OmnipamError):
    """We lead no more, or never did: nothing may start. The process ends."""

    reason = "LostLease"


class Record(msgspec.Struct, frozen=True):
    """What the lease says. holder: empty once released. acquired, renewed: RFC 3339 text, compared for change only."""

    holder: str
    duration_s: int
    acquired: str
    renewed: str
    transitions: int


class Held(msgspec.Struct, frozen=True):
    """A record as it was read or written, with the store's version of it, the precondition of the next write."""

    record: Record
    version: str


class LeaseLock(Protocol):
    """Where the record lies. Each call ends within lease duration − renew deadline, by an answer or an error.

    Raises LostLease where the place itself is not that of others any more. A record that cannot be read is Unavailable: not free.
    """

    async def get(self) -> Held | None:
        """Return the record; None if there is no lease."""

    async def create(self, record: Record) -> Held:
        """Create the lease. Raises Conflict if there is one by now, OutcomeUnknown if the answer was lost."""

    async def update(self, record: Record, version: str) -> Held:
        """Write over exactly this version. Raises Conflict if there is another by now, NotFound, OutcomeUnknown."""


class Timing(msgspec.Struct, frozen=True):
    """Seconds: how long a lease lasts, how long its holder tries to renew it, and the pause between two tries."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if self.retry_s <= 0:
            raise Invalid(f"leader-election-retry-period {self.retry_s:g}s: must be more than 0s")
        if self.renew_s <= JITTER * self.retry_s:
            raise Invalid(
                f"leader-election-renew-deadline {self.renew_s:g}s: must be more than {JITTER} times"
                f" leader-election-retry-period ({self.retry_s:g}s)"
            )
        if self.lease_s <= self.renew_s:
            raise Invalid(
                f"leader-election-lease-duration {self.lease_s:g}s: must be more than"
                f" leader-election-renew-deadline ({self.renew_s:g}s)"
            )

    @property
    def request_s(self) -> float:
        """The longest any request may take: one started at the last moment still ends within the lease."""
        return self.lease_s - self.renew_s


class Read(msgspec.Struct, frozen=True):
    """Look at the lease."""


class Write(msgspec.Struct, frozen=True):
    """Write this record: over `version`, or anew if that is None."""

    record: Record
    version: str | None


class Wait(msgspec.Struct, frozen=True):
    """Another holds it."""


class Election:
    """One candidate's knowledge. Times are seconds on its own monotonic clock, texts come from `stamp` (wall clock)."""

    def __init__(self, identity: str, timing: Timing) -> None:
        if not identity:
            raise Invalid("leader election: the identity is empty; it must name this process and no other")
        self.identity = identity
        self.timing = timing
        self.lost: str | None = None
        """Why we lead no more; None while we lead or have not led."""
        self._held: Held | None = None
        self._changed_s = 0.0  # when we saw the record to be another than before
        self._free_s = float("-inf")  # when a lease that vanished without being given back would have run out
        self._sure = False  # the store surely has (or lacks) what `_held` says; a write may build on it
        self._confirmed_s: float | None = None  # the start of our last write that was confirmed

    @property
    def holder(self) -> str:
        """Who held the lease when we last looked; empty if nobody."""
        return self._held.record.holder if self._held else ""

    @property
    def expires_s(self) -> float:
        """When another's lease has run out, as far as we have seen; −inf if there is none and was none."""
        if self._held is None:
            return self._free_s
        return self._changed_s + max(self.timing.lease_s, self._held.record.duration_s)

    @property
    def held_until_s(self) -> float:
        """Nothing may start from this time on; −inf if we do not lead."""
        if self._confirmed_s is None or self.lost is not None:
            return float("-inf")
        return self._confirmed_s + self.timing.renew_s

    def may_start(self, now_s: float) -> bool:
        """Whether a request may start now."""
        return now_s < self.held_until_s

    def step(self, now_s: float, stamp: str) -> Read | Write | Wait:
        """Return what to do next to gain or to keep the lease. Raises LostLease once it is lost."""
        self.check(now_s)
        if not self._sure:
            return Read()
        if self._held is None:
            if now_s < self._free_s:
                return Wait()
            return Write(self._mine(stamp, stamp, 0), None)
        record = self._held.record
        if record.holder == self.identity:
            return Write(self._mine(record.acquired or stamp, stamp, record.transitions), self._held.version)
        if self._confirmed_s is not None:
            self._lose(f"{record.holder or 'nobody'} holds it now")
        if record.holder and now_s < self.expires_s:
            return Wait()
        transitions = min(record.transitions + 1, MOST_TRANSITIONS)
        return Write(self._mine(stamp, stamp, transitions), self._held.version)

    def check(self, now_s: float) -> None:
        """Raise LostLease if we led and the renew deadline has passed, or another has the lease."""
        if self.lost is None and self._confirmed_s is not None and not self.may_start(now_s):
            self.lost = f"not renewed within {self.timing.renew_s:g} s"
        if self.lost is not None:
            raise LostLease(f"leader election: the lease is lost: {self.lost}; restart to stand again")

    def seen(self, held: Held | None, now_s: float) -> None:
        """A read was answered, at `now_s`.

        A lease that somebody deletes is not given back: its holder goes on until it looks. It is free when it would have run out
        (client-go takes it at once, and then two lead for a moment). Who never saw it cannot know.
        """
        before = self._held.record if self._held else None
        if held is None and before is not None and before.holder not in ("", self.identity):
            self._free_s = self.expires_s
        if held is not None and held.record != before:
            self._changed_s = now_s
        self._held, self._sure = held, True

    def written(self, held: Held, started_s: float, now_s: float) -> None:
        """A write that was begun at `started_s` is confirmed: we lead until renew deadline after that."""
        self.seen(held, now_s)
        if self.lost is None:
            self._confirmed_s = started_s

    def unsure(self) -> None:
        """What the store has is in doubt: read before the next write."""
        self._sure = False

    def waited(self) -> None:
        """Time has passed in which another may have written: read before deciding."""
        if self._confirmed_s is None:
            self._sure = False

    def resign(self) -> None:
        """From this call on nothing may start, and no write is asked for."""
        if self.lost is None:
            self.lost = "released"

    def released(self, held: Held | None, stamp: str) -> Write | None:
        """Return the write that gives back a lease that was just read, if it is ours."""
        if held is None or held.record.holder != self.identity:
            return None
        return Write(Record("", 1, stamp, stamp, held.record.transitions), held.version)

    def _mine(self, acquired: str, renewed: str, transitions: int) -> Record:
        return Record(self.identity, math.ceil(self.timing.lease_s), acquired, renewed, transitions)

    def _lose(self, why: str) -> NoReturn:
        self.lost = why
        raise LostLease(f"leader election: the lease is lost: {why}; restart to stand again")


class Elector:
    """Carries out an Election. `acquire`, then `renew` beside the work, then `release` when the work has stopped.

    clock: the loop's; wall: seconds since 1970, for the texts only; jitter: random in [0, 1).
    trouble: told of an error once, until the next success.
    """

    def __init__(
        self,
        election: Election,
        lock: LeaseLock,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        trouble: Callable[[OmnipamError], None] = lambda error: None,
    ) -> None:
        self.election = election
        self._lock = lock
        self._clock, self._wall, self._jitter, self._sleep = clock, wall, jitter, sleep
        self._tell = trouble
        self._troubled = False
        self._wrote = False

    def gate(self) -> None:
        """Raise LostLease unless a request may start now: `Api.gate`."""
        if not self.election.may_start(self._clock()):
            self.election.check(self._clock())
            raise LostLease("leader election: this process does not lead; wait until it does")

    async def acquire(self) -> None:
        """Return once we lead. Raises Denied, Invalid, NotFound: a person must act; LostLease where the lock's place is gone."""
        retry_s = self.election.timing.retry_s
        while not await self._try():
            pause = retry_s * (1 + JITTER * self._jitter())
            left = self.election.expires_s - self._clock()
            if 0 < left < pause:
                pause = left + 0.1 * retry_s * self._jitter()
            await self._sleep(pause)
            self.election.waited()

    async def renew(self) -> NoReturn:
        """Renew until that fails for the renew deadline, or another has the lease; then raise LostLease."""
        last: Exception | None = None
        while True:
            left = self.election.held_until_s - self._clock()
            await self._sleep(max(0.0, min(self.election.timing.retry_s, left)))
            try:
                self.election.check(self._clock())
                async with asyncio.timeout(self.election.held_until_s - self._clock()):
                    await self._try()
            except LostLease as exc:
                raise exc from last
            except (TimeoutError, Denied, Invalid, NotFound) as exc:
                last = exc

    async def release(self) -> None:
        """Give the lease back, so that the next need not wait; first end all work. Errors are told only: it expires anyway."""
        self.election.resign()
        if not self._wrote:
            return
        try:
            for _ in range(2):  # once more if a renewal of ours landed in between
                write = self.election.released(await self._lock.get(), self._stamp())
                if write is None or write.version is None:
                    return
                try:
                    await self._lock.update(write.record, write.version)
                except Conflict:
                    continue
                return
        except OmnipamError as exc:
            self._tell(exc)

    async def _try(self) -> bool:
        """Take steps until there is nothing to do at once. Returns whether a write was confirmed."""
        for _ in range(3):  # write, refused; read; write
            started = self._clock()
            step = self.election.step(started, self._stamp())
            try:
                match step:
                    case Read():
                        self.election.seen(await self._lock.get(), self._clock())
                    case Write():
                        self.election.written(await self._write(step), started, self._clock())
                        self._troubled = False
                        return True
                    case Wait():
                        self._troubled = False
                        return False
            except Conflict:
                pass  # read again
            except NotFound:
                if isinstance(step, Write) and step.version is None:
                    raise  # not the lease is missing but the place where it would lie: the namespace
            except (Denied, Invalid, LostLease):
                raise
            except OmnipamError as exc:
                if not self._troubled:
                    self._troubled = True
                    self._tell(exc)
                return False
        return False

    async def _write(self, step: Write) -> Held:
        self._wrote = True
        self.election.unsure()  # until it is confirmed: it may be refused, lost, or cancelled
        if step.version is None:
            return await self._lock.create(step.record)
        return await self._lock.update(step.record, step.version)

    def _stamp(self) -> str:
        return micro_time(self._wall())


def micro_time(wall_s: float) -> str:
    """Return the time as Kubernetes' MicroTime, UTC."""
    moment = datetime.datetime.fromtimestamp(wall_s, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
