"""`pool`, `node`, `plan` and `check` where the mode is multi-pool, on the embedded store."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.console import Console, _Port, lead

from omnipam.core.allocator import Settings
from omnipam.core.blocking import VirtualClock, run
from omnipam.core.cidr import Cidr, parse
from omnipam.core.drive import Drive
from omnipam.core.errors import Conflict, NotFound
from omnipam.core.values import Block, Held, Node, PoolRange, PoolSpec
from omnipam.providers.multi_pool import MultiPool
from omnipam.runtime.usage import usage

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


# -- pools that grow and shrink


def cidrs(console: Console, name: str) -> list[str]:
    made = console("pool", "show", name, "-o", "json").json
    return list(made["spec"]["ipv4"]["cidrs"])


def test_a_pool_grows_and_shrinks_in_place(mars: Console) -> None:
    mars("node", "add", "a", "--pool=mars=14")
    serve(mars)
    more = ("pool", "add", "mars", "--ipv4-cidr=10.21.0.0/24,10.22.0.0/24")
    assert mars(*more, "--dry-run").out == "pool/mars changed (dry run)\n"
    assert cidrs(mars, "mars") == ["10.20.0.0/24"]
    assert mars(*more).out == "pool/mars changed\n"
    assert cidrs(mars, "mars") == ["10.20.0.0/24", "10.21.0.0/24", "10.22.0.0/24"]
    less = ("pool", "delete", "mars", "--ipv4-cidr", "10.20.0.0/24", "10.22.0.0/24")
    assert mars(*less, "--dry-run").out == "pool/mars changed (dry run)\n"
    assert len(cidrs(mars, "mars")) == 3
    assert mars(*less).code == 0
    serve(mars)
    shown = mars("pool", "show", "mars")
    assert "1 node on 1 block in no configured range:" in shown.out  # it drains, and is made up for
    (item,) = mars("node", "list", "-o", "json").json["items"]
    assert item["spec"]["ipam"]["pools"]["allocated"] == [
        {"pool": "mars", "cidrs": ["10.20.0.0/28", "10.21.0.0/28"]}
    ]


def test_marks_are_added_or_replaced_and_stay(mars: Console) -> None:
    mars("pool", "add", "mars", "--reserved=10.20.0.0/28", "--node-selector=zone=a", "--ipv4-mask-sizes=26")
    mars("pool", "add", "mars", "--reserved=10.20.0.64", "--max-blocks-per-node=2")
    mars("pool", "add", "mars", "--ipv4-cidr=10.21.0.0/24", "--ipv4-mask-size=28")
    annotations = mars("pool", "show", "mars", "-o", "json").json["metadata"]["annotations"]
    assert annotations == {
        "ipam.omnipam.io/ipv4-mask-sizes": "26",
        "ipam.omnipam.io/reserved": "10.20.0.0/28,10.20.0.64/32",
        "ipam.omnipam.io/node-selector": "zone=a",
        "ipam.omnipam.io/max-blocks-per-node": "2",
    }
    with mars.store() as store:
        assert {each.wider for each in store.pools()[0].ranges} == {(26,)}
    assert mars("pool", "delete", "mars", "--reserved=10.20.0.64,10.20.0.0/28").code == 0
    annotations = mars("pool", "show", "mars", "-o", "json").json["metadata"]["annotations"]
    assert "ipam.omnipam.io/reserved" not in annotations
    assert mars("pool", "add", "mars", "--node-selector=", "--max-blocks-per-node=").code == 0
    made = mars("pool", "show", "mars", "-o", "json").json
    assert made["metadata"]["annotations"] == {"ipam.omnipam.io/ipv4-mask-sizes": "26"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "mars"], "it exists already, and nothing is added"),
        (["add", "mars", "--ipv4-cidr=10.21.0.0/24", "--ipv4-mask-size=27"], "cannot change IPv4 mask size"),
        (["add", "mars", "--ipv6-cidr=fd00::/104", "--ipv6-mask-size=120"], "cannot change IPv6 mask size"),
        (["add", "mars", "--ipv4-cidr=10.21.0.0/24", "--allow-first-ip"], "cannot change allowFirstIP"),
        (["add", "mars", "--ipv4-cidr=10.20.0.0/24"], "it has 10.20.0.0/24 already"),
        (["add", "mars", "--ipv4-cidr=10.20.0.0/16"], "collides with clusterCIDR: 10.20.0.0/24"),
        (["add", "mars", "--ipv4-cidr=10.21.0.0/29"], "mask size 28"),
        (["add", "mars", "--ipv4-cidr=10.30.0.0/24"], "overlaps 10.30.0.0/16 of pool moon"),
        (["add", "mars", "--reserved=x"], "x"),
        (["delete", "mars", "--ipv4-cidr=10.20.0.0/24"], "leaves no IPv4 range"),
        (["delete", "mars", "--ipv4-cidr=10.20.0.0/25"], "no range 10.20.0.0/25; take one of 10.20.0.0/24"),
        (["delete", "mars", "--ipv6-cidr=fd00::/104"], "no range fd00::/104; take one of none"),
        (["delete", "mars", "--ipv4-cidr="], "set but empty"),
        (["delete", "mars", "--reserved=10.20.0.0/28"], "does not reserve 10.20.0.0/28"),
        (["delete", "mars", "--reserved=junk"], "--reserved"),
        (["delete", "mars", "--reserved="], "--reserved: set but empty"),
    ],
)
def test_what_would_be_another_pool_is_refused(mars: Console, words: list[str], said: str) -> None:
    mars("pool", "add", "moon", "--ipv4-cidr=10.30.0.0/16", "--ipv4-mask-size=28")
    before = mars("pool", "show", "mars", "-o", "json").out
    assert said in mars.refused("pool", *words)
    assert mars("pool", "show", "mars", "-o", "json").out == before


def test_of_two_hands_at_once_neither_undoes_the_other(mars: Console) -> None:
    with mars.store() as store:
        (before,) = store.pools()
        one, other = (
            msgspec.structs.replace(before, reserved=(parse(text),))
            for text in ("10.20.0.0/28", "10.20.0.16/28")
        )
        store.change_pool(before, one)
        with pytest.raises(Conflict, match="changed meanwhile"):
            store.change_pool(before, other)
        assert store.pools() == (one,)
        store.delete_pool("mars")
        with pytest.raises(NotFound):
            store.change_pool(one, other)


# -- what `pool show` counts, against counting address by address

ADDRESSES = 1 << 10
inside = st.builds(
    lambda first, length: Cidr(32, (10 << 24 | first) >> (32 - length) << (32 - length), length),
    st.integers(0, ADDRESSES - 1),
    st.integers(24, 32),
)
held_blocks = st.lists(st.tuples(inside, st.sampled_from(["mars", "moon"])), max_size=6)


@given(held_blocks, st.lists(inside, max_size=3), st.sampled_from([26, 28, 30]))
def test_fragmentation_is_what_counting_addresses_says(
    held: list[tuple[Cidr, str]], reserved: list[Cidr], mask: int
) -> None:
    nodes, seen = [], list[Cidr]()
    for number, (cidr, name) in enumerate(held):
        if not any(cidr.overlaps(other) for other in seen):
            seen.append(cidr)
            nodes.append(Node(f"n{number}", holds=Held((Block(name, cidr),)), created=float(number)))
    spec = PoolSpec("mars", (PoolRange(parse("10.0.0.0/22"), mask),), tuple(reserved), max_blocks=0)
    (counted,) = usage(spec, nodes, (), 0.0).ranges
    used, shut = set[int](), set[int]()
    for cidrs, addresses in ((seen, used), (reserved, shut)):
        for cidr in cidrs:
            addresses.update(range(cidr.first - (10 << 24), cidr.last + 1 - (10 << 24)))
    width = 1 << (32 - mask)
    units = [set(range(first, first + width)) for first in range(0, ADDRESSES, width)]
    free = [not unit & (used | shut) for unit in units]
    assert counted.free == sum(free)
    assert counted.used == sum(bool(unit & used) for unit in units)
    assert counted.longest == max(len(run) for run in "".join(".x"[not each] for each in free).split("x"))
    assert counted.stranded == sum(
        len(unit - used - shut) for unit, is_free in zip(units, free, strict=True) if not is_free
    )
    allocator = MultiPool(Settings())
    allocator.restore(nodes, (spec,), (), 0.0)
    (theirs,) = [each for each in allocator.capacity().pools if each.pool == "mars"]
    assert (theirs.free, theirs.used) == (counted.free, counted.used)
