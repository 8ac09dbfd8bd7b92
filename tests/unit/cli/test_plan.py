"""`omnipam plan`: what it says must be what happens."""

from __future__ import annotations

import pytest
from tests.unit.cli.console import Console, pool, serve

from omnipam.core.cidr import parse
from omnipam.core.values import Agent, Kept, Node


def test_several_nodes_get_several_blocks(console: Console) -> None:
    for name in "cab":
        console("node", "add", name)
    document = console("plan", "-o", "json").json
    assert (document["version"], document["mode"]) == (1, "cluster-pool")
    assert document["calls"] == {"write nodes": 3}
    planned = {each["node"]: each["actions"] for each in document["nodes"]}
    assert planned["c"] == [
        {
            "action": "TakeBlock",
            "pool": "default",
            "family": "ipv4",
            "cidr": "10.0.0.0/24",
            "reason": "ipv4: the node has no block",
        }
    ]
    assert {actions[0]["cidr"] for actions in planned.values()} == {
        "10.0.0.0/24",
        "10.0.1.0/24",
        "10.0.2.0/24",
    }


def test_the_operator_does_what_was_planned(console: Console) -> None:
    spec = pool(("10.0.0.0/22", 24), ("fd00::/118", 120), reserved=["10.0.1.9/32"], quarantine_s=60)
    console("node", "add", "old")
    serve(console, spec)
    for name in "abcd":
        console("node", "add", name)
    with console.store() as store:
        store.keep((Kept("default", parse("10.0.2.0/24"), until=4e9),))
    planned = {
        each["node"]: [action["cidr"] for action in each["actions"]]
        for each in console("plan", "-o", "json").json["nodes"]
    }
    serve(console, spec)
    with console.store() as store:
        granted = {
            node.name: [str(block.cidr) for block in node.holds.blocks]
            for node in store.nodes()
            if node.name != "old"
        }
    assert planned == granted
    assert sum(map(len, granted.values())) == 2  # one of four nodes, both families: there is no more
    after = console("plan", "-o", "json").json
    assert after["calls"] == {}
    assert [each["unmet"][0]["reason"] for each in after["nodes"]] == ["PoolExhausted"] * 3


def test_nothing_is_written(console: Console) -> None:
    console("node", "add", "a")
    before = console("node", "list", "-o", "json").out
    assert console("plan").code == 0
    assert console("plan", "--explain", "a").code == 0
    assert console("node", "list", "-o", "json").out == before


def test_unmet_demand_has_cause_and_next_step(console: Console) -> None:
    for name in "abc":
        console("node", "add", name)
    answer = console("plan", "--cluster-pool-ipv4-cidr=10.0.0.0/23", "-o", "json").json
    (unmet,) = answer["nodes"][2]["unmet"]
    assert unmet["reason"] == "PoolExhausted"
    assert unmet["text"] == "allocator full"
    assert "cluster-pool-ipv4-cidr" in unmet["hint"]
    table = console("plan", "--cluster-pool-ipv4-cidr=10.0.0.0/23")
    assert table.cells[3][:2] == ["c", "Unmet"]
    assert "allocator full" in table.out
    assert table.out.endswith(
        "\n3 nodes in mode cluster-pool: 2 with actions, 1 with unmet demand; 3 × write nodes\n"
    )


def test_a_settled_store_needs_nothing(console: Console) -> None:
    console("node", "add", "a")
    serve(console, pool(("10.0.0.0/16", 24)))
    answer = console("plan")
    assert answer.out == "1 node in mode cluster-pool: 0 with actions, 0 with unmet demand; no calls\n"


def test_explain_walks_through(console: Console) -> None:
    for name in "abc":
        console("node", "add", name)
    words = ("--cluster-pool-ipv4-cidr=10.0.0.0/23,10.1.0.0/23,10.2.0.0/23", "--explain", "c")
    explained = console("plan", *words, "-o", "json").json
    assert explained["demand"] == ["1 ipv4 block"]
    assert explained["holds"] == []
    assert explained["needs"] == ["ipv4"]
    assert explained["ahead"] == 2
    assert [(each["cidr"], each["free"], each["verdict"]) for each in explained["ranges"]] == [
        ("10.0.0.0/23", 0, "full"),
        ("10.1.0.0/23", 2, "gives 10.1.0.0/24"),
        ("10.2.0.0/23", 2, "not reached: an earlier range has space"),
    ]
    text = console("plan", *words).out
    assert "gives 10.1.0.0/24" in text
    assert "2 other nodes" in text


def test_explain_a_node_that_ran_full(console: Console) -> None:
    with console.store() as store:
        store.add_node(Node("a"))
    serve(console, pool(("10.0.0.0/16", 24), max_blocks=2))
    with console.store() as store, store.writing() as db:
        from omnipam.runtime.sqlite.rows import agent_json

        text = agent_json(Agent(depleted=(parse("10.0.0.0/24"),)))
        db.execute("UPDATE nodes SET agent = ?", (text,))
    explained = console("plan", "--explain", "a", "-o", "json").json
    assert explained["demand"] == ["1 ipv4 block, up to 2 when all that it has are full"]
    assert explained["state"] == ["its agent says full: 10.0.0.0/24"]
    assert explained["actions"][0]["cidr"] == "10.0.1.0/24"


def test_explain_a_node_that_is_not_there(console: Console) -> None:
    console("node", "add", "a")
    assert "node nope is not in" in console.refused("plan", "--explain", "nope", code=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bogus"], "bogus"),
        (["--ipam=bogus"], "use one of cluster-pool, multi-pool, or kubernetes with --store kubernetes"),
        (["--ipam=eni"], "use one of cluster-pool, multi-pool, or kubernetes with --store kubernetes"),
        (["kubernetes"], "--store kubernetes"),
        (["--cluster-pool-ipv4-cidr=10.0.0.0/33"], "cluster-pool-ipv4-cidr"),
        (["--cluster-pool-ipv4-cidr="], "set but empty"),
        (["--cluster-pool-ipv4-cidr=10.0.0.0/16,10.0.1.0/24"], "collides"),
        (["--cluster-pool-ipv4-cidr=fd00::/64"], "family"),
        (["--cluster-pool-ipv4-mask-size=33"], "cluster-pool-ipv4-mask-size"),
        (["--cluster-pool-ipv4-mask-size=4"], "cluster-pool-ipv4-mask-size"),
        (["--config-dir=/nowhere/at/all"], "/nowhere/at/all"),
        (["--config=/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_bad_configuration_is_one_line(console: Console, words: list[str], said: str) -> None:
    console("node", "add", "a")
    for command in ("plan", "check"):
        assert said in console.refused(command, *words)


def test_the_mode_is_what_the_operator_recorded(console: Console) -> None:
    with console.store() as store:
        store.record("kubernetes", ())
    assert "mode kubernetes" in console.refused("plan")
    assert console("plan", "cluster-pool").code == 0
    assert console("plan", "--ipam=cluster-pool").code == 0
