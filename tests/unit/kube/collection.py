"""One collection of a Kubernetes API, as small as can be: versions, pages, watches, bookmarks, a history that can be forgotten."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web
from tests.unit.kube.wire import says

PATH = "/apis/x.io/v1/things"


class Collection:
    """Serve it with `wire.serving(collection.answer)`. All state is plain; tests change it through the verbs only.

    faults: answers that the next requests get instead, in turn; each may be for a list or a watch.
    """

    def __init__(self) -> None:
        self.version = 100
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, int, dict[str, Any]]] = []
        self.told = 0
        self.forgotten = 100
        """Versions below this one are answered with 410."""
        self.list_faults: list[Any] = []
        self.watch_faults: list[Any] = []
        self.lists: list[dict[str, str]] = []
        self.watches: list[dict[str, str]] = []
        self.accepts: list[str] = []
        self.snapshots: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        self.news = asyncio.Condition()
        self.cut = asyncio.Event()
        """Set: all streams break off; new ones are served again."""
        self.silent = False
        """Watches say nothing."""
        self.max_page = 1 << 30
        self.poke = lambda: None
        """Called for each request that has come in."""
        self._uids = 0

    # What the world does

    async def put(self, name: str, **fields: Any) -> None:
        self.version += 1
        old = self.objects.get(name)
        if old is None:
            self._uids += 1
        uid = old["metadata"]["uid"] if old else f"uid-{self._uids}"
        obj = {"metadata": {"name": name, "uid": uid, "resourceVersion": str(self.version)}, **fields}
        self.objects[name] = obj
        await self._record("MODIFIED" if old else "ADDED", obj)

    async def remove(self, name: str) -> None:
        self.version += 1
        obj = self.objects.pop(name)
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        await self._record("DELETED", obj)

    async def bookmark(self) -> None:
        await self._record("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    async def say(self, kind: str, obj: object) -> None:
        """Put any event on the streams."""
        await self._record(kind, obj)

    def forget(self) -> None:
        """Compaction: only the present is known."""
        self.forgotten = self.version
        self.snapshots.clear()

    async def break_off(self) -> None:
        self.cut.set()
        self.cut = asyncio.Event()
        async with self.news:
            self.news.notify_all()

    async def _record(self, kind: str, obj: Any) -> None:
        self.told += 1
        self.history.append((self.told, self.version, {"type": kind, "object": obj}))
        async with self.news:
            self.news.notify_all()

    # The server's side

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.accepts.append(request.headers.get("Accept", ""))
        if request.query.get("watch"):
            self.watches.append(dict(request.query))
            self.poke()
            if self.watch_faults and (fault := self.watch_faults.pop(0)):
                return await fault(request)
            return await self._watch(request)
        self.lists.append(dict(request.query))
        self.poke()
        if self.list_faults and (fault := self.list_faults.pop(0)):
            return await fault(request)
        return await self._list(request)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        limit = min(int(request.query["limit"]), self.max_page)
        token = request.query.get("continue", "")
        if token:
            key, _, start = token.partition("/")
            if key not in self.snapshots:
                return await says(410, "Expired", "The provided continue parameter is too old")(request)
        else:
            key, start = f"s{len(self.lists)}", "0"
            self.snapshots[key] = (self.version, [self.objects[name] for name in sorted(self.objects)])
        version, items = self.snapshots[key]
        at = int(start)
        page, rest = items[at : at + limit], items[at + limit :]
        more = {"continue": f"{key}/{at + limit}"} if rest else {}
        body = {"metadata": {"resourceVersion": str(version), **more}, "items": page or None}
        return web.Response(body=json.dumps(body).encode())

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self.forgotten:
            return await says(410, "Expired", "too old resource version")(request)
        cut = self.cut
        response = web.StreamResponse()
        await response.prepare(request)
        # What lies between the version and now; from there on everything, bookmarks too, which carry no change.
        backlog = [
            e for _, v, e in self.history if v > since and e["type"] in ("ADDED", "MODIFIED", "DELETED")
        ]
        at = self.told
        while True:
            for event in backlog:
                await response.write(json.dumps(event).encode() + b"\n")
            async with self.news:
                while not cut.is_set() and (self.silent or self.told == at):
                    await self.news.wait()
            if cut.is_set():
                assert request.transport is not None
                request.transport.abort()
                return response
            backlog = [e for seq, _, e in self.history if seq > at]
            at = self.told
