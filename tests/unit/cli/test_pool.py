"""`omnipam pool` on the embedded store, and the counting behind it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.console import Console, pool, serve

from omnipam.core.allocator import Settings
from omnipam.core.cidr import FAMILIES, Cidr, parse
from omnipam.core.values import Block, Held, Kept, Node
from omnipam.providers.registry import find
from omnipam.runtime.usage import usage


def test_the_default_pool_comes_from_the_configuration(console: Console) -> None:
    answer = console(
        "pool", "list", "--enable-ipv6", "--cluster-pool-ipv4-cidr=10.1.0.0/16,10.2.0.0/16", "-o", "json"
    )
    (item,) = answer.json["items"]
    assert (item["apiVersion"], item["kind"]) == ("cilium.io/v2alpha1", "CiliumPodIPPool")
    assert item["metadata"]["name"] == "default"
    assert item["spec"] == {
        "ipv4": {"cidrs": ["10.1.0.0/16", "10.2.0.0/16"], "maskSize": 24},
        "ipv6": {"cidrs": ["fd00::/104"], "maskSize": 120},
    }
    assert item["status"]["ipv4"]["total"] == 512
    assert item["status"]["ipv6"]["free"] == 65536


def test_without_configuration_it_is_what_the_operator_recorded(console: Console) -> None:
    console("node", "add", "a")
    serve(console, pool(("10.9.0.0/16", 26), ("fd00:9::/112", 120)))
    (item,) = console("pool", "list", "-o", "json").json["items"]
    assert item["spec"]["ipv4"] == {"cidrs": ["10.9.0.0/16"], "maskSize": 26}
    assert item["spec"]["ipv6"] == {"cidrs": ["fd00:9::/112"], "maskSize": 120}
    assert item["status"]["ipv6"] == {
        "total": 256,
        "used": 1,
        "free": 255,
        "quarantined": 0,
        "reserved": 0,
        "outside": 0,
        "nodesOnDrainedRanges": 0,
    }
    (item,) = console("pool", "list", "--cluster-pool-ipv4-cidr=10.1.0.0/16", "-o", "json").json["items"]
    assert item["spec"]["ipv4"]["cidrs"] == ["10.1.0.0/16"]  # given here: that counts


def test_a_drain_goes_to_zero(console: Console) -> None:
    for name in "abc":
        console("node", "add", name)
    serve(
        console, pool(("10.0.0.0/23", 24), ("10.1.0.0/16", 24))
    )  # a and b on the first range, c on the second
    serve(console, pool(("10.1.0.0/16", 24)))
    shown = console("pool", "show", "default")
    assert shown.cells[:2] == [
        ["RANGE", "MASK", "TOTAL", "USED", "FREE", "QUARANTINED", "RESERVED"],
        ["10.1.0.0/16", "24", "256", "1", "255", "0", "0"],
    ]
    assert "2 nodes on 2 blocks in no configured range:" in shown.out
    assert shown.cells[-2:] == [["10.0.0.0/24", "a"], ["10.0.1.0/24", "b"]]
    status = console("pool", "show", "default", "-o", "json").json["status"]["ipv4"]
    assert status["drained"] == [{"cidr": "10.0.0.0/24", "node": "a"}, {"cidr": "10.0.1.0/24", "node": "b"}]
    numbers = []
    for name in "abc":
        numbers.append(
            console("pool", "list", "-o", "json").json["items"][0]["status"]["ipv4"]["nodesOnDrainedRanges"]
        )
        console("node", "delete", name)
    assert numbers == [2, 1, 0]
    assert "no configured range" not in console("pool", "show", "default").out


def test_quarantine_and_reserved_are_counted_apart(console: Console) -> None:
    console("node", "add", "a")
    spec = pool(("10.0.0.0/22", 24), reserved=["10.0.3.0/28"], quarantine_s=3600)
    serve(console, spec)
    with console.store() as store:
        store.keep((Kept("default", parse("10.0.1.0/24"), until=4e9),))
    assert console("pool", "show", "default").cells[1] == ["10.0.0.0/22", "24", "4", "1", "1", "1", "1"]


def test_add_show_delete(console: Console) -> None:
    words = ("--ipv4-cidr", "172.16.0.0/16", "172.17.0.0/16", "--ipv4-mask-size", "25")
    added = console("pool", "add", "blue", *words, "--ipv6-cidr=fd01::/64", "--ipv6-mask-size=96")
    assert (added.code, added.out) == (0, "pool/blue added\n")
    shown = console("pool", "show", "blue", "-o", "json").json
    assert shown["spec"]["ipv4"] == {"cidrs": ["172.16.0.0/16", "172.17.0.0/16"], "maskSize": 25}
    assert shown["status"]["ipv6"]["total"] == 2**32
    assert [row[0] for row in console("pool", "list").cells] == [
        "NAME",
        "blue",
        "blue",
        "default",
    ]
    assert console("pool", "delete", "blue", "--dry-run").out == "pool/blue deleted (dry run)\n"
    assert console("pool", "show", "blue").code == 0
    assert console("pool", "delete", "blue").out == "pool/blue deleted\n"
    assert "omnipam pool list" in console.refused("pool", "show", "blue", code=1)
    assert "omnipam pool list" in console.refused("pool", "delete", "blue", code=1)


def test_dry_run_adds_nothing(console: Console) -> None:
    words = ("pool", "add", "blue", "--ipv4-cidr", "172.16.0.0/16", "--ipv4-mask-size", "24", "--dry-run")
    assert console(*words).out == "pool/blue added (dry run)\n"
    assert not console.path.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["blue"], "no range"),
        (["Blue", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=24"], "Blue"),
        (["blue", "--ipv4-cidr=172.16.0.0/33", "--ipv4-mask-size=24"], "172.16.0.0/33"),
        (["blue", "--ipv4-cidr=172.16.0.0", "--ipv4-mask-size=24"], "no prefix length"),
        (["blue", "--ipv4-cidr=fd00::/64", "--ipv4-mask-size=24"], "--ipv6-cidr"),
        (["blue", "--ipv4-cidr=", "--ipv4-mask-size=24"], "set but empty"),
        (["blue", "--ipv4-cidr=172.16.0.0/16"], "--ipv4-mask-size"),
        (["blue", "--ipv4-mask-size=24"], "--ipv4-cidr"),
        (["blue", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=8"], "mask size 8"),
        (["blue", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=33"], "33"),
        (["blue", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=many"], "many"),
        (
            ["blue", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=024"],
            "--ipv4-mask-size: 024 begins with 0",
        ),
        (["blue", "--ipv4-cidr=172.16.0.0/16", f"--ipv4-mask-size={'9' * 5000}"], "is too large"),
        (
            ["blue", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=24", f"--ipv4-mask-sizes={'9' * 5000}"],
            "5000 characters",
        ),
        (
            [
                "blue",
                "--ipv4-cidr=172.16.0.0/16",
                "--ipv4-mask-size=24",
                f"--max-blocks-per-node={'9' * 5000}",
            ],
            "5000 characters",
        ),
        (["blue", "--ipv4-cidr=172.16.0.0/16,172.16.1.0/24", "--ipv4-mask-size=24"], "collides"),
        (["blue", "--ipv4-cidr=10.3.0.0/16", "--ipv4-mask-size=24"], "overlaps 10.0.0.0/8 of pool default"),
        (
            ["default", "--ipv4-cidr=172.16.0.0/16", "--ipv4-mask-size=24"],
            "--cluster-pool-ipv4-cidr 172.16.0.0/16",
        ),
    ],
)
def test_bad_arguments_are_named(console: Console, words: list[str], said: str) -> None:
    console("node", "add", "a")
    assert said in console.refused("pool", "add", *words)


def test_default_cannot_be_deleted_here(console: Console) -> None:
    console("node", "add", "a")
    assert "cluster-pool-ipv4-cidr" in console.refused("pool", "delete", "default")


def test_kubernetes_mode_has_no_pools(console: Console) -> None:
    console("node", "add", "a")
    answer = console("pool", "list", "--ipam=kubernetes")
    assert answer.code == 0
    assert len(answer.cells) == 1
    assert "kube-controller-manager" in answer.err


def test_on_kubernetes_kubectl_writes(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho "$@"\ncat\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    words = (
        "--ipv4-cidr=172.16.0.0/16",
        "--ipv4-mask-size=24",
        "--store",
        "kubernetes",
        "--context",
        "my context",
    )
    answer = console("pool", "add", "blue", *words)
    assert (answer.code, answer.out) == (2, "")
    done = subprocess.run(answer.err.splitlines()[1], shell=True, capture_output=True, text=True, check=True)
    flags, _, manifest = done.stdout.partition("\n")
    assert flags == "--context my context create -f -"
    assert json.loads(manifest) == {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumPodIPPool",
        "metadata": {"name": "blue"},
        "spec": {"ipv4": {"cidrs": ["172.16.0.0/16"], "maskSize": 24}},
    }
    assert "cluster-pool-ipv4-cidr" in console("pool", "add", "default", *words).err
    assert (
        "kubectl delete ciliumpodippool blue"
        in console("pool", "delete", "blue", "--store", "kubernetes").err
    )


def test_what_is_kept_counts_as_long_as_it_holds() -> None:
    nodes = [Node("bereft", present=False)]
    kept = [
        Kept("default", parse("10.0.0.0/24"), owner="bereft"),
        Kept("default", parse("10.0.1.0/24"), owner="gone"),
        Kept("default", parse("10.0.2.0/24"), until=100.0),
        Kept("default", parse("10.0.3.0/24"), until=99.0),
        Kept("other", parse("10.0.4.0/24"), until=200.0),
    ]
    (counted,) = usage(pool(("10.0.0.0/21", 24)), nodes, kept, 99.0).ranges
    # What another pool's name stands on is no less kept from being granted.
    assert (counted.used, counted.quarantined, counted.free) == (1, 2, 5)


blocks = st.builds(
    lambda first, length: Cidr(32, (10 << 24 | first) >> (32 - length) << (32 - length), length),
    st.integers(0, 2**12 - 1),
    st.integers(20, 32),
)


@given(
    st.lists(st.lists(blocks, max_size=3, unique=True), max_size=6),
    st.lists(blocks, max_size=3, unique=True),
    st.lists(blocks, max_size=2, unique=True),
)
def test_it_counts_as_the_allocator_does(
    held: list[list[Cidr]], quarantined: list[Cidr], reserved: list[Cidr]
) -> None:
    """For objects that do not overlap; of those that do, the allocator gives one to its rightful owner."""
    nodes, seen = [], list[Cidr]()
    for number, cidrs in enumerate(held):
        apart = [cidr for cidr in cidrs if not any(cidr.overlaps(other) for other in seen)]
        apart = apart[:1]
        seen += apart
        nodes.append(
            Node(
                f"n{number}",
                holds=Held(tuple(Block("default", cidr) for cidr in apart)),
                created=float(number),
            )
        )
    spec = pool(("10.0.0.0/22", 26), ("10.0.4.0/23", 28), reserved=[str(cidr) for cidr in reserved])
    kept = tuple(Kept("default", cidr, until=10.0) for cidr in quarantined)
    allocator = find("cluster-pool").build(Settings())
    allocator.restore(nodes, (spec,), kept, 0.0)
    counted = usage(spec, nodes, kept, 0.0)
    for theirs in allocator.capacity().pools:
        ours = counted.of(theirs.family)
        assert (
            theirs.total,
            theirs.used,
            theirs.quarantined,
            theirs.free,
            theirs.outside,
        ) == (
            sum(each.total for each in ours),
            sum(each.used for each in ours),
            sum(each.quarantined for each in ours),
            sum(each.free for each in ours),
            len(counted.outside_of(theirs.family)),
        )
    for family in FAMILIES:
        for each in counted.of(family):
            assert each.total == each.used + each.free + each.quarantined + each.reserved
