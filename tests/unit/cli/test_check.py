"""`omnipam check` on the embedded store: every finding from a file in which it is so, and what `--fix` may do."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.console import Console, lead, pool, serve

from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.values import Block, Grant, Kept, Problem
from omnipam.runtime.audit import DropBlocks, Found
from omnipam.runtime.cli.check import _on_sqlite, _with_lease

SPEC = pool(("10.0.0.0/16", 24))


def found(console: Console, *words: str) -> dict[str, dict[str, Any]]:
    """The findings by id; there must be one of each at most."""
    document = console("check", *words, "-o", "json").json
    assert document["version"] == 1
    assert all(
        each.keys() == {"id", "severity", "objects", "cause", "repair", "fixed"}
        for each in document["findings"]
    )
    by_id = {each["id"]: each for each in document["findings"]}
    assert len(by_id) == len(document["findings"])
    return by_id


def publish(console: Console, name: str, *cidrs: str, error: str = "") -> None:
    """Writes a node's object as something else than our operator might have."""
    with console.store() as store:
        node = store.node(name)
        assert node is not None
        blocks = tuple(Block("default", parse(cidr)) for cidr in cidrs)
        problems = (Problem("X", error),) if error else ()
        store.publish(Publish(node, Grant(blocks, problems)))


def sql(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.close()


@pytest.fixture
def settled(console: Console) -> Console:
    """Two nodes with a block each, and an operator that leads."""
    for name in "ab":
        console("node", "add", name)
    serve(console, SPEC)
    return console


def test_nothing_is_found_where_all_is_well(settled: Console) -> None:
    answer = settled("check")
    assert (answer.code, answer.out, answer.err) == (0, "nothing found\n", "")
    assert found(settled) == {}


def test_no_operator(settled: Console) -> None:
    settled("node", "add", "c")
    with settled.store() as store:
        lead(store, alive=False)
    finding = found(settled)["NoOperator"]
    assert "1 nodes wait for it" in finding["cause"]
    assert finding["repair"] == "start omnipam operator"
    assert settled("check").code == 1


def test_unserved_though_an_operator_leads(settled: Console) -> None:
    settled("node", "add", "c")
    assert found(settled) == {}  # it is new
    sql(settled.path, "UPDATE nodes SET created = created - 3600 WHERE name = 'c'")
    assert found(settled)["Unserved"]["objects"] == ["CiliumNode/c"]


def test_a_full_pool_is_one_finding(console: Console) -> None:
    for name in "abcd":
        console("node", "add", name)
    serve(console, pool(("10.0.0.0/24", 24)))
    finding = found(console)["PoolExhausted"]
    assert finding["objects"] == ["CiliumNode/b", "CiliumNode/c", "CiliumNode/d"]
    assert finding["cause"] == "allocator full"


def test_outside_the_pool(settled: Console) -> None:
    serve(settled, pool(("10.9.0.0/16", 24)))
    answer = settled("check", "-o", "json")
    assert [each["id"] for each in answer.json["findings"]] == ["OutsidePool", "OutsidePool"]
    assert answer.code == 0  # a range that was taken out is being drained: no fault


def test_an_error_fails(settled: Console) -> None:
    sql(settled.path, "UPDATE nodes SET agent = '[' WHERE name = 'a'")
    assert settled("check").code == 1


def test_on_a_cluster_the_lease_is_named() -> None:
    """Beside Cilium's operator ours leads by a Lease of its own, which check has to be told."""
    said = _with_lease(Found("NoOperator", "warning", (), "nobody", "start one"), "kube-system/their-lock")
    assert said.cause == "nobody; the Lease looked at is kube-system/their-lock"
    assert "--lease-name NAME" in said.repair
    other = Found("Other", "warning", (), "cause", "repair")
    assert _with_lease(other, "kube-system/their-lock") is other


def test_overlaps_of_a_damaged_file(settled: Console) -> None:
    """SQLite refuses the same block twice, and the store what overlaps; a person with sqlite3 can do the latter."""
    sql(
        settled.path,
        "INSERT INTO grants (node, position, pool, family, first, last, length)"
        " SELECT 'b', 1, pool, family, first, CAST(substr(last, 1, 15) || x'7f' AS BLOB), 25 FROM grants WHERE node = 'a'",
    )
    finding = found(settled)["CIDRClaimedTwice"]
    assert finding["severity"] == "error"
    assert {"CiliumNode/a", "CiliumNode/b"} <= set(finding["objects"])


def test_reserved_and_quarantined_ranges_in_use(settled: Console) -> None:
    with settled.store() as store:
        store.keep((Kept("default", parse("10.0.1.0/24"), until=4e9),))
    ids = found(settled, "--cluster-pool-ipv4-cidr=10.0.0.0/16", "--cluster-pool-reserved=10.0.0.7")
    assert ids["ReservedInUse"]["objects"] == ["CIDR/10.0.0.7/32", "CiliumNode/a"]
    assert ids["QuarantinedInUse"]["objects"] == ["CIDR/10.0.1.0/24", "CiliumNode/b"]


def test_unreadable(settled: Console) -> None:
    sql(settled.path, "UPDATE nodes SET agent = '[' WHERE name = 'a'")
    finding = found(settled)["Unreadable"]
    assert finding["severity"] == "error"
    assert finding["objects"] == ["CiliumNode/a"]
    assert "column agent" in finding["cause"]


def test_fix_clears_a_stale_error(settled: Console) -> None:
    publish(settled, "a", "10.0.0.0/24", error="allocator full")
    assert not found(settled)["StaleError"]["fixed"]
    dry = settled("check", "--fix", "--dry-run")
    assert dry.code == 1
    assert "would repair StaleError" in dry.err
    assert found(settled)["StaleError"]

    answer = settled("check", "--fix")
    assert answer.code == 0
    assert "repaired StaleError" in answer.err
    assert answer.cells[1][:3] == ["warning", "StaleError", "yes"]
    assert found(settled) == {}
    (node,) = [
        item
        for item in settled("node", "list", "-o", "json").json["items"]
        if item["metadata"]["name"] == "a"
    ]
    assert node["spec"]["ipam"]["podCIDRs"] == ["10.0.0.0/24"]


def test_an_error_that_still_holds_is_not_stale(console: Console) -> None:
    for name in "ab":
        console("node", "add", name)
    serve(console, pool(("10.0.0.0/24", 24)))
    assert found(console).keys() == {"PoolExhausted"}


def test_fix_writes_nothing_over_a_newer_object(settled: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnipam.runtime.cli import check

    publish(settled, "a", "10.0.0.0/24", error="allocator full")
    on_sqlite = check._on_sqlite

    def meanwhile(url: str, repairs: Any) -> list[str]:
        publish(settled, "a", "10.0.0.0/24", error="something newer")
        return on_sqlite(url, repairs)

    monkeypatch.setattr(check, "_on_sqlite", meanwhile)
    answer = settled("check", "--fix")
    assert answer.code == 1
    assert "changed meanwhile" in answer.err
    with settled.store() as store:
        node = store.node("a")
    assert node is not None
    assert node.holds.error == "something newer"


def test_fix_drops_what_is_kept_for_nobody(settled: Console) -> None:
    kept = (
        Kept("default", parse("10.0.5.0/24"), owner="gone"),
        Kept("default", parse("10.0.6.0/24"), until=1.0),
    )
    with settled.store() as store:
        store.keep(kept)
        lead(store, alive=True)
    ids = found(settled)
    assert ids["KeptForGone"]["severity"] == "warning"
    assert ids["QuarantineOver"]["severity"] == "info"
    answer = settled("check", "--fix")
    assert answer.code == 1
    assert "an operator leads" in answer.err
    with settled.store() as store:
        assert store.kept() == tuple(sorted(kept))
        lead(store, alive=False)
    answer = settled("check", "--fix")
    assert answer.code == 1  # no operator
    assert answer.err.count("repaired ") == 2
    assert found(settled).keys() == {"NoOperator"}
    with settled.store() as store:
        assert store.kept() == ()


def test_what_goes_into_quarantine_is_not_dropped(console: Console) -> None:
    console("node", "add", "a")
    serve(console, pool(("10.0.0.0/16", 24), quarantine_s=60), leads=False)
    with console.store() as store:
        store.keep((Kept("default", parse("10.0.5.0/24"), owner="gone"),))
    console("check", "--fix")
    assert "KeptForGone" in found(console)


def test_kept_for_one_and_shown_by_another(settled: Console) -> None:
    with settled.store() as store:
        store.keep((Kept("default", parse("10.0.1.0/24"), owner="a"),))
    finding = found(settled)["KeptTaken"]
    assert finding["severity"] == "error"
    assert finding["objects"] == ["CIDR/10.0.1.0/24", "CiliumNode/b"]


def test_fix_frees_blocks_without_a_node(settled: Console) -> None:
    sql(settled.path, "DELETE FROM nodes WHERE name = 'b'")
    finding = found(settled)["BlocksWithoutNode"]
    assert finding["objects"] == ["CiliumNode/b"]
    assert "10.0.1.0/24" in finding["cause"]
    assert settled("check", "--fix").code == 0
    assert found(settled) == {}


def test_fix_frees_nothing_of_a_node_that_came_back(settled: Console) -> None:
    again = Found("BlocksWithoutNode", "error", (), "", "", DropBlocks("b"))
    (why,) = _on_sqlite(settled.url, [again])
    assert "is back" in why
    with settled.store() as store:
        assert [granted.node for granted in store.grants()] == ["a", "b"]


def test_info_is_no_problem(settled: Console) -> None:
    with settled.store() as store:
        store.keep((Kept("default", parse("10.0.6.0/24"), until=1.0),))
    answer = settled("check", "-o", "json")
    assert [each["severity"] for each in answer.json["findings"]] == ["info"]
    assert answer.code == 0


def test_a_pool_over_the_nodes_own_addresses(console: Console) -> None:
    console("node", "add", "a", "--address", "10.0.200.1")
    serve(console, SPEC)
    assert found(console)["PoolOverlapsNodes"]["objects"] == ["CIDR/10.0.0.0/16", "CIDR/10.0.200.1/32"]


def test_a_table_has_few_objects_and_a_document_all(console: Console) -> None:
    for number in range(6):
        console("node", "add", f"n{number}")
    serve(console, pool(("10.0.0.0/24", 24)))
    assert "CiliumNode/n1,CiliumNode/n2,CiliumNode/n3 and 2 more" in console("check").out
    assert len(found(console)["PoolExhausted"]["objects"]) == 5


def test_worst_first(settled: Console) -> None:
    sql(settled.path, "UPDATE nodes SET agent = '[' WHERE name = 'a'")
    with settled.store() as store:
        store.keep((Kept("default", parse("10.0.6.0/24"), until=1.0),))
        lead(store, alive=False)
    severities = [each["severity"] for each in settled("check", "-o", "json").json["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "info").index)
    assert len(set(severities)) == 3


def test_a_kept_row_that_cannot_be_read(settled: Console) -> None:
    sql(settled.path, "INSERT INTO kept VALUES ('default', 'nonsense', '', 0)")
    (finding,) = found(settled).values()
    assert "table kept" in finding["cause"]
    assert "nonsense" in finding["cause"]
    assert settled("node", "list").code == 0
    assert settled("plan").code == 0


@pytest.mark.parametrize("value", ["{bad", ""])
def test_settings_that_cannot_be_read(settled: Console, value: str) -> None:
    sql(settled.path, f"INSERT OR REPLACE INTO settings VALUES ('pools', '{value}')")
    finding = found(settled)["SettingsUnreadable"]
    assert "setting pools cannot be read" in finding["cause"]
    assert finding["repair"] == "start the operator, which records it anew"
    for words in ("node list", "node show a", "pool list", "plan"):
        assert settled(*words.split()).code == 0


def test_json_is_json(settled: Console) -> None:
    assert json.loads(settled("check", "-o", "json").out) == {"version": 1, "findings": []}
