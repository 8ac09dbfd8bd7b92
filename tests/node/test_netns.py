"""The whole way in cluster-pool mode: operator, node row, agent, plugin, an address on an interface in a real network namespace.

Real main plugins (`ptp`, `bridge`) delegate to `omnipam-cni`. Several pools: `test_agent`.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest
from tests.agent_process import AgentProcess
from tests.kube.admin import wait_until
from tests.node.netns import Failed, Host
from tests.operator_process import OperatorProcess

from omnipam.runtime.sqlite.store import SqliteStore

BLOCK = "--cluster-pool-ipv4-mask-size=24"
BOTH = "--enable-ipv6=true"


class Node:
    """One node with its cluster: operator, store, agent, and the host's namespace that the plugins run in."""

    def __init__(self, host: Host, folder: Path, *flags: str) -> None:
        self.host, self._folder = host, folder
        self.url = f"sqlite:///{folder / 'omnipam.db'}"
        self._flags = (f"--store={self.url}", *flags)
        self.operator = OperatorProcess(folder / "op", *self._flags)
        self.agent = self._start()

    def _start(self) -> AgentProcess:
        """Its socket and state are where the host's plugins look for them."""
        flags = [flag for flag in self._flags if not flag.startswith("--cluster-pool")]
        return AgentProcess(self._folder, *flags, "--cool-down=0s", "--allocation-wait=1s")

    def until_ready(self) -> None:
        self.operator.until_leading()
        self.agent.until_ready()
        families = 2 if BOTH in self._flags else 1
        self.agent.until(lambda: len(self.agent.status()[1]["pools"]) == families, "the agent has its blocks")

    def revive(self) -> None:
        """The agent's next life."""
        self.agent.kill()
        self.agent = self._start().until_ready()

    def kill(self) -> None:
        self.agent.kill()
        self.operator.kill()

    @property
    def blocks(self) -> list[str]:
        """What the node's row shows."""
        with SqliteStore(self.url) as store:
            row = store.node("node-1")
        return [str(block.cidr) for block in row.holds.blocks] if row is not None else []


@pytest.fixture
def node(host: Host, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    running = Node(host, tmp_path, *getattr(request, "param", (BLOCK,)))
    try:
        running.until_ready()
        yield running
    finally:
        running.kill()


def text(address: str) -> str:
    return str(ip_interface(address).ip)


def test_from_the_operator_to_an_interface_and_back(node: Node) -> None:
    host, conf = node.host, node.host.conf("ptp")
    pods = [host.pod(f"shop/web-{n}") for n in range(2)]
    (block,) = node.blocks
    for pod in pods:
        result = host.call("ADD", conf, pod)
        (ip,) = result["ips"]
        assert host.addresses(pod) == [ip["address"]]
        assert str(ip_interface(ip["address"]).network) == block, "it is of the block that the row shows"
        assert ip["gateway"] == str(ip_network(block)[1])
        host.call("CHECK", conf | {"prevResult": result}, pod)
        assert node.agent.held()[pod.name] == {"ipv4": text(ip["address"])}
    assert host.reaches(pods[0], text(host.addresses(pods[1])[0]))
    for pod in pods:
        host.call("DEL", conf, pod)
        host.call("DEL", conf, pod)
        assert host.addresses(pod) == []
    assert node.agent.held() == {}
    assert host.links() == set()


def test_a_bridge(node: Node) -> None:
    host = node.host
    conf = host.conf("bridge", bridge="br-pods", isGateway=True)
    pods = [host.pod(f"shop/web-{n}") for n in range(3)]
    given = [text(host.call("ADD", conf, pod)["ips"][0]["address"]) for pod in pods]
    assert len(set(given)) == 3
    for pod in pods:
        assert [address for address in given if not host.reaches(pod, address)] == []
    for pod in pods:
        host.call("DEL", conf, pod)
        assert host.addresses(pod) == []
    assert node.agent.held() == {}


@pytest.mark.parametrize("node", [(BLOCK, BOTH)], indirect=True)
def test_who_is_behind_a_bridge_is_known_to_be_there(node: Node) -> None:
    """As the agent's search for leaks asks, from the host's namespace."""
    host = node.host
    conf = host.conf("bridge", bridge="br-pods", isGateway=True)
    stays, goes = host.pod("shop/stays"), host.pod("shop/goes")
    given = {pod: [text(ip["address"]) for ip in host.call("ADD", conf, pod)["ips"]] for pod in (stays, goes)}
    show = ("ip", "-6", "address", "show", "dev", "br-pods")
    wait_until(lambda: "tentative" not in host.run(*show), "the bridge may use its IPv6 address")
    host.call("DEL", conf, goes)
    program = (
        "import asyncio, sys; from omnipam.core.cidr import parse_address as read;"
        "from omnipam.runtime.agent.neighbours import answering;"
        "places = {(read(each).bits, read(each).first): each for each in sys.argv[1:]};"
        "print(*(places[each] for each in asyncio.run(answering(places))))"
    )
    said = host.run(sys.executable, "-c", program, *given[stays], *given[goes])
    assert sorted(said.split()) == sorted(given[stays])


@pytest.mark.parametrize("node", [(BLOCK, BOTH)], indirect=True)
def test_both_families(node: Node) -> None:
    host = node.host
    conf = host.conf("ptp", ipam={"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
    pods = [host.pod(f"shop/web-{n}") for n in range(2)]
    given = [[text(ip["address"]) for ip in host.call("ADD", conf, pod)["ips"]] for pod in pods]
    assert [[":" in address for address in each] for each in given] == [[False, True]] * 2
    for address in given[1]:
        assert host.reaches(pods[0], address)
    for pod in pods:
        host.call("DEL", conf, pod)
    assert node.agent.held() == {}


def test_main_plugins_take_the_answer_in_every_version(node: Node) -> None:
    host = node.host
    for main in ("ptp", "bridge"):
        for version in ("0.3.1", "0.4.0", "1.0.0"):
            conf = host.conf(main, f"{main}-{version}", isGateway=True) | {"cniVersion": version}
            pod = host.pod("shop/web-0")
            result = host.call("ADD", conf, pod)
            assert [ip["address"] for ip in result["ips"]] == host.addresses(pod) != []
            if version != "0.3.1":
                host.call("CHECK", conf | {"prevResult": result}, pod)
            host.call("DEL", conf | {"prevResult": result}, pod)
            assert node.agent.held() == {}, (main, version)


def test_a_static_address(node: Node) -> None:
    host = node.host
    (block,) = node.blocks
    wanted = f"{ip_network(block)[9]}/24"
    conf = host.conf("ptp") | {"runtimeConfig": {"ips": [wanted]}}
    pod = host.pod("shop/web-0")
    host.call("ADD", conf, pod)
    assert host.addresses(pod) == [wanted]
    with pytest.raises(Failed) as taken:
        host.call("ADD", conf, host.pod("shop/web-1"))
    assert taken.value.code == 102
    with pytest.raises(Failed) as outside:
        host.call("ADD", conf | {"runtimeConfig": {"ips": ["10.250.0.9"]}}, host.pod("shop/web-2"))
    assert (outside.value.code, outside.value.details) == (
        7,
        "10.250.0.9 is outside pool default on this node",
    )


@pytest.mark.parametrize("node", [("--cluster-pool-ipv4-mask-size=30",)], indirect=True)
def test_the_plugin_s_error_reaches_the_runtime_whole(node: Node) -> None:
    host, conf = node.host, node.host.conf("ptp")
    host.call("ADD", conf, host.pod("shop/web-0"))
    with pytest.raises(Failed) as full:
        host.call("ADD", conf, host.pod("shop/web-1"))
    assert (full.value.code, full.value.msg) == (11, "no address available yet")
    assert full.value.details.startswith("pool default has no free ipv4 address: 1 of 1 in use")
    with pytest.raises(Failed) as unknown:
        host.call("ADD", host.conf("ptp", ipam={"pool": "none"}), host.pod("shop/web-2"))
    assert unknown.value.code == 7


def test_the_agent_dies_between_an_allocation_and_its_answer(node: Node) -> None:
    """The runtime asks again, and gets what was given before; or deletes while no agent runs, and takes another container."""
    host, conf = node.host, node.host.conf("ptp")
    first, second = host.pod("shop/web-0"), host.pod("shop/web-0")
    with socket.socket(socket.AF_UNIX) as unheard:  # a plugin that is not to hear the answer
        unheard.connect(str(host.socket))
        target = f"/v1/allocations/podnet/{first.name}/eth0"
        content = b'{"owner": "shop/web-0"}'
        head = f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
        unheard.sendall(head.encode() + content)
        node.agent.until(lambda: node.agent.held(), "it is allocated")
        given = node.agent.held()[first.name]
        node.agent.kill()
    host.call("DEL", conf, host.pod("shop/never-added"))
    node.revive()
    (ip,) = host.call("ADD", conf, first)["ips"]
    assert text(ip["address"]) == given["ipv4"]
    node.agent.kill()
    host.call("DEL", conf, first)
    node.revive()
    host.call("ADD", conf, second)
    assert set(node.agent.held()) == {second.name}
    host.call("DEL", conf, second)
    assert node.agent.held() == {}
    assert host.links() == set()
    assert [path.name for path in (host.state / "deletions").iterdir()] == ["lock"]


def test_pods_go_while_the_agent_is_away(node: Node) -> None:
    host, conf = node.host, node.host.conf("ptp")
    pods = [host.pod(f"shop/web-{n}") for n in range(3)]
    for pod in pods:
        host.call("ADD", conf, pod)
    node.agent.kill()
    for pod in pods:
        host.call("DEL", conf, pod)
    assert host.links() == set(), "no pod hangs because the agent does"
    node.revive()
    assert node.agent.held() == {}


def test_two_hundred_at_once_leave_nothing_behind(node: Node) -> None:
    host, conf = node.host, node.host.conf("ptp")
    pods = [host.pod(f"shop/web-{n}") for n in range(200)]
    with ThreadPoolExecutor(len(pods)) as at_once:
        results = list(at_once.map(lambda pod: host.call("ADD", conf, pod), pods))
        given = [text(ip["address"]) for result in results for ip in result["ips"]]
        assert len(set(given)) == len(pods)
        assert sorted(given) == sorted(held["ipv4"] for held in node.agent.held().values())
        assert len(host.links()) == len(pods)
        list(at_once.map(lambda pod: host.call("DEL", conf, pod), pods))
    assert node.agent.held() == {}
    assert host.links() == set()
    assert not list((host.state / "deletions").glob("*.json")), "nothing had to wait"


ROUTES = {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}


@pytest.mark.parametrize("node", [(BLOCK,), (BLOCK, BOTH)], ids=["ipv4", "dual"], indirect=True)
@pytest.mark.parametrize(
    "kind", [{"type": "ptp"}, {"type": "bridge", "bridge": "br-pods", "isGateway": True}]
)
def test_default_routes_of_the_families_that_a_pod_has(node: Node, kind: dict[str, object]) -> None:
    host = node.host
    conf = host.conf(str(kind["type"]), ipam=ROUTES) | kind
    pod = host.pod("shop/web-0")
    families = {ip_interface(ip["address"]).version for ip in host.call("ADD", conf, pod)["ips"]}
    for version in (4, 6):
        said = host.run("ip", "netns", "exec", pod.name, "ip", f"-{version}", "route", "show", "default")
        assert bool(said.strip()) == (version in families), said
    host.call("DEL", conf, pod)


def test_a_configured_gateway_is_no_pod_s(node: Node) -> None:
    host = node.host
    (block,) = node.blocks
    gateway = str(ip_network(block)[2])
    conf = host.conf("bridge", bridge="br-pods", isGateway=True, ipam={"gateway": gateway})
    pod = host.pod("shop/web-0")
    (ip,) = host.call("ADD", conf, pod)["ips"]
    assert (text(ip["address"]), ip["gateway"]) == (str(ip_network(block)[3]), gateway)
    assert host.reaches(pod, gateway)
    host.call("DEL", conf, pod)


def test_an_agent_starts_whatever_lies_among_the_releases(node: Node, tmp_path: Path) -> None:
    host, conf = node.host, node.host.conf("ptp")
    pod = host.pod("shop/web-0")
    host.call("ADD", conf, pod)
    node.agent.kill()
    host.call("DEL", conf, pod)
    odd = host.state / "deletions"
    (odd / "a.json").mkdir()
    (odd / "b.json").symlink_to("/nonexistent")
    os.mkfifo(odd / "c.json")
    node.revive()
    assert node.agent.held() == {}
    assert not list(odd.glob("*.json"))
    node.agent.kill()
    shutil.rmtree(odd)
    odd.touch()
    refused = node._start()
    assert refused.wait() != 0
    assert "releases wait there, and it is no directory" in refused.text()
    assert "Traceback" not in refused.text()
    odd.unlink()
