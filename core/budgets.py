"""What a cloud lets us call and when: token buckets and fixed windows, our share of them, and what refusals teach. Pure; the clock is passed in.

A budget that was refused is halved and grows back slowly: others spend the same bucket, and how much nobody tells us.
"""

from __future__ import annotations

import msgspec

LEAST = 1 / 64
"""The smallest part of a budget that refusals leave: some call must be made to learn that it works again."""

RECOVERY_S = 600.0
"""How long a halved budget takes to become whole again."""


class TokenBucket(msgspec.Struct, frozen=True, gc=False):
    """At most `capacity` calls at once, `refill` a second."""

    capacity: float
    refill: float


class Window(msgspec.Struct, frozen=True, gc=False):
    """At most `limit` calls in each stretch of `length` seconds, the stretches being aligned to the epoch."""

    limit: float
    length: float


class Budget:
    """One bucket or window as far as we use it. share: our part of it, above 0 and at most 1. Times in seconds since the epoch."""

    def __init__(self, shape: TokenBucket | Window, *, share: float = 1.0) -> None:
        self.shape = shape
        self._share = share
        self._factor = 1.0
        self._since: float | None = None  # up to when tokens and factor are reckoned
        self._tokens = 0.0
        self._paused_until = float("-inf")
        self.spent = 0
        """Calls made so far."""

    @property
    def factor(self) -> float:
        """What refusals have left of our share, as last reckoned."""
        return self._factor

    def free_at(self, now: float, calls: int = 1) -> float:
        """When that many calls may be made, if nobody makes any before: now, or later."""
        self._reckon(now)
        start = max(now, self._paused_until)
        # What exceeds the whole capacity is asked for in vain: it goes when the bucket is full.
        missing = min(float(calls), self._capacity) - self._tokens
        if missing <= 1e-9:
            return start
        match self.shape:
            case TokenBucket(refill=refill):
                return max(start, now + missing / (refill * self._share * self._factor))
            case Window(length=length):
                return max(start, (now // length + 1) * length)

    def take(self, now: float, calls: int = 1) -> None:
        """Those calls are made now."""
        self._reckon(now)
        self._tokens -= calls
        self.spent += calls

    def refused(self, now: float, until: float | None = None) -> None:
        """The cloud said: too many. until: what it asked for, if it did."""
        self._reckon(now)
        if now >= self._paused_until:  # the refusals of calls that were under way together teach once
            self._factor = max(LEAST, self._factor / 2)
        self._tokens = min(self._tokens, 0.0)
        match self.shape:
            case TokenBucket(refill=refill):
                pause = now + 1.0 / (refill * self._share * self._factor)
            case Window(length=length):
                pause = (now // length + 1) * length
        self._paused_until = max(self._paused_until, pause, until or pause)

    @property
    def _capacity(self) -> float:
        whole = self.shape.capacity if isinstance(self.shape, TokenBucket) else self.shape.limit
        return max(1.0, whole * self._share * self._factor)

    def _reckon(self, now: float) -> None:
        since = self._since
        if since is None:
            self._since, self._tokens = now, self._capacity
            return
        if now <= since:
            return
        self._since = now
        self._factor = min(1.0, self._factor + (now - max(since, min(now, self._paused_until))) / RECOVERY_S)
        match self.shape:
            case TokenBucket(refill=refill):
                gained = (now - since) * refill * self._share * self._factor
                self._tokens = min(self._capacity, self._tokens + gained)
            case Window(length=length):
                if now // length > since // length:
                    self._tokens = self._capacity
