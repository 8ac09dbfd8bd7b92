"""Addresses of a cloud's interfaces on real ones, under `ptp`: single ones with the next hop of the interface's subnet."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.node.netns import Host
from tests.unit.agent.house import House

from omnipam.core.cidr import parse, parse_address
from omnipam.core.uplink import Uplink

ADDRESSES = ["10.7.0.20/32", "10.7.0.21/32", "fd07::20/128", "fd07::21/128"]
ENI = Uplink(
    "eni-1",
    number=1,
    mac="0a:00:00:00:00:01",
    gateways={"ipv4": parse_address("10.7.0.1"), "ipv6": parse_address("fd07::1")},
    addresses=tuple(map(parse, ADDRESSES)),
)


async def test_single_addresses_under_ptp(host: Host, tmp_path: Path) -> None:
    conf = host.conf("ptp", ipam={"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}], "onLink": True})
    first, second = host.pod("shop/web-0"), host.pod("shop/web-1")
    async with House(
        tmp_path, {"default": ADDRESSES}, families=("ipv4", "ipv6"), uplinks=[ENI], cool_down_s=0.0
    ) as house:
        for pod, last in ((first, "20"), (second, "21")):
            result = await asyncio.to_thread(host.call, "ADD", conf, pod)
            ips = [(ip["address"], ip["gateway"]) for ip in result["ips"]]
            assert ips == [(f"10.7.0.{last}/27", "10.7.0.1"), (f"fd07::{last}/122", "fd07::1")]
            assert host.addresses(pod) == [address for address, _ in ips]
            await asyncio.to_thread(host.call, "CHECK", conf | {"prevResult": result}, pod)
        assert await asyncio.to_thread(host.reaches, first, "10.7.0.21")
        assert await asyncio.to_thread(host.reaches, second, "fd07::20")
        for pod in (first, second):
            await asyncio.to_thread(host.call, "DEL", conf, pod)
        assert list(house.agent.allocations) == []
    assert host.links() == set()


async def test_the_router_of_aws_s_subnets(host: Host, tmp_path: Path) -> None:
    """It is on the link, so a /128 needs nothing to reach it."""
    conf = host.conf("ptp", ipam={"routes": [{"dst": "::/0"}]})
    pods = [host.pod(f"shop/web-{n}") for n in range(2)]
    eni = Uplink("eni-1", gateways={"ipv6": parse_address("fe80:ec2::1")}, addresses=ENI.addresses)
    async with House(
        tmp_path, {"default": ADDRESSES}, families=("ipv6",), uplinks=[eni], cool_down_s=0.0
    ) as house:
        for pod in pods:
            (ip,) = (await asyncio.to_thread(host.call, "ADD", conf, pod))["ips"]
            assert (ip["address"], ip["gateway"]) == (host.addresses(pod)[0], "fe80:ec2::1")
        assert await asyncio.to_thread(host.reaches, pods[0], "fd07::21")
        for pod in pods:
            await asyncio.to_thread(host.call, "DEL", conf, pod)
        assert list(house.agent.allocations) == []
