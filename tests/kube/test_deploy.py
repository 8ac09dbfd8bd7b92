"""What deploy/kubernetes ships, on a real API server: it takes the manifests, and the rights are enough in every mode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.kube.admin import Admin, ApiError, Json, wait_until
from tests.kube.cluster import Cluster
from tests.kube.operated import (
    CILIUM_NODES,
    EVENTS,
    OPERATOR,
    SMALL_POOL,
    add,
    add_machine,
    configure,
    error_of,
    events,
    give_rights,
    operator,
    pod_cidrs,
)
from tests.kube.test_multi_pool import allocated, node, pool
from tests.operator_process import OperatorProcess

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
GROUPS = {"v1": "/api/v1", "apps/v1": "/apis/apps/v1"}
OFTEN = "--leader-election-retry-period=300ms"
COLLECT = "--nodes-gc-interval=1s"


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.iterdir()))
def test_the_server_takes_the_manifests_on_first_apply(cluster: Cluster, name: str) -> None:
    documents: list[Json] = list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    accounts = {each["metadata"]["name"] for each in documents if each["kind"] == "ServiceAccount"}
    assert documents
    for each in documents:
        assert each["metadata"].get("namespace", "default") in ("default", "kube-system"), "they are there"
        group, plural = each["apiVersion"], f"{each['kind'].lower()}s"
        base = GROUPS.get(group, f"/apis/{group}")
        namespace = each["metadata"].get("namespace")
        place = f"{base}/namespaces/{namespace}/{plural}" if namespace else f"{base}/{plural}"
        path = f"{place}/{each['metadata']['name']}?fieldManager=test&dryRun=All&fieldValidation=Strict&force=true"
        taken = cluster.admin.request("PATCH", path, each, "application/apply-patch+yaml")
        assert taken["kind"] == each["kind"]
        for subject in each.get("subjects", []):
            assert subject["name"] in accounts, "made by the same file"


def in_cluster_pool(admin: Admin, op: OperatorProcess) -> None:
    for name in ("a", "b", "full"):
        add_machine(admin, name)
        add(admin, name)
    op.until(lambda: events(admin, "PoolExhausted"), "an event")
    add(admin, "orphan", ["10.1.0.0/25"])


def in_kubernetes(admin: Admin, op: OperatorProcess) -> None:
    add_machine(admin, "a", podCIDR="10.244.0.0/24", podCIDRs=["10.244.0.0/24"])
    add(admin, "a")
    op.until(lambda: pod_cidrs(admin, "a"), "handed on")
    add(admin, "bad", ["nonsense"])
    add_machine(admin, "bad")
    op.until(lambda: error_of(admin, "bad"), "said in the status")
    add(admin, "orphan", ["10.244.9.0/24"])


def in_multi_pool(admin: Admin, op: OperatorProcess) -> None:
    pool(admin, "mars", "10.10.0.0/28", mask=28)
    add_machine(admin, "a")
    node(admin, "a", mars=8)
    op.until(lambda: allocated(admin, "a"), "granted")
    add_machine(admin, "b")
    node(admin, "b", mars=8)
    op.until(lambda: error_of(admin, "b"), "said in the status")
    pool(admin, "nonsense", "10.10.0.0/28", mask=28)  # overlaps
    op.until(
        lambda: any(
            each["involvedObject"]["kind"] == "CiliumPodIPPool" for each in admin.get(EVENTS)["items"]
        ),
        "an event on the pool",
    )
    node(admin, "orphan")


@pytest.mark.parametrize(
    ("live", "flags"),
    [
        (in_cluster_pool, (*SMALL_POOL, "--cluster-pool-quarantine=10m")),
        (in_kubernetes, ("--ipam=kubernetes", "--pod-cidr-grace=1s")),
        (
            in_multi_pool,
            (
                "--ipam=multi-pool",
                "--auto-create-cilium-pod-ip-pools=default=ipv4-cidrs:10.9.0.0/16;ipv4-mask-size:24",
            ),
        ),
    ],
)
def test_an_operator_with_the_shipped_rights_and_no_others_is_refused_nothing(
    cluster: Cluster,
    tmp_path: Path,
    live: Callable[[Admin, OperatorProcess], None],
    flags: tuple[str, ...],
) -> None:
    """From the definitions and the configuration to the Lease given back."""
    admin = cluster.admin
    give_rights(cluster)
    client = cluster.client(OPERATOR)
    wait_until(lambda: _works(client), "the rights at work")
    client.close()
    configure(admin, **{"cluster-name": "of-the-test"})
    with operator(cluster, tmp_path, *flags, COLLECT, OFTEN) as op:
        op.until_leading().until_ready()
        live(admin, op)
        op.until(lambda: not admin.exists(f"{CILIUM_NODES}/orphan"), "collected", 60)
        admin.delete(f"{CILIUM_NODES}/a")
        admin.delete("/api/v1/nodes/a")
        op.until_said("object deleted")
        assert op.stop() == 0
        refused = [line for line in op.text().splitlines() if "orbidden" in line or "403" in line]
        assert not refused, "\n".join(refused)


def _works(client: Admin) -> bool:
    """The last of the rights: Events on nodes."""
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "a-try", "namespace": "default"},
        "involvedObject": {"kind": "CiliumNode", "name": "a"},
    }
    try:
        client.post(f"{EVENTS}?dryRun=All", event)
    except ApiError as error:
        if error.status == 403:
            return False
        raise
    return True
