"""`pool`, `node`, `plan` and `check` where the mode is multi-pool, on the embedded store."""

from __future__ import annotations

import time

import pytest
from tests.unit.cli.console import Console, _Port, lead

from omnipam.core.allocator import Settings
from omnipam.core.blocking import VirtualClock, run
from omnipam.core.drive import Drive
from omnipam.providers.multi_pool import MultiPool

MARS = ("pool", "add", "mars", "--ipv4-cidr=10.20.0.0/24", "--ipv4-mask-size=28")


def serve(console: Console) -> None:
    """As an operator in multi-pool mode."""
    allocator = MultiPool(Settings(("ipv4", "ipv6")))
    clock = VirtualClock(time.time())
    with console.store() as store:
        store.record("multi-pool", ())
        allocator.restore(store.nodes(), store.pools(), store.kept(), clock.now())
        run(Drive(allocator), _Port(store), clock)
        lead(store, alive=True)


@pytest.fixture
def mars(console: Console) -> Console:
    """A store that a multi-pool operator serves, with one pool."""
    serve(console)
    assert console(*MARS).code == 0
    return console


def test_nodes_ask_pools_and_show_what_they_got(mars: Console) -> None:
    assert mars("node", "add", "a", "--pool=mars=36", "--label=zone=a", "--max-blocks=mars=9").code == 0
    serve(mars)
    (item,) = mars("node", "list", "-o", "json").json["items"]
    assert item["spec"]["ipam"]["pools"] == {
        "requested": [{"pool": "mars", "needed": {"ipv4-addrs": 36}}],
        "allocated": [{"pool": "mars", "cidrs": ["10.20.0.0/28", "10.20.0.16/28", "10.20.0.32/28"]}],
    }
    assert item["metadata"]["annotations"] == {"ipam.omnipam.io/max-blocks": "mars=9"}
    shown = mars("node", "show", "a").out
    assert "36 ipv4 of mars" in shown
    assert "mars=10.20.0.32/28" in shown
    assert mars("check").out == "nothing found\n"


def test_a_node_that_asks_in_vain_is_told_why(mars: Console) -> None:
    mars("node", "add", "a", "--pool=mars=300")
    plan = mars("plan", "-o", "json").json
    assert plan["mode"] == "multi-pool"
    assert len(plan["nodes"][0]["actions"]) == 16
    assert plan["nodes"][0]["unmet"][0]["reason"] == "PoolExhausted"
    assert "300 ipv4 addresses of pool mars" in mars("plan", "--explain", "a").out
    serve(mars)
    found = mars("check", "-o", "json")
    assert [each["id"] for each in found.json["findings"]] == ["PoolExhausted"]


def test_fragmentation_is_shown(mars: Console) -> None:
    mars("node", "add", "a", "--pool=mars=20")
    mars("node", "add", "b", "--pool=mars=1")
    serve(mars)
    mars("node", "delete", "a")
    assert mars("pool", "show", "mars").cells == [
        [
            *("RANGE", "MASK", "TOTAL", "USED", "FREE", "QUARANTINED", "RESERVED"),
            *("LONGEST-FREE-RUN", "STRANDED"),
        ],
        ["10.20.0.0/24", "28", "16", "1", "15", "0", "0", "13", "0"],
    ]
    (counted,) = mars("pool", "show", "mars", "-o", "json").json["status"]["ipv4"]["ranges"]
    assert (counted["longestFreeRun"], counted["strandedAddresses"]) == (13, 0)


def test_a_pool_with_annotations(mars: Console) -> None:
    words = ("pool", "add", "moon", "--ipv4-cidr=10.30.0.0/16", "--ipv4-mask-size=28", "--ipv4-mask-sizes=24")
    more = (
        "--reserved=10.30.0.0/20",
        "--node-selector=zone=a",
        "--max-blocks-per-node=2",
        "--allow-first-ip",
    )
    assert mars(*words, *more).code == 0
    made = mars("pool", "show", "moon", "-o", "json").json
    assert made["metadata"]["annotations"] == {
        "ipam.omnipam.io/ipv4-mask-sizes": "24",
        "ipam.omnipam.io/reserved": "10.30.0.0/20",
        "ipam.omnipam.io/node-selector": "zone=a",
        "ipam.omnipam.io/max-blocks-per-node": "2",
    }
    assert made["spec"]["allowFirstIP"] is True
    mars("node", "add", "a", "--pool=moon=200", "--label=zone=a")
    serve(mars)
    (item,) = mars("node", "list", "-o", "json").json["items"]
    assert item["spec"]["ipam"]["pools"]["allocated"] == [
        {"pool": "moon", "cidrs": ["10.30.16.0/24"], "allowFirstIP": True}
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["node", "add", "a", "--pool=mars"], "NAME=N"),
        (["node", "add", "a", "--pool=mars=0"], "NAME=N"),
        (["node", "add", "a", "--pool=mars=1", "--pool=mars=2"], "two numbers"),
        (["node", "add", "a", "--max-blocks=mars"], "--max-blocks"),
        (["node", "add", "a", "--default-pool=Mars"], "--default-pool"),
        ([*MARS[:2], "moon", *MARS[3:]], "overlaps 10.20.0.0/24 of pool mars"),
        (
            ["pool", "add", "moon", "--ipv4-cidr=10.1.0.0/16", "--ipv4-mask-size=28", "--ipv4-mask-sizes=30"],
            "wider",
        ),
        (
            ["pool", "add", "moon", "--ipv4-cidr=10.1.0.0/16", "--ipv4-mask-size=28", "--node-selector=in ("],
            "selector",
        ),
    ],
)
def test_bad_arguments(mars: Console, words: list[str], said: str) -> None:
    assert said in mars.refused(*words)


def test_named_pools_are_of_this_mode_only(console: Console) -> None:
    assert "has no named pools" in console.refused("node", "add", "a", "--pool=mars=1")
