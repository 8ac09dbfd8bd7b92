"""A disk that refuses for a while: nothing is answered that it did not take, nothing is lost, and the agent heals by itself."""

from __future__ import annotations

from pathlib import Path

from tests.unit.agent.house import House


async def test_a_collection_that_is_not_on_disk_is_not_answered(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        for container in ("c1", "c2", "c3"):
            await house.add(container)
        house.full = True
        status, answer = await house.ask("POST", "/v1/gc", {"network": "net", "keep": [["c2", "eth0"]]})
        assert (status, answer["reason"]) == (503, "Unavailable")
        assert sorted(each.key[1] for each in house.agent.allocations) == ["c1", "c2", "c3"]
        house.full = False
        status, answer = await house.ask("POST", "/v1/gc", {"network": "net", "keep": [["c2", "eth0"]]})
        assert sorted(each["key"][1] for each in answer["released"]) == ["c1", "c3"]
    async with House(tmp_path) as again:
        assert [each.key[1] for each in again.agent.allocations] == ["c2"]


async def test_a_claim_that_is_not_on_disk_is_not_answered(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        _, answer = await house.ask("POST", "/v1/ipam?owner=a%2Fb&family=ipv4", Expiration="true")
        claim = f"/v1/ipam/10.0.0.2?uuid={answer['ipv4']['expiration-uuid']}"
        house.full = True
        assert (await house.ask("PUT", claim))[0] == 500
        house.now += 601.0
        assert len(house.agent.expired(house.now)) == 1, "it expires as before"
        house.full = False
        assert (await house.ask("PUT", claim))[0] == 200
    async with House(tmp_path) as again:
        again.now += 6000.0
        again.service.tick()
        assert [each.owner for each in again.agent.allocations] == ["a/b"]


async def test_what_was_kept_for_an_owner_stays_kept(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        kept = await house.add("c1", owner="shop/db-0", sticky=True)
        await house.delete("c1")
        house.full = True
        assert (await house.put("c2", owner="shop/db-0", sticky=True))[0] == 503
        house.full = False
        house.service.tick()
        for number in range(12):
            await house.add(f"x{number}")
        await house.delete("x0")
        assert await house.add("y") != kept, "what cools goes before what is kept"
        assert await house.add("c3", owner="shop/db-0", sticky=True) == kept


async def test_an_address_that_cooled_cools_on_and_nothing_is_counted(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/29"]}) as house:
        for number in range(5):
            await house.add(f"c{number}")
        await house.delete("c0")
        house.full = True
        assert (await house.put("x"))[0] == 503
        assert await house.delete("c1") == 503
        (state,) = house.agent.states(house.now)
        assert (state.used, state.cooling, state.free) == (4, 1, 0)
        counts = house.service.counts
        assert (counts.attempts["ipv4", "success"], counts.attempts["ipv4", "error"]) == (5, 1)
        assert counts.events["release", "ipv4"] == 1


async def test_status_does_not_wait_for_somebody_to_ask_for_something(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        house.full = True
        assert (await house.put("c1"))[0] == 503
        house.service.tick()
        await house.until(lambda: not house.commits._waiting)
        assert (await house.ask("GET", "/v1/status"))[0] == 503
        house.full = False
        house.service.tick()
        await house.until(lambda: house.commits.failure is None)
        assert (await house.ask("GET", "/v1/status"))[0] == 200
