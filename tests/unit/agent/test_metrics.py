"""What an agent shows to Prometheus."""

from __future__ import annotations

from pathlib import Path

from tests.unit.agent.house import House

from omnipam.runtime.agent.metrics import Metrics


async def shown(house: House) -> dict[str, float]:
    metrics = Metrics(
        house.agent,
        house.service.counts,
        waiting=lambda: house.service.waiting,
        failing=lambda: house.commits.failure is not None,
        clock=lambda: house.now,
    )
    lines = metrics.page().body.decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


async def test_as_cilium_calls_them(tmp_path: Path) -> None:
    async with House(tmp_path, {"default": ["10.0.0.0/29"]}) as house:
        for number in range(5):
            await house.add(f"c{number}")
        await house.put("c5")
        await house.put("c6", address={"ipv4": "10.9.9.9"})
        await house.delete("c0")
        found = await shown(house)
        assert found['cilium_ipam_capacity{cidr="10.0.0.0/29",family="ipv4"}'] == 5
        assert found['cilium_ipam_used{family="ipv4"}'] == 4
        assert found['cilium_ipam_available{family="ipv4"}'] == 1
        assert found['cilium_ipam_events_total{action="allocate",family="ipv4"}'] == 5
        assert found['cilium_ipam_events_total{action="release",family="ipv4"}'] == 1
        attempts = {
            outcome: found[f'cilium_ipam_allocation_attempts_total{{family="ipv4",outcome="{outcome}"}}']
            for outcome in ("success", "exhausted", "error")
        }
        assert attempts == {"success": 5, "exhausted": 1, "error": 1}
        assert found['omnipam_agent_pool_addresses{family="ipv4",pool="default",state="cooling"}'] == 1
        assert (found["omnipam_agent_waiting"], found["omnipam_agent_disk_refuses"]) == (0, 0)


async def test_pools_have_no_cidr_and_a_refusing_disk_is_seen(tmp_path: Path) -> None:
    async with House(tmp_path, {"blue": ["10.0.0.0/29"], "red": ["10.1.0.0/29"]}, pooled=True) as house:
        house.full = True
        await house.put("c1", pool="blue")
        found = await shown(house)
        assert found['cilium_ipam_capacity{cidr="",family="ipv4"}'] == 10
        assert found["omnipam_agent_disk_refuses"] == 1
