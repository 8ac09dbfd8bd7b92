"""kubernetes mode: the CIDRs are kube-controller-manager's; the operator hands them on where there is nothing, and tells what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Cluster
from tests.kube.operated import (
    CILIUM_NODES,
    NODES,
    add,
    add_machine,
    error_of,
    events,
    operator,
    pod_cidrs,
    prepare,
)

FLAGS = ("--ipam=kubernetes", "--nodes-gc-interval=0")
DUAL = ("--enable-ipv6=true",)


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    """Without a controller manager: Nodes have the podCIDRs that they are made with."""
    prepare(cluster)
    return cluster


@pytest.fixture(scope="module")
def single(start_apiserver: type[ApiServer]) -> Iterator[ApiServer]:
    with start_apiserver(cluster_cidrs=["10.244.0.0/16"]) as server:
        prepare(server)
        yield server


def node_cidrs(kube: Cluster, name: str) -> list[str]:
    found: list[str] = kube.admin.get(f"{NODES}/{name}")["spec"].get("podCIDRs") or []
    return found


def test_what_the_controller_manager_gave_is_handed_on(single: ApiServer, tmp_path: Path) -> None:
    admin = single.admin
    with operator(single, tmp_path, *FLAGS) as op:
        op.until_leading().until_ready()
        add_machine(admin, "machine-first")
        op.until(lambda: node_cidrs(single, "machine-first"), "given by the controller manager")
        add(admin, "machine-first")
        add(admin, "object-first")
        add_machine(admin, "object-first")
        for name in ("machine-first", "object-first"):
            op.until(lambda name=name: pod_cidrs(admin, name), "handed on")
            assert pod_cidrs(admin, name) == node_cidrs(single, name)
            assert not error_of(admin, name)

        other = add(admin, "other", ["10.99.0.0/24"])
        add_machine(admin, "other")
        finding = 'omnipam_findings{reason="CIDRsDiffer"}'
        op.until(lambda: op.metrics().get(finding) == 1, "a differing value is a finding")
        line = op.until_said("CiliumNode other has 10.99.0.0/24")
        assert line["reason"] == "CIDRsDiffer"
        assert pod_cidrs(admin, "other") == ["10.99.0.0/24"]
        assert admin.get(f"{CILIUM_NODES}/other")["metadata"]["generation"] == other["metadata"]["generation"]
        admin.delete(f"{CILIUM_NODES}/other")
        op.until(lambda: finding not in op.metrics(), "and ends with it")
        add(admin, "other")
        op.until(
            lambda: pod_cidrs(admin, "other") == node_cidrs(single, "other"), "made anew, it is filled in"
        )
        assert op.stop() == 0


def test_dual_stack(start_apiserver: type[ApiServer], tmp_path: Path) -> None:
    with start_apiserver(cluster_cidrs=["10.244.0.0/16", "fd00:10:244::/56"]) as dual:
        prepare(dual)
        with operator(dual, tmp_path, *FLAGS, *DUAL) as op:
            op.until_leading()
            for number in range(5):
                add_machine(dual.admin, f"n{number}")
                add(dual.admin, f"n{number}")
            for number in range(5):
                op.until(lambda name=f"n{number}": pod_cidrs(dual.admin, name), "handed on")
                cidrs = pod_cidrs(dual.admin, f"n{number}")
                assert cidrs == node_cidrs(dual, f"n{number}")
                assert [":" in cidr for cidr in cidrs] == [False, True]
            assert op.stop() == 0


def test_annotations_stand_in_for_what_a_node_has_not(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    new, old = "network.cilium.io/ipv4-pod-cidr", "io.cilium.network.ipv4-pod-cidr"
    for name, key, cidr in (("new", new, "10.5.0.0/24"), ("old", old, "10.5.1.0/24")):
        metadata = {"name": name, "annotations": {key: cidr}}
        admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}})
        add(admin, name)
    metadata = {"name": "both", "annotations": {new: "10.5.2.0/24"}}
    spec = {"podCIDR": "10.5.3.0/24", "podCIDRs": ["10.5.3.0/24"]}
    admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
    add(admin, "both")
    with operator(kube, tmp_path, *FLAGS) as op:
        for name, cidr in (("new", "10.5.0.0/24"), ("old", "10.5.1.0/24"), ("both", "10.5.3.0/24")):
            op.until(lambda name=name, cidr=cidr: pod_cidrs(admin, name) == [cidr], f"{name} is filled in")


def test_overlaps_are_told_and_the_older_keeps_what_it_has(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    with operator(kube, tmp_path, *FLAGS) as op:
        op.until_leading()
        add_machine(admin, "older", podCIDR="10.6.0.0/16", podCIDRs=["10.6.0.0/16"])
        add(admin, "older")
        op.until(lambda: pod_cidrs(admin, "older") == ["10.6.0.0/16"], "handed on")
        add_machine(admin, "younger", podCIDR="10.6.7.0/24", podCIDRs=["10.6.7.0/24"])
        add(admin, "younger")
        for name in ("older", "younger"):
            op.until(lambda name=name: "overlaps" in error_of(admin, name), "said in the status")
        assert "10.6.7.0/24 overlaps 10.6.0.0/16 of node older" in error_of(admin, "younger")
        assert not pod_cidrs(admin, "younger")
        about = {"older", "younger"}
        op.until(
            lambda: {each["involvedObject"]["name"] for each in events(admin, "CIDRsOverlap")} == about,
            "two events",
        )
        op.until(lambda: op.metrics().get('omnipam_findings{reason="CIDRsOverlap"}') == 1, "one finding")
        assert op.metrics()['omnipam_problems_total{reason="CIDRsOverlap"}'] == 2
        admin.delete(f"{CILIUM_NODES}/older")
        admin.delete(f"{NODES}/older")
        op.until(lambda: pod_cidrs(admin, "younger") == ["10.6.7.0/24"], "served when the other is gone")
        op.until(lambda: not error_of(admin, "younger"), "cleared")
        assert op.stop() == 0


def test_a_node_without_a_cidr_is_told_after_its_grace_and_heals(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    with operator(kube, tmp_path, *FLAGS, "--pod-cidr-grace=2s") as op:
        op.until_leading()
        add_machine(admin, "late")
        add(admin, "late")
        add_machine(admin, "bare")  # no CiliumNode: there is no status to say it in
        add_machine(admin, "wrong", podCIDR="fd00:1::/64", podCIDRs=["fd00:1::/64"])
        add(admin, "wrong")
        op.until(
            lambda: error_of(admin, "late").startswith(
                "no ipv4 pod CIDR: the Node has none, or is not there — "
            ),
            "in the status",
        )
        op.until(
            lambda: "fd00:1::/64 is ipv6, which is not enabled" in error_of(admin, "wrong"),
            "the wrong family",
        )
        told = {"late", "bare", "wrong"}
        op.until(
            lambda: {each["involvedObject"]["name"] for each in events(admin, "NoPodCIDR")} == told,
            "in events",
        )
        lines = [each["node"] for each in op.lines("unmet demand") if each["reason"] == "NoPodCIDR"]
        assert sorted(lines) == sorted(told)  # once each
        assert op.metrics()['omnipam_problems_total{reason="NoPodCIDR"}'] == 3
        assert op.metrics()["omnipam_nodes_unserved"] == 3
        admin.patch(f"{NODES}/bare", {"spec": {"podCIDR": "10.7.1.0/24", "podCIDRs": ["10.7.1.0/24"]}})
        admin.patch(f"{NODES}/late", {"spec": {"podCIDR": "10.7.0.0/24", "podCIDRs": ["10.7.0.0/24"]}})
        op.until(lambda: pod_cidrs(admin, "late") == ["10.7.0.0/24"], "handed on")
        op.until(lambda: not error_of(admin, "late"), "cleared")
        op.until(
            lambda: {each["node"] for each in op.lines("recovered")} == {"late", "bare"},
            "both are said to be over",
        )
        add(admin, "bare")
        op.until(lambda: pod_cidrs(admin, "bare") == ["10.7.1.0/24"], "handed on")
        assert not error_of(admin, "bare")
        assert op.stop() == 0


def test_a_restart_writes_nothing(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    for number in range(10):
        add_machine(admin, f"n{number}", podCIDR=f"10.8.{number}.0/24", podCIDRs=[f"10.8.{number}.0/24"])
        add(admin, f"n{number}")
    with operator(kube, tmp_path, *FLAGS) as op:
        for number in range(10):
            op.until(lambda name=f"n{number}": pod_cidrs(admin, name), "handed on")
        assert op.stop() == 0
    before = kube.requests("ciliumnodes", "PATCH")
    with operator(kube, tmp_path, *FLAGS, "--leader-election-retry-period=300ms") as op:
        op.until_leading().until_ready()
        renewals = kube.requests("leases", "PATCH")
        op.until(lambda: kube.requests("leases", "PATCH") >= renewals + 3, "three renewals")
        assert kube.requests("ciliumnodes", "PATCH") == before
