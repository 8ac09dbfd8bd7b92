"""The whole node side: the real agent and the real plugin under `ptp`, in real network namespaces, from three pools."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.agent_process import AgentProcess
from tests.kube.admin import wait_until
from tests.node.netns import Failed, Host, Pod
from tests.node.test_netns import text
from tests.operator_process import OperatorProcess

POOLS = (
    "default=ipv4-cidrs:10.60.0.0/16;ipv4-mask-size:28,blue=ipv4-cidrs:10.61.0.0/16;ipv4-mask-size:28,"
    "red=ipv4-cidrs:10.62.0.0/16;ipv4-mask-size:26"
)
NAMES = ("default", "blue", "red")
FIRST = {"default": "10.60.", "blue": "10.61.", "red": "10.62."}


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[OperatorProcess]:
    store = f"--store=sqlite:///{tmp_path / 'omnipam.db'}"
    made = f"--auto-create-cilium-pod-ip-pools={POOLS}"
    with OperatorProcess(tmp_path / "op", "--ipam=multi-pool", store, made) as running:
        yield running.until_leading()


def agent(tmp_path: Path) -> AgentProcess:
    """Its socket and state are where the host's plugins look for them."""
    store = f"--store=sqlite:///{tmp_path / 'omnipam.db'}"
    often = "--ipam-cilium-node-update-rate=200ms"
    return AgentProcess(tmp_path, "--ipam=multi-pool", store, "--cool-down=0s", often)


def add(host: Host, pool: str, pod: Pod) -> str:
    """Its address; tried again after a DEL, once an agent is there, as a runtime does. Raises Failed after a while."""
    conf = host.conf("ptp", ipam={"pool": pool})
    deadline = time.monotonic() + 60.0
    while True:
        try:
            (ip,) = host.call("ADD", conf, pod)["ips"]
        except Failed:
            if time.monotonic() > deadline:
                raise
            host.call("DEL", conf, pod)
            wait_until(host.socket.exists, "an agent listens again")
        else:
            return text(ip["address"])


def delete(host: Host, pool: str, pod: Pod) -> None:
    host.call("DEL", host.conf("ptp", ipam={"pool": pool}), pod)


def test_three_pools_through_kills_and_all_is_given_back(
    host: Host, operator: OperatorProcess, tmp_path: Path
) -> None:
    rng = random.Random(4)
    running = agent(tmp_path).until_ready()
    try:
        pods = [(NAMES[number % 3], host.pod(f"shop/web-{number}")) for number in range(99)]
        given: dict[str, str] = {}
        with ThreadPoolExecutor(12) as at_once:
            for start in range(0, len(pods), 12):
                batch = pods[start : start + 12]
                futures = [at_once.submit(add, host, pool, pod) for pool, pod in batch]
                if start in (12, 24):  # while they come in
                    before = len(running.held())
                    some = before + rng.randrange(1, 4)
                    wait_until(lambda now=running, some=some: len(now.held()) >= some, "some are in")
                    running.kill()
                    running = agent(tmp_path).until_ready()
                for (pool, pod), future in zip(batch, futures, strict=True):
                    given[pod.name] = future.result()
                    assert given[pod.name].startswith(FIRST[pool])
        assert len(set(given.values())) == len(pods), "no address is two's"
        held = {container: addresses["ipv4"] for container, addresses in running.held().items()}
        assert held == given
        for _, pod in pods:
            assert [text(each) for each in host.addresses(pod)] == [given[pod.name]]
        first = given[pods[0][1].name]
        for _, pod in pods[1:4]:
            assert host.reaches(pod, first), "across pools and blocks"
        with ThreadPoolExecutor(12) as at_once:
            list(at_once.map(lambda each: delete(host, *each), pods))
        assert running.held() == {}
        assert host.links() == set()
        running.until(
            lambda: {each["pool"] for each in running.status()[1]["pools"]} == {"default"},
            "blue and red are given up",
        )
        assert running.stop() == 0
    finally:
        running.kill()


def test_a_full_pool_is_an_error_that_says_so(host: Host, operator: OperatorProcess, tmp_path: Path) -> None:
    with agent(tmp_path).until_ready():
        conf = host.conf("ptp", ipam={"pool": "nowhere"})
        with pytest.raises(Failed) as unknown:
            host.call("ADD", conf, host.pod("shop/web"))
        assert unknown.value.code == 7
        pod = host.pod("shop/static")
        host.call("ADD", host.conf("ptp"), host.pod("shop/first"))
        with pytest.raises(Failed) as outside:
            host.call("ADD", host.conf("ptp") | {"runtimeConfig": {"ips": ["10.99.0.9/28"]}}, pod)
        assert outside.value.code == 7
