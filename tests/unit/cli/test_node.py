"""`omnipam node` on the embedded store."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from tests.unit.cli.console import Console, lead, pool, serve

from omnipam.core.values import Problem


def test_add_list_show_delete(console: Console) -> None:
    added = console("node", "add", "a", "--instance-id", "i-1", "--label", "zone=x", "--address", "192.0.2.1")
    assert (added.code, added.out) == (0, "node/a added\n")
    assert "omnipam node show a --store" in added.err
    console("node", "add", "b")
    serve(console, pool(("10.0.0.0/16", 24)))

    rows = console("node", "list").cells
    assert rows[0] == ["NAME", "POD-CIDRS", "STATE", "AGE", "ERROR"]
    assert [row[:3] for row in rows[1:]] == [["a", "10.0.0.0/24", "granted"], ["b", "10.0.1.0/24", "granted"]]

    document = console("node", "list", "-o", "json").json
    assert document["kind"] == "List"
    first = document["items"][0]
    assert (first["apiVersion"], first["kind"]) == ("cilium.io/v2", "CiliumNode")
    assert first["metadata"]["name"] == "a"
    assert first["metadata"]["labels"] == {"zone": "x"}
    assert {"uid", "creationTimestamp", "resourceVersion"} <= first["metadata"].keys()
    assert first["spec"] == {
        "instance-id": "i-1",
        "addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}],
        "ipam": {"podCIDRs": ["10.0.0.0/24"]},
    }

    shown = console("node", "show", "a")
    assert shown.err == ""
    assert "10.0.0.0/24" in shown.out
    assert "granted" in shown.out
    assert console("node", "show", "a", "-o", "json").json == first
    assert yaml.safe_load(console("node", "show", "a", "-o", "yaml").out) == first

    for more in (["--dry-run"], []):
        deleted = console("node", "delete", "a", *more)
        assert deleted.out.startswith("node/a deleted")
        (line,) = deleted.err.splitlines()
        assert "if pods still run on a, addresses may be in use twice" in line
    assert [row[0] for row in console("node", "list").cells] == ["NAME", "b"]


def test_a_status_error_is_shown(console: Console) -> None:
    for name in "abc":
        console("node", "add", name)
    serve(console, pool(("10.0.0.0/23", 24)))
    assert console("node", "list").cells[3][2] == "error"
    item = console("node", "list", "-o", "json").json["items"][2]
    assert item["status"]["ipam"]["operator-status"]["error"].startswith("allocator full — ")
    assert "podCIDRs" not in item["spec"]["ipam"]


@pytest.mark.parametrize("verb", ["add", "delete"])
def test_dry_run_changes_nothing(console: Console, verb: str) -> None:
    console("node", "add", "a")
    before = console("node", "list", "-o", "json").out
    answer = console("node", verb, "b" if verb == "add" else "a", "--dry-run")
    assert answer.code == 0
    assert answer.out.endswith("(dry run)\n")
    assert console("node", "list", "-o", "json").out == before


def test_looking_makes_no_store(console: Console) -> None:
    for words in (
        ("node", "list"),
        ("pool", "list"),
        ("plan",),
        ("check",),
        ("node", "add", "a", "--dry-run"),
    ):
        assert console(*words).code in (0, 1)
    assert not console.path.exists()
    assert "there is no sqlite:///" in console("node", "list").err


def test_the_default_store_is_the_users(console: Console, tmp_path: Path) -> None:
    from omnipam.runtime.cli import main

    assert main(["node", "add", "a"]) == 0
    assert (tmp_path / "state" / "omnipam" / "omnipam.db").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Upper"], "Upper"),
        (["a/b"], "a/b"),
        (["a", "--label", "novalue"], "novalue"),
        (["a", "--label", "=x"], "=x"),
        (["a", "--label", "a b=c"], "'a b=c': its key"),
        (["a", "--label", "a/b/c=d"], "a/b/c=d: its key"),
        (["a", "--label", "A.com/b=c"], "A.com/b=c: its key"),
        (["a", "--label", "k=b c"], "'k=b c': its value"),
        (["a", "--label", f"k={'v' * 64}"], "its value"),
        (["a", "--label=--"], "--label: -- is no value"),
        (["a", "--ipam=multi-pool", "--pool", "mars=030"], "--pool mars=030: 030 begins with 0"),
        (["a", "--ipam=multi-pool", "--pool", f"mars={'9' * 5000}"], "is too large"),
        (["a", "--ipam=multi-pool", "--pool", "mars=0"], "NAME=N"),
        (["a", "--max-blocks", f"mars={'9' * 5000}"], "it has 5005 characters"),
        (["a", "--label", "k=1", "--label", "k=2"], "two values"),
        (["a", "--address", "10.0.0.0/24"], "10.0.0.0/24"),
        (["a", "--address", "300.1.1.1"], "300.1.1.1"),
        (["a", "--wait", "5"], "no unit"),
        (["a", "--wait=-5s"], "negative"),
        (["a", "--pre-allocate", "8"], "--pre-allocate 8"),
        (["a", "--instance-id", "x\ny"], "cannot be printed"),
    ],
)
def test_bad_arguments_are_named(console: Console, words: list[str], said: str) -> None:
    assert said in console.refused("node", "add", *words)
    assert not console.path.exists()


def test_a_name_that_is_taken(console: Console) -> None:
    console("node", "add", "a")
    assert "exists already" in console.refused("node", "add", "a")
    assert "exists already" in console.refused("node", "add", "a", "--dry-run")


def test_a_node_that_is_not_there(console: Console) -> None:
    console("node", "add", "a")
    for verb in ("show", "delete"):
        assert "omnipam node list" in console.refused("node", verb, "b", code=1)
    assert "omnipam node list" in console.refused("node", "delete", "b", "--dry-run", code=1)


def test_no_operator_is_said(console: Console) -> None:
    assert "no operator is serving" in console("node", "add", "a").err
    assert "no operator is serving" in console("node", "show", "a").err
    with console.store() as store:
        lead(store, alive=False)
    assert "no operator is serving" in console("node", "show", "a").err
    with console.store() as store:
        lead(store, alive=True)
    assert console("node", "show", "a").err == ""
    assert "no operator" not in console("node", "add", "b").err
    with console.store() as store:
        lead(store, alive=True, holder="")  # released
    assert "no operator is serving" in console("node", "show", "a").err


def test_wait_ends_with_the_grant(console: Console) -> None:
    console("node", "add", "first")

    def grant() -> None:
        while True:
            with console.store() as store:
                if store.node("a") is not None:
                    break
        serve(console, pool(("10.0.0.0/16", 24)))

    operator = threading.Thread(target=grant)
    operator.start()
    began = time.monotonic()
    answer = console("node", "add", "a", "--wait", "60s")
    assert time.monotonic() - began < 50
    operator.join()
    assert answer.code == 0
    assert answer.out == "node/a added, granted 10.0.1.0/24\n"


def test_wait_in_vain(console: Console) -> None:
    answer = console("node", "add", "a", "--wait", "10ms")
    assert answer.code == 1
    assert answer.out == "node/a added\n"
    assert "no grant after 10ms: no operator is serving" in answer.err


def test_wait_in_vain_says_what_the_operator_says(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnipam.runtime.sqlite.store import SqliteStore

    add_node = SqliteStore.add_node

    def add_and_refuse(store: SqliteStore, node: object) -> object:
        from omnipam.core.drive import Publish
        from omnipam.core.values import Grant

        added = add_node(store, node)  # type: ignore[arg-type]
        store.publish(Publish(added, Grant(problems=(Problem("PoolExhausted", "allocator full"),))))
        return added

    monkeypatch.setattr(SqliteStore, "add_node", add_and_refuse)
    answer = console("node", "add", "a", "--wait", "0s")
    assert answer.code == 1
    assert "allocator full" in answer.err


def test_an_unreadable_row_is_shown_and_hides_no_other(console: Console) -> None:
    for name in "ab":
        console("node", "add", name)
    with sqlite3.connect(console.path) as db:
        db.execute("UPDATE nodes SET facts = 'nonsense' WHERE name = 'a'")
    db.close()
    assert [row[2] for row in console("node", "list").cells[1:]] == ["unreadable", "waiting"]


@pytest.mark.parametrize(
    ("store", "code", "said"),
    [
        ("sqlite:///{dir}/other.db", 2, "not a SQLite database"),
        ("sqlite:///{dir}", 2, "is a directory"),
        ("postgres://x", 2, "postgres://x"),
        ("sqlite:///", 2, "sqlite:///"),
    ],
)
def test_a_store_that_is_none(console: Console, tmp_path: Path, store: str, code: int, said: str) -> None:
    (tmp_path / "other.db").write_text(
        "this is a letter to my aunt, and long enough to be read as a header\n" * 20
    )
    assert said in console.refused("node", "list", "--store", store.format(dir=tmp_path), code=code)


def test_a_kubernetes_store_without_a_cluster(console: Console) -> None:
    assert "no kubeconfig" in console.refused("node", "list", "--store", "kubernetes")
    assert "no kubeconfig" in console.refused("plan", "--store", "kubernetes")


def test_an_api_server_that_is_away(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": ""}}],
                "current-context": "c",
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(path))
    for words in (("node", "list"), ("node", "show", "a"), ("pool", "list"), ("plan",), ("check",)):
        assert "cannot be reached" in console.refused(*words, "--store", "kubernetes", code=1)


def test_on_kubernetes_kubectl_writes(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed line is run by a shell, with a kubectl that shows what it was given."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/sh\necho "$@"\n[ "$1" = delete ] || cat\n')
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    answer = console(
        "node", "add", "a", "--label=k=v", "--instance-id", 'it\'s "quoted"', "--store", "kubernetes"
    )
    assert (answer.code, answer.out) == (2, "")
    done = subprocess.run(answer.err.splitlines()[1], shell=True, capture_output=True, text=True, check=True)
    words, _, manifest = done.stdout.partition("\n")
    assert words == "apply -f -"
    made = json.loads(manifest)
    assert (made["apiVersion"], made["kind"]) == ("cilium.io/v2", "CiliumNode")
    assert made["metadata"] == {"name": "a", "labels": {"k": "v"}}
    assert made["spec"]["instance-id"] == 'it\'s "quoted"'

    answer = console("node", "delete", "a", "--store", "kubernetes")
    assert answer.code == 2
    done = subprocess.run(answer.err.splitlines()[1], shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "delete ciliumnode a\n"
