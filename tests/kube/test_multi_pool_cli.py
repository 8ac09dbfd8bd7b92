"""`node`, `pool`, `plan` and `check` on a cluster in multi-pool mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, OPERATOR, add_machine, operator, prepare
from tests.kube.test_cli import Kubectl, configure, findings
from tests.kube.test_multi_pool import NO_GC, OURS, allocated, node, pool

from omnipam.runtime.kube.podippool import POOLS

BESIDE = f"--lease-name={OPERATOR}"


@pytest.fixture
def console(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Kubectl:
    prepare(cluster)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig()))
    return Kubectl(tmp_path / "unused.db", capsys)


def test_what_there_is_and_what_would_be_done(cluster: Cluster, console: Kubectl, tmp_path: Path) -> None:
    admin = cluster.admin
    configure(cluster, ipam="multi-pool")
    pool(admin, "mars", "10.120.0.0/24", marks={f"{OURS}/node-selector": "zone=a"})
    for name in "ab":
        add_machine(admin, name)
        node(admin, name, {"zone": "a"}, mars=20)
    plan = console("plan", "-o", "json").json
    assert [(each["node"], len(each["actions"])) for each in plan["nodes"]] == [("a", 2), ("b", 2)]
    assert plan["calls"] == {"patch ciliumnodes": 2}
    with operator(cluster, tmp_path, "--ipam=multi-pool", NO_GC) as op:
        op.until_leading()
        op.until(lambda: allocated(admin, "a") and allocated(admin, "b"), "served")
        rows = console("node", "list").cells
        assert rows[1][:3] == ["a", "mars=10.120.0.0/28,mars=10.120.0.16/28", "granted"]
        (item,) = console("pool", "list", "-o", "json").json["items"]
        assert item["spec"] == admin.get(f"{POOLS}/mars")["spec"]
        assert item["status"]["ipv4"] | {"total": 16, "used": 4, "free": 12} == item["status"]["ipv4"]
        assert console("pool", "show", "mars").cells[1][-2:] == ["12", "0"]
        assert "20 ipv4 addresses of pool mars" in console("plan", "--explain", "a").out
        assert set(findings(console("check", BESIDE, "-o", "json"))) == {"TakeoverSelector"}
        admin.delete(f"{POOLS}/mars")
        found = console("check", BESIDE, "-o", "json")
        assert set(findings(found)) == {"PoolDraining", "PoolDrained", "PoolMissing"}
        assert [row[1] for row in console("pool", "show", "mars").cells if row[0].startswith("10.")] == list(
            "aabb"
        )
        assert admin.get(f"{CILIUM_NODES}/a")["spec"]["ipam"]["pools"]["allocated"]
