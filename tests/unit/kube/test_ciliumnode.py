"""What CiliumNodes and Nodes mean: golden objects, bad ones, and the patches that we write onto them."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.values import NO_AGENT, NO_FACTS, NOTHING_HELD, Block, Facts, Held, Node
from omnipam.runtime.kube.ciliumnode import (
    UNREADABLE,
    CiliumNode,
    is_collectable,
    node,
    salvaged,
    spec_patch,
    status_patch,
)
from omnipam.runtime.kube.machine import Machine, known, without_object

OBJECTS = files("omnipam.fixtures") / "kube_objects"
THEIRS = (
    Path(__file__).parents[4] / "shared" / "data" / "cilium"
)  # beside a checkout of the authors; else nothing
DECODER = msgspec.json.Decoder(CiliumNode)
MACHINE = msgspec.json.Decoder(Machine)


def load(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((OBJECTS / f"{name}.json").read_text())
    return tree


def read(tree: dict[str, Any]) -> Node:
    return node(DECODER.decode(json.dumps(tree)))


def machine(tree: dict[str, Any]) -> Machine:
    return MACHINE.decode(json.dumps(tree))


def blocks(*texts: str) -> tuple[Block, ...]:
    return tuple(Block("default", parse(text)) for text in texts)


def test_a_node_as_cluster_pool_leaves_it() -> None:
    tree = load("ciliumnode-cluster-pool")
    assert read(tree) == Node(
        name="worker-1",
        uid=tree["metadata"]["uid"],
        created=1772600767.0,
        version="4711",
        facts=Facts((parse_address("192.168.1.11"), parse_address("2001:db8::11"))),  # not CiliumInternalIP
        holds=Held(blocks("10.0.0.0/24", "fd00::/120")),
    )


def test_what_a_node_lacks_is_shared_not_made() -> None:
    fresh = load("ciliumnode-fresh")
    del fresh["spec"]["addresses"]
    seen = read(fresh)
    assert (seen.holds is NOTHING_HELD, seen.agent is NO_AGENT, seen.facts is NO_FACTS) == (True, True, True)


def test_missing_null_and_empty_are_one() -> None:
    bare = {"metadata": load("ciliumnode-fresh")["metadata"]}
    shapes: list[dict[str, Any]] = [
        bare,
        {**bare, "spec": None, "status": None},
        {**bare, "spec": {}, "status": {}},
        {**bare, "spec": {"ipam": None, "addresses": None, "instance-id": None}, "status": {"ipam": None}},
        {**bare, "spec": {"ipam": {"podCIDRs": None}}, "status": {"ipam": {"operator-status": None}}},
        {
            **bare,
            "spec": {"ipam": {"podCIDRs": []}},
            "status": {"ipam": {"operator-status": {"error": None}}},
        },
        {**bare, "status": {"ipam": {"operator-status": {"error": ""}, "pod-cidrs": None}}},
    ]
    assert {read(shape) for shape in shapes} == {read(bare)}


def test_the_error_is_what_the_operator_said() -> None:
    assert read(load("ciliumnode-failed")).holds.error == "requested CIDR (10.0.3.0/24) is already allocated"


@pytest.mark.parametrize(
    ("value", "ignored"), [("true", True), ("TRUE", True), ("false", False), ("1", False)]
)
def test_the_ignore_annotation(value: str, ignored: bool) -> None:
    tree = load("ciliumnode-ignored")
    tree["metadata"]["annotations"]["ipam.cilium.io/ignore"] = value
    seen = read(tree)
    assert seen.ignored is ignored
    assert seen.holds.blocks == blocks("10.0.4.0/24")  # occupied all the same


def test_of_a_malformed_node_the_readable_entries_are_occupied() -> None:
    seen = read(load("ciliumnode-malformed"))
    assert seen.holds.blocks == blocks("10.0.5.0/24", "fd00::5:0/112")
    (problem,) = seen.unreadable
    assert problem.reason == UNREADABLE
    assert problem.text == "invalid CIDR address: 10.0.6/24"
    assert "correct spec.ipam.podCIDRs of CiliumNode worker-5" in problem.hint
    assert "\n" not in str(problem)


def test_host_bits_are_masked_as_cilium_does() -> None:
    tree = load("ciliumnode-fresh")
    tree["spec"]["ipam"]["podCIDRs"] = ["10.0.1.7/24"]
    assert read(tree).holds.blocks == blocks("10.0.1.0/24")


def test_what_the_agent_says_of_its_blocks() -> None:
    agent = read(load("ciliumnode-depleted")).agent
    assert (agent.depleted, agent.released) == ((parse("10.0.7.0/24"),), (parse("10.0.8.0/24"),))


def test_cloud_and_multi_pool_nodes_are_read_too() -> None:
    assert read(load("ciliumnode-eni")).instance == "i-0123456789abcdef0"
    assert read(load("ciliumnode-multi-pool")).holds.error == "cannot allocate from non-existing pool: mars"


def golden() -> list[Any]:
    """Objects as Cilium's operator leaves them: those that we ship, and beside a checkout of the authors its own."""
    ours = [OBJECTS / f"ciliumnode-{mode}.json" for mode in ("cluster-pool", "eni", "multi-pool")]
    return [
        *(pytest.param(path, id=path.name) for path in ours),
        *(pytest.param(path, id=f"theirs-{path.name}") for path in sorted(THEIRS.glob("ciliumnode-*.json"))),
    ]


@pytest.mark.parametrize("path", golden())
def test_objects_of_ciliums_own_operator(path: Any) -> None:
    tree = json.loads(path.read_text())
    seen = read(tree)
    assert [str(block.cidr) for block in seen.holds.blocks] == (tree["spec"]["ipam"].get("podCIDRs") or [])
    assert seen.holds.error == tree["status"]["ipam"]["operator-status"].get("error", "")
    assert seen.instance == tree["spec"].get("instance-id", "")
    assert not seen.unreadable


# Objects that do not decode


def test_a_node_of_wrong_types_keeps_every_cidr_that_can_be_told() -> None:
    tree = load("ciliumnode-malformed")
    tree["spec"]["ipam"]["podCIDRs"].append(7)
    raw = json.dumps(tree).encode()
    with pytest.raises(msgspec.ValidationError) as caught:
        DECODER.decode(raw)
    seen = salvaged(raw, str(caught.value))
    assert (seen.name, seen.version, seen.uid) == ("worker-5", "4711", tree["metadata"]["uid"])
    assert seen.created == 1772600767.0
    assert seen.holds.blocks == blocks("10.0.5.0/24", "fd00::5:0/112")
    assert [problem.reason for problem in seen.unreadable] == [UNREADABLE, UNREADABLE]
    assert "spec.ipam.podCIDRs" in seen.unreadable[0].text


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"a"', b'{"metadata": {}}', b'{"metadata": {"name": 3}}'])
def test_what_has_no_name_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        salvaged(raw, "why")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["spec", "ipam", "podCIDRs", "status", "operator-status", "error", "annotations"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_nothing_in_an_object_breaks_us(metadata: object, spec: object, status: object) -> None:
    told = metadata if isinstance(metadata, dict) else {}
    tree = {"metadata": {**told, "name": "a", "uid": "u"}, "spec": spec, "status": status}
    raw = json.dumps(tree).encode()
    try:
        seen = node(DECODER.decode(raw))
    except msgspec.ValidationError as exc:
        seen = salvaged(raw, str(exc))
        assert seen.unreadable
    assert seen.name == "a"


cidrs = st.builds(
    lambda bits, address, length: Cidr(bits, address % (1 << bits), bits).widened(length % (bits + 1)),
    st.sampled_from([32, 128]),
    st.integers(min_value=0, max_value=(1 << 128) - 1),
    st.integers(min_value=0, max_value=128),
)


# What we write


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


@given(st.lists(cidrs, max_size=4), st.text(min_size=1, max_size=30))
def test_what_we_write_is_what_we_read_and_nothing_else_changes(granted: list[Cidr], error: str) -> None:
    tree = load("ciliumnode-eni")
    tree["spec"]["unknown"] = {"kept": [1]}
    wanted = tuple(Block("default", cidr) for cidr in granted)
    after = merge(tree, json.loads(spec_patch("4711", tree["metadata"]["uid"], wanted)))
    after = merge(after, json.loads(status_patch("4711", tree["metadata"]["uid"], error)))
    seen = read(after)
    assert (seen.holds.blocks, seen.holds.error) == (wanted, error)
    del after["spec"]["ipam"]["podCIDRs"], after["status"]["ipam"]["operator-status"]["error"]
    assert after == tree


def test_clearing_an_error_leaves_ciliums_form() -> None:
    tree = load("ciliumnode-failed")
    after = merge(tree, json.loads(status_patch("4711", tree["metadata"]["uid"], "")))
    assert after["status"]["ipam"]["operator-status"] == {}


def test_a_patch_names_version_and_object() -> None:
    for patch in (spec_patch("9", "u", ()), status_patch("9", "u", "")):
        assert json.loads(patch)["metadata"] == {"resourceVersion": "9", "uid": "u"}


# Garbage collection


def test_an_owner_or_a_mark_keeps_a_node_from_collection() -> None:
    tree = load("ciliumnode-fresh")
    assert is_collectable(DECODER.decode(json.dumps(tree)))
    tree["metadata"]["annotations"] = {"cilium.io/do-not-gc": "True"}
    assert not is_collectable(DECODER.decode(json.dumps(tree)))
    assert not is_collectable(DECODER.decode(json.dumps(load("ciliumnode-cluster-pool"))))


# Nodes


def test_pod_cidrs_of_a_machine() -> None:
    said = known(machine(load("node-pod-cidrs")))
    assert said.facts.pod_cidrs == (parse("10.200.1.0/24"), parse("fd00:200:0:1::/64"))
    assert said.facts.addresses == (parse_address("192.168.1.11"),)
    single = known(machine(load("node-pod-cidr"))).facts
    assert single.pod_cidrs == (parse("10.200.2.0/24"),)
    assert single.cordoned


def test_annotations_fill_only_the_family_that_the_spec_lacks() -> None:
    said = known(machine(load("node-annotated"))).facts
    assert said.pod_cidrs == (parse("10.200.3.0/24"), parse("fd00:200:0:3::/64"))


def test_the_newer_annotation_wins_over_its_alias() -> None:
    tree = load("node-annotated")
    del tree["spec"]["podCIDRs"]
    tree["metadata"]["annotations"]["io.cilium.network.ipv4-pod-cidr"] = "10.8.8.0/24"
    assert known(machine(tree)).facts.pod_cidrs == (parse("10.9.9.0/24"), parse("fd00:200:0:3::/64"))


def test_an_unreadable_annotation_is_a_problem() -> None:
    tree = load("node-annotated")
    tree["metadata"]["annotations"]["io.cilium.network.ipv6-pod-cidr"] = "fd00::"
    said = known(machine(tree))
    assert said.facts.pod_cidrs == (parse("10.200.3.0/24"),)
    (problem,) = said.unreadable
    assert "annotation io.cilium.network.ipv6-pod-cidr of Node worker-1" in problem.hint


def test_a_machine_being_deleted_is_terminating() -> None:
    tree = load("node-pod-cidr")
    tree["metadata"]["deletionTimestamp"] = "2026-03-04T06:00:00Z"
    assert known(machine(tree)).facts.terminating


def test_a_machine_without_object_cannot_be_published_to() -> None:
    alone = without_object("worker-1", known(machine(load("node-pod-cidrs"))))
    assert (alone.present, alone.version, alone.created) == (False, "", 1772600400.0)
    assert len(alone.facts.pod_cidrs) == 2
