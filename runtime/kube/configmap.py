"""One ConfigMap as a source of configuration: read once, then followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

import msgspec

from omnipam.core.errors import NotFound, Unavailable

from .meta import Identity
from .reflector import Deleted, Event, Listed, Reflector, Synced
from .rest import Api
from .watch import Changed


class ConfigMap(msgspec.Struct, frozen=True):
    """`v1` ConfigMap. Binary data is no configuration."""

    metadata: Identity = Identity()
    data: dict[str, str] | None = None


_DECODER = msgspec.json.Decoder(ConfigMap)


def path(namespace: str, name: str = "") -> str:
    """Where it lies in the API."""
    base = f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps"
    return f"{base}/{quote(name, safe='')}" if name else base


async def read(api: Api, namespace: str, name: str) -> Mapping[str, str] | None:
    """Its keys; None if it is not there. Raises Denied, Unavailable."""
    try:
        body = await api.get(path(namespace, name))
    except NotFound:
        return None
    try:
        return _DECODER.decode(body).data or {}
    except msgspec.MsgspecError as error:
        raise Unavailable(f"ConfigMap {namespace}/{name}: the answer cannot be read ({error})") from error


async def follow(api: Api, namespace: str, name: str, sink: Callable[[Mapping[str, str]], None]) -> None:
    """Tells `sink` its keys now and after each change, until cancelled. A deleted ConfigMap is not an empty one: nothing is told."""

    def event(seen: Event[ConfigMap]) -> None:
        match seen:
            case Listed(objects):
                for each in objects:
                    sink(each.data or {})
            case Changed(each):
                sink(each.data or {})
            case Deleted() | Synced():
                pass

    await Reflector(
        api, path(namespace), ConfigMap, event, query=f"fieldSelector=metadata.name%3D{quote(name, safe='')}"
    ).run()
