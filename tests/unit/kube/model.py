"""What the events of a reflector add up to, and a way to wait for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from tests.unit.kube.collection import PATH, Collection
from tests.unit.kube.wire import Wire, serving

from omnipam.runtime.kube.meta import ObjectMeta
from omnipam.runtime.kube.reflector import Changed, Deleted, Event, Listed, Reflector, Synced, Unreadable


class Thing(msgspec.Struct):
    metadata: ObjectMeta = ObjectMeta()
    size: int = 0


class Model:
    """The sink. `things`: name → (uid, size), or (uid, None) for what could not be read."""

    def __init__(self) -> None:
        self.things: dict[str, tuple[str, int | None]] = {}
        self.events: list[Event[Thing]] = []
        self.syncs: list[Synced] = []
        self.slept: list[float] = []
        self._news = asyncio.Event()

    def sink(self, event: Event[Thing]) -> None:
        self.events.append(event)
        match event:
            case Listed(objects=objects):
                for obj in objects:
                    self._put(obj)
            case Changed(object=obj):
                self._put(obj)
            case Unreadable():
                self.things[event.name] = (event.uid, None)
            case Deleted():
                assert self.things.pop(event.name)[0] == event.uid, "a deletion of what was never told"
            case Synced():
                self.syncs.append(event)
        self._news.set()

    def _put(self, obj: Thing) -> None:
        known = self.things.get(obj.metadata.name)
        assert known is None or known[0] == obj.metadata.uid, "a namesake without a deletion before it"
        self.things[obj.metadata.name] = (obj.metadata.uid, obj.size)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def poke(self) -> None:
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                self._news.clear()
                await self._news.wait()

    async def sleep(self, seconds: float) -> None:
        """Back-off without waiting; remembered."""
        self.slept.append(seconds)
        self._news.set()
        await asyncio.sleep(0)


def truth(collection: Collection) -> dict[str, tuple[str, int | None]]:
    return {
        name: (obj["metadata"]["uid"], obj["size"] if isinstance(obj["size"], int) else None)
        for name, obj in collection.objects.items()
    }


@asynccontextmanager
async def following(
    collection: Collection, **options: Any
) -> AsyncIterator[tuple[Model, Reflector[Thing], asyncio.Task[None], Wire]]:
    model = Model()
    collection.poke = model.poke
    options = {"sleep": model.sleep, "rng": random.Random(7), **options}
    async with serving(collection.answer) as wire, wire.api(timeout_s=5) as api:
        reflector = Reflector(api, PATH, Thing, model.sink, **options)
        task = asyncio.create_task(reflector.run())
        try:
            yield model, reflector, task, wire
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
