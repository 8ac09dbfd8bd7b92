"""The agent's API on its real socket: by key, all families or none, in order, and each refusal with its reason."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.house import House

from omnipam.core.cidr import Family, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.uplink import Uplink
from omnipam.runtime.agent.placing import Placement

BOTH: tuple[Family, ...] = ("ipv4", "ipv6")


async def test_the_same_key_has_the_same_addresses(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        status, first = await house.put("c1")
        assert (status, first) == (
            201,
            {
                "key": ["net", "c1", "eth0"],
                "owner": "shop/web",
                "addresses": [
                    {
                        "family": "ipv4",
                        "address": "10.0.0.2",
                        "prefix": "10.0.0.0/28",
                        "pool": "default",
                        "gateway": "10.0.0.1",
                        "prefix_length": 28,
                        "skip_masquerade": False,
                        "interface": None,
                    }
                ],
            },
        )
        assert await house.put("c1") == (200, first)
        status, one = await house.ask("GET", "/v1/allocations/net/c1/eth0")
        assert (status, one["since"], one["sticky"]) == (200, 1000.0, False)
        assert await house.delete("c1") == 204
        assert await house.delete("c1") == 204
        assert (await house.ask("GET", "/v1/allocations/net/c1/eth0"))[0] == 404
        assert await house.ask("GET", "/v1/allocations") == (200, {"version": 1, "allocations": []})


async def test_a_key_may_be_any_text(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        target = "/v1/allocations/pod%20net/a%2Fb/eth%25"
        assert (await house.ask("PUT", target, {}))[0] == 201
        assert house.agent.get(("pod net", "a/b", "eth%")) is not None
        assert (await house.ask("DELETE", target))[0] == 204


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"families": ["ipv5"]}, 400, "Invalid"),
        ({"families": ["ipv6"]}, 400, "Invalid"),
        ({"families": []}, 400, "Invalid"),
        ({"address": {"ipv4": "10.0.0"}}, 400, "Invalid"),
        ({"address": {"ipv4": "fd00::1"}}, 400, "Invalid"),
        ({"address": {"ipv6": "fd00::1"}}, 400, "Invalid"),
        ({"owner": 5}, 400, "Invalid"),
        ({"wait_s": "long"}, 400, "Invalid"),
        ([], 400, "Invalid"),
        ({"pool": "blue"}, 404, "UnknownPool"),
        ({"address": {"ipv4": "10.0.1.7"}}, 403, "PoolMismatch"),
        ({"address": {"ipv4": "10.0.0.1"}}, 400, "NotForPods"),
        ({"address": {"ipv4": "10.0.0.0"}}, 400, "NotForPods"),
        ({"address": {"ipv4": "10.0.0.3"}, "avoid": ["10.0.0.3"]}, 400, "NotForPods"),
        ({"avoid": ["10.0.0"]}, 400, "Invalid"),
        ({"owner": "shop/\nweb"}, 400, "Invalid"),
        ({"owner": "x" * 513}, 400, "Invalid"),
        ({"address": {"ipv4": "10.0.0.5"}}, 409, "AddressInUse"),
    ],
)
async def test_refusals(tmp_path: Path, body: Any, status: int, reason: str) -> None:
    async with House(tmp_path) as house:
        assert await house.add("first", address={"ipv4": "10.0.0.5"}) == {"ipv4": "10.0.0.5"}
        given, answer = await house.ask("PUT", "/v1/allocations/net/c1/eth0", body)
        assert (given, answer["reason"]) == (status, reason)
        assert "\n" not in answer["message"]
        assert house.agent.get(("net", "c1", "eth0")) is None


async def test_the_same_key_with_another_wish(tmp_path: Path) -> None:
    async with House(
        tmp_path,
        {"default": ["10.0.0.0/28", "fd00::/120"], "blue": ["10.1.0.0/28"]},
        families=BOTH,
        pooled=True,
    ) as house:
        await house.add("c1")
        for other in ({"families": ["ipv4"]}, {"pool": "blue"}, {"address": {"ipv4": "10.0.0.9"}}):
            status, answer = await house.put("c1", **other)
            assert (status, answer["reason"]) == (409, "Conflict")
        assert (await house.put("c1", pool="default", address={"ipv4": "10.0.0.2"}))[0] == 200


async def test_both_families_or_none(tmp_path: Path) -> None:
    blocks = {"default": ["10.0.0.0/28", "fd00::/125"]}
    async with House(tmp_path, blocks, families=BOTH, pooled=True) as house:
        for number in range(5):
            assert set(await house.add(f"c{number}")) == set(BOTH)
        status, answer = await house.put("c5")
        assert (status, answer["reason"]) == (503, "Exhausted")
        assert answer["details"] == {
            "pool": "default",
            "family": "ipv6",
            "used": 5,
            "total": 5,
            "requested": 7,
        }
        assert house.demanded.count(True) == 1
        assert len(list(house.agent.allocations)) == 5
        waits = {(each.family, each.needed) for each in house.agent.demand(house.now)}
        assert waits == {("ipv4", 7), ("ipv6", 7)}, "five, a gateway, and who waits: in both families"


async def test_small_blocks_have_no_room_for_a_gateway(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/31"]}) as house:
        status, answer = await house.put("c1")
        assert (status, answer["reason"]) == (422, "BlockTooSmall")


async def test_who_waits_is_served_in_turn(tmp_path: Path) -> None:
    async with House(tmp_path, {}, pooled=True) as house:
        waiting = [asyncio.ensure_future(house.add(f"c{number}", wait_s=30)) for number in range(3)]
        await house.until(lambda: house.service.waiting == 3)
        assert house.demanded == [True] * 3
        house.grant({"default": ["10.0.0.0/30"]})
        assert await waiting[0] == {"ipv4": "10.0.0.2"}
        assert house.service.waiting == 2
        house.grant({"default": ["10.0.0.0/30", "10.0.0.8/29"]})
        assert [await each for each in waiting[1:]] == [{"ipv4": "10.0.0.10"}, {"ipv4": "10.0.0.11"}]


async def test_who_waits_gets_what_another_gives_back(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/30"]}) as house:
        first = await house.add("c1")
        waiting = asyncio.ensure_future(house.add("c2", wait_s=30))
        await house.until(lambda: house.service.waiting)
        await house.delete("c1")
        assert await waiting == first, "though it cools: nothing else is free"


async def test_waiting_ends_and_says_what_was_asked_for(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": []}, pooled=True, wait_s=0.05) as house:
        status, answer = await house.put("c1", wait_s=30)
        assert (status, answer["reason"]) == (503, "Exhausted")
        assert answer["message"] == (
            "pool default has no free ipv4 address: 0 of 0 in use; the operator was asked for 1"
        )
        status, answer = await house.ask("GET", "/v1/status")
        assert (status, answer["reason"]) == (503, "Exhausted")
        house.grant({"default": ["10.0.0.0/28"]})
        assert (await house.ask("GET", "/v1/status"))[0] == 200
        await house.add("c1")
        assert not house.agent.pending


async def test_a_release_ends_the_waiting_of_its_key(tmp_path: Path) -> None:
    async with House(tmp_path, {}, pooled=True) as house:
        waiting = asyncio.ensure_future(house.put("c1", wait_s=30))
        await house.until(lambda: house.service.waiting)
        assert await house.delete("c1") == 204
        status, answer = await waiting
        assert (status, answer["reason"]) == (503, "NotReady")
        assert not house.agent.pending, "and its demand"
        house.grant({"default": ["10.0.0.0/28"]})
        assert list(house.agent.allocations) == []


async def test_who_hangs_up_waits_no_more(tmp_path: Path) -> None:
    async with House(tmp_path, {}, pooled=True) as house:
        reader, writer = await asyncio.open_unix_connection(str(house.listening.path))
        body = b'{"wait_s": 30}'
        writer.write(
            b"PUT /v1/allocations/net/c1/eth0 HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await house.until(lambda: house.service.waiting)
        writer.transport.abort()
        await house.until(lambda: not house.service.waiting)
        house.grant({"default": ["10.0.0.0/28"]})
        assert list(house.agent.allocations) == []
        del reader


async def test_gc_is_exact_and_of_one_network(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        for container in ("c1", "c2", "c3"):
            await house.add(container)
        await house.ask("PUT", "/v1/allocations/other/c1/eth0", {})
        status, answer = await house.ask("POST", "/v1/gc", {"network": "net", "keep": [["c2", "eth0"]]})
        assert status == 200
        assert sorted(each["key"][1] for each in answer["released"]) == ["c1", "c3"]
        assert sorted(each.key for each in house.agent.allocations) == [
            ("net", "c2", "eth0"),
            ("other", "c1", "eth0"),
        ]
        assert (await house.ask("POST", "/v1/gc", {"network": "net", "keep": None}))[0] == 200
        assert (await house.ask("POST", "/v1/gc", {"network": "net"}))[0] == 400, (
            "a missing list is no empty one"
        )
        assert [each.key[0] for each in house.agent.allocations] == ["other"]


async def test_a_release_of_somebody_else_s(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.add("c1")
        status, answer = await house.ask("DELETE", "/v1/allocations/net/c1/eth0?owner=shop%2Fother")
        assert (status, answer["reason"]) == (409, "NotYours")
        assert await house.delete("c1", "?owner=shop%2Fweb") == 204


async def test_a_release_by_another_does_not_end_somebody_s_waiting(tmp_path: Path) -> None:
    async with House(tmp_path, {}) as house:
        waiting = asyncio.ensure_future(house.put("c1", wait_s=10))
        await house.until(lambda: house.service.waiting)
        status, answer = await house.ask("DELETE", "/v1/allocations/net/c1/eth0?owner=shop%2Fother")
        assert (status, answer["reason"]) == (409, "NotYours")
        assert house.agent.pending, "it counts still"
        house.grant({"default": ["10.0.0.0/28"]})
        assert (await waiting)[0] == 201


async def test_what_is_not_on_disk_is_not_answered(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/29"]}) as house:
        kept = await house.add("kept")
        house.full = True
        answers = await asyncio.gather(*(house.put(f"c{number}") for number in range(8)), house.put("kept"))
        assert {status for status, _ in answers[:-1]} == {503}
        assert (await house.ask("DELETE", "/v1/allocations/net/kept/eth0"))[0] == 503
        assert [each.key[1] for each in house.agent.allocations] == ["kept"], "all is as if not asked for"
        assert (await house.ask("GET", "/v1/status"))[0] == 503
        house.full = False
        assert await house.add("kept") == kept
        given = [await house.add(f"c{number}") for number in range(4)]
        assert len({each["ipv4"] for each in [*given, kept]}) == 5
        assert (await house.ask("GET", "/v1/status"))[0] == 200
    again = House(tmp_path)
    async with again:
        assert len(list(again.agent.allocations)) == 5, "and the file was healed"


async def test_thirty_two_at_once_share_commits_and_no_address(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/24"]}, cool_down_s=0.0) as house:

        async def client(name: int) -> list[str]:
            found = []
            for turn in range(7):
                found.append((await house.add(f"c{name}-{turn}"))["ipv4"])
                if turn % 3 == 2:
                    assert await house.delete(f"c{name}-{turn}") == 204
            return found

        await asyncio.gather(*map(client, range(32)))
        held = [str(given) for each in house.agent.allocations for given in each.given]
        assert len(held) == len(set(held)) == 32 * 5
        for number in range(253 - 160):
            await house.add(f"more{number}")
        assert (await house.put("onemore"))[0] == 503, "no error until it is really full"


class Slow:
    """Pods of which nothing is known until asked; then as the test says."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.told: asyncio.Future[Placement] = asyncio.get_running_loop().create_future()

    def place(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement | None:
        return None

    async def ask(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement:
        self.asked.set()
        return await asyncio.shield(self.told)

    def skips_masquerade(self, pool: str) -> bool:
        return pool == "blue"


async def test_a_pod_that_must_be_asked_for(tmp_path: Path) -> None:
    pods = Slow()
    blocks = {"default": ["10.0.0.0/28"], "blue": ["10.1.0.0/28"]}
    async with House(tmp_path, blocks, pooled=True, pods=pods) as house:
        waiting = asyncio.ensure_future(house.add("c1"))
        gone = asyncio.ensure_future(house.put("c2"))
        await house.until(lambda: len(house.service._deciding) == 2)
        assert await house.delete("c2") == 204
        assert (await gone)[0] == 503, "released before it was decided"
        pods.told.set_result(Placement({"ipv4": "blue"}))
        assert await waiting == {"ipv4": "10.1.0.2"}
        assert [each.key[1] for each in house.agent.allocations] == ["c1"]
        assert (await house.put("c1"))[0] == 200


async def test_a_release_by_another_ends_no_choice_of_a_pool(tmp_path: Path) -> None:
    pods = Slow()
    async with House(tmp_path, pods=pods) as house:
        waiting = asyncio.ensure_future(house.put("c1"))
        await pods.asked.wait()
        status, answer = await house.ask("DELETE", "/v1/allocations/net/c1/eth0?owner=shop%2Fother")
        assert (status, answer["reason"]) == (409, "NotYours")
        pods.told.set_result(Placement({"ipv4": "default"}))
        assert (await waiting)[0] == 201


async def test_what_is_not_masqueraded(tmp_path: Path) -> None:
    pods = Slow()
    blocks = {pool: [f"10.{number}.0.0/28"] for number, pool in enumerate(("default", "blue", "red"))}

    async def skipped() -> list[str]:
        found = []
        for pool in sorted(blocks):
            _, answer = await house.put(f"c-{pool}", pool=pool)
            _, cilium = await house.ask("POST", f"/v1/ipam?owner=infra&family=ipv4&pool={pool}")
            assert cilium["ipv4"].get("skip-masquerade", False) == answer["addresses"][0]["skip_masquerade"]
            found += [pool] if answer["addresses"][0]["skip_masquerade"] else []
        return found

    async with House(tmp_path, blocks, pooled=True, pods=pods) as house:
        pods.told.set_result(Placement({"ipv4": "default"}))
        assert await skipped() == ["blue"], "as the pool says"
        house.api._only_masqueraded = "default"
        assert await skipped() == ["blue", "red"]


async def test_a_defect_is_told_to_whoever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with House(tmp_path) as house:
        monkeypatch.setattr(house.api, "skips", None)
        status, answer = await house.put("c1")
        assert (status, answer["reason"]) == (500, "Error")


async def test_a_pod_that_may_have_no_pool(tmp_path: Path) -> None:
    pods = Slow()
    pods.told.set_exception(Invalid("multiple CiliumPodIPPools match"))
    async with House(tmp_path, pooled=True, pods=pods) as house:
        status, answer = await house.put("c1")
        assert (status, answer["message"]) == (400, "multiple CiliumPodIPPools match")


async def test_not_ready_serves_those_who_have_theirs(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        first = await house.add("c1")
        house.why = "the object is not there yet"
        assert await house.add("c1") == first
        assert (await house.put("c2"))[1] == {"reason": "NotReady", "message": house.why}
        assert (await house.ask("GET", "/v1/status"))[1]["reason"] == "NotReady"
        assert await house.delete("c1") == 204


async def test_status_and_state(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        await house.add("c1")
        await house.add("c2")
        await house.delete("c2")
        _, status = await house.ask("GET", "/v1/status")
        assert status["pools"] == [
            {
                "pool": "default",
                "family": "ipv4",
                "blocks": ["10.0.0.0/28"],
                "used": 1,
                "free": 11,
                "cooling": 1,
                "total": 13,
            }
        ]
        _, state = await house.ask("GET", "/v1/state")
        assert [each["key"] for each in state["allocations"]] == [["net", "c1", "eth0"]]


# -- a cloud's node

ENI = Uplink(
    "eni-1",
    number=2,
    mac="0a:00:00:00:00:01",
    gateways={"ipv4": parse_address("10.7.0.1"), "ipv6": parse_address("fe80:ec2::1")},
    native=(parse("10.7.0.0/16"), parse("fd07::/56")),
    addresses=(parse("10.7.0.20/32"), parse("10.7.0.21/32")),
    prefixes=(parse("fd07:0:0:1::/80"),),
)
ENI_BLOCKS = {"default": ["10.7.0.20/32", "fd07:0:0:1::/80"]}


async def test_an_address_of_an_interface(tmp_path: Path) -> None:
    async with House(tmp_path, ENI_BLOCKS, families=BOTH, uplinks=[ENI]) as house:
        status, answer = await house.put("c1")
        assert status == 201
        interface = {"id": "eni-1", "number": 2, "mac": "0a:00:00:00:00:01"}
        assert answer["addresses"] == [
            {
                "family": "ipv4",
                "address": "10.7.0.20",
                "prefix": "10.7.0.20/32",
                "pool": "default",
                "gateway": "10.7.0.1",
                "prefix_length": 32,
                "skip_masquerade": False,
                "interface": interface | {"cidrs": ["10.7.0.0/16"]},
            },
            {
                "family": "ipv6",
                "address": "fd07:0:0:1::1",
                "prefix": "fd07:0:0:1::/80",
                "pool": "default",
                "gateway": "fe80:ec2::1",
                "prefix_length": 128,
                "skip_masquerade": False,
                "interface": interface | {"cidrs": ["fd07::/56"]},
            },
        ]
        house.agent.uplinks_seen([])
        house.grant({})
        assert await house.put("c1") == (200, answer), "the interface that it had"


async def test_an_interface_that_has_no_next_hop(tmp_path: Path) -> None:
    bare = Uplink("nic-1", addresses=(parse("10.7.0.20/32"),))
    async with House(tmp_path, {"default": ["10.7.0.20/32"]}, uplinks=[bare]) as house:
        _, answer = await house.put("c1")
        assert answer["addresses"][0]["gateway"] is None


async def test_an_interface_that_is_not_known(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.7.0.20/32"]}, uplinks=[ENI]) as house:
        await house.add("c1")
    async with House(tmp_path, {}, uplinks=[]) as house:
        status, answer = await house.put("c1")
        assert (status, answer["reason"]) == (503, "NoInterface")
        assert answer["message"].startswith("the interface of 10.7.0.20 is not known: ")
        _, held = await house.ask("GET", "/v1/allocations/net/c1/eth0")
        assert (held["addresses"][0]["gateway"], held["addresses"][0]["interface"]) == (None, None)
        house.grant({"default": ["10.7.0.20/32"]})
        assert await house.delete("c1") == 204


async def test_status_of_blocks_that_were_taken_away(tmp_path: Path) -> None:
    """What is in use there is no room for others."""
    async with House(tmp_path, {"default": ["10.0.0.0/30", "10.0.1.0/30"]}) as house:
        for container in ("c1", "c2"):
            await house.add(container)
        house.grant({"default": ["10.0.1.0/30"]})
        assert (await house.put("c3"))[0] == 503
        house.service.failing = True
        status, answer = await house.ask("GET", "/v1/status")
        assert (status, answer["reason"]) == (503, "Exhausted")


class Choosy:
    """Pods of which none may be placed: whoever names the pool itself need not be."""

    def place(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement | None:
        raise Invalid(f"multiple CiliumPodIPPools match pod {owner}")

    async def ask(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement:
        raise Invalid("not asked for")

    def skips_masquerade(self, pool: str) -> bool:
        return False


async def test_a_pool_that_is_named_bypasses_the_rules_of_selection(tmp_path: Path) -> None:
    blocks = {"default": ["10.0.0.0/28"], "blue": ["10.1.0.0/28", "fd00::/120"]}
    async with House(tmp_path, blocks, pooled=True, families=("ipv4", "ipv6"), pods=Choosy()) as house:
        assert (await house.put("c1"))[0] == 400
        assert (await house.put("c1", pool={"ipv4": "blue"}))[0] == 400, "of the other family it is not known"
        assert await house.add("c1", pool="blue") == {"ipv4": "10.1.0.2", "ipv6": "fd00::2"}
        status, answer = await house.ask("POST", "/v1/ipam?owner=shop/web&pool=blue")
        assert (status, answer["address"]["ipv4"]) == (201, "10.1.0.3")


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_node_without_a_block_of_a_family_can_give_nothing(tmp_path: Path, pooled: bool) -> None:
    """But where blocks come only when they are asked for, somebody must be let to ask."""
    async with House(tmp_path, families=("ipv4", "ipv6"), pooled=pooled) as house:
        status, answer = await house.ask("GET", "/v1/status")
        assert status == (200 if pooled else 503)
        if not pooled:
            assert (answer["reason"], answer["message"]) == ("Exhausted", "the node has no ipv6 block yet")
        house.grant({"default": ["10.0.0.0/28", "fd00::/126"]})
        assert (await house.ask("GET", "/v1/status"))[0] == 200


async def test_one_full_family_of_two_is_told(tmp_path: Path) -> None:
    async with House(
        tmp_path, {"default": ["10.0.0.0/28", "fd00::/126"]}, families=("ipv4", "ipv6")
    ) as house:
        await house.add("c1")
        assert (await house.put("c2", wait_s=0.01))[0] == 503
        status, answer = await house.ask("GET", "/v1/status")
        assert (status, answer["reason"]) == (503, "Exhausted")
        assert "no pool has an ipv6 address left" in answer["message"]
