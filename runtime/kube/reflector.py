"""Follows one collection for ever: list in pages, watch, and whatever it takes to go on. The shell around `watch`.

The sink gets events in order and keeps the objects; the reflector keeps names and uids only, so that it can say what vanished
while nobody looked. All times are seconds; clock, sleep and randomness are passed in.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from omnipam.core.errors import Denied, Invalid, NotFound, OmnipamError, Throttled

from .errors import Expired
from .meta import Named, Object, Page
from .rest import METADATA_LIST, METADATA_OBJECT, Api
from .watch import (
    Bookmark,
    Broken,
    Changed,
    Deleted,
    Phase,
    ServerViolation,
    Unreadable,
    WatchEvent,
    WatchSession,
    unreadable,
)

__all__ = ["Away", "Back", "Changed", "Deleted", "Event", "Listed", "Reflector", "Synced", "Unreadable"]

T = TypeVar("T", bound=Object)

PAGE = 500
GATHER_S = 0.01  # a busy watch is read a hundred times a second: a fifth less CPU than event by event
IDLE_S = 70.0  # bookmarks come about every minute
WATCH_S = (300, 600)
BACKOFF_S = (0.5, 30.0)
SHORT_S = 1.0  # a watch that ended sooner counts as a failed try
STUBBORN = 3  # this many failed tries in a row are no accident
HARMLESS = (Denied, Throttled)  # refusals that have nothing to do with the version


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """The readable objects of one page. More pages may follow; `Synced` says that it was the last."""

    objects: list[T]


class Synced(msgspec.Struct, frozen=True):
    """The list is complete, and deletions that were missed have been reported. begun_s: when its first request began."""

    version: str
    begun_s: float


class Away(msgspec.Struct, frozen=True):
    """The API server is away, or refuses. Said once, until `Back`; the reflector goes on trying."""

    error: OmnipamError


class Back(msgspec.Struct, frozen=True):
    """The API server answers again."""

    after_s: float


Event = Listed[T] | Changed[T] | Deleted | Unreadable | Synced | Away | Back


class Reflector(Generic[T]):
    """Follows the collection at `path`, decoded to `of`, and tells `sink`, a plain function, in the loop's thread.

    query: more of the query, e.g. a fieldSelector, percent-encoded. metadata_only: ask for objects stripped to their metadata.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        of: type[T],
        sink: Callable[[Event[T]], None],
        *,
        query: str = "",
        metadata_only: bool = False,
        page: int = PAGE,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._api, self._path, self._sink = api, path, sink
        self._query = f"&{query}" if query else ""
        self._accept = (METADATA_LIST, METADATA_OBJECT) if metadata_only else (None, None)
        self._page, self._idle_s = page, idle_s
        self._clock = clock or asyncio.get_running_loop().time
        self._sleep, self._random = sleep, rng or random.Random()
        self._one: msgspec.json.Decoder[T] = msgspec.json.Decoder(of)
        self._whole: msgspec.json.Decoder[Page[T]] = msgspec.json.Decoder(Page[of])  # type: ignore[valid-type]  # a type known at run time
        self._raw: msgspec.json.Decoder[Page[msgspec.Raw]] = msgspec.json.Decoder(Page[msgspec.Raw])
        self._session: WatchSession[T] = WatchSession(self._one, what=path)
        self._known: dict[tuple[str, str], str] = {}  # (namespace, name) → uid, as the sink was told
        self._open = False  # a stream is, or was when the trouble came
        self._settled = False  # one has been: refusals are no longer the caller's
        self._away_since: float | None = None
        self._failures = 0
        self._restart = asyncio.Event()

    def restart(self) -> None:
        """List afresh, now: the next `Synced` whose `begun_s` is later than this call knows all that was written before it."""
        self._restart.set()

    async def run(self) -> None:
        """Follow until cancelled.

        Raises Denied, NotFound or Invalid if the first list is refused (a person must act), and what the sink raises.
        Later such refusals are told as `Away`, and tried again.
        """
        while True:
            self._restart.clear()
            work = asyncio.ensure_future(self._follow())
            fresh = asyncio.ensure_future(self._restart.wait())
            try:
                await asyncio.wait((work, fresh), return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                for task in (work, fresh):
                    task.cancel()
                await asyncio.gather(work, fresh, return_exceptions=True)
            self._session = WatchSession(self._one, what=self._path)

    async def _follow(self) -> None:
        while True:
            try:
                if self._session.phase is Phase.LISTING:
                    await self._list()
                await self._watch()
            except OmnipamError as exc:
                await self._trouble(exc)

    # The list

    async def _list(self) -> None:
        self._open = False
        begun = self._clock()
        seen: set[tuple[str, str]] = set()
        version = ""
        async with aclosing(self._pages()) as pages:
            async for page in pages:
                version = page.metadata.resource_version
                self._tell_page(page, seen)
                await asyncio.sleep(0)  # rule 8: the Lease renews between two pages
        for key in sorted(self._known.keys() - seen):
            self._sink(Deleted(*key, self._known.pop(key)))
        self._session.listed(version)
        self._sink(Synced(version, begun))

    async def _pages(self) -> AsyncGenerator[Page[T] | Page[msgspec.Raw], None]:
        """Yield the pages of one list; the next is on its way while one is looked at."""
        following = asyncio.ensure_future(self._fetch(""))
        try:
            while True:
                page = self._decode(await following)
                more = page.metadata.continue_
                if more:
                    following = asyncio.ensure_future(self._fetch(more))
                yield page
                if not more:
                    return
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _fetch(self, token: str) -> bytes:
        query = f"limit={self._page}{self._query}" + (f"&continue={quote(token, safe='')}" if token else "")
        return await self._api.get(self._path, query, accept=self._accept[0])

    def _decode(self, body: bytes) -> Page[T] | Page[msgspec.Raw]:
        try:
            return self._whole.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        try:
            return self._raw.decode(body)  # one bad object must not sink the rest: item by item
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ServerViolation(f"{self._path}: the answer is no list ({exc})") from exc

    def _tell_page(self, page: Page[T] | Page[msgspec.Raw], seen: set[tuple[str, str]]) -> None:
        good: list[T] = []
        bad: list[Unreadable] = []
        for item in page.items or ():
            if isinstance(item, msgspec.Raw):
                try:
                    good.append(self._one.decode(item))
                except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                    bad.append(unreadable(item, exc))
            else:
                good.append(item)
        for obj in good:
            seen.add(self._learn(obj.metadata))
        for report in bad:
            seen.add(self._learn(report))
        self._sink(Listed(good))
        for report in bad:
            self._sink(report)

    def _learn(self, about: Named | Unreadable) -> tuple[str, str]:
        key = (about.namespace, about.name)
        before = self._known.get(key)
        if before is not None and before != about.uid:  # deleted and made anew while nobody looked
            self._sink(Deleted(*key, before))
        self._known[key] = about.uid
        return key

    # The watch

    async def _watch(self) -> None:
        """Watch until the stream ends. Returns if it ended in peace after a while; raises otherwise."""
        self._open = False
        seconds = self._random.randint(*WATCH_S)
        query = (
            f"watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}"
            f"&resourceVersion={quote(self._session.version, safe='')}{self._query}"
        )
        started = self._clock()
        try:
            async with self._api.stream(
                self._path, query, idle_s=self._idle_s, gather_s=GATHER_S, accept=self._accept[1]
            ) as chunks:
                self._connected()
                async for chunk in chunks:
                    for event in self._session.receive_data(chunk):
                        self._tell(event)
        finally:
            self._session.ended()
            if self._open and self._clock() - started >= SHORT_S:
                self._failures = 0
        if self._clock() - started < SHORT_S:
            raise ServerViolation(f"{self._path}: the watch ended at once")

    def _tell(self, event: WatchEvent[T]) -> None:
        match event:
            case Changed(object=obj):
                self._learn(obj.metadata)
                self._sink(event)
            case Deleted():
                if self._known.pop((event.namespace, event.name), None) is not None:
                    self._sink(event)
            case Unreadable():
                self._learn(event)
                self._sink(event)
            case Broken(error=error):
                raise error
            case Bookmark():
                pass
        self._failures = 0

    # Trouble

    def _connected(self) -> None:
        self._open = self._settled = True
        if self._away_since is not None:
            self._sink(Back(self._clock() - self._away_since))
            self._away_since = None

    async def _trouble(self, exc: OmnipamError) -> None:
        """Decide from where to go on, say so if it is news, and wait a jittered while."""
        lost_stream, self._open = self._open, False
        if isinstance(exc, Denied | NotFound | Invalid) and not self._settled:
            raise exc
        watching = self._session.phase is Phase.WATCHING
        if watching and (
            isinstance(exc, Expired) or (self._failures >= STUBBORN and not isinstance(exc, HARMLESS))
        ):
            self._session.expired()  # 410; or a version the server takes offence at: after a restore from a backup
        news = not lost_stream and not isinstance(exc, Expired)
        if (
            news
            and self._away_since is None
            and (self._failures >= STUBBORN or not isinstance(exc, Throttled))
        ):
            self._away_since = self._clock()
            self._sink(Away(exc))
        first, longest = BACKOFF_S
        delay: float = min(longest, first * 2.0 ** min(self._failures, 10)) * (
            0.5 + self._random.random() / 2
        )
        if isinstance(exc, Throttled) and exc.retry_after_s is not None:
            delay += exc.retry_after_s
        self._failures += 1
        await self._sleep(delay)
