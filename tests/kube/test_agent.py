"""The agent on a real API server, with the rights that the project ships and no others, beside the real operator."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.agent_process import AgentProcess
from tests.faults.test_agent_kill import Client
from tests.kube.admin import Admin, Json, wait_until
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, OPERATOR, add_machine, operator, pod_cidrs, prepare
from tests.kube.test_multi_pool import allocated, pool
from tests.operator_process import OperatorProcess

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "agent.yaml"
USER = "omnipam-agent"
OFTEN = "--leader-election-retry-period=300ms"
NO_GC = "--nodes-gc-interval=0"
MULTI = "--ipam=multi-pool"
KUBE = "--store=kubernetes"
PODS = "/api/v1/namespaces/default/pods"
PERIODS = ("--cool-down=0s", "--ipam-cilium-node-update-rate=200ms")


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    prepare(cluster)
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    for manifest in yaml.safe_load_all(MANIFEST.read_text()):
        if manifest["kind"] == "ClusterRole":
            cluster.admin.apply(f"{rbac}/clusterroles", manifest)
        elif manifest["kind"] == "ClusterRoleBinding":
            cluster.admin.apply(
                f"{rbac}/clusterrolebindings", manifest | {"subjects": [cluster.subject(USER)]}
            )
    return cluster


def agent(cluster: Cluster, directory: Path, *flags: str, node: str = "a", **more: Any) -> AgentProcess:
    given = (KUBE, *PERIODS, *flags)
    return AgentProcess(directory, *given, node=node, kubeconfig=cluster.kubeconfig(USER), **more)


def add_pod(
    admin: Admin,
    name: str,
    node: str = "a",
    *,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    owner: Json | None = None,
) -> Json:
    metadata: Json = {"name": name, "annotations": dict(annotations or {}), "labels": dict(labels or {})}
    if owner:
        metadata["ownerReferences"] = [owner]
    spec = {"nodeName": node, "containers": [{"name": "c", "image": "none"}]}
    return admin.post(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def delete_pod(admin: Admin, name: str) -> None:
    admin.delete(f"{PODS}/{name}", {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})


@pytest.fixture
def account(kube: Cluster) -> Iterator[None]:
    """Pods need one to exist; they are gone afterwards, since a next agent would take their addresses for in use."""
    path = "/api/v1/namespaces/default/serviceaccounts"
    if not kube.admin.exists(f"{path}/default"):
        kube.admin.post(path, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    yield
    for each in kube.admin.get(PODS)["items"]:
        delete_pod(kube.admin, each["metadata"]["name"])


def test_cluster_pool_from_an_empty_cluster_to_an_address(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    machine = add_machine(admin, "a")
    more = "--cluster-pool-max-blocks-per-node=2"
    with (
        operator(kube, tmp_path / "op", "--cluster-pool-ipv4-mask-size=28", more, NO_GC, OFTEN) as op,
        agent(kube, tmp_path / "agent") as one,
    ):
        op.until_leading()
        one.until_ready()
        made = admin.get(f"{CILIUM_NODES}/a")
        assert made["metadata"]["ownerReferences"][0]["uid"] == machine["metadata"]["uid"]
        given = {one.add(f"c{n}")["ipv4"] for n in range(20)}
        assert len(given) == 20, "thirteen of the first block, and then of a second"
        blocks = pod_cidrs(admin, "a")
        assert len(blocks) == 2

        # Its object vanishes, and comes back with what it holds; nobody's address changes.
        admin.delete(f"{CILIUM_NODES}/a")
        one.until(lambda: admin.exists(f"{CILIUM_NODES}/a"), "made anew")
        one.until(lambda: sorted(pod_cidrs(admin, "a")) == sorted(blocks), "with its blocks")
        assert {one.add(f"c{n}")["ipv4"] for n in range(20)} == given

        for n in range(20):
            assert one.delete(f"c{n}") == 204
        one.until(lambda: len(pod_cidrs(admin, "a")) == 1, "a block is given back")
        op.until(lambda: pod_cidrs(admin, "a"), "one stays")
        assert one.stop() == 0
        assert "Traceback" not in one.text()


def test_three_pools_by_annotation_selector_and_default(kube: Cluster, tmp_path: Path, account: None) -> None:
    admin = kube.admin
    add_machine(admin, "a")
    pool(admin, "default", "10.10.0.0/16", ipv6="fd00:10::/104")
    pool(admin, "blue", "10.20.0.0/16", ipv6="fd00:20::/104")
    pool(admin, "red", "10.30.0.0/16")
    admin.patch(
        "/apis/cilium.io/v2alpha1/ciliumpodippools/red",
        {"spec": {"podSelector": {"matchLabels": {"tier": "red"}}}},
    )
    skip = {"metadata": {"annotations": {"ipam.cilium.io/skip-masquerade": "true"}}}
    admin.patch("/apis/cilium.io/v2alpha1/ciliumpodippools/blue", skip)
    both = "--enable-ipv6=true"
    with (
        operator(kube, tmp_path / "op", MULTI, both, NO_GC, OFTEN) as op,
        agent(kube, tmp_path / "agent", MULTI, both) as one,
    ):
        op.until_leading()
        one.until_ready()
        add_pod(admin, "plain")
        add_pod(admin, "marked", annotations={"ipam.cilium.io/ip-pool": "blue"})
        add_pod(admin, "picked", labels={"tier": "red"})
        assert one.add("c1", "default/plain")["ipv4"].startswith("10.10.")
        blue = one.add("c2", "default/marked")
        assert blue["ipv4"].startswith("10.20.")
        assert blue["ipv6"].startswith("fd00:20:")
        skipped = {
            each["key"][1]: {given["skip_masquerade"] for given in each["addresses"]}
            for each in one.ask("GET", "/v1/allocations")[1]["allocations"]
        }
        assert skipped == {"c1": {False}, "c2": {True}}
        picked = one.add("c3", "default/picked")
        assert picked["ipv4"].startswith("10.30."), "red has no IPv6, and so selects for IPv4 alone"
        assert picked["ipv6"].startswith("fd00:10:")
        status, refused = one.put("c4", "default/plain", pool="nowhere")
        assert (status, refused["reason"]) == (404, "UnknownPool")
        status, refused = one.put("c5", "default/plain", pool="red")
        assert (status, refused["reason"], refused["details"]) == (
            404,
            "UnknownPool",
            {"pool": "red", "family": "ipv6"},
        )
        status, refused = one.put("c6", "default/nobody")
        assert (status, refused["reason"]) == (503, "NotReady")
        for container in ("c2", "c3"):
            one.delete(container)
        one.until(lambda: set(allocated(admin, "a")) == {"default"}, "blue and red are given up")
        requested = admin.get(f"{CILIUM_NODES}/a")["spec"]["ipam"]["pools"]["requested"]
        assert [each["pool"] for each in requested] == ["default"]


def test_a_crowd_asks_for_more_than_there_is_and_gives_it_back(
    kube: Cluster, tmp_path: Path, account: None
) -> None:
    admin = kube.admin
    add_machine(admin, "a")
    pool(admin, "default", "10.10.0.0/16")
    with (
        operator(kube, tmp_path / "op", MULTI, NO_GC, OFTEN) as op,
        agent(kube, tmp_path / "agent", MULTI) as one,
    ):
        op.until_leading()
        one.until_ready()
        given = {one.add(f"c{n}", "infra")["ipv4"] for n in range(60)}
        assert len(given) == 60
        before = allocated(admin, "a")["default"]
        one.kill()
        with agent(kube, tmp_path / "agent", MULTI) as again:
            again.until_ready()
            assert {again.add(f"c{n}", "infra")["ipv4"] for n in range(60)} == given
            assert set(before) <= set(allocated(admin, "a")["default"]), "nothing was given up on the way"
            for n in range(60):
                again.delete(f"c{n}")
            again.until(lambda: len(allocated(admin, "a")["default"]) <= 2, "what is spare is given up")


def test_what_a_lost_state_held_is_made_anew_from_live_pods(
    kube: Cluster, tmp_path: Path, account: None
) -> None:
    admin = kube.admin
    add_machine(admin, "a")
    with (
        operator(kube, tmp_path / "op", "--cluster-pool-ipv4-mask-size=28", NO_GC, OFTEN) as op,
        agent(kube, tmp_path / "agent") as one,
    ):
        op.until_leading()
        one.until_ready()
        add_pod(admin, "web")
        address = one.add("c1", "default/web")["ipv4"]
        admin.patch(
            f"{PODS}/web/status",
            {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}},
        )
        one.kill()
        for name in ("agent.db-wal", "agent.db"):
            (one.state / name).write_bytes(b"this is no database" * 100)
        nowhere = tmp_path / "nowhere"
        nowhere.write_text(kube.kubeconfig(USER).read_text().replace("https://", "https://unreachable."))
        with AgentProcess(tmp_path / "agent", KUBE, *PERIODS, node="a", kubeconfig=nowhere) as deaf:
            deaf.until(lambda: deaf.status()[0] == 503, "it sets the file aside, and cannot mend")
        with agent(kube, tmp_path / "agent") as again:
            again.until_ready()
            aside = [path.name for path in again.state.iterdir() if "damaged" in path.name]
            assert aside, "the file is kept"
            assert [given["ipv4"] for given in again.held().values()] == [address]
            others = {again.add(f"d{n}", "infra")["ipv4"] for n in range(12)}
            assert address not in others
            assert again.put("d13", "infra", wait_s=0)[0] == 503, (
                "it is not given twice even when all is full"
            )


def test_an_agent_without_a_state_knows_the_addresses_of_live_pods(
    kube: Cluster, tmp_path: Path, account: None
) -> None:
    """As on a node that another agent has served before."""
    admin = kube.admin
    add_machine(admin, "a")
    with operator(kube, tmp_path / "op", "--cluster-pool-ipv4-mask-size=28", NO_GC, OFTEN) as op:
        op.until_leading()
        with agent(kube, tmp_path / "before").until_ready() as one:
            add_pod(admin, "web")
            address = one.add("c1", "default/web")["ipv4"]
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
            admin.patch(f"{PODS}/web/status", {"status": status})
        with agent(kube, tmp_path / "after").until_ready() as one:
            assert [given["ipv4"] for given in one.held().values()] == [address]


def test_the_agent_is_killed_between_adds(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    add_machine(admin, "a")
    with operator(kube, tmp_path / "op", "--cluster-pool-ipv4-mask-size=26", NO_GC, OFTEN) as op:
        op.until_leading()
        given: dict[str, str] = {}
        for life in range(6):
            with agent(kube, tmp_path / "agent").until_ready() as one:  # leaving it is a kill -9
                assert {container: each["ipv4"] for container, each in one.held().items()} == given
                for container, address in list(given.items())[-3:]:
                    assert one.add(container)["ipv4"] == address, "asked again, it is the same"
                for number in range(7):
                    address = one.add(f"c{life}-{number}")["ipv4"]
                    assert address not in given.values()
                    given[f"c{life}-{number}"] = address
                gone = f"c{life}-0"
                assert one.delete(gone) == 204
                del given[gone]
        assert len(set(given.values())) == 36


def test_kubernetes_mode_takes_what_the_node_gets(kube: Cluster, tmp_path: Path) -> None:
    """No operator runs, and the Node's CIDRs come after the agent. What is full is told to nobody: nobody could help."""
    admin = kube.admin
    add_machine(admin, "a")
    with agent(kube, tmp_path / "agent", "--ipam=kubernetes", "--enable-ipv6=true") as one:
        one.until(lambda: admin.exists(f"{CILIUM_NODES}/a"), "the object is made")
        lacking = (503, "the node has no ipv4 block yet")
        one.until(lambda: (one.status()[0], (one.status()[1] or {}).get("message")) == lacking, "it says so")
        assert one.put("c1", wait_s=0)[1]["reason"] == "Exhausted"
        both = ["10.77.3.0/28", "fd00:77::/120"]
        admin.patch("/api/v1/nodes/a", {"spec": {"podCIDR": both[0], "podCIDRs": both}})
        one.until(lambda: pod_cidrs(admin, "a") == both, "the object shows what the Node has")
        assert one.add("c0") == {"ipv4": "10.77.3.2", "ipv6": "fd00:77::2"}
        for number in range(1, 13):
            one.add(f"c{number}")
        status, full = one.put("c13", wait_s=0)
        assert (status, full["reason"]) == (503, "Exhausted")
        assert full["message"].endswith("more cannot be asked for")
        assert one.delete("c0") == 204
        one.kill()
        assert not admin.get(f"{CILIUM_NODES}/a").get("status", {}).get("ipam", {}).get("pod-cidrs")
    with agent(kube, tmp_path / "agent", "--ipam=kubernetes", "--enable-ipv6=true").until_ready() as one:
        assert len(one.held()) == 12


def test_kubernetes_mode_takes_nothing_of_another_mode(kube: Cluster, tmp_path: Path) -> None:
    """The object shows a range of a time in cluster-pool, which another node may have."""
    admin = kube.admin
    add_machine(admin, "a")
    admin.patch("/api/v1/nodes/a", {"spec": {"podCIDR": "10.77.3.0/28", "podCIDRs": ["10.77.3.0/28"]}})
    spec = {"ipam": {"podCIDRs": ["10.10.0.0/28"]}}
    admin.post(
        CILIUM_NODES,
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "a"}, "spec": spec},
    )
    for _ in range(2):  # the second one finds all as it should be
        with agent(kube, tmp_path / "agent", "--ipam=kubernetes").until_ready() as one:
            assert one.add("c1") == {"ipv4": "10.77.3.2"}
    assert pod_cidrs(admin, "a") == ["10.77.3.0/28"]


def test_usage_of_another_mode_is_cleared(kube: Cluster, tmp_path: Path) -> None:
    """While it is there, Cilium's operator takes the agent for one that knows no pools."""
    admin = kube.admin
    add_machine(admin, "a")
    pool(admin, "default", "10.10.0.0/16")
    admin.post(
        CILIUM_NODES,
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "a"}, "spec": {}},
    )
    used = {"10.9.0.7": {"owner": "shop/web"}}
    admin.patch(f"{CILIUM_NODES}/a/status", {"status": {"ipam": {"used": used}}})
    assert admin.get(f"{CILIUM_NODES}/a")["status"]["ipam"]["used"] == used
    with (
        operator(kube, tmp_path / "op", MULTI, NO_GC, OFTEN) as op,
        agent(kube, tmp_path / "agent", MULTI) as one,
    ):
        op.until_leading()
        one.until(lambda: not admin.get(f"{CILIUM_NODES}/a")["status"]["ipam"].get("used"), "it is cleared")
        assert one.until_ready().add("c1", "infra")["ipv4"].startswith("10.10.")


def test_leaks_are_collected_and_stateful_pods_keep_theirs(
    kube: Cluster, tmp_path: Path, account: None
) -> None:
    admin = kube.admin
    add_machine(admin, "a")
    with (
        operator(kube, tmp_path / "op", "--cluster-pool-ipv4-mask-size=28", NO_GC, OFTEN) as op,
        agent(kube, tmp_path / "agent", "--leak-grace=400ms", "--sticky") as one,
    ):
        op.until_leading()
        one.until_ready()
        stateful = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "u-1"}
        add_pod(admin, "gone")
        add_pod(admin, "stays")
        add_pod(admin, "db-0", owner=stateful)
        one.add("c1", "default/gone")
        one.add("c2", "default/stays")
        one.add("c3", "not a pod")
        kept = one.add("c4", "default/db-0")
        delete_pod(admin, "gone")
        one.until(lambda: set(one.held()) == {"c2", "c3", "c4"}, "the leak is collected, and nothing else")
        assert one.delete("c4") == 204
        for n in range(6):
            assert one.add(f"x{n}", "infra") != kept
        assert one.add("c5", "default/db-0") == kept


def test_without_rights_it_says_which(kube: Cluster, tmp_path: Path) -> None:
    add_machine(kube.admin, "a")
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/omnipam-agent"
    rules = kube.admin.get(role)["rules"]
    kept = [rule for rule in rules if "ciliumnodes" not in rule["resources"]]
    assert kept != rules
    kube.admin.patch(role, {"rules": kept})
    with agent(kube, tmp_path / "agent") as one:
        assert one.wait() == 2
        assert "ciliumnodes" in one.text()
        assert "Traceback" not in one.text()


def test_no_machine_no_object(kube: Cluster, tmp_path: Path) -> None:
    with agent(kube, tmp_path / "agent", node="nobody") as one:
        one.until(lambda: one.status()[0] == 503, "it listens")
        assert one.status()[1]["reason"] == "NotReady"
        add_machine(kube.admin, "nobody")
        wait_until(lambda: kube.admin.exists(f"{CILIUM_NODES}/nobody"), "made once there is a machine")


def test_operator_and_agent_killed_at_random_moments(kube: Cluster, tmp_path: Path, account: None) -> None:
    """Clients of three pools, all of them busy; then `check` finds nothing, and all is given back."""
    admin, rng = kube.admin, random.Random(41)
    add_machine(admin, "a")
    for number, name in enumerate(("default", "blue", "red")):
        pool(admin, name, f"10.{number + 1}0.0.0/16")
        add_pod(admin, name, annotations={"ipam.cilium.io/ip-pool": name})
    lease = ("--leader-election-lease-duration=2s", "--leader-election-renew-deadline=1s", OFTEN)

    def start(number: int) -> OperatorProcess:
        return operator(kube, tmp_path / "op", MULTI, NO_GC, *lease, name=f"operator-{number}")

    ending = threading.Event()
    one, op = agent(kube, tmp_path / "agent", MULTI), start(0)
    clients = [
        Client(number, one.socket, ending, owner=f"default/{name}", families=1)
        for number, name in enumerate(("default", "blue", "red") * 2)
    ]
    try:
        op.until_leading()
        one.until_ready()
        for each in clients:
            each.start()
        for life in range(4):
            before = sum(each.answers for each in clients)
            some = before + 20 + rng.randrange(100)  # a moment that is another each time
            wait_until(lambda some=some: sum(each.answers for each in clients) > some, "it works")
            one.kill()
            if life % 2:
                op.kill()
                op = start(life)
            one = agent(kube, tmp_path / "agent", MULTI).until_ready()
        ending.set()
        for each in clients:
            each.join(30)
        op.until_leading()
        assert [wrong for each in clients for wrong in each.wrong] == []
        on_record = {container: tuple(given.values()) for container, given in one.held().items()}
        every = [address for given in on_record.values() for address in given]
        assert len(every) == len(set(every))
        for each in clients:
            for container, given in each.held.items():
                assert container in each.unsure or on_record[container] == given
        environ = {
            "KUBECONFIG": str(kube.kubeconfig("admin")),
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
        }
        checked = subprocess.run(
            [sys.executable, "-m", "omnipam.runtime.cli", "check", MULTI, KUBE, f"--lease-name={OPERATOR}"],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        for container in on_record:
            one.delete(container)
        one.until(lambda: set(allocated(admin, "a")) == {"default"}, "blue and red are given up")
        one.until(lambda: len(allocated(admin, "a")["default"]) <= 2, "and of default what is spare")
    finally:
        ending.set()
        one.kill()
        op.kill()
