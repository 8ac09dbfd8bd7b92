"""The operator as a process on a real API server, with the rights that the project ships and no others."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kube.admin import wait_until
from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Cluster
from tests.kube.operated import (
    CILIUM_NODES,
    EVENTS,
    MAPS,
    NODES,
    POOL,
    SMALL_POOL,
    add,
    add_machine,
    all_cidrs,
    configure,
    drop,
    error_of,
    events,
    lease,
    operator,
    pod_cidrs,
    prepare,
)
from tests.kube.proxy import Proxy
from tests.operator_process import SHORT_LEASE, OperatorProcess

NO_GC = "--nodes-gc-interval=0"
OFTEN = "--leader-election-retry-period=300ms"
BESIDE_CONFIG = "/api/v1/namespaces/kube-system/events"


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    prepare(cluster)
    return cluster


@pytest.fixture
def proxy(kube: Cluster) -> Iterator[Proxy]:
    with kube.proxy() as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration in a file: the operator listens before it can reach the API server."""
    path = tmp_path / "config.yaml"
    path.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16\n")
    return path


def quiet_writes(op: OperatorProcess, kube: Cluster) -> int:
    """How many PATCHes of CiliumNodes came while the Lease was renewed three times."""
    before, renewals = kube.requests("ciliumnodes", "PATCH"), kube.requests("leases", "PATCH")
    op.until(lambda: kube.requests("leases", "PATCH") >= renewals + 3, "three renewals")
    return kube.requests("ciliumnodes", "PATCH") - before


# -- granting


def test_a_new_node_is_granted_at_once_by_one_write(kube: Cluster, tmp_path: Path) -> None:
    both = ("--enable-ipv6=true", "--cluster-pool-ipv6-cidr=fd00::/104", "--cluster-pool-ipv6-mask-size=120")
    with operator(kube, tmp_path, *POOL, *both, NO_GC, OFTEN) as op:
        op.until_leading().until_ready()
        before = kube.requests("ciliumnodes", "PATCH")
        took = []
        for number in range(10):
            began = time.monotonic()
            add(kube.admin, f"n{number}")
            op.until(lambda name=f"n{number}": pod_cidrs(kube.admin, name), "granted")
            took.append(time.monotonic() - began)
        assert sorted(took)[5] < 0.5, took
        assert pod_cidrs(kube.admin, "n0") == ["10.1.0.0/24", "fd00::/120"]
        assert kube.requests("ciliumnodes", "PATCH") == before + 10
        assert quiet_writes(op, kube) == 0
        metrics = op.metrics()
        assert metrics['omnipam_pool_blocks{family="ipv6",pool="default",state="used"}'] == 10
        assert metrics['omnipam_publishes_total{outcome="Version"}'] == 10
        assert metrics["cilium_operator_ipam_k8s_sync_queued_total"] >= 10
        assert metrics["cilium_operator_ipam_k8s_sync_duration_seconds_count"] >= 1
        assert op.stop() == 0
    with operator(kube, tmp_path, *POOL, *both, NO_GC, OFTEN) as op:
        op.until_leading().until_ready()
        assert quiet_writes(op, kube) == 0
        assert not op.lines("planned")


def test_exhaustion_is_said_and_heals(kube: Cluster, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *SMALL_POOL, NO_GC) as op:
        op.until_leading()
        for name in ("a", "b"):
            add(kube.admin, name)
            op.until(lambda name=name: pod_cidrs(kube.admin, name), "granted")
        add(kube.admin, "c")
        op.until(lambda: error_of(kube.admin, "c").startswith("allocator full — "), "said in the status")
        op.until(lambda: events(kube.admin, "PoolExhausted"), "said in an event")
        (event,) = events(kube.admin, "PoolExhausted")
        assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("CiliumNode", "c")
        (line,) = op.lines("unmet demand")
        assert (line["node"], line["reason"]) == ("c", "PoolExhausted")
        assert op.metrics()["omnipam_nodes_unserved"] == 1
        freed = pod_cidrs(kube.admin, "a")
        kube.admin.delete(f"{CILIUM_NODES}/a")
        op.until(lambda: pod_cidrs(kube.admin, "c") == freed, "served by what was freed")
        op.until(lambda: not error_of(kube.admin, "c"), "cleared")
        op.until_said("recovered")
        assert op.metrics()["omnipam_nodes_unserved"] == 0


def test_a_block_stays_with_its_machine_though_the_object_vanished(kube: Cluster, tmp_path: Path) -> None:
    flags = (*SMALL_POOL, *SHORT_LEASE, NO_GC)
    admin = kube.admin
    with operator(kube, tmp_path, *flags) as op:
        op.until_leading()
        add_machine(admin, "a")
        add(admin, "a")
        op.until(lambda: pod_cidrs(admin, "a"), "granted")
        block = pod_cidrs(admin, "a")
        admin.delete(f"{CILIUM_NODES}/a")
        op.until(lambda: admin.exists(f"{MAPS}/omnipam-ipam-state"), "kept where it outlives us")
        op.kill()
    with operator(kube, tmp_path, *flags) as op:
        op.until_leading()
        add(admin, "b")
        add(admin, "c")
        op.until(lambda: pod_cidrs(admin, "b") or pod_cidrs(admin, "c"), "one is served")
        op.until(lambda: error_of(admin, "b") or error_of(admin, "c"), "the other is not")
        assert block not in all_cidrs(admin).values()
        add(admin, "a")
        op.until(lambda: pod_cidrs(admin, "a") == block, "it has its block again")
        admin.delete(f"{CILIUM_NODES}/a")
        admin.delete(f"{NODES}/a")
        op.until(lambda: block in all_cidrs(admin).values(), "with its machine gone, another gets it")
        op.until(lambda: not admin.get(f"{MAPS}/omnipam-ipam-state").get("data"), "nothing is kept any more")


def test_malformed_and_ignored_nodes_are_occupied_and_nothing_is_granted_to_them(
    kube: Cluster, tmp_path: Path
) -> None:
    admin = kube.admin
    add(admin, "bad", ["10.1.0.0/25", "10.1.0.0.0/7"])
    ignored = add(admin, "mine", ["10.2.0.0/25"], **{"ipam.cilium.io/ignore": "true"})
    with operator(
        kube,
        tmp_path,
        "--cluster-pool-ipv4-cidr=10.1.0.0/24,10.2.0.0/24",
        "--cluster-pool-ipv4-mask-size=25",
        NO_GC,
    ) as op:
        op.until_leading()
        for name in ("a", "b", "c"):
            add(admin, name)
        op.until(lambda: pod_cidrs(admin, "a") and pod_cidrs(admin, "b"), "granted around them")
        assert {*pod_cidrs(admin, "a"), *pod_cidrs(admin, "b")} == {"10.1.0.128/25", "10.2.0.128/25"}
        op.until(lambda: "10.1.0.0.0/7" in error_of(admin, "bad"), "said where it is")
        assert op.metrics()["omnipam_nodes_unserved"] == 1  # c, for which there is no space
        add(admin, "worse", ["nonsense"])
        op.until(lambda: error_of(admin, "worse"), "said, too")
        assert op.metrics()["omnipam_nodes_unserved"] == 2
        assert pod_cidrs(admin, "bad") == ["10.1.0.0/25", "10.1.0.0.0/7"]
        assert (
            admin.get(f"{CILIUM_NODES}/mine")["metadata"]["resourceVersion"]
            == ignored["metadata"]["resourceVersion"]
        )
        admin.patch(f"{CILIUM_NODES}/bad", {"spec": {"ipam": {"podCIDRs": ["10.1.0.0/25"]}}})
        op.until(lambda: not error_of(admin, "bad"), "mended")
        assert pod_cidrs(admin, "bad") == ["10.1.0.0/25"]


def test_no_object_can_stop_it(kube: Cluster, tmp_path: Path) -> None:
    """Whatever stands in CiliumNodes that pass the schema; all at once, before the start and while it runs."""
    admin = kube.admin
    hostile = [
        ["10.2.0.7/24"],
        ["10.2.1.0/24", "10.2.1.0/24"],
        ["10.2.2.0/23", "10.2.3.0/24"],
        ["::ffff:10.2.4.0/120"],
        ["fe80::1%eth0/64"],
        ["10.2.5.0/24", "fd00::/64"],
        ["010.002.006.000/24"],
        ["10.2.7.0/33", "10.2.7.0/-1", "10.2.7.0/", "/24", "10.2.7.0"],
        ["", " ", "\u0000", "ⅷ.8.8.8/24", "x" * 10_000],
        ["10.2.8.0/24\n"],
        [f"10.3.{number}.0/24" for number in range(256)],
        ["0.0.0.0/0"],
        ["::/0"],
        ["255.255.255.255/32", "0.0.0.0/32"],
    ]
    for number, cidrs in enumerate(hostile[:-3]):
        add(admin, f"early{number}", cidrs)
    before = all_cidrs(admin)
    del before["early3"]  # an IPv6 range alone: it gets a block of the family that is served
    before["early1"] = before["early1"][:1]  # what stands there twice is written once
    with operator(kube, tmp_path, *POOL, NO_GC) as op:
        op.until_leading().until_ready()
        add(admin, "good")
        op.until(lambda: pod_cidrs(admin, "good"), "granted")
        for number, cidrs in enumerate(hostile):
            add(admin, f"late{number}", cidrs)
            admin.patch(
                f"{CILIUM_NODES}/late{number}/status",
                {"status": {"ipam": {"operator-status": {"error": "?"}}}},
            )
        op.until(lambda: error_of(admin, "late0") != "?", "looked at")
        admin.delete(f"{CILIUM_NODES}/late{hostile.index(['0.0.0.0/0'])}")
        add(admin, "last")
        op.until(lambda: pod_cidrs(admin, "last"), "and still granting")
        after = all_cidrs(admin)
        assert {name: after[name] for name in before} == before
        granted = [cidr for cidrs in after.values() for cidr in cidrs if cidr.startswith("10.1.")]
        assert len(set(granted)) == len(granted)
        assert len(op.text()) < 200_000
        assert "Traceback" not in op.text()
        assert op.stop() == 0


def test_what_objects_say_steers_no_terminal(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    hostile = "10.1.0.0/24\x1b[2J\x1b]0;owned\x07\r\n\u0000\u202e"
    add(admin, "bad", [hostile], **{"ipam.cilium.io/ignore": hostile, "ipam.omnipam.io/max-blocks": hostile})
    with operator(kube, tmp_path, *POOL, NO_GC, "--log-format=console") as op:
        op.until(lambda: "unmet demand" in op.text(), "said")
        op.until(lambda: error_of(admin, "bad"), "said where it is")
        op.until(
            lambda: any(each["involvedObject"]["name"] == "bad" for each in admin.get(EVENTS)["items"]),
            "an event",
        )
        assert op.stop() == 0
        assert all(line.isprintable() for line in op.text().split("\n")), repr(op.text())
        assert "x1b[2J" in op.text()
    said = [each for each in admin.get(EVENTS)["items"] if each["involvedObject"]["name"] == "bad"]
    assert all(each["message"].isprintable() for each in said)
    assert any(r"\x1b[2J" in each["message"] for each in said)


def test_garbage_is_collected_but_not_what_came_back(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    for name in ("gone", "there", "back", "kept"):
        add(admin, name, **({"cilium.io/do-not-gc": "true"} if name == "kept" else {}))
    owner = {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "owner",
        "uid": "00000000-0000-0000-0000-000000000001",
    }
    owned = {"metadata": {"name": "owned", "ownerReferences": [owner]}}
    admin.post(CILIUM_NODES, {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "spec": {}} | owned)
    add_machine(admin, "there")
    add_machine(admin, "back")
    with operator(kube, tmp_path, *POOL, "--nodes-gc-interval=2s") as op:
        op.until_leading()
        admin.delete(f"{NODES}/back")
        add_machine(admin, "back")
        op.until(lambda: not admin.exists(f"{CILIUM_NODES}/gone"), "collected")
        line = op.until_said("object deleted")
        assert line["node"] == "gone"
        admin.delete(f"{NODES}/there")
        op.until(lambda: not admin.exists(f"{CILIUM_NODES}/there"), "collected, too")
        assert {item["metadata"]["name"] for item in admin.get(CILIUM_NODES)["items"]} == {
            "back",
            "kept",
            "owned",
        }
        assert op.metrics()["omnipam_nodes_collected_total"] == 2


# -- the configuration


def test_the_config_map_is_read_and_followed(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    configure(admin, cluster_pool_ipv4_cidr="10.1.0.0/24", cluster_pool_ipv4_mask_size="25", debug="true")
    with operator(kube, tmp_path, NO_GC) as op:
        op.until_leading()
        for name in ("a", "b", "c"):
            add(admin, name)
        op.until(lambda: any(error_of(admin, name) for name in "abc"), "the pool is full")

        configure(admin, cluster_pool_ipv4_cidr="10.1.0.0/24,10.2.0.0/24", cluster_pool_ipv4_mask_size="25")
        op.until(lambda: all(all_cidrs(admin).values()), "grown: used at once")
        assert sum(cidrs == ["10.2.0.0/25"] for cidrs in all_cidrs(admin).values()) == 1

        drained = all_cidrs(admin)
        configure(admin, cluster_pool_ipv4_cidr="10.2.0.0/24", cluster_pool_ipv4_mask_size="25")
        op.until(lambda: len(op.lines("configuration reloaded")) == 2, "drained")
        add(admin, "d")
        op.until(lambda: pod_cidrs(admin, "d") == ["10.2.0.128/25"], "granted from what is left")
        drop(
            admin,
            f"{CILIUM_NODES}/{next(name for name, cidrs in drained.items() if cidrs == ['10.1.0.0/25'])}",
        )
        add(admin, "e")
        op.until(lambda: error_of(admin, "e"), "what was drained is not granted")
        assert op.metrics()['omnipam_pool_blocks{family="ipv4",pool="default",state="outside"}'] == 1

        for bad in ("", "10.2.0.0/33", "10.3.0.0/24,10.3.0.0/25"):
            said = len(op.lines("configuration refused"))
            configure(admin, cluster_pool_ipv4_cidr=bad, cluster_pool_ipv4_mask_size="25")
            op.until(lambda said=said: len(op.lines("configuration refused")) > said, "refused")
        configure(admin)
        op.until(lambda: "is gone" in op.lines("configuration refused")[-1]["why"], "an empty map is refused")
        op.until(lambda: events(admin, "ConfigurationRefused", BESIDE_CONFIG), "an event")
        assert op.metrics()['omnipam_reloads_total{result="refused"}'] == 4
        assert op.metrics()['omnipam_reloads_total{result="adopted"}'] == 2
        drop(admin, f"{CILIUM_NODES}/d")
        op.until(lambda: pod_cidrs(admin, "e") == ["10.2.0.128/25"], "the old pool still serves")


def test_without_the_config_map_it_says_so_and_takes_it_up_when_it_comes(
    kube: Cluster, tmp_path: Path
) -> None:
    with operator(kube, tmp_path, NO_GC) as op:
        op.until_said("this ConfigMap is not there")
        op.until_leading()
        configure(kube.admin, cluster_pool_ipv4_cidr="10.9.0.0/16")
        op.until_said("configuration reloaded")
        add(kube.admin, "a")
        op.until(lambda: pod_cidrs(kube.admin, "a") == ["10.9.0.0/24"], "granted from it")


# -- the API server away


def test_an_api_server_that_is_away_at_the_start_is_waited_for(
    kube: Cluster, proxy: Proxy, tmp_path: Path, file: Path
) -> None:
    proxy.refuse()
    with operator(kube, tmp_path, f"--config={file}", NO_GC, proxy=proxy) as op:
        op.until_said("the store cannot be reached")
        assert op.get("/readyz")[0] == 503
        assert op.get("/healthz")[0] == 200
        assert op.metrics()["omnipam_store_away"] == 1
        before = proxy.accepted
        proxy.resume()
        op.until_leading().until_ready()
        assert proxy.accepted > before
        assert op.metrics()["omnipam_store_away"] == 0
        assert (
            len(op.lines("the store cannot be reached"))
            == len(op.lines("the store can be reached again"))
            == 1
        )
        assert op.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_while_it_waits_for_its_configuration_it_ends(
    kube: Cluster, proxy: Proxy, tmp_path: Path, number: signal.Signals
) -> None:
    proxy.refuse()
    with operator(kube, tmp_path, NO_GC, proxy=proxy) as op:
        op.until(op.plain, "said")
        op.send(signal.SIGHUP)  # nothing to read again yet
        op.send(number)
        assert op.wait() == 0
        (line,) = op.plain()
        assert line.startswith("omnipam: API server ")


def test_an_api_server_that_goes_away_and_comes_back_is_only_a_pause(
    kube: Cluster, proxy: Proxy, tmp_path: Path
) -> None:
    with operator(kube, tmp_path, *POOL, NO_GC, proxy=proxy) as op:
        op.until_leading().until_ready()
        add(kube.admin, "before")
        op.until(lambda: pod_cidrs(kube.admin, "before"), "granted")
        proxy.refuse()
        proxy.cut()
        op.until_said("the store cannot be reached")
        add(kube.admin, "meanwhile")
        assert op.get("/readyz")[0] == 200
        proxy.resume()
        op.until(lambda: pod_cidrs(kube.admin, "meanwhile"), "granted after")
        op.until_said("the store can be reached again")
        assert len(op.lines("the store cannot be reached")) == 1
        assert len(op.lines("leading")) == 1
        assert op.stop() == 0


def test_asked_to_end_while_the_line_is_dead_it_ends_in_time(
    kube: Cluster, proxy: Proxy, tmp_path: Path
) -> None:
    with operator(kube, tmp_path, *POOL, NO_GC, proxy=proxy) as op:
        op.until_leading()
        proxy.blackhole()
        add(kube.admin, "a")
        began = time.monotonic()
        assert op.stop() == 0
        assert time.monotonic() - began < 10
        assert "Traceback" not in op.text()


def test_lost_requests_and_answers_are_made_up_for(kube: Cluster, proxy: Proxy, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *POOL, NO_GC, OFTEN, proxy=proxy) as op:
        op.until_leading()
        proxy.lose_answer(rb"PATCH /apis/cilium", times=5)
        proxy.lose_request(rb"PATCH /apis/cilium", times=5)
        for number in range(20):
            add(kube.admin, f"n{number}")
        op.until(lambda: all(all_cidrs(kube.admin).values()), "all granted")
        assert proxy.lost == 10
        cidrs = [cidr for cidrs in all_cidrs(kube.admin).values() for cidr in cidrs]
        assert len(set(cidrs)) == len(cidrs) == 20
        assert quiet_writes(op, kube) == 0


def test_a_server_that_died_and_came_back_is_followed_again(
    start_apiserver: type[ApiServer], tmp_path: Path
) -> None:
    with start_apiserver() as own:
        prepare(own)
        with operator(
            own,
            tmp_path,
            *POOL,
            NO_GC,
            "--leader-election-lease-duration=60s",
            "--leader-election-renew-deadline=50s",
        ) as op:
            op.until_leading().until_ready()
            add(own.admin, "before")
            op.until(lambda: pod_cidrs(own.admin, "before"), "granted")
            own.kill_apiserver()
            op.until_said("the store cannot be reached")
            own.restart_apiserver()
            add(own.admin, "after")
            op.until(lambda: pod_cidrs(own.admin, "after"), "granted")
            assert len(op.lines("the store cannot be reached")) == 1
            assert op.stop() == 0


# -- what a person must mend


def test_without_rights_it_ends_with_one_line(kube: Cluster, tmp_path: Path, file: Path) -> None:
    for name, flags in (
        ("map", ()),
        ("store", (f"--config={file}",)),
        ("lease", (f"--config={file}", "--skip-crd-creation=true")),
    ):
        with operator(kube, tmp_path, *flags, user="viewer", name=name) as op:
            assert op.wait() == 2, name
            (line,) = [line for line in op.plain() if line.startswith("omnipam: ")]
            assert re.search("403 Forbidden: .*viewer.* — grant it", line), line
            assert "Traceback" not in op.text()


def test_a_right_that_is_missing_later_is_one_line_however_many_nodes(kube: Cluster, tmp_path: Path) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/omnipam-operator"
    rules = kube.admin.get(role)["rules"]
    less = [
        rule | {"verbs": [verb for verb in rule["verbs"] if verb != "patch"] or ["get"]} for rule in rules
    ]
    kube.admin.patch(role, {"rules": less})
    try:
        with operator(kube, tmp_path, *POOL, NO_GC) as op:
            op.until_leading()
            for number in range(20):
                add(kube.admin, f"n{number}")
            op.until(
                lambda: op.metrics().get('omnipam_publishes_total{outcome="Denied"}', 0) >= 20, "all refused"
            )
            assert len([line for line in op.lines("grant not written") if line["level"] == "warning"]) == 1
            op.until(lambda: op.metrics()["omnipam_nodes_unserved"] == 20, "all counted as unserved")
            op.until(lambda: len(events(kube.admin, "GrantNotWritten")) == 20, "an event each")
            assert (
                'cannot patch resource "ciliumnodes"' in events(kube.admin, "GrantNotWritten")[0]["message"]
            )
            line = op.until_said("the grant")
            assert line["reason"] == "GrantNotWritten"
            assert re.search(
                'could not be written .*cannot patch resource "ciliumnodes".* — grant it', line["event"]
            )
            assert op.metrics()['omnipam_findings{reason="GrantNotWritten"}'] == 1
            kube.admin.patch(role, {"rules": rules})
            op.until(lambda: all(all_cidrs(kube.admin).values()), "granted once the right is there", 90)
            assert op.metrics()["omnipam_nodes_unserved"] == 0
            op.until_said("grants are written again")
            assert 'omnipam_findings{reason="GrantNotWritten"}' not in op.metrics()
            assert len(op.lines("the grant")) == 1
    finally:
        kube.admin.patch(role, {"rules": rules})


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), ("{", "kubeconfig"), ("apiVersion: v1\nkind: Config\n", "kubeconfig")],
)
def test_a_kubeconfig_that_is_none_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with OperatorProcess(tmp_path, "--store=kubernetes", kubeconfig=path) as op:
        assert op.wait() == 2
        (line,) = op.plain()
        assert said in line
        assert str(path) in line


def test_the_lease_names_us_and_is_given_back(kube: Cluster, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *POOL, NO_GC) as op:
        op.until_leading()
        held = lease(kube.admin)
        assert re.fullmatch(r".+-[A-Za-z]{10}", held["holderIdentity"])
        assert held["leaseDurationSeconds"] == 15
        assert held["leaseTransitions"] == 0
        began = time.monotonic()
        assert op.stop() == 0
        assert time.monotonic() - began < 2
    assert not lease(kube.admin).get("holderIdentity")
    with operator(kube, tmp_path, *POOL, NO_GC) as op:
        op.until_leading(10)
        assert lease(kube.admin)["leaseTransitions"] == 1
    assert not events(kube.admin, "PoolExhausted", EVENTS)
    wait_until(lambda: lease(kube.admin)["holderIdentity"], "a killed one leaves it")


def test_a_bad_config_map_at_the_start_is_one_line_that_names_it(kube: Cluster, tmp_path: Path) -> None:
    configure(kube.admin, cluster_pool_ipv4_cidr="10.1.0.0/99")
    with operator(kube, tmp_path) as op:
        assert op.wait() == 2
        (line,) = op.plain()
        for part in ("cluster-pool-ipv4-cidr", "10.1.0.0/99", "kube-system/cilium-config"):
            assert part in line
        assert not lease(kube.admin)
