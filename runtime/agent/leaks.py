"""Reservations whose pod is gone without a release: collected after a grace, and only after a look at the pod itself.

What is doubtful counts as alive: an owner that is no pod, an API server that does not answer, an address that the host still routes,
or at which somebody answers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from omnipam.core.attachment import Allocation
from omnipam.core.errors import OmnipamError

from .kube_pods import Pod
from .neighbours import Place, answering
from .selection import read_owner
from .service import Service

LONGEST_S = 300.0
RECOVERED = "recovered"
"""The network of reservations that were made anew from live pods, after the state was lost; the container is the pod's UID."""
ROUTES4, ROUTES6 = Path("/proc/net/route"), Path("/proc/net/ipv6_route")


class Pods(Protocol):
    """What leaks are told by."""

    synced: asyncio.Event

    def live(self) -> Mapping[tuple[str, str], Pod]: ...
    async def is_there(self, name: tuple[str, str]) -> bool: ...


class Leaks:
    """grace_s: how long a pod must be gone, and its reservation be old; 0: nothing is ever collected."""

    def __init__(
        self,
        service: Service,
        pods: Pods,
        *,
        grace_s: float,
        clock: Callable[[], float],
        log: structlog.typing.FilteringBoundLogger,
        routed: Callable[[], frozenset[Place]] | None = None,
        answering: Callable[[Iterable[Place]], Awaitable[frozenset[Place]]] = answering,
    ) -> None:
        self._service, self._pods, self._grace_s = service, pods, grace_s
        self._clock, self._log = clock, log
        self._routed, self._answering = routed or host_routes, answering
        self._gone: dict[int, float] = {}  # id of a reservation → since when its pod is missing

    async def run(self) -> None:
        """Looks now and then, until cancelled."""
        if self._grace_s <= 0:
            return
        await self._pods.synced.wait()
        while True:
            await asyncio.sleep(min(LONGEST_S, self._grace_s / 2))
            await self.look()

    async def look(self) -> list[Allocation]:
        """Looks once. Answers what was collected."""
        now = self._clock()
        missing = {each.id: each for each in self._candidates()}
        self._gone = {id_: self._gone.get(id_, now) for id_ in missing}
        due = [
            missing[id_]
            for id_, since in self._gone.items()
            if now - since >= self._grace_s and now - missing[id_].since >= self._grace_s
        ]
        if not due:
            return []
        there = self._routed()
        there |= await self._answering(
            given.place for each in due for given in each.given if given.place not in there
        )
        collected = []
        for each in due:
            if any(given.place in there for given in each.given):
                continue  # the pod's object is gone, and its sandbox is not
            name = read_owner(each.owner)
            try:
                if name is None or (self._is_gone(each) and await self._pods.is_there(name)):
                    continue
            except OmnipamError:
                continue
            if self._service.agent.get(each.key) is not each:
                continue
            try:
                await self._service.release(each.key)
            except OmnipamError as error:
                self._log.warning("a leaked address stays", owner=each.owner, why=str(error))
                continue
            collected.append(each)
            self._log.info(
                "collected the addresses of a pod that is gone",
                owner=each.owner,
                container=each.key[1],
                addresses=[str(given) for given in each.given],
            )
        return collected

    def _candidates(self) -> list[Allocation]:
        live = self._pods.live()
        newest: dict[tuple[str, str, str], Allocation] = {}
        for each in self._service.agent.allocations:
            place = each.owner, each.key[0], each.key[2]
            if place not in newest or newest[place].id < each.id:
                newest[place] = each
        found = []
        for each in self._service.agent.allocations:
            name = read_owner(each.owner)
            if name is None:
                continue
            pod = live.get(name)
            if pod is None:
                found.append(each)
                continue
            shown = {(cidr.bits, cidr.first) for cidr in pod.addresses}
            if each.key[0] == RECOVERED:  # no release will name it: the pod is another, or its sandbox is
                places = {given.place for given in each.given}
                if pod.metadata.uid != each.key[1] or (shown and not shown & places):
                    found.append(each)
                continue
            # A pod of that name has two sandboxes on record: the one whose address it shows is alive.
            latest = newest[each.owner, each.key[0], each.key[2]]
            if latest is not each and shown & {given.place for given in latest.given}:
                found.append(each)
        return found

    def _is_gone(self, each: Allocation) -> bool:
        name = read_owner(each.owner)
        return name is not None and name not in self._pods.live()


def host_routes() -> frozenset[tuple[int, int]]:
    """Addresses that this host has a route of their own to, as `ptp` makes one for each pod: (bits, address)."""
    found: set[tuple[int, int]] = set()
    try:
        for line in ROUTES4.read_text().splitlines()[1:]:
            words = line.split()
            if len(words) > 7 and words[7] == "FFFFFFFF":
                found.add((32, socket.ntohl(int(words[1], 16))))
    except (OSError, ValueError):
        pass
    try:
        for line in ROUTES6.read_text().splitlines():
            words = line.split()
            if len(words) > 9 and words[1] == "80" and words[9] != "lo":
                found.add((128, int(words[0], 16)))
    except (OSError, ValueError):
        pass
    return frozenset(found)
