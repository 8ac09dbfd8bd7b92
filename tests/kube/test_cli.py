"""The commands on a real API server: what they print, what they find, and that they write only what they may."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kube.admin import Json
from tests.kube.cluster import Cluster
from tests.kube.conftest import StartApiServer
from tests.unit.cli.console import Answer, Console

from omnipam.runtime.election import micro_time
from omnipam.runtime.kube.definitions import COLLECTION, LABEL, PLURALS, shipped

NODES = "/apis/cilium.io/v2/ciliumnodes"
MACHINES = "/api/v1/nodes"
POOLS = "/apis/cilium.io/v2alpha1/ciliumpodippools"
CONFIG_MAPS = "/api/v1/namespaces/kube-system/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


class Kubectl(Console):
    """The console, with the cluster as its store."""

    def __call__(self, *words: str, store: str | None = None) -> Answer:
        return super().__call__(*words, store=store or "kubernetes")


@pytest.fixture(scope="module")
def _definitions(apiserver: Cluster) -> None:
    apiserver.admin.install_crds([json.loads(shipped(plural)) for plural in PLURALS])


@pytest.fixture
def console(
    cluster: Cluster,
    _definitions: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Kubectl:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    return Kubectl(tmp_path / "unused.db", capsys)


def make(
    cluster: Cluster, name: str, *cidrs: str, machine: bool = True, error: str = "", **spec: Any
) -> Json:
    """A CiliumNode, and the Node that it is of."""
    if machine:
        cluster.admin.post(MACHINES, {"metadata": {"name": name}})
    ipam = {"podCIDRs": list(cidrs)} if cidrs else {}
    body = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": name},
        "spec": {"ipam": ipam, **spec},
    }
    made = cluster.admin.post(NODES, body)
    if error:
        status = {"status": {"ipam": {"operator-status": {"error": error}}}}
        made = cluster.admin.patch(f"{NODES}/{name}/status", status)
    return made


def configure(cluster: Cluster, **keys: str) -> None:
    data = {name.replace("_", "-"): value for name, value in keys.items()}
    cluster.admin.apply(CONFIG_MAPS, {"metadata": {"name": "cilium-config"}, "data": data})


def lead(cluster: Cluster, renewed: float) -> None:
    """A Lease as an operator writes it."""
    spec = {
        "holderIdentity": "host-a",
        "leaseDurationSeconds": 15,
        "acquireTime": micro_time(renewed),
        "renewTime": micro_time(renewed),
        "leaseTransitions": 0,
    }
    cluster.admin.apply(LEASES, {"metadata": {"name": "cilium-operator-resource-lock"}, "spec": spec})


def findings(answer: Answer) -> dict[str, Json]:
    document = answer.json
    return {each["id"]: each for each in document["findings"]}


def test_nodes_print_as_the_server_has_them(cluster: Cluster, console: Kubectl) -> None:
    make(cluster, "b", "10.0.1.0/24", bootid="boot-1", health={"ipv4": "10.0.1.5"})
    make(cluster, "a", error="allocator full")
    there = {each["metadata"]["name"]: each for each in cluster.admin.get(NODES)["items"]}
    document = console("node", "list", "-o", "json").json
    assert document["kind"] == "List"
    assert document["items"] == [there["a"], there["b"]]
    assert console("node", "show", "b", "-o", "json").json == there["b"]
    rows = console("node", "list").cells
    assert [row[:3] for row in rows[1:]] == [["a", "<none>", "error"], ["b", "10.0.1.0/24", "granted"]]
    assert rows[1][4] == "allocator full"
    assert "10.0.1.0/24" in console("node", "show", "b").out
    assert "omnipam node list" in console.refused("node", "show", "nope", code=1)


def test_a_malformed_object_is_shown(cluster: Cluster, console: Kubectl) -> None:
    make(cluster, "bad", "10.0.0.0/24", "not-a-cidr")
    make(cluster, "good", "10.0.1.0/24")
    assert [row[:3] for row in console("node", "list").cells[1:]] == [
        ["bad", "10.0.0.0/24,not-a-cidr", "unreadable"],
        ["good", "10.0.1.0/24", "granted"],
    ]
    finding = findings(console("check", "-o", "json"))["Unreadable"]
    assert finding["objects"] == ["CiliumNode/bad"]
    assert "not-a-cidr" in finding["cause"]


def test_many_nodes_are_read_in_pages(cluster: Cluster, console: Kubectl) -> None:
    bodies = [
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": f"n{i:04}"}, "spec": {}}
        for i in range(1100)
    ]
    cluster.admin.create_many(NODES, bodies)
    document = console("plan", "-o", "json").json
    cidrs = [each["actions"][0]["cidr"] for each in document["nodes"]]
    assert len(set(cidrs)) == 1100
    assert document["calls"] == {"patch ciliumnodes": 1100}


def test_plan_counts_each_api(cluster: Cluster, console: Kubectl) -> None:
    configure(cluster, ipam="cluster-pool", cluster_pool_ipv4_cidr="10.7.0.0/23", unknown_key="1")
    make(cluster, "held", "10.7.0.0/24")
    make(cluster, "was-full", error="allocator full")
    answer = console("plan", "-o", "json")
    assert "unknown-key" in answer.err
    (node,) = answer.json["nodes"]
    assert node["actions"][0]["cidr"] == "10.7.1.0/24"
    assert answer.json["calls"] == {"patch ciliumnodes": 1, "patch ciliumnodes/status": 1}
    assert (
        console("plan", "--explain", "was-full", "-o", "json").json["ranges"][0]["verdict"]
        == "gives 10.7.1.0/24"
    )


def test_a_file_stands_in_for_the_config_map(cluster: Cluster, console: Kubectl, tmp_path: Path) -> None:
    configure(cluster, cluster_pool_ipv4_cidr="nonsense")
    answer = console("plan")
    assert (answer.code, answer.out) == (2, "")
    wrong, what_it_means = answer.err.splitlines()
    assert "cluster-pool-ipv4-cidr: 'nonsense' is not a CIDR" in wrong
    assert (
        "ConfigMap kube-system/cilium-config is refused as a whole: an operator that runs keeps"
        in what_it_means
    )
    path = tmp_path / "config.yaml"
    path.write_text("cluster-pool-ipv4-cidr: 10.8.0.0/16\n")
    assert console("plan", "--config", str(path)).code == 0
    assert console("plan", "--namespace", "default").code == 0  # none there: the defaults


def test_kubernetes_mode_reads_nodes(cluster: Cluster, console: Kubectl) -> None:
    configure(cluster, ipam="kubernetes")
    make(cluster, "a", machine=False)
    cluster.admin.post(MACHINES, {"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24"]}})
    make(cluster, "b", "10.2.0.0/24", machine=False)
    cluster.admin.post(MACHINES, {"metadata": {"name": "b"}, "spec": {"podCIDRs": ["10.3.0.0/24"]}})
    document = console("plan", "-o", "json").json
    assert document["mode"] == "kubernetes"
    assert [each["node"] for each in document["nodes"] if each["calls"]] == ["a"]
    finding = findings(console("check", "-o", "json"))["CIDRsDiffer"]
    assert finding["objects"] == ["CiliumNode/b", "Node/b"]
    assert console("pool", "list").cells == [console("pool", "list").cells[0]]


def test_pools_of_the_server_and_the_one_of_the_mode(cluster: Cluster, console: Kubectl) -> None:
    blue = {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumPodIPPool",
        "metadata": {"name": "blue"},
        "spec": {"ipv4": {"cidrs": ["172.16.0.0/16"], "maskSize": 26}},
    }
    made = cluster.admin.post(POOLS, blue)
    make(cluster, "a", "10.0.0.0/24")
    make(cluster, "drained", "192.168.4.0/24")
    items = console("pool", "list", "-o", "json").json["items"]
    assert items[0] == made
    assert items[1]["metadata"]["name"] == "default"
    assert items[1]["status"]["ipv4"]["used"] == 1
    assert items[1]["status"]["ipv4"]["nodesOnDrainedRanges"] == 1
    assert "1 node on 1 block in no configured range" in console("pool", "show", "default").out
    assert console("pool", "show", "blue", "-o", "json").json == made


def test_the_printed_kubectl_lines_are_valid(cluster: Cluster, console: Kubectl) -> None:
    lines = [
        (
            NODES,
            console(
                "node", "add", "made", "--address", "192.0.2.1", "--instance-id", "i-1", "--label", "k=v"
            ),
        ),
        (POOLS, console("pool", "add", "made", "--ipv4-cidr", "172.20.0.0/16", "--ipv4-mask-size", "24")),
    ]
    for path, answer in lines:
        assert answer.code == 2
        manifest = json.loads(shlex.split(answer.err.splitlines()[-1])[2])
        cluster.admin.post(f"{path}?fieldValidation=Strict&dryRun=All", manifest)


def test_check_finds_and_fixes(cluster: Cluster, console: Kubectl) -> None:
    make(cluster, "older", "10.0.0.0/24")
    make(cluster, "stale", "10.0.3.0/24", error="allocator full", bootid="mine")
    make(cluster, "no-machine", "10.0.4.0/24", machine=False)
    make(cluster, "twin", "10.0.0.0/25")
    state = {"default": '{"cidr":"10.0.9.0/24","owner":"gone"}\nnonsense\n'}
    cluster.admin.post(CONFIG_MAPS, {"metadata": {"name": "omnipam-ipam-state"}, "data": state})
    before = {each["metadata"]["name"]: each for each in cluster.admin.get(NODES)["items"]}

    answer = console("check", "-o", "json")
    assert answer.code == 1
    found = findings(answer)
    assert found.keys() == {
        "CIDRClaimedTwice",
        "KeptForGone",
        "MachineMissing",
        "NoOperator",
        "StaleError",
        "StateUnreadable",
    }
    assert found["MachineMissing"]["objects"] == ["CiliumNode/no-machine"]
    assert found["StaleError"]["objects"] == ["CiliumNode/stale"]
    assert {each["metadata"]["name"]: each for each in cluster.admin.get(NODES)["items"]} == before

    answer = console("check", "--fix", "-o", "json")
    assert {each["id"] for each in answer.json["findings"] if each["fixed"]} == {"KeptForGone", "StaleError"}
    after = {each["metadata"]["name"]: each for each in cluster.admin.get(NODES)["items"]}
    assert [name for name in before if before[name] != after[name]] == ["stale"]
    assert after["stale"]["spec"] == before["stale"]["spec"]
    assert not after["stale"]["status"]["ipam"].get("operator-status")
    kept = cluster.admin.get(f"{CONFIG_MAPS}/omnipam-ipam-state")["data"]
    assert kept == {"default": "nonsense\n"}
    assert not {"KeptForGone", "StaleError"} & findings(console("check", "-o", "json")).keys()


def test_check_sees_who_leads(cluster: Cluster, console: Kubectl) -> None:
    import time

    assert "NoOperator" in findings(console("check", "-o", "json"))
    lead(cluster, time.time())
    assert console("check").code == 0
    cluster.admin.post(
        CONFIG_MAPS,
        {
            "metadata": {"name": "omnipam-ipam-state"},
            "data": {"default": '{"cidr":"10.0.9.0/24","owner":"gone"}\n'},
        },
    )
    assert "an operator leads" in console("check", "--fix").err
    lead(cluster, time.time() - 3600)
    assert "host-a" in findings(console("check", "-o", "json"))["NoOperator"]["cause"]


def test_check_names_what_stands_in_the_way_of_a_takeover(cluster: Cluster, console: Kubectl) -> None:
    import time

    lead(cluster, time.time())
    configure(
        cluster,
        enable_ipv6="true",
        cluster_pool_ipv4_cidr="10.0.0.0/16",
        cluster_pool_ipv6_cidr="fd00::/40",
        cluster_pool_ipv6_mask_size="64",
        cluster_pool_reserved="10.0.250.0/24",
        cluster_pool_max_blocks_per_node="2",
    )
    make(cluster, "several", "10.0.0.0/24", "10.0.1.0/24", "fd00::/64")
    make(cluster, "half", "10.0.5.0/26", "fd00:0:0:1::/64")
    make(cluster, "other-half", "10.0.5.128/26", "fd00:0:0:2::/64")
    state = {"default": '{"cidr":"10.0.9.0/24","until":4000000000}\n'}
    cluster.admin.post(CONFIG_MAPS, {"metadata": {"name": "omnipam-ipam-state"}, "data": state})
    answer = console("check", "-o", "json")
    assert {name: each["severity"] for name, each in findings(answer).items()} == dict.fromkeys(
        ("TakeoverSeveralBlocks", "TakeoverReserved", "TakeoverQuarantine", "TakeoverSpan", "TakeoverMasks"),
        "info",
    )
    assert findings(answer)["TakeoverMasks"]["objects"] == ["CIDR/10.0.5.0/24"]
    assert answer.code == 0


def test_blocks_of_a_machine_without_its_object(cluster: Cluster, console: Kubectl) -> None:
    cluster.admin.post(MACHINES, {"metadata": {"name": "bereft"}})
    state = {"default": '{"cidr":"10.0.9.0/24","owner":"bereft"}\n'}
    cluster.admin.post(CONFIG_MAPS, {"metadata": {"name": "omnipam-ipam-state"}, "data": state})
    found = findings(console("check", "-o", "json"))
    assert found["ObjectMissing"]["objects"] == ["CiliumNode/bereft"]
    assert found["TakeoverKept"]["objects"] == ["CIDR/10.0.9.0/24"]
    assert "KeptForGone" not in found
    assert console("pool", "list", "-o", "json").json["items"][0]["status"]["ipv4"]["used"] == 1


def test_without_rights(cluster: Cluster, console: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("viewer")))
    for words in (("node", "list"), ("plan",), ("pool", "list"), ("check",)):
        assert re.search(r"403.*grant it", console.refused(*words, code=1))


def test_an_unknown_context(console: Kubectl) -> None:
    assert "nope" in console.refused("node", "list", "--context", "nope")


@pytest.fixture
def bare(start_apiserver: StartApiServer) -> Iterator[Cluster]:
    """A server that has never heard of Cilium."""
    server = start_apiserver()
    yield server
    server.stop()


def test_definitions_that_are_missing_or_old(
    bare: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(bare.kubeconfig()))
    console = Kubectl(tmp_path / "unused.db", capsys)
    for words in (("node", "list"), ("plan",), ("check",)):
        assert "no definition of CiliumNode" in console.refused(*words, code=1)
    nodes = json.loads(shipped("ciliumnodes"))
    nodes["metadata"]["labels"][LABEL] = "1.2.3"
    bare.admin.install_crds([nodes])
    found = findings(console("check", "-o", "json"))
    assert found["DefinitionOld"]["objects"] == ["CustomResourceDefinition/ciliumnodes.cilium.io"]
    assert found["DefinitionMissing"]["objects"] == ["CustomResourceDefinition/ciliumpodippools.cilium.io"]
    assert bare.admin.get(f"{COLLECTION}/ciliumnodes.cilium.io")["metadata"]["labels"][LABEL] == "1.2.3"
