"""A fresh API server as a benchmark needs it: our definitions, the rights that we ship, and what it was asked and wrote."""

from __future__ import annotations

import http.client
import json
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml
from tests.kube.admin import ApiError
from tests.kube.apiserver import ApiServer

from omnipam.runtime.kube.meta import Page
from omnipam.runtime.kube.podippool import POOLS
from omnipam.runtime.kube.reflector import PAGE

from .machine import cpu_s
from .raw import CILIUM_NODES, NODES, Versioned

ROOT = Path(__file__).parents[1]
DEFINITIONS = ROOT / "runtime" / "kube" / "crds"
RIGHTS = ROOT / "deploy" / "kubernetes" / "rbac.yaml"
USER = "omnipam-operator"
LEASE = "omnipam-operator"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
FIRST_PAGES = tuple(f"{path}?limit={PAGE}" for path in (NODES, CILIUM_NODES))
WRITES = ("PATCH", "PUT", "POST", "DELETE")


class BenchmarkServer(ApiServer):
    """`ApiServer` with the definitions, and the user of the operator bound to the shipped roles."""

    def __init__(self, *, audit: bool = False) -> None:
        super().__init__(audit=audit)
        self._etcd_kept = http.client.HTTPConnection(urlsplit(self._etcd_url).netloc, timeout=30)
        self.admin.install_crds(json.loads(path.read_text()) for path in sorted(DEFINITIONS.glob("*.json")))
        for manifest in yaml.safe_load_all(RIGHTS.read_text()):
            if "subjects" in manifest:
                manifest["subjects"] = [self.subject(USER)]
            self.admin.apply(_collection(manifest), manifest)

    def stop(self) -> None:
        if hasattr(self, "_etcd_kept"):
            self._etcd_kept.close()
        super().stop()

    def make_pool(self, name: str, cidr: str) -> None:
        """A CiliumPodIPPool of /28."""
        spec = {"ipv4": {"cidrs": [cidr], "maskSize": 28}}
        body = {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumPodIPPool", "metadata": {"name": name}}
        self.admin.post(POOLS, {**body, "spec": spec})

    def revision(self) -> int:
        """etcd's revision: one more for every write, and an object's resourceVersion is that of its last one.

        The cheapest look there is: the API server does not notice it.
        """
        body = json.dumps({"key": "AA==", "count_only": True, "serializable": True})
        self._etcd_kept.request("POST", "/v3/kv/range", body)
        return int(json.loads(self._etcd_kept.getresponse().read())["header"]["revision"])

    def writes(self) -> int:
        """Mutations of CiliumNodes, subresources included, that the API server has counted since it started."""
        return sum(self.requests("ciliumnodes", verb) for verb in WRITES)

    def newest(self) -> tuple[int, int]:
        """How many CiliumNodes have podCIDRs, and the revision of the last write of one that has."""
        page = msgspec.json.decode(self.admin.raw("GET", CILIUM_NODES), type=Page[Versioned])
        held = [int(each.metadata.resource_version) for each in page.items or () if each.has_cidrs]
        return len(held), max(held, default=0)

    def forget_lease(self) -> None:
        """The next operator finds no Lease."""
        self.admin.close()  # it may have lain idle for longer than the server keeps a connection
        try:
            self.admin.delete(f"{LEASES}/{LEASE}")
        except ApiError as error:
            if error.status != 404:
                raise

    def first_list(self, since: float) -> float:
        """When the operator first asked for a page of Nodes or CiliumNodes, by the audit log; both seconds since 1970.

        A list of one object does not count: with that it only asks whether there is such a resource.
        """
        for event in self.audit():
            came = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
            if (
                came >= since
                and event["user"]["username"] == USER
                and event["requestURI"].startswith(FIRST_PAGES)
            ):
                return came
        raise LookupError("the audit log shows no list by the operator")

    def cpu_s(self) -> float:
        """User and system time of API server and etcd up to now."""
        return sum(cpu_s(pid) for pid in self.pids.values())


def _collection(manifest: dict[str, object]) -> str:
    """Where a manifest of rbac.yaml is created."""
    version, kind, metadata = str(manifest["apiVersion"]), str(manifest["kind"]), manifest["metadata"]
    assert isinstance(metadata, dict)
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    namespace = metadata.get("namespace")
    return f"{root}/namespaces/{namespace}/{kind.lower()}s" if namespace else f"{root}/{kind.lower()}s"
