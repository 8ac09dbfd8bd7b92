"""A cluster as the operator meets it: the shipped rights, CiliumNodes and Nodes to come and go, and somebody who watches."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from tests.kube.admin import Admin, ApiError, Json
from tests.kube.cluster import Cluster
from tests.kube.proxy import Proxy
from tests.operator_process import OperatorProcess

from omnipam.runtime.kube.definitions import PLURALS, shipped

RBAC = Path(__file__).parents[2] / "deploy" / "kubernetes" / "rbac.yaml"
OPERATOR = "omnipam-operator"
CILIUM_NODES = "/apis/cilium.io/v2/ciliumnodes"
NODES = "/api/v1/nodes"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{OPERATOR}"
MAPS = "/api/v1/namespaces/kube-system/configmaps"
EVENTS = "/api/v1/namespaces/default/events"
SMALL_POOL = ("--cluster-pool-ipv4-cidr=10.1.0.0/24", "--cluster-pool-ipv4-mask-size=25")
POOL = ("--cluster-pool-ipv4-cidr=10.1.0.0/16", "--cluster-pool-ipv4-mask-size=24")


def give_rights(cluster: Cluster, user: str = OPERATOR) -> None:
    """What the project ships, for a user of the tests."""
    for manifest in yaml.safe_load_all(RBAC.read_text()):
        plural = f"{manifest['kind'].lower()}s"
        if plural == "serviceaccounts":
            continue
        if "subjects" in manifest:
            manifest["subjects"] = [cluster.subject(user)]
        namespace = manifest["metadata"].get("namespace")
        place = f"namespaces/{namespace}/{plural}" if namespace else plural
        cluster.admin.apply(f"/apis/rbac.authorization.k8s.io/v1/{place}", manifest)


def prepare(cluster: Cluster) -> None:
    """Rights and definitions: what an operator finds that does not start for the first time."""
    give_rights(cluster)
    cluster.admin.install_crds(json.loads(shipped(plural)) for plural in PLURALS)


def operator(
    cluster: Cluster,
    directory: Path,
    *flags: str,
    proxy: Proxy | None = None,
    user: str = OPERATOR,
    **more: Any,
) -> OperatorProcess:
    """The operator on this cluster, by the rights that the project ships."""
    kubeconfig = cluster.kubeconfig(user, server=proxy.url if proxy else None)
    given = ("--store=kubernetes", f"--lease-name={OPERATOR}", *flags)
    return OperatorProcess(directory, *given, kubeconfig=kubeconfig, **more)


def cilium_node(
    name: str, pod_cidrs: list[str] | None = None, annotations: Mapping[str, str] | None = None
) -> Json:
    """As an agent creates it."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": name, "annotations": dict(annotations or {})},
        "spec": {"ipam": {"podCIDRs": pod_cidrs} if pod_cidrs else {}},
    }


def add(admin: Admin, name: str, pod_cidrs: list[str] | None = None, **annotations: str) -> Json:
    return admin.post(CILIUM_NODES, cilium_node(name, pod_cidrs, annotations))


def add_machine(admin: Admin, name: str, **spec: object) -> Json:
    return admin.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec})


def drop(admin: Admin, path: str) -> None:
    """Deletes an object that may be gone."""
    try:
        admin.delete(path)
    except ApiError as error:
        if error.status != 404:
            raise


def pod_cidrs(admin: Admin, name: str) -> list[str]:
    """What a CiliumNode shows."""
    return cidrs_of(admin.get(f"{CILIUM_NODES}/{name}"))


def cidrs_of(node: Json) -> list[str]:
    return list(node["spec"].get("ipam", {}).get("podCIDRs") or [])


def error_of(admin: Admin, name: str) -> str:
    """Its status text, empty for none."""
    status = admin.get(f"{CILIUM_NODES}/{name}").get("status", {})
    return str(status.get("ipam", {}).get("operator-status", {}).get("error") or "")


def all_cidrs(admin: Admin) -> dict[str, list[str]]:
    return {item["metadata"]["name"]: cidrs_of(item) for item in admin.get(CILIUM_NODES)["items"]}


def events(admin: Admin, reason: str, path: str = EVENTS) -> list[Json]:
    return [event for event in admin.get(path)["items"] if event["reason"] == reason]


def lease(admin: Admin) -> Json:
    """Its spec; empty if it is not there."""
    try:
        spec: Json = admin.get(LEASE)["spec"]
    except ApiError as error:
        if error.status != 404:
            raise
        return {}
    return spec


def configure(admin: Admin, **keys: str) -> None:
    """Writes ConfigMap cilium-config: these keys (`_` for `-`) and no others."""
    data = {key.replace("_", "-"): value for key, value in keys.items()}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config"}, "data": data}
    try:
        admin.post(MAPS, body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        admin.put(f"{MAPS}/cilium-config", body)


class Witness:
    """Sees every version of every CiliumNode in the order in which it was written, by a watch of its own, in a thread.

    `conflicts`: moments at which two CiliumNodes showed overlapping podCIDRs. `changed`: CiliumNodes whose blocks were
    taken away or replaced while they lived.
    """

    def __init__(self, cluster: Cluster, shows: Callable[[Json], list[str]] = cidrs_of) -> None:
        """shows: the blocks that a CiliumNode shows."""
        self._shows = shows
        self._admin = cluster.client("admin")
        listed = self._admin.get(CILIUM_NODES)
        self._since: str = listed["metadata"]["resourceVersion"]
        self.conflicts: list[str] = []
        self.changed: list[str] = []
        self.versions = 0
        self._shown: dict[str, tuple[str, list[str]]] = {}
        self._owners: dict[str, str] = {}
        for item in listed["items"]:
            self._see(item)
        self._ending = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Looks once more, and ends."""
        self._ending.set()
        self._thread.join()
        self._admin.close()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while True:
                last = self._ending.is_set()
                try:
                    seen = self._admin.watch(CILIUM_NODES, since=self._since, timeout_s=1)
                except OSError:  # the server is down; the watch goes on where it was
                    if last:
                        raise
                    continue
                for event in seen:
                    if event["type"] == "ERROR":
                        raise AssertionError(f"the witness lost track: {event}")
                    self._since = event["object"]["metadata"]["resourceVersion"]
                    self._see(event["object"], gone=event["type"] == "DELETED")
                if last:
                    return
        except BaseException as error:  # noqa: BLE001 — raised where the test can see it
            self._error = error

    def _see(self, node: Json, *, gone: bool = False) -> None:
        self.versions += 1
        name, uid = node["metadata"]["name"], node["metadata"]["uid"]
        now = [] if gone else [str(ipaddress.ip_network(each)) for each in self._shows(node)]
        before_uid, before = self._shown.pop(name, (uid, []))
        if before_uid == uid and not gone and not set(before) <= set(now):
            self.changed.append(f"{name}: {before} became {now}")
        for cidr in before:
            if self._owners.get(cidr) == name:
                del self._owners[cidr]
        for cidr in now:
            # Blocks of one mask: two that overlap are equal.
            owner = self._owners.setdefault(cidr, name)
            if owner != name:
                self.conflicts.append(
                    f"{cidr}: of {owner} and of {name} at {node['metadata']['resourceVersion']}"
                )
        if not gone:
            self._shown[name] = (uid, now)
