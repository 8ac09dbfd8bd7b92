"""The operator over the embedded store, as a process: what is granted, kept and handed over, however it ends."""

from __future__ import annotations

import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.kube.admin import wait_until
from tests.operator_process import SHORT_LEASE, OperatorProcess, Replicas

from omnipam.core.cidr import Cidr
from omnipam.core.values import Node
from omnipam.runtime.sqlite.store import SqliteStore

POOL = ("--cluster-pool-ipv4-cidr=10.1.0.0/16", "--cluster-pool-ipv4-mask-size=24")


def operator(url: str, tmp_path: Path, *flags: str, name: str = "operator") -> OperatorProcess:
    return OperatorProcess(tmp_path, f"--store={url}", *SHORT_LEASE, *flags, name=name)


def granted(store: SqliteStore) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in store.grants():
        found.setdefault(each.node, []).append(str(each.block.cidr))
    return found


def no_two_overlap(store: SqliteStore) -> bool:
    cidrs: list[Cidr] = [each.block.cidr for each in store.grants()]
    return not any(one.overlaps(other) for one, other in itertools.combinations(cidrs, 2))


def served(store: SqliteStore, *names: str) -> bool:
    return set(names) <= granted(store).keys()


def test_a_node_of_another_process_is_granted_at_once(url: str, tmp_path: Path, store: SqliteStore) -> None:
    both = ("--enable-ipv6=true", "--cluster-pool-ipv6-cidr=fd00::/104", "--cluster-pool-ipv6-mask-size=120")
    with operator(url, tmp_path, *POOL, *both) as op:
        op.until_leading().until_ready()
        took = []
        for number in range(10):
            began = time.monotonic()
            store.add_node(Node(f"n{number}"))
            wait_until(lambda name=f"n{number}": served(store, name), "granted")
            took.append(time.monotonic() - began)
        assert sorted(took)[5] < 0.3, took  # seen within 50 ms; loosely, for a busy machine
        assert granted(store)["n0"] == ["10.1.0.0/24", "fd00::/120"]
        assert no_two_overlap(store)
        metrics = op.metrics()
        assert metrics['omnipam_pool_blocks{family="ipv4",pool="default",state="used"}'] == 10
        assert metrics["cilium_operator_ipam_k8s_sync_queued_total"] >= 10
        assert metrics["omnipam_leading"] == 1
        assert [event.event for event in store.history("n0")] == ["granted", "granted"]
        began = time.monotonic()
        assert op.stop() == 0
        assert time.monotonic() - began < 1.0


def test_a_restart_grants_nothing_new(url: str, tmp_path: Path, store: SqliteStore) -> None:
    for number in range(20):
        store.add_node(Node(f"n{number}"))
    with operator(url, tmp_path, *POOL) as op:
        op.until(lambda: len(granted(store)) == 20, "all granted")
        before, revision, history = granted(store), store.revision(), store.history()
        op.kill()
    with operator(url, tmp_path, *POOL) as op:
        op.until_leading()
        store.add_node(Node("later"))
        op.until(lambda: served(store, "later"), "the restarted one grants")
        assert op.stop() == 0
    assert {name: cidrs for name, cidrs in granted(store).items() if name != "later"} == before
    assert store.revision() == revision + 2  # added, granted
    assert len(store.history()) == len(history) + 1
    assert store.settings().mode == "cluster-pool"


def test_the_second_takes_over_at_once_when_the_first_is_asked_to_end(
    url: str, tmp_path: Path, store: SqliteStore
) -> None:
    slow = "--leader-election-lease-duration=60s"  # were it waited for, this test would fail
    with operator(url, tmp_path, *POOL, slow, name="one") as one:
        one.until_leading()
        with operator(url, tmp_path, *POOL, slow, name="two") as two:
            two.until_said("standing by")
            two.until_ready()
            assert not two.lines("restored")
            assert two.metrics()["omnipam_leading"] == 0
            assert one.stop() == 0
            two.until_leading(10.0)
            store.add_node(Node("n"))
            two.until(lambda: served(store, "n"), "the second grants")


def test_the_second_takes_over_when_the_first_is_killed(url: str, tmp_path: Path, store: SqliteStore) -> None:
    with operator(url, tmp_path, *POOL, name="one") as one, operator(url, tmp_path, *POOL, name="two") as two:
        wait_until(lambda: one.lines("restored") or two.lines("restored"), "one leads")
        leader, other = (one, two) if one.lines("restored") else (two, one)
        store.add_node(Node("before"))
        leader.until(lambda: served(store, "before"), "granted")
        other.until_said("standing by")
        leader.kill()
        store.add_node(Node("after"))
        other.until(lambda: served(store, "after"), "the other grants")
    assert no_two_overlap(store)


def test_a_leader_that_slept_through_its_lease_writes_nothing_and_ends(
    url: str, tmp_path: Path, store: SqliteStore
) -> None:
    with operator(url, tmp_path, *POOL, name="one") as one:
        one.until_leading()
        with operator(url, tmp_path, *POOL, name="two") as two:
            two.until_said("standing by")
            one.send(signal.SIGSTOP)
            store.add_node(Node("n"))
            two.until(lambda: served(store, "n"), "the second grants")
            before = store.history()
            store.add_node(Node("m"))
            one.send(signal.SIGCONT)
            assert one.wait() == 1
            assert one.lines("leader election: the lease is lost")
            two.until(lambda: served(store, "m"), "the second still grants")
    author = {event.author for event in store.history() if event not in before}
    assert author == {two.lines("leading")[0]["identity"]}
    assert no_two_overlap(store)


def test_quarantine_survives_a_kill(url: str, tmp_path: Path, store: SqliteStore) -> None:
    tiny = ("--cluster-pool-ipv4-cidr=10.1.0.0/24", "--cluster-pool-ipv4-mask-size=25")
    flags = (*tiny, "--cluster-pool-quarantine=1h")
    store.add_node(Node("a"))
    with operator(url, tmp_path, *flags) as op:
        op.until(lambda: served(store, "a"), "granted")
        was = granted(store)["a"]
        store.delete_node("a")
        op.until(store.kept, "kept")
        op.kill()
    with operator(url, tmp_path, *flags) as op:
        op.until_leading()
        store.add_node(Node("b"))
        op.until(lambda: served(store, "b"), "granted")
        store.add_node(Node("c"))
        line = op.until_said("unmet demand")
        assert (line["node"], line["reason"]) == ("c", "PoolExhausted")
        assert granted(store)["b"] != was
        assert not served(store, "c")
        op.until(lambda: store.history("c"), "a line of history")
        assert store.history("c")[0].event == "problem"
        assert [str(each.cidr) for each in store.kept()] == was
        assert op.metrics()["omnipam_nodes_unserved"] == 1
        assert op.metrics()['omnipam_problems_total{reason="PoolExhausted"}'] == 1


def test_exhaustion_heals_by_itself(url: str, tmp_path: Path, store: SqliteStore) -> None:
    tiny = ("--cluster-pool-ipv4-cidr=10.1.0.0/24", "--cluster-pool-ipv4-mask-size=24")
    store.add_node(Node("a"))
    with operator(url, tmp_path, *tiny) as op:
        op.until(lambda: served(store, "a"), "granted")
        store.add_node(Node("b"))
        op.until(
            lambda: (node := store.node("b")) and node.holds.error.startswith("allocator full"), "said so"
        )
        store.delete_node("a")
        op.until(lambda: served(store, "b"), "granted")
        op.until(lambda: (node := store.node("b")) and not node.holds.error, "cleared")
        op.until_said("recovered")


def test_it_waits_while_another_process_has_locked_the_file(
    url: str, tmp_path: Path, store: SqliteStore
) -> None:
    locked = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    locked.execute("PRAGMA locking_mode = EXCLUSIVE")
    locked.execute("BEGIN EXCLUSIVE")
    with operator(f"sqlite:///{tmp_path}/new.db", tmp_path, *POOL) as op:
        op.until_said("the store cannot be reached")
        assert op.get("/readyz")[0] == 503
        assert op.get("/healthz")[0] == 200
        locked.execute("ROLLBACK")
        locked.close()
        op.until_leading().until_ready()
        assert len(op.lines("the store cannot be reached")) == 1
        assert op.stop() == 0


def test_a_refused_reload_is_a_line_of_history(url: str, tmp_path: Path, store: SqliteStore) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16\n")
    store.add_node(Node("a"))
    with operator(url, tmp_path, f"--config={config}") as op:
        op.until(lambda: served(store, "a"), "granted")
        config.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/99\n")
        op.send(signal.SIGHUP)
        line = op.until_said("configuration refused")
        assert "10.1.0.0/99" in line["why"]
        op.until(lambda: store.history("")[:1], "a line of history")
        event = store.history("")[0]
        assert event.event == "problem"
        assert "10.1.0.0/99" in event.text
        config.write_text("cluster-pool-ipv4-cidr: [10.1.0.0/16, 10.2.0.0/16]\n")
        op.send(signal.SIGHUP)
        op.until_said("configuration reloaded")
        op.until(lambda: len(store.settings().pools[0].ranges) == 2, "recorded for the commands")
        metrics = op.metrics()
        assert metrics['omnipam_reloads_total{result="refused"}'] == 1
        assert metrics['omnipam_reloads_total{result="adopted"}'] == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--cluster-pool-ipv4-cidr=10.1.0.0/99",), "10.1.0.0/99"),
        (("--cluster-pool-ipv4-cidr=",), "cluster-pool-ipv4-cidr"),
        (("--cluster-pool-ipv4-cidr=10.1.0.0/16", "--cluster-pool-ipv4-mask-size=8"), "mask-size"),
        (("--cluster-pool-ipv4-cidr=10.1.0.0/16,10.1.2.0/24",), "10.1.2.0/24"),
        (("--ipam=no-such-mode",), "no-such-mode"),
        (("--ipam=kubernetes",), "--store kubernetes"),
        (("--config-dir=/no/such/folder",), "/no/such/folder"),
        (("--no-such-flag",), "--no-such-flag"),
    ],
)
def test_what_a_person_must_mend_is_one_line_and_exit_2(
    url: str, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    with operator(url, tmp_path, *flags) as op:
        assert op.wait() == 2
        (line,) = [line for line in op.text().splitlines() if said in line]
        assert line.startswith("omnipam")
        assert "Traceback" not in op.text()


@pytest.mark.parametrize("which", ["api", "metrics"])
def test_a_port_in_use_is_one_line_and_exit_2(url: str, tmp_path: Path, which: str) -> None:
    with operator(url, tmp_path, *POOL, name="one") as one:
        one.until_leading()
        ports = {"api_port": one.api_port} if which == "api" else {"metrics_port": one.metrics_port}
        with OperatorProcess(tmp_path, f"--store={url}", *POOL, name="two", **ports) as two:
            assert two.wait() == 2
            (line,) = [line for line in two.text().splitlines() if "is in use" in line]
            assert str(next(iter(ports.values()))) in line
            assert "Traceback" not in two.text()


def test_a_replica_that_stands_by_reloads_too(url: str, tmp_path: Path, store: SqliteStore) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/16\n")
    with operator(url, tmp_path, f"--config={config}", name="one") as one:
        one.until_leading()
        with operator(url, tmp_path, f"--config={config}", name="two") as two:
            two.until_said("standing by")
            config.write_text("cluster-pool-ipv4-cidr: 10.1.0.0/99\n")
            two.until_said("configuration refused")
            config.write_text("cluster-pool-ipv4-cidr: 10.9.0.0/16\n")
            two.until_said("configuration reloaded")
            one.until_said("configuration reloaded")
            assert one.stop() == 0
            store.add_node(Node("n"))
            two.until(lambda: served(store, "n"), "granted")
            assert granted(store)["n"] == ["10.9.0.0/24"]


def test_a_mounted_config_map_is_followed(url: str, tmp_path: Path, store: SqliteStore) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    for version, cidrs in (
        ("..1", "10.1.0.0/24"),
        ("..2", "10.1.0.0/24 10.2.0.0/24"),
        ("..3", "10.2.0.0/24"),
    ):
        (mount / version).mkdir()
        (mount / version / "cluster-pool-ipv4-cidr").write_text(cidrs)
    (mount / "..data").symlink_to("..1")
    (mount / "cluster-pool-ipv4-cidr").symlink_to("..data/cluster-pool-ipv4-cidr")

    def swap(version: str) -> None:
        (mount / "..new").symlink_to(version)
        (mount / "..new").rename(mount / "..data")

    store.add_node(Node("a"))
    store.add_node(Node("b"))
    with operator(url, tmp_path, f"--config-dir={mount}") as op:
        op.until_said("unmet demand")
        swap("..2")
        op.until(lambda: served(store, "a", "b"), "grown: the one that waited is served")
        swap("..3")
        op.until(lambda: len(op.lines("configuration reloaded")) == 2, "drained")
        first = next(name for name, cidrs in granted(store).items() if cidrs == ["10.1.0.0/24"])
        store.delete_node(first)
        store.add_node(Node("c"))
        op.until(lambda: (node := store.node("c")) and node.holds.error, "what was drained is not granted")
        assert not served(store, "c")


def test_asked_to_end_while_the_file_is_locked_it_ends_in_time(
    url: str, tmp_path: Path, store: SqliteStore
) -> None:
    with OperatorProcess(tmp_path, f"--store={url}", *POOL) as op:
        op.until_leading()
        with store.writing() as db:  # another process that hangs in its transaction
            db.execute("UPDATE revision SET number = number")
            began = time.monotonic()
            assert op.stop() == 0
            assert time.monotonic() - began < 10
        assert "Traceback" not in op.text()


def test_kills_at_any_moment_while_nodes_come_and_go(url: str, tmp_path: Path, store: SqliteStore) -> None:
    """The history is the witness: each block is granted only while nobody has it."""
    moments, pause = random.Random(1), threading.Event()
    flags = ("--cluster-pool-ipv4-cidr=10.1.0.0/18", "--cluster-pool-ipv4-mask-size=24")
    made = 0
    with Replicas(lambda name: operator(url, tmp_path, *flags, name=name)) as both:
        for _ in range(5):
            leader = both.leader()
            until = time.monotonic() + moments.random() * 0.5
            while time.monotonic() < until:
                names = [node.name for node in store.nodes()]
                if len(names) < 50 and (len(names) < 10 or moments.random() < 0.6):
                    made += 1
                    store.add_node(Node(f"n{made}"))
                else:
                    store.delete_node(moments.choice(names))
                pause.wait(moments.random() * 0.01)
            leader.kill()
        names = [node.name for node in store.nodes()]
        leader = both.leader()
        leader.until(lambda: served(store, *names), "all are served in the end")
    assert made > 30
    assert no_two_overlap(store)
    owners: dict[str, str] = {}
    for event in reversed(store.history(limit=100_000)):
        if event.event == "granted":
            assert owners.setdefault(event.cidr, event.node) == event.node, event
        elif event.event == "returned":
            assert owners.pop(event.cidr) == event.node, event
    assert owners == {str(each.block.cidr): each.node for each in store.grants()}


AMID_IMPORTS = """
import os, sys
from omnipam.runtime.cli import main

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Sender())
sys.exit(main(["operator", "--store=" + sys.argv[3]]))
"""


@pytest.mark.parametrize("module", ["argparse", "omnipam.runtime.cli.operator", "omnipam.runtime.connect"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_amid_its_imports_ends_it_well(url: str, module: str, number: signal.Signals) -> None:
    """Nothing was started, so nothing failed: a supervisor that stops what it just started sees no error."""
    ended = subprocess.run(
        [sys.executable, "-c", AMID_IMPORTS, module, str(int(number)), url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_file_that_is_taken_from_under_it_ends_the_leader(url: str, tmp_path: Path, replaced: bool) -> None:
    """Else it leads on in a file that nobody sees, beside one that leads on the new file."""
    with operator(url, tmp_path, *POOL, name="one") as one:
        one.until_leading()
        for suffix in ("", "-wal", "-shm"):
            (tmp_path / f"omnipam.db{suffix}").unlink()
        if replaced:
            with SqliteStore(url) as other:
                other.add_node(Node("n"))
        assert one.wait(10) == 1
        (line,) = [line for line in one.lines() if line["level"] == "error"]
        assert line["event"].startswith(f"store {tmp_path}/omnipam.db is ")
        assert "Traceback" not in one.text()


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="+".join)
def test_a_log_that_is_taken_from_under_it_ends_the_leader(
    url: str, tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    """Else whoever opens the file from then on works apart from it: two lead, and what was written is lost."""
    with operator(url, tmp_path, *POOL, name="one") as one:
        one.until_leading()
        for suffix in suffixes:
            (tmp_path / f"omnipam.db{suffix}").unlink()
        assert one.wait(10) == 1
        (line,) = [line for line in one.lines() if line["level"] == "error"]
        assert line["event"].startswith(f"store {tmp_path}/omnipam.db has lost its log")
        assert "Traceback" not in one.text()


def test_a_lease_row_that_cannot_be_read_is_nobodys_until_it_is_mended(
    url: str, tmp_path: Path, store: SqliteStore
) -> None:
    with store.writing() as db:
        db.execute("INSERT INTO leases VALUES ('omnipam-operator', 1, '{')")
    with operator(url, tmp_path, *POOL) as op:
        line = op.until_said("leader election: trying on")
        assert "delete the row once no operator runs" in line["why"]
        store.add_node(Node("n"))
        until = time.monotonic() + 4  # longer than a lease lasts
        op.until(lambda: time.monotonic() > until, "it stands by")
        assert not granted(store)
        with store.writing() as db:
            db.execute("DELETE FROM leases")
        op.until(lambda: served(store, "n"), "granted")
        assert len(op.lines("leader election: trying on")) == 1
        assert op.stop() == 0
