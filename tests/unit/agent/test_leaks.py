"""Which reservations count as leaked, and how sure one must be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from tests.unit.agent.house import SILENT, House

from omnipam.core.attachment import Request, Want
from omnipam.core.cidr import parse
from omnipam.core.errors import Unavailable
from omnipam.runtime.agent.kube_pods import Pod, PodIp, PodStatus
from omnipam.runtime.agent.leaks import RECOVERED, Leaks
from omnipam.runtime.agent.neighbours import Place
from omnipam.runtime.kube.meta import ObjectMeta


class Pods:
    """As the watch has them, and as they are."""

    def __init__(self) -> None:
        self.synced = asyncio.Event()
        self.watched: dict[tuple[str, str], Pod] = {}
        self.there: set[tuple[str, str]] = set()
        self.away = False

    def add(self, namespace: str, name: str, *addresses: str, uid: str = "") -> None:
        metadata = ObjectMeta(name=name, namespace=namespace, uid=uid)
        status = PodStatus("Running", [PodIp(address) for address in addresses])
        self.watched[namespace, name] = Pod(metadata, status=status)
        self.there.add((namespace, name))

    def live(self) -> Mapping[tuple[str, str], Pod]:
        return self.watched

    async def is_there(self, name: tuple[str, str]) -> bool:
        if self.away:
            raise Unavailable("away")
        return name in self.there


def leaks(
    house: House,
    pods: Pods,
    routed: frozenset[Place] = frozenset(),
    answering: frozenset[Place] = frozenset(),
) -> Leaks:
    async def answers(asked: Iterable[Place]) -> frozenset[Place]:
        return answering & frozenset(asked)

    return Leaks(
        *(house.service, pods),
        grace_s=60.0,
        clock=lambda: house.now,
        log=SILENT,
        routed=lambda: routed,
        answering=answers,
    )


async def collected(house: House, looking: Leaks) -> list[str]:
    return [each.key[1] for each in await looking.look()]


async def test_gone_for_the_grace_and_looked_up(tmp_path: Path) -> None:
    pods = Pods()
    pods.add("shop", "alive")
    pods.there.add(("shop", "unseen"))
    async with House(tmp_path) as house:
        looking = leaks(house, pods)
        for container, owner in (
            ("c1", "shop/gone"),
            ("c2", "shop/alive"),
            ("c3", "shop/unseen"),
            ("c4", "router"),
        ):
            await house.add(container, owner=owner)
        house.now += 100.0
        assert await collected(house, looking) == [], "only seen missing now"
        house.now += 59.0
        assert await collected(house, looking) == []
        house.now += 1.0
        pods.away = True
        assert await collected(house, looking) == [], "doubt counts as alive"
        pods.away = False
        assert await collected(house, looking) == ["c1"]
        assert await collected(house, looking) == []


async def test_seen_again_begins_anew(tmp_path: Path) -> None:
    pods = Pods()
    async with House(tmp_path) as house:
        looking = leaks(house, pods)
        await house.add("c1", owner="shop/web")
        assert await collected(house, looking) == []
        house.now += 59.0
        pods.add("shop", "web")
        assert await collected(house, looking) == []
        pods.watched.clear()
        pods.there.clear()
        house.now += 10.0
        assert await collected(house, looking) == []
        house.now += 59.0
        assert await collected(house, looking) == []
        house.now += 1.0
        assert await collected(house, looking) == ["c1"]


async def test_a_sandbox_that_outlives_its_pod(tmp_path: Path) -> None:
    """Forced deletion: the object is gone, and the host still routes to the address, or somebody answers there."""
    pods = Pods()
    async with House(tmp_path) as house:
        await house.add("c1", owner="shop/web")
        (held,) = house.agent.allocations
        place = frozenset({held.given[0].place})
        for looking in (leaks(house, pods, routed=place), leaks(house, pods, answering=place)):
            await looking.look()
            house.now += 1000.0
            assert await collected(house, looking) == []


async def test_the_older_of_two_sandboxes(tmp_path: Path) -> None:
    pods = Pods()
    async with House(tmp_path) as house:
        looking = leaks(house, pods)
        await house.add("old", owner="shop/db-0")
        new = await house.add("new", owner="shop/db-0")
        pods.add("shop", "db-0")
        await looking.look()
        house.now += 1000.0
        assert await collected(house, looking) == [], "which of them lives is not told yet"
        pods.add("shop", "db-0", new["ipv4"])
        await looking.look()
        house.now += 1000.0
        assert await collected(house, looking) == ["old"]


@pytest.mark.parametrize("uid", ["uid-1", "uid-2"])
async def test_recovered_from_a_pod_that_is_another_now(tmp_path: Path, uid: str) -> None:
    """No release will ever name it: the pod was made anew under its name, or has got another sandbox."""
    pods = Pods()
    async with House(tmp_path) as house:
        looking = leaks(house, pods)
        old = Want("ipv4", "default", parse("10.0.0.5/32").first)
        await house.service.allocate(Request((RECOVERED, "uid-1", "ipv4"), "shop/db-0", (old,)), 0.0)
        pods.add("shop", "db-0", "10.0.0.5", uid="uid-1")
        await looking.look()
        house.now += 1000.0
        assert await collected(house, looking) == [], "it is alive"
        new = await house.add("new", owner="shop/db-0")
        pods.add("shop", "db-0", new["ipv4"], uid=uid)
        await looking.look()
        house.now += 1000.0
        assert await collected(house, looking) == ["uid-1"]
