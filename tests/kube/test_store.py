"""The Kubernetes store against a real API server, with the rights that the project ships and no others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from tests.kube.admin import Admin, Json, wait_until
from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Cluster
from tests.kube.operated import OPERATOR, give_rights

from omnipam.core import allocator
from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.errors import Denied, Invalid, Throttled
from omnipam.core.values import Block, Finding, Grant, Kept, Node, Problem
from omnipam.runtime.garbage import Orphan
from omnipam.runtime.kube import config
from omnipam.runtime.kube.definitions import COLLECTION, LABEL, PLURALS, ensure, shipped
from omnipam.runtime.kube.rest import Api
from omnipam.runtime.kube.store import KubernetesStore

OBJECTS = files("omnipam.fixtures") / "kube_objects"
CILIUM_NODES = "/apis/cilium.io/v2/ciliumnodes"
NODES = "/api/v1/nodes"
MAPS = "/api/v1/namespaces/kube-system/configmaps"
EVENTS = "/api/v1/namespaces/default/events"
FULL = Problem("PoolExhausted", "allocator full", "add a CIDR to the pool")


def load(name: str) -> Json:
    tree: Json = json.loads((OBJECTS / f"{name}.json").read_text())
    return tree


def theirs() -> list[Json]:
    return [load(f"crd-{plural}-1.17") for plural in PLURALS]


def ours() -> list[Json]:
    return [json.loads(shipped(plural)) for plural in PLURALS]


def bare(tree: Json, name: str | None = None) -> Json:
    """The object as a client creates it."""
    kept = {key: tree["metadata"][key] for key in ("name", "annotations") if key in tree["metadata"]}
    return {**tree, "metadata": {**kept, "name": name or kept["name"]}}


def create(admin: Admin, tree: Json, path: str = CILIUM_NODES) -> Json:
    """Create it, status too."""
    made = admin.post(path, tree)
    if path == CILIUM_NODES and "status" in tree:
        made = admin.patch(f"{path}/{tree['metadata']['name']}/status", {"status": tree["status"]})
    return made


class World:
    """What a sink was told, added up."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.calls: list[str] = []
        self.findings: list[Finding] = []
        self.news = asyncio.Event()

    def _told(self, call: str) -> None:
        self.calls.append(call)
        self.news.set()

    def listed(self) -> None:
        self._told("listed")

    def seen(self, node: Node) -> None:
        self.nodes[node.name] = node
        self._told("seen")

    def gone(self, name: str, uid: str) -> None:
        self.nodes.pop(name, None)
        self._told("gone")

    def synced(self) -> None:
        self._told("synced")

    def expects(self, name: str, version: str) -> bool:
        return False

    def away(self, reason: str) -> None:
        self._told("away")

    def back(self) -> None:
        self._told("back")

    def finding(self, finding: Finding) -> None:
        self.findings.append(finding)
        self._told("finding")

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not true():
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def storing(
    cluster: Cluster,
    user: str = OPERATOR,
    *,
    server: str | None = None,
    clock: Callable[[], float] | None = None,
    **options: Any,
) -> AsyncIterator[KubernetesStore]:
    reach = config.from_kubeconfig([cluster.kubeconfig(user, server=server)])
    async with Api(reach, user_agent="omnipam/test (store)") as api:
        store = KubernetesStore(
            api,
            namespace="kube-system",
            **{"reads_machines": False, **options},
            clock=clock or asyncio.get_running_loop().time,
            wall=lambda: 1_767_225_600.0,
        )
        await store.open()
        yield store
        await store.close()


@asynccontextmanager
async def following(store: KubernetesStore) -> AsyncIterator[World]:
    """Follow until synced, and on until the end."""
    world = World()
    task = asyncio.create_task(store.follow(world))
    try:
        synced = asyncio.create_task(world.until(lambda: "synced" in world.calls))
        await asyncio.wait((task, synced), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            synced.cancel()
            task.result()
        await synced
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def grant(*cidrs: str, problem: Problem | None = None) -> Grant:
    blocks = tuple(Block("default", parse(cidr)) for cidr in cidrs)
    return Grant(blocks, (problem,) if problem else ())


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    """The shared server with our definitions and the shipped rights."""
    give_rights(cluster)
    cluster.admin.install_crds(ours())
    return cluster


# Publishing


async def test_a_grant_is_one_write_and_others_fields_survive(kube: Cluster) -> None:
    made = create(kube.admin, bare(load("ciliumnode-eni")))
    async with storing(kube) as store:
        node = await store.read("worker-7")
        assert node is not None
        outcome = await store.publish(Publish(node, grant("10.0.0.0/24", "fd00::/120")))
    after = kube.admin.get(f"{CILIUM_NODES}/worker-7")
    assert outcome == allocator.Version(after["metadata"]["resourceVersion"])
    assert after["metadata"]["generation"] == made["metadata"]["generation"] + 1
    assert after["spec"]["ipam"].pop("podCIDRs") == ["10.0.0.0/24", "fd00::/120"]
    assert (after["spec"], after["status"]) == (made["spec"], made["status"])


async def test_an_error_goes_to_the_status_and_goes_away_again(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    async with storing(kube) as store:
        node = await store.read("worker-2")
        assert node is not None
        outcome = await store.publish(Publish(node, grant(problem=FULL)))
        assert isinstance(outcome, allocator.Version)
        failed = await store.read("worker-2")
        assert failed is not None
        assert failed.version == outcome.version
        assert failed.holds.error == "allocator full — add a CIDR to the pool"
        await store.publish(Publish(failed, grant("10.0.0.0/24")))
    after = kube.admin.get(f"{CILIUM_NODES}/worker-2")
    assert after["spec"]["ipam"] == {"podCIDRs": ["10.0.0.0/24"]}
    assert after["status"]["ipam"]["operator-status"] == {}


async def test_nothing_is_written_where_nothing_differs(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-cluster-pool")))
    async with storing(kube) as store:
        node = await store.read("worker-1")
        assert node is not None
        outcome = await store.publish(Publish(node, Grant(node.holds.blocks)))
    assert outcome == allocator.Version(node.version)
    assert kube.admin.get(f"{CILIUM_NODES}/worker-1")["metadata"]["resourceVersion"] == node.version


async def test_a_stale_version_is_a_conflict_and_writes_nothing(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    async with storing(kube) as store:
        node = await store.read("worker-2")
        assert node is not None
        kube.admin.patch(f"{CILIUM_NODES}/worker-2", {"spec": {"bootid": "b"}})
        assert await store.publish(Publish(node, grant("10.0.0.0/24"))) == allocator.Conflict()
        assert await store.publish(Publish(node, grant(problem=FULL))) == allocator.Conflict()
    after = kube.admin.get(f"{CILIUM_NODES}/worker-2")
    assert after["spec"]["ipam"] == {}
    assert "status" not in after


async def test_a_namesake_is_never_written_by_accident(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    async with storing(kube) as store:
        node = await store.read("worker-2")
        assert node is not None
        kube.admin.delete(f"{CILIUM_NODES}/worker-2")
        assert await store.publish(Publish(node, grant("10.0.0.0/24"))) == allocator.Gone()
        made = create(kube.admin, bare(load("ciliumnode-fresh")))
        assert await store.publish(Publish(node, grant("10.0.0.0/24"))) == allocator.Conflict()
        for blind in (
            msgspec.structs.replace(node, version=""),
            msgspec.structs.replace(node, version="", uid=""),
        ):
            assert await store.publish(Publish(blind, grant("10.0.0.0/24"))) == allocator.Conflict()
        mixed = msgspec.structs.replace(node, version=made["metadata"]["resourceVersion"])
        assert isinstance(await store.publish(Publish(mixed, grant("10.0.0.0/24"))), allocator.Denied)
    assert kube.admin.get(f"{CILIUM_NODES}/worker-2")["spec"]["ipam"] == {}


async def test_a_lost_answer_is_unknown_and_a_read_decides(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    with kube.proxy() as proxy:
        async with storing(kube, server=proxy.url) as store:
            node = await store.read("worker-2")
            assert node is not None
            proxy.lose_answer(rb"PATCH /apis/cilium.io/")
            assert isinstance(await store.publish(Publish(node, grant("10.0.0.0/24"))), allocator.Unknown)
            there = await store.read("worker-2")
            assert there is not None
            assert there.holds.blocks == grant("10.0.0.0/24").blocks
            proxy.lose_request(rb"PATCH /apis/cilium.io/")
            assert isinstance(await store.publish(Publish(there, grant("10.0.1.0/24"))), allocator.Unknown)
            assert (await store.read("worker-2")) == there


async def test_the_second_half_of_a_write_may_fail_alone(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    with kube.proxy() as proxy:
        async with storing(kube, server=proxy.url) as store:
            node = await store.read("worker-2")
            assert node is not None
            proxy.lose_request(rb"PATCH /apis/cilium.io/v2/ciliumnodes/worker-2/status")
            outcome = await store.publish(Publish(node, grant("10.0.0.0/24", problem=FULL)))
            assert isinstance(outcome, allocator.Unknown)
            there = await store.read("worker-2")
            assert there is not None
            assert (there.holds.blocks, there.holds.error) == (grant("10.0.0.0/24").blocks, "")


async def test_without_rights_a_publish_is_denied_and_says_so(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    async with storing(kube) as store:
        node = await store.read("worker-2")
    assert node is not None
    async with storing(kube, "viewer", create_definitions=False) as store:
        outcome = await store.publish(Publish(node, grant("10.0.0.0/24")))
        assert isinstance(outcome, allocator.Denied)
        assert outcome.reason == "Denied"
        assert "ciliumnodes" in outcome.text
        assert "\n" not in outcome.text
        with pytest.raises(Denied):
            async with following(store):
                pass


# Following


async def test_1200_nodes_are_listed_in_pages_and_followed(kube: Cluster) -> None:
    fresh = bare(load("ciliumnode-fresh"))
    kube.admin.create_many(CILIUM_NODES, [bare(fresh, f"n-{i:04d}") for i in range(1200)])
    async with storing(kube) as store, following(store) as world:
        assert len(world.nodes) == 1200
        assert world.calls[0] == "listed"
        assert (world.calls.count("listed"), world.calls.count("synced")) == (1, 1)
        create(kube.admin, bare(load("ciliumnode-cluster-pool")))
        await world.until(lambda: "worker-1" in world.nodes and world.nodes["worker-1"].holds.blocks)
        kube.admin.delete(f"{CILIUM_NODES}/n-0000")
        await world.until(lambda: "n-0000" not in world.nodes)
        store.relist()
        await world.until(lambda: world.calls.count("synced") == 2)
        assert world.calls.count("listed") == 2
        assert len(world.nodes) == 1200


async def test_a_node_lives_as_long_as_its_machine(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-cluster-pool")))
    create(kube.admin, bare(load("node-pod-cidrs")), NODES)
    async with storing(kube) as store, following(store) as world:
        assert world.nodes["worker-1"].present
        kube.admin.delete(f"{CILIUM_NODES}/worker-1")
        await world.until(lambda: not world.nodes["worker-1"].present)
        alone = await store.read("worker-1")
        assert alone is not None
        assert not alone.present
        kube.admin.delete(f"{NODES}/worker-1")
        await world.until(lambda: "worker-1" not in world.nodes)
        assert await store.read("worker-1") is None


async def test_in_kubernetes_mode_machines_are_read_whole(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh"), "worker-1"))
    create(kube.admin, bare(load("node-pod-cidrs")), NODES)
    create(kube.admin, bare(load("node-annotated"), "worker-9"), NODES)
    async with storing(kube, reads_machines=True) as store, following(store) as world:
        assert world.nodes["worker-1"].facts.pod_cidrs == (parse("10.200.1.0/24"), parse("fd00:200:0:1::/64"))
        assert world.nodes["worker-1"].present
        assert world.nodes["worker-9"].facts.pod_cidrs == (parse("10.200.3.0/24"), parse("fd00:200:0:3::/64"))
        assert not world.nodes["worker-9"].present
        kube.admin.patch(f"{NODES}/worker-9", {"spec": {"unschedulable": True}})
        await world.until(lambda: world.nodes["worker-9"].facts.cordoned)


async def test_a_server_that_goes_away_is_said_once_and_comes_back(kube: Cluster) -> None:
    with kube.proxy() as proxy:
        async with storing(kube, server=proxy.url) as store, following(store) as world:
            proxy.refuse()
            proxy.cut()
            await world.until(lambda: "away" in world.calls)
            create(kube.admin, bare(load("ciliumnode-fresh")))
            proxy.resume()
            await world.until(lambda: "back" in world.calls and "worker-2" in world.nodes)
            assert (world.calls.count("away"), world.calls.count("back")) == (1, 1)


# Garbage


async def test_an_orphan_is_collected_unless_its_machine_is_there_after_all(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    kept = bare(load("ciliumnode-fresh"), "worker-3")
    kept["metadata"]["annotations"] = {"cilium.io/do-not-gc": "true"}
    create(kube.admin, kept)
    async with storing(kube) as store, following(store) as world:
        (orphan,) = store.orphans()
        assert orphan.name == "worker-2"
        create(kube.admin, bare(load("node-pod-cidrs"), "worker-2"), NODES)
        assert not await store.collect(orphan)
        kube.admin.delete(f"{NODES}/worker-2")
        assert await store.collect(Orphan("worker-2", "another uid"))
        assert kube.admin.exists(f"{CILIUM_NODES}/worker-2")
        assert await store.collect(orphan)
        await world.until(lambda: "worker-2" not in world.nodes)
        assert await store.collect(orphan)  # gone already: fine


# What is kept


KEPT = (
    Kept("default", parse("10.0.1.0/24"), owner="worker-1"),
    Kept("default", parse("10.0.2.0/24"), until=1_767_225_900.5),
)


async def test_what_is_kept_outlives_the_store(kube: Cluster) -> None:
    create(kube.admin, bare(load("node-pod-cidrs")), NODES)
    async with storing(kube) as store:
        assert await store.kept() == ()
        await store.keep(())
        assert not kube.admin.exists(f"{MAPS}/omnipam-ipam-state")
        await store.keep(KEPT)
    made = kube.admin.get(f"{MAPS}/omnipam-ipam-state")
    async with storing(kube) as store:
        await store.keep(KEPT)  # says so already
        assert kube.admin.get(f"{MAPS}/omnipam-ipam-state") == made
        assert await store.kept() == KEPT
        async with following(store) as world:
            assert not world.nodes["worker-1"].present  # its machine is there
        await store.keep(KEPT[:1])
        await store.keep(())
    assert "data" not in kube.admin.get(f"{MAPS}/omnipam-ipam-state")


async def test_a_line_that_cannot_be_read_is_reported_and_stays(kube: Cluster) -> None:
    good = '{"cidr":"10.0.1.0/24","owner":"worker-1"}'
    bad = ('{"cidr":"10.0.3/24"}', '{"cidr":"10.0.4.0/24","since":"a newer release"}', "nonsense")
    text = "\n".join((good, *bad))
    kube.admin.post(MAPS, {"metadata": {"name": "omnipam-ipam-state"}, "data": {"default": text}})
    async with storing(kube) as store:
        assert await store.kept() == KEPT[:1]
        async with following(store) as world:
            assert [finding.reason for finding in world.findings] == ["StateUnreadable"] * 3
        await store.keep(())
    assert kube.admin.get(f"{MAPS}/omnipam-ipam-state")["data"]["default"].splitlines() == list(bad)


async def test_another_writer_of_what_is_kept_is_overruled_after_a_look(kube: Cluster) -> None:
    async with storing(kube) as store:
        await store.keep(KEPT[:1])
        kube.admin.patch(f"{MAPS}/omnipam-ipam-state", {"data": {"mars": "nonsense"}})
        await store.keep(KEPT)
        data = kube.admin.get(f"{MAPS}/omnipam-ipam-state")["data"]
        assert data["mars"] == "nonsense\n"
        kube.admin.delete(f"{MAPS}/omnipam-ipam-state")
        await store.keep(KEPT[:1])
        assert await store.kept() == KEPT[:1]


# Events


async def test_failures_are_one_event_a_node_and_reason_with_a_count(kube: Cluster) -> None:
    create(kube.admin, bare(load("ciliumnode-fresh")))
    now = 0.0
    async with storing(kube, clock=lambda: now) as store:
        node = await store.read("worker-2")
        assert node is not None
        await store.report(node, FULL)
        await store.report(node, FULL)
        now = 61.0
        await store.report(node, FULL)
        await store.report(node, Problem("Unreadable", "x" * 5000))
    events = [
        each for each in kube.admin.get(EVENTS)["items"] if each["involvedObject"]["name"] == "worker-2"
    ]
    by_reason = {each["reason"]: each for each in events}
    full, long = by_reason["PoolExhausted"], by_reason["Unreadable"]
    assert len(events) == 2
    assert (full["type"], full["count"], full["message"]) == ("Warning", 3, str(FULL))
    assert (full["involvedObject"]["kind"], full["involvedObject"]["uid"]) == ("CiliumNode", node.uid)
    assert len(long["message"].encode()) <= 1024


async def test_what_concerns_the_configuration_is_said_of_ciliums_config_map(kube: Cluster) -> None:
    async with storing(kube) as store:
        await store.report(None, Problem("ConfigurationRefused", "the pool is empty"))
    events = kube.admin.get("/api/v1/namespaces/kube-system/events")["items"]
    (event,) = [each for each in events if each["reason"] == "ConfigurationRefused"]
    about = event["involvedObject"]
    assert (about["kind"], about["namespace"], about["name"]) == ("ConfigMap", "kube-system", "cilium-config")


async def test_a_storm_of_failures_is_a_trickle_of_requests(kube: Cluster) -> None:
    now = 0.0
    async with storing(kube, clock=lambda: now) as store:

        async def storm() -> int:
            """How many of 200 found the bucket empty."""
            throttled = 0
            for i in range(200):
                try:
                    await store.report(Node(f"storm-{i:03d}", uid=str(i)), FULL)
                except Throttled:
                    throttled += 1
            return throttled

        assert await storm() == 175
        first = sum("storm-" in each["metadata"]["name"] for each in kube.admin.get(EVENTS)["items"])
        now = 10.0
        assert await storm() == 165
    storm_events = [each for each in kube.admin.get(EVENTS)["items"] if "storm-" in each["metadata"]["name"]]
    assert (first, len(storm_events)) == (25, 35)
    assert {each["count"] for each in storm_events} == {1}, "what is tried again counts once"


async def test_where_events_are_forbidden_that_is_said_once(kube: Cluster) -> None:
    async with storing(kube, "viewer", create_definitions=False) as store:
        world = World()
        await store.report(Node("a", uid="u"), FULL)
        await store.report(Node("b", uid="v"), FULL)
        with pytest.raises(Denied):
            await store.follow(world)
    assert [finding.reason for finding in world.findings].count("EventsDenied") == 1


# Golden objects


@pytest.mark.parametrize("definitions", [theirs, ours], ids=["cilium-1.17", "ours"])
async def test_objects_of_both_operators_live_under_both_definitions(
    own: ApiServer, definitions: Callable[[], list[Json]]
) -> None:
    forget_definitions(own.admin)
    own.admin.install_crds(definitions())
    give_rights(own)
    names = sorted(path.name[:-5] for path in OBJECTS.iterdir() if path.name.startswith("ciliumnode-"))
    own.admin.post("/apis/cilium.io/v2alpha1/ciliumpodippools", bare(load("ciliumpodippool-default")))
    async with storing(own, create_definitions=False) as store:
        for name in names:
            tree = bare(load(name))
            made = create(own.admin, tree)
            assert (made["spec"], made.get("status")) == (tree["spec"], tree.get("status"))
            node = await store.read(made["metadata"]["name"])
            assert node is not None
            outcome = await store.publish(Publish(node, grant("10.99.0.0/24", problem=FULL)))
            assert isinstance(outcome, allocator.Version)
            after = own.admin.get(f"{CILIUM_NODES}/{node.name}")
            wanted = json.loads(json.dumps(tree))
            wanted["spec"]["ipam"]["podCIDRs"] = ["10.99.0.0/24"]
            status = wanted.setdefault("status", {}).setdefault("ipam", {}).setdefault("operator-status", {})
            status["error"] = str(FULL)
            assert (after["spec"], after["status"]) == (wanted["spec"], wanted["status"])


# Definitions


@pytest.fixture(scope="module")
def own(start_apiserver: Callable[..., ApiServer]) -> Iterator[ApiServer]:
    """A server whose definitions these tests may break."""
    server = start_apiserver()
    yield server
    server.stop()


def is_absent(admin: Admin, path: str) -> bool:
    return not admin.exists(path)


def forget_definitions(admin: Admin) -> None:
    for plural in PLURALS:
        path = f"{COLLECTION}/{plural}.cilium.io"
        if admin.exists(path):
            admin.delete(path)
            wait_until(partial(is_absent, admin, path), f"{path} gone")


async def ensuring(server: ApiServer, user: str = OPERATOR, *, create: bool = True) -> Any:
    reach = config.from_kubeconfig([server.kubeconfig(user)])
    async with Api(reach, user_agent="omnipam/test (definitions)") as api:
        return await ensure(api, create=create, clock=asyncio.get_running_loop().time)


def label(admin: Admin, plural: str = "ciliumnodes") -> str:
    found: str = admin.get(f"{COLLECTION}/{plural}.cilium.io")["metadata"]["labels"][LABEL]
    return found


async def test_absent_definitions_are_created_and_serve_at_once(own: ApiServer) -> None:
    forget_definitions(own.admin)
    give_rights(own)
    served = await ensuring(own)
    assert (served.status_error, served.findings) == (True, ())
    own.admin.post(CILIUM_NODES, bare(load("ciliumnode-fresh")))
    before = [own.admin.get(f"{COLLECTION}/{plural}.cilium.io") for plural in PLURALS]
    await ensuring(own)
    assert [own.admin.get(f"{COLLECTION}/{plural}.cilium.io") for plural in PLURALS] == before


async def test_older_definitions_are_upgraded_and_objects_survive(own: ApiServer) -> None:
    forget_definitions(own.admin)
    give_rights(own)
    own.admin.install_crds(theirs())
    create(own.admin, bare(load("ciliumnode-multi-pool")))
    await ensuring(own)
    assert {label(own.admin, plural) for plural in PLURALS} == {"1.30.2"}
    assert own.admin.get(f"{CILIUM_NODES}/worker-8")["spec"] == load("ciliumnode-multi-pool")["spec"]


async def test_newer_definitions_are_left_alone(own: ApiServer) -> None:
    forget_definitions(own.admin)
    give_rights(own)
    newer = theirs()
    for definition in newer:
        definition["metadata"]["labels"][LABEL] = "1.31.0"
    own.admin.install_crds(newer)
    before = own.admin.get(f"{COLLECTION}/ciliumnodes.cilium.io")
    await ensuring(own)
    assert own.admin.get(f"{COLLECTION}/ciliumnodes.cilium.io") == before


async def test_without_rights_the_missing_one_is_named(own: ApiServer) -> None:
    forget_definitions(own.admin)
    served = await ensuring(own, "viewer")  # may not even look: taken to be there
    assert [finding.reason for finding in served.findings] == ["DefinitionUnread"] * 2
    reader: Json = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "looks"},
        "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}],
    }
    own.admin.apply("/apis/rbac.authorization.k8s.io/v1/clusterroles", reader)
    own.bind("omnipam-agent", "looks")
    with pytest.raises(Denied, match=r"grant create on customresourcedefinitions") as caught:
        await ensuring(own, "omnipam-agent")
    assert "\n" not in str(caught.value)
    with pytest.raises(Invalid, match=r"not installed, and skip-crd-creation is set"):
        await ensuring(own, "omnipam-agent", create=False)
    own.admin.install_crds(theirs())
    served = await ensuring(own, "omnipam-agent")
    assert [finding.reason for finding in served.findings] == ["DefinitionOld"] * 2
    assert label(own.admin) == "1.30.1"


async def test_a_schema_without_the_error_field_is_said_and_the_field_never_written(own: ApiServer) -> None:
    forget_definitions(own.admin)
    give_rights(own)
    lacking = ours()
    schema = lacking[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["status"]["properties"]["ipam"]["properties"]["operator-status"]
    own.admin.install_crds(lacking)
    create(own.admin, bare(load("ciliumnode-fresh")))
    async with storing(own) as store:
        node = await store.read("worker-2")
        assert node is not None
        assert await store.publish(Publish(node, grant(problem=FULL))) == allocator.Version(node.version)
        async with following(store) as world:
            assert [finding.reason for finding in world.findings] == ["SchemaLacksField"]
