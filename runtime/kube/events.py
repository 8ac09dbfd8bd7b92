"""Failures as Kubernetes Events on the CiliumNode or pool, one object for each and reason, few and slowly.

Both live in no namespace, so their Events live in `default` (the API server insists); what concerns the configuration
is said of Cilium's ConfigMap, beside it. What cannot be written now raises, and counts for nothing: whoever reports it tries again
while it stands. What the server refuses for good is swallowed.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from omnipam.core.errors import Conflict, Denied, NotFound, OmnipamError, Retryable, Throttled
from omnipam.core.values import Node, Problem

from ..election import LostLease
from ..logs import printable
from .rest import Api

CONFIG_MAP = "cilium-config"
POOL_API = "cilium.io/v2alpha1"
COMPONENT = "omnipam-operator"
LONGEST_MESSAGE = 1024  # bytes: the limit of events.k8s.io
LONGEST_NAME = 253
SERIES = 4096  # remembered at most; client-go's correlator has the same
QUIET_S = 60.0  # between two writes of one series that says the same
BURST, PER_SECOND = 25, 1.0  # over all nodes


class Pool(msgspec.Struct, frozen=True):
    """A CiliumPodIPPool that an Event is about. uid: empty if it is not there."""

    name: str
    uid: str


class _Series(msgspec.Struct):
    """One node's failures for one reason."""

    name: str
    about: dict[str, str]
    namespace: str
    count: int = 0
    first_s: float = 0.0
    written: bool = False
    message: str = ""
    again_s: float = 0.0


class Recorder:
    """Writes Events. namespace: of Cilium's ConfigMap. clock: monotonic seconds; wall: since 1970, for people to read."""

    def __init__(
        self, api: Api, *, namespace: str, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._api, self._namespace, self._clock, self._wall = api, namespace, clock, wall
        self._series: OrderedDict[tuple[str, str], _Series] = OrderedDict()
        self._born = f"{int(wall() * 1000):x}"  # so that names of two lives of an operator differ
        self._tokens, self._filled_s = float(BURST), clock()

    async def report(self, node: Node | Pool | None, problem: Problem) -> None:
        """Show a failure of a node, of a pool, or (None) of the configuration.

        Raises Throttled beyond our own rate, Retryable where the server cannot take it now, Denied where we lack the right,
        and LostLease; all else is swallowed.
        """
        now = self._clock()
        series = self._find(node, problem)
        message = cut(printable(str(problem)))  # it may quote the object, which others write
        if series.written and message == series.message and now < series.again_s:
            series.count += 1
            return
        self._take(now)
        series.count += 1
        try:
            await self._write(series, problem.reason, message)
        except Retryable:
            series.count -= 1
            raise
        except (Denied, LostLease):
            raise
        except OmnipamError:
            return
        series.written, series.message, series.again_s = True, message, now + QUIET_S

    def _find(self, node: Node | Pool | None, problem: Problem) -> _Series:
        key = (node.uid or node.name if node is not None else "", problem.reason)
        series = self._series.get(key)
        if series is None:
            digest = hashlib.blake2b("\n".join(key).encode(), digest_size=6).hexdigest()
            suffix = f".{digest}.{self._born}"
            about, namespace = self._about(node)
            prefix = about["name"][: LONGEST_NAME - len(suffix)].rstrip(".-")
            series = self._series[key] = _Series(prefix + suffix, about, namespace, first_s=self._wall())
            if len(self._series) > SERIES:
                self._series.popitem(last=False)
        self._series.move_to_end(key)
        return series

    def _about(self, node: Node | Pool | None) -> tuple[dict[str, str], str]:
        """The object that an Event is about, and the namespace where it lives."""
        if isinstance(node, Pool):
            about = {"apiVersion": POOL_API, "kind": "CiliumPodIPPool", "name": node.name, "uid": node.uid}
            return about, "default"
        if node is not None:
            about = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "name": node.name, "uid": node.uid}
            return about, "default"
        about = {"apiVersion": "v1", "kind": "ConfigMap", "namespace": self._namespace, "name": CONFIG_MAP}
        return about, self._namespace

    def _take(self, now: float) -> None:
        self._tokens = min(float(BURST), self._tokens + (now - self._filled_s) * PER_SECOND)
        self._filled_s = now
        if self._tokens < 1.0:
            raise Throttled("Events come faster than they are written", (1.0 - self._tokens) / PER_SECOND)
        self._tokens -= 1.0

    async def _write(self, series: _Series, reason: str, message: str) -> None:
        collection = f"/api/v1/namespaces/{series.namespace}/events"
        changes = {"count": series.count, "lastTimestamp": stamp(self._wall()), "message": message}
        if series.written:
            try:
                await self._api.merge_patch(f"{collection}/{series.name}", msgspec.json.encode(changes))
            except NotFound:
                pass  # the server forgets Events after an hour
            else:
                return
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": series.namespace},
            "involvedObject": series.about,
            "type": "Warning",
            "reason": reason,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": stamp(series.first_s),
            **changes,
        }
        try:
            await self._api.create(collection, msgspec.json.encode(event))
        except Conflict:  # an answer was lost, and the Event is there
            await self._api.merge_patch(f"{collection}/{series.name}", msgspec.json.encode(changes))


def cut(message: str) -> str:
    """Return the message as long as an Event's may be."""
    data = message.encode()
    if len(data) <= LONGEST_MESSAGE:
        return message
    return data[: LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"


def stamp(seconds: float) -> str:
    """Return a Kubernetes time of whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
