"""The whole: operator, agent and plugin give a node's pods addresses of three pools through kills at random moments, and get all back.

Real are the API server and its objects, the processes, `ptp`, and the namespaces of the host and the pods; the kubelet is ours.
OMNIPAM_SEED repeats a run's decisions; OMNIPAM_SOAK says how many rounds the long form has.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from tests.kube import test_agent
from tests.kube.admin import Admin
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, NODES, add_machine
from tests.kube.test_multi_pool import pool
from tests.node import conftest
from tests.node.kubelet import FORCE, Wanted
from tests.node.netns import Host
from tests.node.plane import NODE
from tests.node.whole import AT_ONCE, RANGES, Whole

from omnipam.runtime.kube.podippool import POOLS

kube, host, _namespaces = test_agent.kube, conftest.host, conftest._namespaces  # their fixtures

NAMED = "whole-blue"
"""A namespace of Kubernetes whose annotation names pool blue."""
CHOICE = "ipam.cilium.io/ip-pool"


@pytest.fixture
def pooled(kube: Cluster) -> Iterator[Cluster]:
    """Three pools: one is chosen by annotations, one by its selector, one is the default. A node, and a namespace of its own."""
    admin = kube.admin
    add_machine(admin, NODE)
    for name, (cidr, mask) in RANGES.items():
        pool(admin, name, cidr, mask=mask)
    admin.patch(f"{POOLS}/red", {"spec": {"podSelector": {"matchLabels": {"tier": "red"}}}})
    space = {"name": NAMED, "annotations": {CHOICE: "blue"}}
    admin.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": space})
    for each in ("default", NAMED):
        path = f"/api/v1/namespaces/{each}/serviceaccounts"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        if not admin.exists(f"{path}/default"):
            admin.post(path, account)
    yield kube
    for each in ("default", NAMED):
        path = f"/api/v1/namespaces/{each}/pods"
        for item in admin.get(path)["items"]:
            admin.delete(f"{path}/{item['metadata']['name']}", FORCE)
    drop_namespace(admin, f"/api/v1/namespaces/{NAMED}")


def drop_namespace(admin: Admin, path: str) -> None:
    """No controller need run that would let it go."""
    admin.delete(path)
    if admin.exists(path):
        body = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMED},
            "spec": {"finalizers": []},
        }
        admin.put(f"{path}/finalize", body)


def pods(count: int, series: str) -> list[Wanted]:
    """A third of each pool; half of blue's by an annotation of their own, the others by their namespace's."""
    picked, marked = {"labels": {"tier": "red"}}, {"annotations": {CHOICE: "blue"}}
    found = []
    for number in range(count):
        name = f"web-{series}-{number}"
        found.append(
            (
                Wanted("default", name, "default"),
                Wanted("default", name, "red", picked),
                Wanted("default", name, "blue", marked) if number % 2 else Wanted(NAMED, name, "blue"),
            )[number % 3]
        )
    return found


def they_come(whole: Whole, wanted: Sequence[Wanted], kills: int) -> None:
    whole.killing(kills, [partial(whole.kubelet.start, each) for each in wanted])
    whole.is_right()
    whole.pings()
    whole.is_clean()
    blocks = {name: whole.counted(name)["used"] for name in RANGES}
    assert all(blocks.values()), blocks


def some_change(whole: Whole, wanted: Sequence[Wanted], kills: int) -> None:
    """Others come while as many go."""
    old = whole.rng.sample(sorted(whole.kubelet.standing), len(wanted))
    work = [partial(whole.kubelet.stop, owner) for owner in old]
    work += [partial(whole.kubelet.start, each) for each in wanted]
    whole.rng.shuffle(work)
    whole.killing(kills, work)
    whole.is_right()


def some_leak(whole: Whole, count: int) -> None:
    """Pods are deleted by force; the runtime forgets the sandboxes, and one of them lives on for a while."""
    kubelet, agent = whole.kubelet, whole.plane.agent
    before = len(kubelet.standing)
    owners = whole.rng.sample(sorted(kubelet.standing), count)
    last, (_, sandbox, address) = owners[0], kubelet.standing[owners[0]]
    for owner in owners:
        kubelet.forget(kubelet.standing[owner][0])
    for owner in owners[1:]:
        kubelet.crash(owner)
    agent.until(lambda: len(whole.held()) == before - count + 1, "all of them but one are collected")
    assert whole.held()[sandbox.name] == address, "the one that lives on has lost its address"
    kubelet.crash(last)
    agent.until(lambda: len(whole.held()) == before - count, "it ends, and is collected")


def some_crash(whole: Whole, count: int) -> None:
    """Sandboxes end without a DEL while their Pods stay, and the runtime asks for a garbage collection."""
    kubelet = whole.kubelet
    owners = whole.rng.sample(sorted(kubelet.standing), count)
    gone = [kubelet.standing[owner][0] for owner in owners]
    for owner in owners:
        kubelet.crash(owner)
    kubelet.collect([sandbox for _, sandbox, _ in kubelet.standing.values()])
    whole.is_right()
    for wanted in gone:
        kubelet.forget(wanted)


def some_go_unseen(whole: Whole, count: int) -> None:
    """No agent runs: DELs succeed all the same, and are carried out once it is back."""
    owners = whole.rng.sample(sorted(whole.kubelet.standing), count)
    whole.plane.end("agent")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(whole.kubelet.stop, owners))
    assert len(whole.queued()) == count
    whole.plane.begin("agent")
    whole.plane.until_settled()
    assert whole.queued() == [], "its start has not carried them out"
    whole.is_right()


def all_go(whole: Whole, kills: int) -> None:
    kubelet = whole.kubelet
    whole.killing(kills, [partial(kubelet.stop, owner) for owner in sorted(kubelet.standing)])
    whole.is_right()
    whole.nothing_is_left()
    whole.is_clean()


def live_and_die(
    cluster: Cluster, directory: Path, host: Host, *, count: int, kills: int, rounds: int
) -> None:
    """kills: in each of a round's three parts."""
    seed = int(os.environ.get("OMNIPAM_SEED") or random.SystemRandom().randrange(10**6))
    print(f"OMNIPAM_SEED={seed}")
    whole = Whole(cluster, directory, host, seed)
    try:
        whole.plane.until_settled()
        for number in range(rounds):
            they_come(whole, pods(count, f"{number}a"), kills)
            some_change(whole, pods(count // 4, f"{number}b"), kills)
            some_leak(whole, count // 10)
            some_crash(whole, count // 10)
            some_go_unseen(whole, count // 5)
            all_go(whole, kills)
        print(f"{whole.kubelet.retries} ADDs failed and were tried again")
        assert whole.kubelet.retries > 0, "no kill was felt: nothing was ever tried again"
        the_node_goes(whole)
    finally:
        whole.plane.close()
    nobody_stays(directory, host)


def the_node_goes(whole: Whole) -> None:
    whole.plane.stop("agent")
    whole.admin.delete(f"{NODES}/{NODE}")
    whole.admin.delete(f"{CILIUM_NODES}/{NODE}")
    whole.pools_are_whole()
    whole.is_clean()
    whole.plane.stop("operator")


def nobody_stays(directory: Path, host: Host) -> None:
    """Neither a process that was told of this directory or lives in the host's namespace, nor a pod's namespace."""
    assert subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, check=True).stdout == b""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes()
        except OSError:  # it ends as we look
            continue
        assert os.fsencode(directory) not in line, line
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = [line.partition(" ")[0] for line in listed.splitlines()]
    assert [name for name in names if name.startswith(host.name)] == [host.name]


def test_a_hundred_pods_of_three_pools_through_kills_and_all_is_given_back(
    host: Host, pooled: Cluster, tmp_path: Path
) -> None:
    live_and_die(pooled, tmp_path, host, count=100, kills=4, rounds=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_same_again_and_again_with_many_kills(host: Host, pooled: Cluster, tmp_path: Path) -> None:
    live_and_die(pooled, tmp_path, host, count=100, kills=20, rounds=int(os.environ.get("OMNIPAM_SOAK") or 1))
