"""Who leads: replicas that take over from one another, from Cilium's operator, and what a leader does that lost its Lease."""

from __future__ import annotations

import asyncio
import datetime
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.kube.admin import Admin, ApiError, Json
from tests.kube.apiserver import ApiServer
from tests.kube.cluster import Cluster
from tests.kube.operated import (
    CILIUM_NODES,
    LEASE,
    OPERATOR,
    POOL,
    Witness,
    add,
    all_cidrs,
    lease,
    operator,
    pod_cidrs,
    prepare,
)
from tests.operator_process import SHORT_LEASE

from omnipam.core.errors import Retryable
from omnipam.runtime.kube.config import from_kubeconfig
from omnipam.runtime.kube.rest import Api

FLAGS = (*POOL, *SHORT_LEASE, "--nodes-gc-interval=0")
LEASE_S, RENEW_S = 3.0, 2.0


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    prepare(cluster)
    return cluster


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


@contextmanager
def renewing(admin: Admin, holder: str, every_s: float = 0.5) -> Iterator[None]:
    """A Lease that another operator holds and renews as client-go does: by PUT of the whole object."""
    started = now()
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 3, "acquireTime": started, "renewTime": started}
    spec["leaseTransitions"] = 7
    body = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": OPERATOR},
        "spec": spec,
    }
    held = admin.post(LEASE.rpartition("/")[0], body)
    ending = threading.Event()
    refused: list[BaseException] = []

    def renew(held: Json) -> None:
        try:
            while not ending.wait(every_s):
                held["spec"]["renewTime"] = now()
                held = admin.put(LEASE, held)
        except ApiError as error:  # somebody took it
            refused.append(error)

    thread = threading.Thread(target=renew, args=(held,))
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()
    assert not refused, refused


def test_the_lease_of_ciliums_operator_is_honoured(kube: Cluster, tmp_path: Path) -> None:
    cilium = "ip-10-3-116-232.eu-west-1.compute.internal-JiNhCkOAFs"
    with renewing(kube.admin, cilium), operator(kube, tmp_path, *FLAGS) as op:
        assert op.until_said("standing by")["holder"] == cilium
        op.until_ready()
        add(kube.admin, "a")
        until = time.monotonic() + 5  # longer than the Lease lasts, were it not renewed
        op.until(lambda: time.monotonic() > until, "still standing by", 10)
        assert lease(kube.admin)["holderIdentity"] == cilium
        assert not pod_cidrs(kube.admin, "a")
        assert op.stop() == 0
        assert lease(kube.admin)["holderIdentity"] == cilium
    with operator(kube, tmp_path, *FLAGS, name="later") as op:
        began = time.monotonic()
        op.until(lambda: pod_cidrs(kube.admin, "a"), "granted once it has run out")
        assert time.monotonic() - began > 2.5  # the whole of it, on our own clock
        assert lease(kube.admin)["leaseTransitions"] == 8


def test_a_replica_takes_over_at_once_when_the_leader_is_asked_to_end(kube: Cluster, tmp_path: Path) -> None:
    long = "--leader-election-lease-duration=60s"
    with operator(kube, tmp_path, *FLAGS, long, name="one") as one:
        one.until_leading()
        with operator(kube, tmp_path, *FLAGS, long, name="two") as two:
            two.until_said("standing by")
            two.until_ready()
            began = time.monotonic()
            assert one.stop() == 0
            assert time.monotonic() - began < 2
            add(kube.admin, "a")
            two.until(lambda: pod_cidrs(kube.admin, "a"), "the other grants", 10)
            assert two.metrics()["omnipam_leading"] == 1


def test_a_lease_that_a_hand_deletes_makes_no_second_leader(kube: Cluster, tmp_path: Path) -> None:
    """Whoever took it at once would lead beside the old leader until that one looks; here the old one makes it anew."""
    slow, often = "--leader-election-retry-period=1500ms", "--leader-election-retry-period=200ms"
    with operator(kube, tmp_path, *FLAGS, slow, name="one") as one:
        one.until_leading()
        with operator(kube, tmp_path, *FLAGS, often, name="two") as two, Witness(kube) as witness:
            two.until_said("standing by")
            for round_ in range(3):
                kube.admin.delete(LEASE)
                add(kube.admin, f"n{round_}")
                two.until(lambda: lease(kube.admin), "the Lease is there again")
                seen = kube.requests("leases", "GET")
                two.until(
                    lambda seen=seen: kube.requests("leases", "GET") > seen + 2, "and has been looked at"
                )
            two.until(lambda: all(all_cidrs(kube.admin).values()), "all granted")
            assert one.running
            assert not two.lines("leading")
            assert witness.conflicts == []


def test_a_replica_takes_over_when_the_leader_is_killed(kube: Cluster, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *FLAGS, name="one") as one:
        one.until_leading()
        with operator(kube, tmp_path, *FLAGS, name="two") as two, Witness(kube) as witness:
            two.until_said("standing by")
            for number in range(30):
                add(kube.admin, f"n{number}")
            one.kill()
            add(kube.admin, "after")
            two.until(lambda: all(all_cidrs(kube.admin).values()), "all granted")
            assert two.lines("restored")
    assert not witness.conflicts
    assert not witness.changed


def test_a_leader_that_slept_through_its_lease_ends_and_writes_nothing(kube: Cluster, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *FLAGS, name="one") as one:
        one.until_leading()
        # The other may itself be slowed by a busy machine: its own Lease outlasts that.
        patient = ("--leader-election-lease-duration=8s", "--leader-election-renew-deadline=6s")
        with (
            operator(kube, tmp_path, *FLAGS, *patient, name="two") as two,
            Witness(kube) as witness,
        ):
            two.until_said("standing by")
            one.send(signal.SIGSTOP)
            for number in range(30):
                add(kube.admin, f"n{number}")
            two.until(lambda: all(all_cidrs(kube.admin).values()), "the second grants")
            writes = kube.requests("ciliumnodes", "PATCH")
            one.send(signal.SIGCONT)
            assert one.wait() == 1
            assert one.lines("leader election: the lease is lost")
            assert kube.requests("ciliumnodes", "PATCH") == writes
            assert two.running
    assert not witness.conflicts
    assert not witness.changed


@pytest.mark.parametrize("connections", [12, 16, 20])
def test_a_leader_that_slept_while_it_connected_sends_nothing_more(
    kube: Cluster, tmp_path: Path, connections: int
) -> None:
    """Stopped amid thirty first writes, each on a connection of its own that is just there. Nobody else writes meanwhile."""
    for number in range(30):
        add(kube.admin, f"n{number}")
    with kube.proxy() as proxy, operator(kube, tmp_path, *FLAGS, proxy=proxy) as op:
        stopped = threading.Event()

        def stop(greetings: int) -> None:
            if greetings == connections:
                op.send(signal.SIGSTOP)
                stopped.set()

        proxy.greeted = stop
        assert stopped.wait(30)
        woken = time.monotonic() + LEASE_S
        op.until(lambda: time.monotonic() > woken, "its lease has run out")
        before = {each["metadata"]["name"]: each for each in kube.admin.get(CILIUM_NODES)["items"]}
        op.send(signal.SIGCONT)
        assert op.wait() == 1
        assert op.lines("leader election: the lease is lost")
    after = {each["metadata"]["name"]: each for each in kube.admin.get(CILIUM_NODES)["items"]}
    assert after == before


def test_a_lost_lease_ends_it_and_no_request_starts_after_the_deadline(
    start_apiserver: type[ApiServer], tmp_path: Path
) -> None:
    with start_apiserver(audit=True) as own, own.proxy() as proxy:
        prepare(own)
        with operator(own, tmp_path, *FLAGS, proxy=proxy) as op:
            op.until_leading()
            add(own.admin, "first")
            op.until(lambda: pod_cidrs(own.admin, "first"), "granted")
            # Only the Lease's requests are lost: the operator can do all the rest, and has plenty to do.
            proxy.lose_request(rb"[A-Z]+ /apis/coordination", times=1_000_000)
            began = time.monotonic()
            number = 0
            while op.running:
                number += 1
                add(own.admin, f"n{number}")
                assert time.monotonic() - began < 30
            assert op.wait() == 1
            assert time.monotonic() - began < RENEW_S + 1.5
            (line,) = op.lines("leader election: the lease is lost")
            assert line["level"] == "error"
            assert "Traceback" not in op.text()
        ours = [each for each in own.audit() if each["user"]["username"] == OPERATOR]
        renewals = [
            at(each["requestReceivedTimestamp"])
            for each in ours
            if each["objectRef"]["resource"] == "leases" and each["verb"] == "patch"
        ]
        mutations = [each for each in ours if each["verb"] in ("patch", "create", "delete")]
        writes = [
            at(each["requestReceivedTimestamp"])
            for each in mutations
            if each["objectRef"]["resource"] == "ciliumnodes"
        ]
        assert len([each for each in writes if each > renewals[-1]]) > 3  # it did go on while it was sure
        latest = max(at(each["requestReceivedTimestamp"]) for each in ours)
        assert latest <= renewals[-1] + RENEW_S + 0.25, latest - renewals[-1]  # 0.25: on its way


def test_a_dead_line_ends_the_leader_promptly(kube: Cluster, tmp_path: Path) -> None:
    with kube.proxy() as proxy, operator(kube, tmp_path, *FLAGS, proxy=proxy, name="one") as one:
        one.until_leading()
        with operator(kube, tmp_path, *FLAGS, name="two") as two, Witness(kube) as witness:
            two.until_said("standing by")
            for number in range(20):
                add(kube.admin, f"n{number}")
            one.until(lambda: any(all_cidrs(kube.admin).values()), "some are granted")
            proxy.blackhole()
            began = time.monotonic()
            assert one.wait() == 1
            assert time.monotonic() - began < RENEW_S + 1.5
            for number in range(20, 40):
                add(kube.admin, f"n{number}")
            two.until(lambda: all(all_cidrs(kube.admin).values()), "the other grants")
            proxy.resume()  # what the first had on the wire may land now: it must do no harm
            add(kube.admin, "last")
            two.until(lambda: all(all_cidrs(kube.admin).values()), "and goes on")
    assert not witness.conflicts
    assert not witness.changed
    assert kube.admin.exists(f"{CILIUM_NODES}/last")


def test_without_its_namespace_it_ends_with_one_line(kube: Cluster, tmp_path: Path) -> None:
    with operator(kube, tmp_path, *FLAGS, "--k8s-namespace=no-such-namespace", user="admin") as op:
        assert op.wait() == 2
        (line,) = [line for line in op.plain() if line.startswith("omnipam: ")]
        assert "no-such-namespace" in line
        assert "Traceback" not in op.text()


async def test_an_api_server_that_starts_denies_nothing_to_who_waits_for_it(
    start_apiserver: type[ApiServer],
) -> None:
    """Until it has read its Roles it refuses all; an operator that took this at its word would end with exit code 2."""
    with start_apiserver() as own:
        prepare(own)
        own.kill_apiserver()
        starting = asyncio.get_running_loop().run_in_executor(None, own.restart_apiserver)
        refused = 0
        async with Api(
            from_kubeconfig([own.kubeconfig(OPERATOR)]), user_agent="test", patience_s=30.0
        ) as api:
            while not starting.done() or not await api.get(CILIUM_NODES):
                try:
                    await api.get(CILIUM_NODES)
                except Retryable as error:
                    refused += "403 Forbidden" in str(error)
                await asyncio.sleep(0.001)
        await starting
        assert refused
