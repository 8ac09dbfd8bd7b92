"""Cilium's IPAM endpoints: their codes, shapes, and what they really do."""

from __future__ import annotations

from pathlib import Path

from tests.unit.agent.house import House

from omnipam.core.cidr import parse, parse_address
from omnipam.core.uplink import Uplink

BLOCKS = {"default": ["10.0.0.0/28", "fd00::/120"]}


async def test_both_families_with_expiration(tmp_path: Path) -> None:
    async with House(tmp_path, BLOCKS, families=("ipv4", "ipv6")) as house:
        status, answer = await house.ask("POST", "/v1/ipam?owner=shop%2Fcart", Expiration="true")
        assert status == 201
        token = answer["address"]["ipv4-expiration-uuid"]
        assert answer["address"] == {
            "ipv4": "10.0.0.2",
            "ipv4-pool-name": "default",
            "ipv4-expiration-uuid": token,
            "ipv6": "fd00::2",
            "ipv6-pool-name": "default",
            "ipv6-expiration-uuid": token,
        }
        assert answer["ipv4"] == {"ip": "10.0.0.2", "expiration-uuid": token}
        assert answer["host-addressing"]["ipv4"] == {
            "enabled": True,
            "ip": "10.0.0.1",
            "alloc-range": "10.0.0.0/28",
        }
        house.now += 599.0
        house.service.tick()
        assert len(list(house.agent.allocations)) == 1
        house.now += 1.0
        house.service.tick()
        assert list(house.agent.allocations) == []


async def test_one_that_is_claimed_in_time_stays(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        _, answer = await house.ask("POST", "/v1/ipam?owner=a%2Fb&family=ipv4", Expiration="true")
        token = answer["ipv4"]["expiration-uuid"]
        assert await house.ask("PUT", "/v1/ipam/10.0.0.2?uuid=other") == (
            409,
            "UUID mismatch, not stopping expiration timer",
        )
        assert (await house.ask("PUT", f"/v1/ipam/10.0.0.2?uuid={token}"))[0] == 200
        assert (await house.ask("PUT", f"/v1/ipam/10.0.0.2?uuid={token}"))[0] == 200, "its answer was lost"
        assert await house.ask("PUT", "/v1/ipam/10.0.0.2?uuid=other") == (
            404,
            "no expiration timer registered",
        )
        house.now += 6000.0
        house.service.tick()
        assert len(list(house.agent.allocations)) == 1


async def test_exactly_this_address(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        target = "/v1/ipam/10.0.0.9?owner=router"
        assert await house.ask("POST", target) == (
            500,
            'unable to restore IP 10.0.0.9 for "router": pool name must be provided',
        )
        assert (await house.ask("POST", f"{target}&pool=default"))[0] == 200
        assert await house.ask("POST", f"{target}&pool=default") == (
            500,
            "provided IP is already allocated",
        )
        assert await house.ask("POST", "/v1/ipam/nonsense?pool=default") == (
            500,
            "Invalid IP address: nonsense",
        )
        assert await house.ask("POST", "/v1/ipam/fd00::1?pool=default") == (500, "IPv6 allocation disabled")
        _, health = await house.ask("GET", "/v1/healthz")
        assert health["ipam"]["allocations"] == {"10.0.0.9": "router"}
        assert health["ipam"]["status"] == "IPv4: 1/13 allocated"


async def test_release(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.ask("POST", "/v1/ipam/10.0.0.9?owner=router&pool=default")
        await house.add("c1")
        assert await house.ask("DELETE", "/v1/ipam/nonsense") == (400, "Invalid IP address: nonsense")
        assert await house.ask("DELETE", "/v1/ipam/10.0.0.9") == (
            500,
            "no IPAM pool provided for IP release of 10.0.0.9",
        )
        assert await house.ask("DELETE", "/v1/ipam/10.0.0.10?pool=default") == (
            500,
            "IP is in use by endpoint net/c1/eth0",
        )
        assert (await house.ask("DELETE", "/v1/ipam/10.0.0.9?pool=default"))[0] == 200
        assert (await house.ask("DELETE", "/v1/ipam/10.0.0.9?pool=default"))[0] == 200, "a double free"
        assert [each.key[1] for each in house.agent.allocations] == ["c1"]


async def test_exhaustion_and_nonsense_are_strings(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/30"]}) as house:
        assert (await house.ask("POST", "/v1/ipam?owner=a%2Fb"))[0] == 201
        status, text = await house.ask("POST", "/v1/ipam?owner=a%2Fc")
        assert (status, text[:33]) == (502, "pool default has no free ipv4 add")
        assert await house.ask("POST", "/v1/ipam?family=ipx") == (
            502,
            'unknown address "ipx" family requested',
        )
        assert (await house.ask("PATCH", "/v1/ipam"))[0] == 405
        _, config = await house.ask("GET", "/v1/config")
        assert config["status"]["ipam-mode"] == "cluster-pool"


async def test_an_address_of_an_interface(tmp_path: Path) -> None:
    eni = Uplink(
        "eni-1",
        number=2,
        mac="0a:00:00:00:00:01",
        gateways={"ipv4": parse_address("10.7.0.1")},
        native=(parse("10.7.0.0/16"), parse("fd07::/56")),
        addresses=(parse("10.7.0.20/32"),),
    )
    async with House(tmp_path, {"default": ["10.7.0.20/32", "10.7.0.21/32"]}, uplinks=[eni]) as house:
        status, answer = await house.ask("POST", "/v1/ipam?owner=shop%2Fcart")
        assert status == 201
        assert answer["ipv4"] == {
            "ip": "10.7.0.20",
            "gateway": "10.7.0.1",
            "cidrs": ["10.7.0.0/16"],
            "master-mac": "0a:00:00:00:00:01",
            "interface-number": "2",
        }
        assert answer["host-addressing"]["ipv4"] == {"enabled": True, "ip": "", "alloc-range": ""}
        status, answer = await house.ask("POST", "/v1/ipam?owner=shop%2Fcart")
        assert status == 502
        assert answer.startswith("the interface of 10.7.0.21 is not known: ")
        status, answer = await house.ask("POST", "/v1/ipam/10.7.0.21?owner=router&pool=default")
        assert status == 500
        assert answer.startswith("the interface of 10.7.0.21 is not known: ")
        assert len(list(house.agent.allocations)) == 1
