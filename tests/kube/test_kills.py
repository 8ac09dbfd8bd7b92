"""`kill -9` at any moment, while nodes come and go and a second replica takes over: no block is ever shown by two nodes."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.kube.admin import Admin
from tests.kube.cluster import Cluster
from tests.kube.operated import (
    CILIUM_NODES,
    NODES,
    Witness,
    add,
    add_machine,
    all_cidrs,
    cilium_node,
    drop,
    operator,
    prepare,
)
from tests.operator_process import SHORT_LEASE, Replicas

NO_GC = "--nodes-gc-interval=0"
FEW_BLOCKS = ("--cluster-pool-ipv4-cidr=10.1.0.0/18", "--cluster-pool-ipv4-mask-size=24")
"""64: blocks are used again within seconds."""
MOST_NODES = 50


@pytest.fixture
def kube(cluster: Cluster) -> Cluster:
    prepare(cluster)
    return cluster


class Churn:
    """Nodes that come and go, as the seed has it: with or without a machine; sometimes only the object vanishes."""

    def __init__(self, admin: Admin, seed: int) -> None:
        self._admin, self._random = admin, random.Random(seed)
        self._made = 0
        self._bare: list[str] = []
        self._whole: list[str] = []
        self._bereft: list[str] = []
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._ending.wait(self._random.random() * 0.1):
                self._step()
        except BaseException as error:  # noqa: BLE001 — raised where the test can see it
            self._error = error

    def _step(self) -> None:
        admin, chance = self._admin, self._random.random()
        count = len(self._bare) + len(self._whole) + len(self._bereft)
        if count < 10 or (chance < 0.5 and count < MOST_NODES):
            self._made += 1
            name = f"n{self._made}"
            if self._random.random() < 0.3:
                add_machine(admin, name)
                self._whole.append(name)
            else:
                self._bare.append(name)
            add(admin, name)
        elif chance < 0.75 and self._bare:
            drop(admin, f"{CILIUM_NODES}/{self._pick(self._bare)}")
        elif chance < 0.85 and self._whole:
            name = self._pick(self._whole)
            both = [f"{CILIUM_NODES}/{name}", f"{NODES}/{name}"]
            self._random.shuffle(both)
            for path in both:
                drop(admin, path)
        elif chance < 0.93 and self._whole:
            name = self._pick(self._whole)
            drop(admin, f"{CILIUM_NODES}/{name}")
            self._bereft.append(name)
        elif self._bereft:
            name = self._pick(self._bereft)
            add(admin, name)
            self._whole.append(name)

    def _pick(self, names: list[str]) -> str:
        return names.pop(self._random.randrange(len(names)))


def kill_often(kube: Cluster, directory: Path, *, seed: int, kills: int, lease: tuple[str, ...]) -> None:
    moments = random.Random(seed)
    with ExitStack() as stack:
        witness = stack.enter_context(Witness(kube))
        flags = (*FEW_BLOCKS, NO_GC, *lease)
        both = stack.enter_context(Replicas(lambda name: operator(kube, directory, *flags, name=name)))
        churn = Churn(kube.admin, seed)
        stack.callback(churn.stop)
        pause = threading.Event()
        for number in range(kills):
            leader = both.leader()
            pause.wait(moments.random() * 1.0)
            leader.kill()
            if moments.random() < 0.2:  # the other, too: perhaps while it takes over
                pause.wait(moments.random() * 2.0)
                for each in both.live:
                    each.kill()
            assert not witness.conflicts, f"after {number + 1} kills (seed {seed}): {witness.conflicts}"
        churn.stop()
        leader = both.leader()
        leader.until(lambda: all(all_cidrs(kube.admin).values()), "all are served in the end", 60)
        settled = kube.requests("ciliumnodes", "PATCH")
        renewals = kube.requests("leases", "PATCH")
        leader.until(lambda: kube.requests("leases", "PATCH") >= renewals + 3, "three renewals")
        assert kube.requests("ciliumnodes", "PATCH") == settled  # a quiet cluster writes nothing
    assert witness.versions > kills * 5
    assert not witness.conflicts, f"seed {seed}: {witness.conflicts}"
    assert not witness.changed, f"seed {seed}: {witness.changed}"


def test_the_witness_sees_what_it_is_here_for(kube: Cluster) -> None:
    admin = kube.admin
    add(admin, "before", ["10.1.0.0/24"])
    with Witness(kube) as witness:
        add(admin, "same", ["10.1.0.0/24"])
        admin.delete(f"{CILIUM_NODES}/same")
        admin.delete(f"{CILIUM_NODES}/before")
        add(admin, "later", ["10.1.0.0/24", "10.1.1.0/24"])  # free by then
        admin.patch(f"{CILIUM_NODES}/later", {"spec": {"ipam": {"podCIDRs": ["10.1.1.0/24"]}}})
    assert [text.partition(" at ")[0] for text in witness.conflicts] == ["10.1.0.0/24: of before and of same"]
    assert witness.changed == ["later: ['10.1.0.0/24', '10.1.1.0/24'] became ['10.1.1.0/24']"]


def test_ten_kills_while_nodes_come_and_go(kube: Cluster, tmp_path: Path) -> None:
    kill_often(kube, tmp_path, seed=1, kills=10, lease=SHORT_LEASE)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2])
def test_fifty_kills_while_nodes_come_and_go(kube: Cluster, tmp_path: Path, seed: int) -> None:
    kill_often(kube, tmp_path, seed=seed, kills=50, lease=SHORT_LEASE)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kills_with_the_default_lease_times(kube: Cluster, tmp_path: Path) -> None:
    kill_often(kube, tmp_path, seed=3, kills=10, lease=())


def test_two_thousand_nodes_and_a_kill_in_the_middle(kube: Cluster, tmp_path: Path) -> None:
    count = 2000
    kube.admin.create_many(CILIUM_NODES, (cilium_node(f"n{number}") for number in range(count)))
    flags = ("--cluster-pool-ipv4-cidr=10.0.0.0/8", "--cluster-pool-ipv4-mask-size=24", NO_GC, *SHORT_LEASE)
    written = 'omnipam_publishes_total{outcome="Version"}'
    with Witness(kube) as witness:
        with operator(kube, tmp_path, *flags, name="one") as one:
            one.until(lambda: one.metrics().get(written, 0) >= 300, "in the middle")
        granted = {name: cidrs for name, cidrs in all_cidrs(kube.admin).items() if cidrs}
        assert 300 <= len(granted) < count
        with operator(kube, tmp_path, *flags, name="two") as two:
            two.until_leading()
            two.until(lambda: two.metrics().get(written, 0) >= count - len(granted), "all the rest")
            two.until(lambda: two.metrics().get("omnipam_nodes_unserved") == 0, "none waits")
            now = all_cidrs(kube.admin)
            assert two.metrics()[written] == count - len(granted)
            assert two.stop() == 0
    assert {name: now[name] for name in granted} == granted
    assert len({cidr for cidrs in now.values() for cidr in cidrs}) == count
    assert not witness.conflicts
    assert not witness.changed
