"""Our client against a real API server: lists, watches, patches, refusals, the Lease."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Cluster

from omnipam.core.errors import Conflict, Denied, Invalid, NotFound, OutcomeUnknown
from omnipam.runtime.election import Election, Elector, LostLease, Record, Timing, micro_time
from omnipam.runtime.kube import config
from omnipam.runtime.kube.errors import AlreadyExists
from omnipam.runtime.kube.lease import KubeLease
from omnipam.runtime.kube.meta import ObjectMeta, PartialObjectMetadata
from omnipam.runtime.kube.reflector import Away, Back, Changed, Deleted, Event, Listed, Reflector, Synced
from omnipam.runtime.kube.rest import Api

MAPS = "/api/v1/namespaces/default/configmaps"


class ConfigMap(msgspec.Struct):
    metadata: ObjectMeta = ObjectMeta()
    data: dict[str, str] | None = None


def api(kubeconfig: Path, **options: Any) -> Api:
    return Api(config.from_kubeconfig([kubeconfig]), user_agent="omnipam/test (kube)", **options)


def config_map(name: str, value: str = "1") -> bytes:
    return json.dumps({"metadata": {"name": name}, "data": {"v": value}}).encode()


class World:
    """What the events of a reflector add up to."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.syncs = 0
        self.events: list[Event[ConfigMap]] = []
        self._news = asyncio.Event()

    def sink(self, event: Event[ConfigMap]) -> None:
        self.events.append(event)
        match event:
            case Listed(objects=objects):
                self.now |= {obj.metadata.name: (obj.data or {}).get("v", "") for obj in objects}
            case Changed(object=obj):
                self.now[obj.metadata.name] = (obj.data or {}).get("v", "")
            case Deleted(name=name):
                self.now.pop(name, None)
            case Synced():
                self.syncs += 1
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                self._news.clear()
                await self._news.wait()

    def mine(self) -> dict[str, str]:
        return {name: value for name, value in self.now.items() if name.startswith("t-")}


async def test_objects_are_created_patched_and_deleted(cluster: Cluster) -> None:
    async with api(cluster.kubeconfig()) as client:
        made = msgspec.json.decode(await client.create(MAPS, config_map("t-a")), type=ConfigMap)
        with pytest.raises(AlreadyExists):
            await client.create(MAPS, config_map("t-a"))
        stale = made.metadata.resource_version
        patch = json.dumps({"metadata": {"resourceVersion": stale}, "data": {"v": "2"}}).encode()
        await client.merge_patch(f"{MAPS}/t-a", patch)
        with pytest.raises(Conflict) as caught:
            await client.merge_patch(f"{MAPS}/t-a", patch.replace(b'"2"', b'"3"'))
        assert type(caught.value) is Conflict
        with pytest.raises(Conflict):
            await client.delete(f"{MAPS}/t-a", uid="00000000-0000-0000-0000-000000000000")
        await client.delete(f"{MAPS}/t-a", uid=made.metadata.uid)
        with pytest.raises(NotFound, match='configmaps "t-a" not found'):
            await client.get(f"{MAPS}/t-a")
        with pytest.raises(Invalid):
            await client.create(MAPS, b'{"metadata": {"name": "Not A Name"}}')
        with pytest.raises(NotFound):
            await client.get("/apis/no.such.group/v1/things")


async def test_an_account_without_rights_is_denied_in_one_line(cluster: Cluster) -> None:
    async with api(cluster.kubeconfig("viewer")) as client:
        with pytest.raises(Denied, match=r'403 Forbidden.*cannot list resource "nodes".*grant it') as caught:
            await client.get("/api/v1/nodes")
        assert "\n" not in str(caught.value)


async def test_a_reflector_lists_pages_and_follows(cluster: Cluster) -> None:
    world = World()
    async with api(cluster.kubeconfig()) as client:
        for i in range(7):
            await client.create(MAPS, config_map(f"t-{i}"))
        reflector = Reflector(client, MAPS, ConfigMap, world.sink, page=3)
        task = asyncio.create_task(reflector.run())
        await world.until(lambda: world.syncs == 1)
        assert world.mine() == {f"t-{i}": "1" for i in range(7)}
        assert sum(isinstance(event, Listed) for event in world.events) >= 3
        await client.merge_patch(f"{MAPS}/t-1", b'{"data":{"v":"2"}}')
        await client.create(MAPS, config_map("t-new"))
        cluster.admin.raw("DELETE", f"{MAPS}/t-0")
        await world.until(
            lambda: world.now.get("t-1") == "2" and "t-new" in world.now and "t-0" not in world.now
        )
        loop = asyncio.get_running_loop()
        asked = loop.time()
        reflector.restart()
        await world.until(lambda: world.syncs == 2)
        assert [event.begun_s > asked for event in world.events if isinstance(event, Synced)] == [False, True]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_reflector_of_metadata_only_gets_nothing_else(cluster: Cluster) -> None:
    names: dict[str, str] = {}
    news = asyncio.Event()

    def sink(event: Event[PartialObjectMetadata]) -> None:
        match event:
            case Listed(objects=objects):
                names.update({obj.metadata.name: obj.metadata.uid for obj in objects})
            case Changed(object=obj):
                names[obj.metadata.name] = obj.metadata.uid
        news.set()

    async with api(cluster.kubeconfig()) as client:
        await client.create(MAPS, config_map("t-before"))
        task = asyncio.create_task(
            Reflector(client, MAPS, PartialObjectMetadata, sink, metadata_only=True).run()
        )
        async with asyncio.timeout(30):
            while "t-before" not in names:
                news.clear()
                await news.wait()
            await client.create(MAPS, config_map("t-after"))
            while "t-after" not in names:
                news.clear()
                await news.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_broken_connection_is_resumed_and_nothing_is_missed(cluster: Cluster) -> None:
    proxy = cluster.proxy()
    world = World()
    try:
        async with api(cluster.kubeconfig()) as direct, api(cluster.kubeconfig(server=proxy.url)) as client:
            await direct.create(MAPS, config_map("t-a"))
            await direct.create(MAPS, config_map("t-b"))
            task = asyncio.create_task(Reflector(client, MAPS, ConfigMap, world.sink).run())
            await world.until(lambda: world.syncs == 1)
            proxy.refuse()
            proxy.cut()
            await direct.merge_patch(f"{MAPS}/t-a", b'{"data":{"v":"2"}}')
            cluster.admin.raw("DELETE", f"{MAPS}/t-b")
            await world.until(lambda: any(isinstance(event, Away) for event in world.events))
            proxy.resume()
            await world.until(lambda: world.mine() == {"t-a": "2"})
            assert sum(isinstance(event, Away) for event in world.events) == 1
            assert sum(isinstance(event, Back) for event in world.events) == 1
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        proxy.stop()


async def test_a_lost_answer_is_an_unknown_outcome(cluster: Cluster) -> None:
    proxy = cluster.proxy()
    try:
        async with api(cluster.kubeconfig(server=proxy.url)) as client:
            await client.create(MAPS, config_map("t-a"))
            proxy.lose_answer(b"PATCH ")
            with pytest.raises(OutcomeUnknown):
                await client.merge_patch(f"{MAPS}/t-a", b'{"data":{"v":"2"}}')
        async with api(cluster.kubeconfig()) as client:
            assert json.loads(await client.get(f"{MAPS}/t-a"))["data"]["v"] == "2"  # it did happen
    finally:
        proxy.stop()


def elector(client: Api, name: str, timing: Timing) -> Elector:
    loop = asyncio.get_running_loop()
    lock = KubeLease(client, "default", "t-lease", timeout_s=timing.request_s)
    return Elector(Election(name, timing), lock, clock=loop.time, wall=time.time, jitter=lambda: 0.1)


async def test_the_lease_says_what_client_go_says(cluster: Cluster) -> None:
    lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/t-lease"
    async with api(cluster.kubeconfig()) as client:
        lock = KubeLease(client, "default", "t-lease", timeout_s=5)
        assert await lock.get() is None
        stamp = micro_time(time.time())
        record = Record("us-1", 15, stamp, stamp, 0)
        held = await lock.create(record)
        assert held.record == record
        with pytest.raises(Conflict):
            await lock.create(record)
        # What others keep in the Lease stays.
        await client.merge_patch(lease, b'{"metadata":{"labels":{"theirs":"1"}}}')
        with pytest.raises(Conflict):
            await lock.update(record, held.version)
        held = await lock.get() or held
        released = await lock.update(Record("", 1, stamp, stamp, 3), held.version)
        assert (released.record.holder, released.record.transitions) == ("", 3)
        stored = json.loads(await client.get(lease))
        assert stored["metadata"]["labels"] == {"theirs": "1"}
        assert stored["spec"] == {
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": 3,
        }


async def test_one_leads_the_other_waits_and_a_release_is_taken_at_once(cluster: Cluster) -> None:
    timing = Timing(lease_s=6, renew_s=4, retry_s=0.1)
    async with api(cluster.kubeconfig()) as client:
        first, second = elector(client, "one", timing), elector(client, "two", timing)
        await first.acquire()
        first.gate()
        with pytest.raises(LostLease):
            second.gate()
        renewing = asyncio.create_task(first.renew())
        waiting = asyncio.create_task(second.acquire())
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await first.release()
        with pytest.raises(LostLease):
            first.gate()
        async with asyncio.timeout(2):  # much less than the lease
            await waiting
        second.gate()


async def test_a_lost_lease_ends_the_renewal(cluster: Cluster) -> None:
    async with api(cluster.kubeconfig()) as client:
        ours = elector(client, "one", Timing(lease_s=6, renew_s=4, retry_s=0.1))
        await ours.acquire()
        lock = KubeLease(client, "default", "t-lease", timeout_s=2)
        held = await lock.get()
        assert held is not None
        stamp = micro_time(time.time())
        await lock.update(Record("thief", 15, stamp, stamp, 1), held.version)
        with pytest.raises(LostLease, match="thief holds it now"):
            await ours.renew()
        with pytest.raises(LostLease):
            ours.gate()


async def test_410_lists_anew_and_reports_what_vanished(start_apiserver: Callable[..., ApiServer]) -> None:
    """With a short history, a watch that was away too long is told 410."""
    server = start_apiserver(compaction_interval_s=1, watch_cache_sizes={"configmaps": 0})
    proxy = server.proxy()
    world = World()
    try:
        async with api(server.kubeconfig()) as direct, api(server.kubeconfig(server=proxy.url)) as client:
            await direct.create(MAPS, config_map("t-gone"))
            await direct.create(MAPS, config_map("t-stays"))
            task = asyncio.create_task(Reflector(client, MAPS, ConfigMap, world.sink).run())
            await world.until(lambda: world.syncs == 1)
            proxy.refuse()
            proxy.cut()
            server.admin.raw("DELETE", f"{MAPS}/t-gone")
            for i in range(3):
                await direct.merge_patch(f"{MAPS}/t-stays", json.dumps({"data": {"v": f"{i}"}}).encode())
            old = next(event.version for event in world.events if isinstance(event, Synced))
            async with asyncio.timeout(60):
                while b'"code":410' not in await direct.get(
                    MAPS, f"watch=1&resourceVersion={old}&timeoutSeconds=1"
                ):
                    pass  # not compacted yet; the server takes the second
            proxy.resume()
            await world.until(lambda: world.syncs == 2)
            assert world.mine() == {"t-stays": "2"}
            assert [event.name for event in world.events if isinstance(event, Deleted)] == ["t-gone"]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        proxy.stop()
        server.stop()


def test_a_request_that_is_cancelled_leaves_no_connection_open(cluster: Cluster) -> None:
    """Its TLS would be closed politely, by asking the server, and the loop may end before that has answered."""

    async def cancelled() -> None:
        async with api(cluster.kubeconfig("admin")) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get(MAPS, "watch=1", accept=None), 0.3)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            asyncio.run(cancelled())
            gc.collect()
    assert [str(each.message) for each in said if each.category is ResourceWarning] == []
