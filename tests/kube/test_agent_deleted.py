"""A CiliumNode deleted while its agent was down, and made anew with a block that another has by now: the operator's contest decides."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.kube.cluster import Cluster
from tests.kube.operated import CILIUM_NODES, add_machine, events, operator, pod_cidrs
from tests.kube.test_agent import MULTI, NO_GC, OFTEN, agent, kube
from tests.kube.test_multi_pool import allocated, pool, set_allocated

__all__ = ["kube"]

RANGE = "10.10.0.0/25"
CLUSTER_POOL = (
    *(f"--cluster-pool-ipv4-cidr={RANGE}", "--cluster-pool-ipv4-mask-size=28"),
    "--cluster-pool-max-blocks-per-node=8",
)


@pytest.mark.parametrize("pooled", [True, False])
def test_what_others_got_meanwhile_is_theirs_and_nothing_else_is(
    kube: Cluster, tmp_path: Path, pooled: bool
) -> None:
    admin = kube.admin
    for name in "ab":
        add_machine(admin, name)
    if pooled:
        pool(admin, "default", RANGE)
    flags = (MULTI,) if pooled else CLUSTER_POOL
    sparing = (MULTI, "--ipam-multi-pool-pre-allocation=default=1") if pooled else ()

    def held(name: str) -> list[str]:
        return allocated(admin, name).get("default", []) if pooled else pod_cidrs(admin, name)

    with agent(kube, tmp_path / "b", *sparing, node="b") as other:
        with operator(kube, tmp_path / "op", *flags, NO_GC, OFTEN) as op:
            op.until_leading()
            other.until_ready().add("x0", "infra")
            with agent(kube, tmp_path / "a", *sparing) as one:
                one.until_ready()
                given = {f"c{n}": one.add(f"c{n}", "infra") for n in range(33)}
        before = held("a")
        admin.delete(f"{CILIUM_NODES}/a")
        for n in range(12):  # its first block is full: it does not give up a second one
            other.add(f"w{n}", "infra")
        lost = before[0]  # an operator that does not know of node a could grant it
        if pooled:
            set_allocated(admin, "b", [{"pool": "default", "cidrs": [*held("b"), lost]}])
        else:
            admin.patch(f"{CILIUM_NODES}/b", {"spec": {"ipam": {"podCIDRs": [*held("b"), lost]}}})
        number = 1
        while not any(_within(each["ipv4"], lost) for each in other.held().values()):
            other.add(f"x{number}", "infra")
            number += 1
        with (
            agent(kube, tmp_path / "a", *sparing) as one,
            operator(kube, tmp_path / "op", *flags, NO_GC, OFTEN) as op,
        ):
            one.until(lambda: events(admin, "AlreadyAllocated"), "it is said")
            one.until(lambda: lost not in held("a"), "whose it is")
            assert set(held("a")) >= set(before) - {lost}
            for _ in range(200):
                status, _answer = other.put(f"x{number}", "infra", wait_s=2)
                if status == 503:
                    break
                number += 1
            assert status == 503, "the pool is exhausted"
            assert lost in held("b")
            theirs = {each["ipv4"] for each in other.held().values()}
            twice = {each["ipv4"] for each in given.values()} & theirs
            assert [each for each in twice if not _within(each, lost)] == []
            assert {each: one.held()[each] for each in given} == given
            assert {event["involvedObject"]["name"] for event in events(admin, "AlreadyAllocated")} == {"a"}


def _within(address: str, cidr: str) -> bool:
    return ip_address(address) in ip_network(cidr)
