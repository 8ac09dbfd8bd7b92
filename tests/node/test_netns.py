"""Pods in real network namespaces get their addresses through real main plugins that delegate to `omnipam-cni`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from pathlib import Path

import pytest
from tests.node.netns import Failed, Host, obstacle
from tests.unit.cni.standin import StandIn, drop, lose_reply

NO_NAMESPACES = "no network namespaces to test in: "
POOLS = {
    "default": ("10.0.7.0/24",),
    "blue": ("10.1.0.0/29", "10.1.0.8/29", "10.1.0.32/28"),
    "red": ("10.2.0.0/28",),
}


@pytest.fixture(scope="module")
def _namespaces() -> None:
    reason = obstacle()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(NO_NAMESPACES + reason)
    if reason:
        pytest.skip(NO_NAMESPACES + reason)


@pytest.fixture
def host(_namespaces: None, tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as running:
        yield running


@pytest.fixture
def agent(host: Host) -> Iterator[StandIn]:
    with StandIn(host.socket, POOLS) as running:
        running.choose = lambda owner: owner.partition("/")[0]  # as a namespace's annotation would
        yield running


def text(address: str) -> str:
    return str(ip_interface(address).ip)


def test_a_bridge_a_pool(host: Host, agent: StandIn) -> None:
    """bridge allows one gateway on a bridge: pools whose blocks differ take one each."""
    confs = {
        pool: host.conf("bridge", f"net-{pool}", bridge=f"br-{pool}", isGateway=True, ipam={"pool": pool})
        for pool in ("default", "red")
    }
    pods = {(pool, n): host.pod(f"shop/{pool}-{n}") for pool in confs for n in range(2)}
    given = {}
    for (pool, n), pod in pods.items():
        (ip,) = host.call("ADD", confs[pool], pod)["ips"]
        given[pool, n] = text(ip["address"])
        assert host.addresses(pod) == [ip["address"]]
    assert given == {
        ("default", 0): "10.0.7.2",
        ("default", 1): "10.0.7.3",
        ("red", 0): "10.2.0.2",
        ("red", 1): "10.2.0.3",
    }
    for pod in pods.values():
        assert [address for address in given.values() if not host.reaches(pod, address)] == []
    for (pool, _), pod in pods.items():
        host.call("DEL", confs[pool], pod)
        assert host.addresses(pod) == []
    assert agent.held == {}


def test_ptp_serves_several_pools_and_blocks_on_one_network(host: Host, agent: StandIn) -> None:
    conf = host.conf("ptp")
    pods = [host.pod(f"{pool}/web-{n}") for pool, count in (("blue", 7), ("red", 2)) for n in range(count)]
    given = {}
    for pod in pods:
        result = host.call("ADD", conf, pod)
        (ip,) = result["ips"]
        given[pod] = text(ip["address"])
        assert host.addresses(pod) == [ip["address"]]
        host.call("CHECK", conf | {"prevResult": result}, pod)
    blocks = {str(ip_interface(f"{address}/29").network) for address in given.values()}
    assert blocks == {"10.1.0.0/29", "10.1.0.8/29", "10.2.0.0/29"}, "two blocks of blue, one of red"
    one, other = given[pods[0]], given[pods[-1]]
    for pod in pods:
        assert host.reaches(pod, one)
        assert host.reaches(pod, other)
    for pod in pods:
        host.call("DEL", conf, pod)
        host.call("DEL", conf, pod)
    assert agent.held == {}
    assert host.links() == set()


def test_both_families(host: Host, agent: StandIn) -> None:
    agent.pools["both"] = ("10.3.0.0/28", "fd00:3::/120")
    ipam = {"pool": {"ipv4": "both", "ipv6": "both"}, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    conf = host.conf("ptp", ipam=ipam)
    pods = [host.pod(f"shop/web-{n}") for n in range(2)]
    given = [[text(ip["address"]) for ip in host.call("ADD", conf, pod)["ips"]] for pod in pods]
    assert given == [["10.3.0.2", "fd00:3::2"], ["10.3.0.3", "fd00:3::3"]]
    for address in given[1]:
        assert host.reaches(pods[0], address)
    for pod in pods:
        host.call("DEL", conf, pod)
    assert agent.held == {}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize("main", ["ptp", "bridge"])
def test_main_plugins_take_the_answer_in_every_version(
    host: Host, agent: StandIn, main: str, version: str
) -> None:
    conf = host.conf(main, isGateway=True, ipam={"pool": "red"}) | {"cniVersion": version}
    pod = host.pod("shop/web-0")
    result = host.call("ADD", conf, pod)
    assert [ip["address"] for ip in result["ips"]] == host.addresses(pod) == ["10.2.0.2/28"]
    if version != "0.3.1":
        host.call("CHECK", conf | {"prevResult": result}, pod)
    host.call("DEL", conf | {"prevResult": result}, pod)
    assert agent.held == {}


def test_a_static_address(host: Host, agent: StandIn) -> None:
    conf = host.conf("ptp") | {"runtimeConfig": {"ips": ["10.2.0.9/28"]}}
    pod = host.pod("red/web-0")
    host.call("ADD", conf, pod)
    assert host.addresses(pod) == ["10.2.0.9/28"]
    with pytest.raises(Failed) as refused:
        host.call("ADD", conf | {"runtimeConfig": {"ips": ["10.1.0.9"]}}, host.pod("red/web-1"))
    assert (refused.value.code, refused.value.details) == (7, "10.1.0.9 is outside pool red")


def test_the_plugin_s_error_reaches_the_runtime_whole(host: Host, agent: StandIn) -> None:
    agent.pools["tiny"] = ("10.4.0.0/30",)
    conf = host.conf("ptp")
    host.call("ADD", conf, host.pod("tiny/web-0"))
    with pytest.raises(Failed) as full:
        host.call("ADD", conf, host.pod("tiny/web-1"))
    assert (full.value.code, full.value.msg) == (11, "no address available yet")
    assert full.value.details.startswith("pool tiny has no free ipv4 address")
    with pytest.raises(Failed) as unknown:
        host.call("ADD", host.conf("ptp", ipam={"pool": "none"}), host.pod("shop/web-2"))
    assert unknown.value.code == 7


@pytest.mark.parametrize("fault", [lose_reply, drop], ids=["after", "before"])
def test_the_agent_dies_around_an_allocation(host: Host, agent: StandIn, fault: object) -> None:
    """The runtime deletes what failed, while no agent runs, and tries again with another container."""
    conf = host.conf("ptp")
    first, second = host.pod("red/web-0"), host.pod("red/web-0")
    agent.faults.append(fault)
    with pytest.raises(Failed) as lost:
        host.call("ADD", conf, first)
    assert lost.value.code == 11
    agent.close()
    host.call("DEL", conf, first)
    with StandIn(host.socket, POOLS) as again:
        again.choose, again.held = agent.choose, agent.held  # what it had made durable
        host.call("ADD", conf, second)
        assert [key[1] for key in again.held] == [second.name]
        host.call("DEL", conf, second)
        assert again.held == {}
    assert host.links() == set()
    assert [path.name for path in (host.state / "deletions").iterdir()] == ["lock"]


def test_pods_go_while_the_agent_is_away(host: Host, agent: StandIn) -> None:
    conf = host.conf("ptp")
    pods = [host.pod(f"red/web-{n}") for n in range(3)]
    for pod in pods:
        host.call("ADD", conf, pod)
    agent.close()
    for pod in pods:
        host.call("DEL", conf, pod)
    assert host.links() == set(), "no pod hangs because the agent does"
    with StandIn(host.socket, POOLS) as again:
        again.choose, again.held = agent.choose, agent.held
        host.call("DEL", conf, pods[0])
        assert again.held == {}


def test_two_hundred_at_once_leave_nothing_behind(host: Host, agent: StandIn) -> None:
    conf = host.conf("ptp")
    pods = [host.pod(f"default/web-{n}") for n in range(200)]
    with ThreadPoolExecutor(len(pods)) as at_once:
        results = list(at_once.map(lambda pod: host.call("ADD", conf, pod), pods))
        given = [text(ip["address"]) for result in results for ip in result["ips"]]
        assert len(set(given)) == len(pods)
        assert sorted(given) == sorted(agent.addresses)
        assert len(host.links()) == len(pods)
        list(at_once.map(lambda pod: host.call("DEL", conf, pod), pods))
    assert agent.held == {}
    assert host.links() == set()
    assert not (host.state / "deletions").exists(), "nothing had to wait"
