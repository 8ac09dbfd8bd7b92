"""The agent in a cloud mode on a real API server, with the rights that the project ships; the operator is the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.kube.admin import Admin, Json
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, add_machine
from tests.kube.test_agent import account, agent, kube

__all__ = ["account", "kube"]

ENI, OTHER = "eni-0a", "eni-0b"
PATH = f"{CILIUM_NODES}/a"
INSTANCE = "i-0123456789abcdef0"
AWS = "--ipam=eni"
MARKED, READY, KEPT, RELEASED = "marked-for-release", "ready-for-release", "do-not-release", "released"


@pytest.fixture(autouse=True)
def _no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is no instance: the Node tells what it is."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def machine(admin: Admin) -> Json:
    return add_machine(admin, "a", providerID=f"aws:///us-east-1a/{INSTANCE}")


def eni(number: int, addresses: list[str], **more: object) -> Json:
    return {
        "id": f"eni-0{'ab'[number]}",
        "mac": f"02:00:00:00:00:0{number}",
        "number": number,
        "subnet": {"id": "subnet-1", "cidr": "10.0.0.0/17"},
        "vpc": {"id": "vpc-1", "primary-cidr": "10.0.0.0/16"},
        "addresses": addresses,
        **more,
    }


class Operator:
    """What Cilium's operator writes, and where it reads."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def node(self) -> Json:
        return self._admin.get(PATH)

    def status(self) -> Json:
        return self.node().get("status", {}).get("ipam", {})

    def pools(self) -> Json:
        return self.node()["spec"].get("ipam", {}).get("pools", {})

    def attach(self, *enis: Json) -> None:
        """Publishes what the instance has now: first the interfaces, then their addresses."""
        before = self.node()
        shown = {each["id"]: each for each in enis}
        gone = before.get("status", {}).get("eni", {}).get("enis", {}).keys() - shown.keys()
        enis_patch = {**dict.fromkeys(gone), **shown}
        self._admin.patch(f"{PATH}/status", {"status": {"eni": {"enis": enis_patch}}})
        pool: dict[str, Any] = dict.fromkeys(before["spec"].get("ipam", {}).get("pool", {}))
        pool |= {address: {"resource": each["id"]} for each in enis for address in each["addresses"]}
        self._admin.patch(PATH, {"spec": {"ipam": {"pool": pool}}})

    def mark(self, words: Mapping[str, str | None]) -> None:
        self._admin.patch(f"{PATH}/status", {"status": {"ipam": {"release-ips": dict(words)}}})

    def words(self) -> dict[str, str]:
        return dict(self.status().get("release-ips", {}))

    def used(self) -> dict[str, str]:
        return {address: entry["owner"] for address, entry in self.status().get("used", {}).items()}


def addresses(*numbers: int) -> list[str]:
    return [f"10.0.1.{number}" for number in numbers]


def test_addresses_are_given_reported_and_kept_through_the_handshake(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    made = machine(admin)
    operator = Operator(admin)
    with agent(kube, tmp_path / "agent", AWS) as one:
        one.until(lambda: admin.exists(PATH), "the agent makes its object")
        node = operator.node()
        assert node["spec"]["instance-id"] == INSTANCE
        assert node["spec"]["eni"]["availability-zone"] == "us-east-1a"
        assert node["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
        one.until(lambda: "used" in operator.status(), "that nothing is used is said")

        operator.attach(eni(0, addresses(1, 2, 3)))
        one.until_ready()
        first = one.add("c1")["ipv4"]
        second = one.add("c2")["ipv4"]
        assert {first, second} < set(addresses(1, 2, 3))
        one.until(
            lambda: operator.used() == {first: "shop/c1", second: "shop/c2"}, "the operator sees both used"
        )
        assert operator.status()["used"][first]["resource"] == ENI

        # Both are wanted back, and what is free: only that is given.
        (free,) = set(addresses(1, 2, 3)) - {first, second}
        operator.mark({first: MARKED, free: MARKED, "10.0.1.99": MARKED})
        one.until(
            lambda: operator.words() == {first: KEPT, free: READY, "10.0.1.99": KEPT}, "marks are answered"
        )
        status, _ = one.put("c3", wait_s=0)
        assert status == 503, "what is ready to go is not given"
        assert one.put("c3", address={"ipv4": free}, wait_s=0)[0] == 409

        # Neither after a kill.
        one.kill()
    with agent(kube, tmp_path / "agent", AWS) as one:
        one.until_ready()
        assert one.put("c3", wait_s=0)[0] == 503
        assert one.add("c1")["ipv4"] == first
        operator.mark({first: None, "10.0.1.99": None, free: None})  # it has changed its mind
        one.until(lambda: one.put("c3", wait_s=0)[0] in (200, 201), "what is not wanted any more is given")
        assert one.add("c3")["ipv4"] == free
        assert one.delete("c3") == 204
        one.until(lambda: free not in operator.used(), "it is used no more")

        def marked_until_ready() -> bool:
            word = operator.words().get(free)
            if word in (None, KEPT):  # for a moment it cools
                operator.mark({free: None})
                operator.mark({free: MARKED})
            return word == READY

        one.until(marked_until_ready, "ready")
        operator.attach(eni(0, [first, second]))
        operator.mark({free: RELEASED})
        one.until(lambda: not operator.words(), "what is released is struck out")
        assert one.stop() == 0
        assert "Traceback" not in one.text()


def test_a_waiting_pod_is_served_when_an_address_comes(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    machine(admin)
    operator = Operator(admin)
    with agent(kube, tmp_path / "agent", AWS) as one:
        one.until(
            lambda: admin.exists(PATH) and one.put("c1", wait_s=0)[1]["reason"] == "Exhausted", "it is made"
        )
        # An address whose interface is not shown yet is nobody's.
        admin.patch(PATH, {"spec": {"ipam": {"pool": {"10.0.1.7": {"resource": ENI}}}}})
        assert one.put("c1", wait_s=0.3)[0] == 503
        operator.attach(eni(0, ["10.0.1.7"]))
        status, answer = one.put("c1")
        assert (status, answer["addresses"][0]["address"]) == (201, "10.0.1.7")


def test_its_object_is_deleted_and_comes_back_with_what_is_used(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    machine(admin)
    operator = Operator(admin)
    with agent(kube, tmp_path / "agent", AWS) as one:
        one.until(lambda: admin.exists(PATH), "it is made")
        operator.attach(eni(0, addresses(1, 2)))
        one.until_ready()
        first = one.add("c1")["ipv4"]
        one.until(lambda: operator.used(), "said")
        uid = operator.node()["metadata"]["uid"]
        admin.delete(PATH)
        one.until(lambda: admin.exists(PATH) and operator.node()["metadata"]["uid"] != uid, "made anew")
        one.until(lambda: operator.used() == {first: "shop/c1"}, "with what is used")
        operator.mark({first: MARKED})
        operator.attach(eni(0, addresses(1, 2)))
        one.until(lambda: operator.words().get(first) == KEPT, "kept")
        assert one.add("c1")["ipv4"] == first


def test_an_object_without_instance_gets_it_and_keeps_what_a_person_said(
    kube: Cluster, tmp_path: Path
) -> None:
    admin = kube.admin
    machine(admin)
    spec = {"eni": {"availability-zone": "mine", "subnet-ids": ["subnet-9"]}, "ipam": {"pre-allocate": 4}}
    admin.post(
        CILIUM_NODES,
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "a"}, "spec": spec},
    )
    with agent(kube, tmp_path / "agent", AWS, "--ipam-min-allocate=3") as one:
        one.until(lambda: Operator(admin).node()["spec"].get("instance-id") == INSTANCE, "it has an instance")
        said = Operator(admin).node()["spec"]
        assert said["eni"]["availability-zone"] == "mine"
        assert said["eni"]["subnet-ids"] == ["subnet-9"]
        assert said["ipam"]["pre-allocate"] == 4
        assert said["ipam"]["min-allocate"] == 3


def test_cidrs_are_listed_given_up_and_taken_back(kube: Cluster, tmp_path: Path) -> None:
    admin = kube.admin
    machine(admin)
    operator = Operator(admin)

    def listed() -> list[str]:
        return [cidr for entry in operator.pools().get("allocated", []) for cidr in entry["cidrs"]]

    def wanted() -> int:
        return sum(each["needed"]["ipv4-addrs"] for each in operator.pools().get("requested", []))

    prefixes = ["10.0.2.0/28", "10.0.2.16/28"]
    flags = (AWS, "--cloud-form=cidrs", "--ipam-multi-pool-pre-allocation=default=4")
    with agent(kube, tmp_path / "agent", *flags) as one:
        one.until(lambda: admin.exists(PATH) and wanted() == 4, "it asks for what it has ready")
        admin.patch(f"{PATH}/status", {"status": {"ipam": {"used": {"10.0.2.3": {"owner": "of/old"}}}}})
        operator.attach(eni(0, ["10.0.1.1"], prefixes=prefixes), eni(1, ["10.0.1.2"], tags={"omnipam": "no"}))
        one.until(lambda: len(listed()) < 4, "more than is needed is given up")
        assert set(listed()) <= {"10.0.1.1/32", "10.0.1.2/32", *prefixes}
        one.until(lambda: not operator.status().get("used"), "used is of the other form, and cleared")
        given = [one.add(f"c{n}")["ipv4"] for n in range(3)]
        one.until(lambda: wanted() == 7, "three, and four ready")
        assert len(set(given)) == 3
        one.kill()
    with agent(kube, tmp_path / "agent", AWS, "--ipam-multi-pool-pre-allocation=default=20") as one:
        one.until_ready()  # the form is what the object shows
        one.until(lambda: wanted() == 23, "three, and twenty ready")
        one.until(lambda: set(listed()) >= set(prefixes), "what was given up is listed again")
        assert [one.add(f"c{n}")["ipv4"] for n in range(3)] == given
        assert one.stop() == 0
        assert "Traceback" not in one.text()
