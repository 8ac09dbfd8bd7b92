"""CiliumNodes and CiliumPodIPPools as multi-pool mode reads and writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from omnipam.core.allocator import Settings
from omnipam.core.cidr import parse
from omnipam.core.errors import Invalid
from omnipam.core.values import Block, Demand, Node, PoolRange, PoolSpec
from omnipam.providers.multi_pool import MultiPool
from omnipam.runtime.config.poolspecs import read_pool_spec, read_pool_specs
from omnipam.runtime.kube.podippool import PodIPPool, manifest, pool_of
from omnipam.runtime.kube.poolednode import Pooled, PooledNode, entries_of, read_limits

THEIRS = (
    Path(__file__).parents[4] / "shared" / "data" / "cilium"
)  # beside a checkout of the authors; else nothing

GOLDEN: dict[str, Any] = {
    # What Cilium's operator made of these requests, venus not being there.
    "metadata": {"name": "a-1", "uid": "u", "resourceVersion": "7"},
    "spec": {
        "ipam": {
            "pools": {
                "allocated": [
                    {"cidrs": ["10.0.0.0/28", "10.0.0.16/28", "fd00::/120"], "pool": "default"},
                    {"cidrs": ["10.20.0.0/27", "10.20.0.32/27", "fd00:20::/120"], "pool": "mars"},
                ],
                "requested": [
                    {"needed": {"ipv4-addrs": 16, "ipv6-addrs": 16}, "pool": "default"},
                    {"needed": {"ipv4-addrs": 40, "ipv6-addrs": 8}, "pool": "mars"},
                    {"needed": {"ipv4-addrs": 8}, "pool": "venus"},
                ],
            }
        }
    },
    "status": {
        "ipam": {
            "operator-status": {
                "error": 'failed to allocate ipv4 address for node "a-1" from pool "venus": '
                "cannot allocate from non-existing pool: venus"
            }
        }
    },
}
POOLS = (
    PoolSpec(
        "default",
        (PoolRange(parse("10.0.0.0/16"), 28), PoolRange(parse("fd00::/104"), 120)),
        max_blocks=0,
    ),
    PoolSpec(
        "mars",
        (PoolRange(parse("10.20.0.0/16"), 27), PoolRange(parse("fd00:20::/104"), 120)),
        max_blocks=0,
    ),
)


def read(tree: dict[str, Any], form: Pooled | None = None) -> Node:
    form = form or Pooled()
    return form.node(msgspec.json.decode(json.dumps(tree), type=PooledNode), own_addresses=True)


def node(**pools: Any) -> dict[str, Any]:
    """A CiliumNode with these lists."""
    metadata = {"name": "n", "uid": "u", "resourceVersion": "7"}
    return {"metadata": metadata, "spec": {"ipam": {"pools": pools}}}


def served(tree: dict[str, Any]) -> MultiPool:
    """An operator that has just seen the node, and given it what it asks for."""
    allocator = MultiPool(Settings(families=("ipv4", "ipv6")))
    allocator.restore([read(tree)], POOLS, (), 0.0)
    for name in allocator.due(0.0):
        allocator.start(allocator.plan(name, 0.0), 0.0)
    return allocator


def golden() -> list[dict[str, Any]]:
    return [GOLDEN, *(json.loads(path.read_text()) for path in THEIRS.glob("ciliumnode-multi-pool.json"))]


# -- Cilium's own object, both ways


@pytest.mark.parametrize("tree", golden(), ids=["here", "theirs"][: len(golden())])
def test_we_give_what_cilium_s_operator_gives_and_keep_what_it_gave(tree: dict[str, Any]) -> None:
    pools = tree["spec"]["ipam"]["pools"]
    fresh = tree | {"spec": {"ipam": {"pools": {"requested": pools["requested"]}}}}
    grant = served(fresh).grant("a-1")
    assert entries_of(grant.blocks) == sorted(pools["allocated"], key=lambda entry: entry["pool"])
    assert tree["status"]["ipam"]["operator-status"]["error"] in grant.error
    after = served(tree)
    assert after.grant("a-1").blocks is after.node("a-1").holds.blocks  # type: ignore[union-attr]


def test_demand_is_read_once_for_each_pool_and_family() -> None:
    asked = [
        {"pool": "b", "needed": {"ipv6-addrs": 3, "ipv4-addrs": 2}},
        {"pool": "a", "needed": {"ipv4-addrs": 0}},
        {"pool": "b", "needed": {"ipv4-addrs": 5}},
        {"pool": "c"},
        {"pool": "", "needed": {"ipv4-addrs": 5}},
        {"pool": "d", "needed": {"ipv4-addrs": -5}},
    ]
    assert read(node(requested=asked)).demand == (Demand("b", "ipv4", 5), Demand("b", "ipv6", 3))


# -- what others write survives


def test_what_we_do_not_know_in_an_entry_is_written_back() -> None:
    seen = read(
        node(
            allocated=[
                {"pool": "mars", "cidrs": ["10.20.0.0/27"], "colour": {"red": 1}, "allowFirstIP": True},
                {"pool": "moon", "weight": 3},
            ]
        )
    )
    assert seen.holds.blocks == (Block("mars", parse("10.20.0.0/27"), True, False),)
    more = (*seen.holds.blocks, Block("mars", parse("10.20.0.32/27"), True, False))
    patch = json.loads(Pooled().spec_patch(seen, more))
    assert patch["metadata"] == {"resourceVersion": "7", "uid": "u"}
    assert patch["spec"]["ipam"] == {
        "pools": {
            "allocated": [
                {
                    "pool": "mars",
                    "cidrs": ["10.20.0.0/27", "10.20.0.32/27"],
                    "allowFirstIP": True,
                    "colour": {"red": 1},
                },
                {"pool": "moon", "weight": 3},
            ]
        }
    }


@pytest.mark.parametrize(
    "entry",
    [
        {"pool": "mars", "cidrs": ["10.20.0.0/99", "10.20.0.32/27"]},
        {"pool": "mars", "cidrs": "10.20.0.0/27"},
        {"pool": 7, "cidrs": ["10.20.0.32/27"]},
        {"cidrs": ["10.20.0.32/27"]},
        {"pool": "mars", "cidrs": [None, "10.20.0.32/27"]},
        {"pool": "mars", "cidrs": ["10.20.0.32/27"], "allowFirstIP": "yes"},
    ],
)
def test_an_entry_that_cannot_be_read_is_left_alone_and_what_can_is_occupied(entry: dict[str, Any]) -> None:
    tree = node(allocated=[entry], requested=[{"pool": "mars", "needed": {"ipv4-addrs": 8}}])
    seen = read(tree)
    assert seen.unreadable
    assert all(problem.hint for problem in seen.unreadable)
    if "10.20.0.32/27" in entry["cidrs"]:
        assert [block.cidr for block in seen.holds.blocks] == [parse("10.20.0.32/27")]
    grant = served(tree).grant("n")
    assert grant.blocks == seen.holds.blocks
    assert grant.problems


def test_an_object_of_wrong_types_keeps_every_block_that_can_be_told() -> None:
    tree = node(allocated=[{"pool": "mars", "cidrs": ["10.20.0.0/27"]}, 7], requested="much")
    seen = Pooled().salvaged(json.dumps(tree).encode(), "Expected `array`")
    assert seen.holds.blocks == (Block("mars", parse("10.20.0.0/27")),)
    assert seen.unreadable


# -- annotations


def test_what_a_node_says_of_itself() -> None:
    tree = node()
    tree["metadata"] |= {
        "labels": {"zone": "a"},
        "annotations": {
            "ipam.omnipam.io/default-pool": "moon",
            "ipam.omnipam.io/max-blocks": "mars=2, moon=1",
            "ipam.cilium.io/ignore": "true",
        },
    }
    seen = read(tree)
    assert (seen.default_pool, seen.limits, seen.ignored) == ("moon", (("mars", 2), ("moon", 1)), True)
    assert seen.facts.labels == (("zone", "a"),)
    for wrong in ("mars", f"mars={'9' * 5000}"):
        tree["metadata"]["annotations"]["ipam.omnipam.io/max-blocks"] = wrong
        assert "max-blocks" in read(tree).unreadable[0].text
    for wrong in ("mars=", "=1", "mars=-1", "mars=1,mars=2"):
        with pytest.raises(Invalid):
            read_limits(wrong)


# -- migration (5.10)


def test_pod_cidrs_become_blocks_of_the_default_pool() -> None:
    tree = node(requested=[{"pool": "mars", "needed": {"ipv4-addrs": 8}}])
    tree["spec"]["ipam"]["podCIDRs"] = ["10.20.1.0/24", "fd00:20::/120"]
    form = Pooled(default_pool="mars", migrate=True)
    seen = read(tree, form)
    assert seen.holds.outdated
    assert [block.pool for block in seen.holds.blocks] == ["mars", "mars"]
    allocator = MultiPool(Settings(families=("ipv4", "ipv6")))
    allocator.restore([seen], POOLS, (), 0.0)
    assert allocator.stale() == ["n"]
    patch = json.loads(form.spec_patch(seen, allocator.grant("n").blocks))
    assert patch["spec"]["ipam"] == {
        "podCIDRs": None,
        "pools": {"allocated": [{"pool": "mars", "cidrs": ["10.20.1.0/24", "fd00:20::/120"]}]},
    }
    tree["metadata"]["annotations"] = {"ipam.omnipam.io/default-pool": "moon"}
    assert read(tree, form).holds.blocks[0].pool == "moon"
    tree["spec"]["ipam"]["podCIDRs"] = ["10.20.1.0/244"]
    (problem,) = read(tree, form).unreadable
    assert problem.text.startswith("migration to multi-pool IPAM failed: invalid CIDR address: 10.20.1.0/244")


def test_a_migration_that_fails_has_its_own_words_in_the_status() -> None:
    tree = node(requested=[{"pool": "mars", "needed": {"ipv4-addrs": 8}}])
    tree["spec"]["ipam"]["podCIDRs"] = ["10.20.1.0/24x"]
    for migrate, begins in (
        (True, "migration to multi-pool IPAM failed: invalid CIDR address: 10.20.1.0/24x"),
        (False, "ipam-multi-pool-sync allocation failed: invalid CIDR address: 10.20.1.0/24x"),
    ):
        allocator = MultiPool(Settings(families=("ipv4", "ipv6")))
        allocator.restore([read(tree, Pooled(default_pool="mars", migrate=migrate))], POOLS, (), 0.0)
        assert allocator.grant("n").error.startswith(begins)


@pytest.mark.parametrize("wrong", ["podCIDRs", "max-blocks"])
def test_what_cannot_all_be_read_is_not_migrated(wrong: str) -> None:
    tree = node(requested=[{"pool": "mars", "needed": {"ipv4-addrs": 8}}])
    tree["spec"]["ipam"]["podCIDRs"] = ["10.20.1.0/24"]
    if wrong == "podCIDRs":
        tree["spec"]["ipam"]["podCIDRs"].append("10.20.2.0/24x")
    else:
        tree["metadata"]["annotations"] = {"ipam.omnipam.io/max-blocks": "many"}
    seen = read(tree, Pooled(default_pool="mars", migrate=True))
    assert [str(block.cidr) for block in seen.holds.blocks] == ["10.20.1.0/24"]
    assert not seen.holds.outdated
    allocator = MultiPool(Settings(families=("ipv4", "ipv6")))
    allocator.restore([seen], POOLS, (), 0.0)
    assert allocator.grant("n").blocks == seen.holds.blocks


def test_without_migration_pod_cidrs_are_occupied_and_not_written() -> None:
    tree = node()
    tree["spec"]["ipam"]["podCIDRs"] = ["10.20.0.0/24"]
    seen = read(tree)
    assert seen.holds.blocks == (Block("", parse("10.20.0.0/24")),)
    assert json.loads(Pooled().spec_patch(seen, seen.holds.blocks))["spec"]["ipam"] == {
        "pools": {"allocated": []}
    }


# -- pools


def pool(ipv4: Any = None, ipv6: Any = None, marks: dict[str, str] | None = None, **spec: Any) -> PoolSpec:
    families = {"ipv4": ipv4, "ipv6": ipv6}
    tree = {
        "metadata": {
            "name": "p",
            "creationTimestamp": "2026-03-04T05:06:07Z",
            "annotations": {f"ipam.omnipam.io/{key}": text for key, text in (marks or {}).items()},
        },
        "spec": spec | {key: given for key, given in families.items() if given is not None},
    }
    return pool_of(msgspec.json.decode(json.dumps(tree), type=PodIPPool))


V4 = {"cidrs": ["10.0.0.0/16", "10.1.0.0/24"], "maskSize": 28}


def test_a_pool_with_everything() -> None:
    marks = {
        "node-selector": "zone in (a,b)",
        "max-blocks-per-node": "4",
        "reserved": "10.0.0.0/28, 10.1.0.7,10.0.1.1-10.0.1.2",
        "ipv4-mask-sizes": "20,24,28",
    }
    spec = pool(
        V4, {"cidrs": ["fd00::/104"], "maskSize": 120}, marks, allowFirstIP=True, podSelector={"x": 1}
    )
    assert not spec.unreadable
    assert [each.wider for each in spec.ranges] == [(20, 24), (24,), ()]
    assert (spec.max_blocks, spec.first_usable, spec.last_usable) == (4, True, False)
    assert list(map(str, spec.reserved)) == ["10.0.0.0/28", "10.1.0.7/32", "10.0.1.1/32", "10.0.1.2/32"]
    again = pool_of(msgspec.convert(manifest(spec), PodIPPool))
    assert msgspec.structs.replace(again, created=spec.created) == spec


def test_cidrs_as_objects_are_read_too() -> None:
    assert pool({"cidrs": [{"cidr": "10.0.0.0/16"}], "maskSize": 28}).ranges == (
        PoolRange(parse("10.0.0.0/16"), 28),
    )


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        ({"node-selector": "zone in"}, "node-selector"),
        ({"max-blocks-per-node": "none"}, "max-blocks-per-node"),
        ({"max-blocks-per-node": "0"}, "write 1 or more"),
        ({"max-blocks-per-node": "9" * 5000}, "write 1 or more"),
        ({"ipv4-mask-sizes": "9" * 5000}, "is no prefix length"),
        ({"ipv4-mask-sizes": "30"}, "wider than the pool's own /28"),
        ({"ipv4-mask-sizes": "8"}, "wider than the pool's own /28"),
        ({"ipv4-mask-sizes": "a"}, "wider than the pool's own /28"),
        ({"reserved": "x-10.0.0.1"}, 'invalid reserved range start "x"'),
        ({"reserved": "10.0.0.1-y"}, 'invalid reserved range end "y"'),
        ({"reserved": "10.0.0.2-10.0.0.1"}, "invalid reserved range 10.0.0.2-10.0.0.1"),
        ({"reserved": "10.0.255.0-10.1.0.1"}, "10.0.255.0-10.1.0.1 is outside pool CIDR 10.0.0.0/16"),
        ({"reserved": "10.0.0.0/33"}, "reserved"),
    ],
)
def test_annotations_that_make_no_sense(marks: dict[str, str], text: str) -> None:
    spec = pool(V4, None, marks)
    assert text in spec.unreadable[0].text
    assert spec.unreadable[0].hint
    assert not spec.ranges


@pytest.mark.parametrize(
    ("ipv4", "text"),
    [
        ({"cidrs": ["10.0.0.0/33"], "maskSize": 28}, "invalid CIDR address: 10.0.0.0/33"),
        ({"cidrs": ["fd00::/64"], "maskSize": 28}, "CIDR is not v4 family: fd00::/64"),
        ({"cidrs": ["10.0.0.0/16"], "maskSize": 33}, "SubNetMask is invalid"),
    ],
)
def test_specs_that_make_no_sense(ipv4: dict[str, Any], text: str) -> None:
    assert text in pool(ipv4).unreadable[0].text


# -- auto-created pools (5.7)


def test_the_line_of_an_auto_created_pool() -> None:
    spec = read_pool_spec("default", "ipv4-cidrs:10.10.0.0/16,10.11.0.0/16;ipv4-mask-size:24")
    assert manifest(spec)["spec"] == {"ipv4": {"cidrs": ["10.10.0.0/16", "10.11.0.0/16"], "maskSize": 24}}
    full = " ipv4-cidrs : 10.0.0.0/16 ; ipv4-mask-size: 24; ipv6-cidrs: fd00::/104 ;ipv6-mask-size:120;allow-first-ip:true;x:y"
    assert manifest(read_pool_spec("p", full))["spec"] == {
        "ipv4": {"cidrs": ["10.0.0.0/16"], "maskSize": 24},
        "ipv6": {"cidrs": ["fd00::/104"], "maskSize": 120},
        "allowFirstIP": True,
    }


def test_several_auto_created_pools() -> None:
    text = "a=ipv4-cidrs:10.0.0.0/16,10.1.0.0/16;ipv4-mask-size:24,b=ipv6-cidrs:fd00::/104,fd01::/104;ipv6-mask-size:120"
    specs = read_pool_specs(text)
    assert [(spec.name, len(spec.ranges)) for spec in specs] == [("a", 2), ("b", 2)]
    lines = dict(part.split("=") for part in (text[: text.index(",b=")], text[text.index("b=") :]))
    assert read_pool_specs(json.dumps(lines)) == specs
    assert read_pool_specs("") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ipv4-cidrs", "invalid number of key delimiters in pool spec ipv4-cidrs"),
        ("ipv4-cidrs:10.0.0.0/16;", "invalid number of key delimiters in pool spec"),
        ("ipv4-cidrs:ten;ipv4-mask-size:24", 'invalid value for key "ipv4-cidrs": '),
        ("ipv4-cidrs:fd00::/64;ipv4-mask-size:24", 'invalid value for key "ipv4-cidrs": '),
        ("ipv4-cidrs:10.0.0.0/16;ipv4-mask-size:256", 'invalid value for key "ipv4-mask-size": '),
        (
            "ipv4-cidrs:10.0.0.0/16;ipv4-mask-size:24;allow-last-ip:maybe",
            'invalid value for key "allow-last-ip": ',
        ),
        ("ipv4-cidrs:10.0.0.0/16", "mask size 0"),
        ("ipv4-mask-size:24", "no CIDR"),
    ],
)
def test_lines_that_make_no_pool(text: str, said: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_pool_spec("p", text)
    assert said in str(caught.value)


def test_a_pool_that_is_given_twice_is_refused() -> None:
    with pytest.raises(Invalid, match="given twice"):
        read_pool_specs(
            "a=ipv4-cidrs:10.0.0.0/16;ipv4-mask-size:24,a=ipv4-cidrs:10.1.0.0/16;ipv4-mask-size:24"
        )
