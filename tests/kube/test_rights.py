"""The rights that the project ships are enough in every mode: the API server refuses nothing, from the first start to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kube.admin import Json
from tests.kube.apiserver import ApiServer
from tests.kube.operated import (
    CILIUM_NODES,
    EVENTS,
    MAPS,
    NODES,
    OPERATOR,
    add,
    add_machine,
    configure,
    give_rights,
    operator,
)

BESIDE_CONFIG = "/api/v1/namespaces/kube-system/events"
OF_MODE: dict[str, tuple[str, ...]] = {
    "cluster-pool": ("--cluster-pool-ipv4-cidr=10.1.0.0/24", "--cluster-pool-ipv4-mask-size=25"),
    "kubernetes": ("--pod-cidr-grace=0s",),
    "multi-pool": ("--auto-create-cilium-pod-ip-pools=default=ipv4-cidrs:10.1.0.0/27;ipv4-mask-size:28",),
}


def ask(name: str) -> Json:
    """A CiliumNode that wants addresses of the default pool."""
    requested = [{"pool": "default", "needed": {"ipv4-addrs": 10}}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": name},
        "spec": {"ipam": {"pools": {"requested": requested}}},
    }


@pytest.mark.parametrize("mode", OF_MODE)
def test_nothing_is_refused(start_apiserver: type[ApiServer], tmp_path: Path, mode: str) -> None:
    with start_apiserver(audit=True) as own:
        admin = own.admin
        give_rights(own)  # and no definitions: it installs them itself
        configure(admin, ipam=mode)
        quick = ("--nodes-gc-interval=1s", "--cluster-pool-quarantine=60s")
        with operator(own, tmp_path, *OF_MODE[mode], *quick) as op:
            op.until_leading().until_ready()
            configure(admin, ipam=mode, debug="true")  # seen by the watch
            for number, name in enumerate("abcd"):
                add_machine(admin, name, podCIDRs=[f"10.9.{number}.0/24"] if name != "d" else [])
                if mode == "multi-pool":
                    admin.post(CILIUM_NODES, ask(name))
                else:
                    add(admin, name)
            op.until(lambda: admin.get(EVENTS)["items"], "an unmet demand and its event")
            # What is gone with its machine there is kept; what has no machine is collected.
            admin.delete(f"{CILIUM_NODES}/a")
            admin.delete(f"{NODES}/b")
            op.until(lambda: not admin.exists(f"{CILIUM_NODES}/b"), "collected")
            if mode != "kubernetes":
                op.until(lambda: admin.get(f"{MAPS}/omnipam-ipam-state").get("data"), "kept")
            configure(admin, ipam=mode, cluster_pool_reserved="nonsense")
            op.until_said("configuration refused")
            op.until(lambda: admin.get(BESIDE_CONFIG)["items"], "an event beside the configuration")
            assert op.stop() == 0
        assert "orbidden" not in op.text()
        refused = [
            (each["verb"], each["requestURI"])
            for each in own.audit()
            if each["user"]["username"] == OPERATOR and each["responseStatus"]["code"] in (401, 403)
        ]
        assert not refused


def test_a_missing_right_would_be_seen(start_apiserver: type[ApiServer], tmp_path: Path) -> None:
    """The test above can fail: with a right less, the server refuses, and the log says so."""
    with start_apiserver(audit=True) as own:
        give_rights(own)
        own.admin.patch(
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/omnipam-operator-events",
            {"rules": []},
        )
        with operator(own, tmp_path, *OF_MODE["cluster-pool"], "--nodes-gc-interval=0") as op:
            op.until_leading()
            for name in "abc":
                add(own.admin, name)
            op.until_said("Events cannot be written")
            assert "orbidden" in op.text()
        codes = {
            each["responseStatus"]["code"] for each in own.audit() if each["user"]["username"] == OPERATOR
        }
        assert 403 in codes
