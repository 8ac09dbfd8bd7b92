"""The agent killed at random moments, its machine started anew, its file damaged: what was answered holds, and no address is two's."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.agent_process import AgentProcess, ask
from tests.kube.admin import wait_until
from tests.operator_process import OperatorProcess

from omnipam.core.attachment import INFRASTRUCTURE
from omnipam.runtime.cni import queue
from omnipam.runtime.sqlite.store import SqliteStore

CLIENTS, LIVES = 8, 6
SMALL = "--cluster-pool-ipv4-mask-size=26"


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'omnipam.db'}"


@pytest.fixture
def operator(tmp_path: Path, store: str) -> Iterator[OperatorProcess]:
    flags = (f"--store={store}", SMALL, "--cluster-pool-max-blocks-per-node=4", "--enable-ipv6=true")
    with OperatorProcess(tmp_path / "op", *flags) as running:
        yield running.until_leading()


def agent(tmp_path: Path, store: str, *flags: str, boot: str = "boot-1") -> AgentProcess:
    return AgentProcess(tmp_path / "agent", f"--store={store}", "--enable-ipv6=true", *flags, boot=boot)


class Client(threading.Thread):
    """Adds, deletes and asks again, whatever becomes of the agent. `wrong`: answers that should not be.

    owner: whom it asks for. families: how many addresses each answer must have.
    """

    def __init__(
        self, name: int, path: Path, ending: threading.Event, *, owner: str = "shop/web", families: int = 2
    ) -> None:
        super().__init__(daemon=True)
        self._rng = random.Random(name)
        self._number, self._path, self._ending = name, path, ending
        self._owner, self._families = owner, families
        self.held: dict[str, tuple[str, ...]] = {}
        self.unsure: set[str] = set()
        """Asked for, or released, without an answer."""
        self.wrong: list[str] = []
        self.answers = 0

    def run(self) -> None:
        turn = 0
        while not self._ending.is_set():
            turn += 1
            known = sorted(self.held)
            choice = self._rng.random()
            if known and (choice < 0.4 or len(known) > 12):
                self._remove(self._rng.choice(known))
            elif known and choice < 0.6:
                self._ask_for(self._rng.choice(known))
            else:
                self._ask_for(f"c{self._number}-{turn}")

    def _ask_for(self, container: str) -> None:
        target = f"/v1/allocations/net/{container}/eth0"
        try:
            status, answer = ask(self._path, "PUT", target, {"owner": self._owner, "wait_s": 5})
        except OSError:
            self.unsure.add(container)
            self._until_served()
            return
        if status == 503:
            return
        if status not in (200, 201):
            self.wrong.append(f"{container}: {status} {answer}")
            return
        self.answers += 1
        given = tuple(each["address"] for each in answer["addresses"])
        if len(given) != self._families:
            self.wrong.append(f"{container}: half an answer: {given}")
        before = self.held.get(container)
        if before not in (None, given) and container not in self.unsure:
            self.wrong.append(f"{container} had {before} and has {given}")
        self.unsure.discard(container)
        self.held[container] = given

    def _until_served(self) -> None:
        """Until the agent's next life listens, or the test ends."""

        def served() -> bool:
            try:
                return ask(self._path, "GET", "/v1/healthz")[0] == 200
            except OSError:
                return self._ending.is_set()

        wait_until(served, "an agent listens again", 60.0)

    def _remove(self, container: str) -> None:
        try:
            status, answer = ask(self._path, "DELETE", f"/v1/allocations/net/{container}/eth0")
        except OSError:
            self.unsure.add(container)
            self._until_served()
            return
        if status != 204:
            self.wrong.append(f"{container}: {status} {answer}")
        self.held.pop(container, None)
        self.unsure.discard(container)


def test_kills_at_random_moments(tmp_path: Path, store: str, operator: OperatorProcess) -> None:
    rng = random.Random(20261125)
    ending = threading.Event()
    first = agent(tmp_path, store, "--cool-down=0s")
    clients = [Client(number, first.socket, ending) for number in range(CLIENTS)]
    running = first.until_ready()
    try:
        for each in clients:
            each.start()
        for _ in range(LIVES):
            before = sum(each.answers for each in clients)
            some = before + 50 + rng.randrange(200)  # a moment that is another each time
            running.until(lambda some=some: sum(each.answers for each in clients) > some, "it works")
            running.kill()
            running = agent(tmp_path, store, "--cool-down=0s")
            running.until_ready()
        ending.set()
        for each in clients:
            each.join(30)
        assert [wrong for each in clients for wrong in each.wrong] == []
        on_record = {container: tuple(given.values()) for container, given in running.held().items()}
        every = [address for given in on_record.values() for address in given]
        assert len(every) == len(set(every)), "no address is two's"
        for each in clients:
            for container, given in each.held.items():
                if container not in each.unsure:
                    assert on_record[container] == given, "what was answered is kept"
        known = {container for each in clients for container in each.held.keys() | each.unsure}
        assert set(on_record) <= known, "what was released stays released"
        for container in on_record:
            assert running.delete(container) == 204
        assert running.held() == {}
        assert "Traceback" not in running.text()
    finally:
        ending.set()
        running.kill()


def test_a_new_boot_keeps_what_outlives_it(tmp_path: Path, store: str, operator: OperatorProcess) -> None:
    with agent(tmp_path, store).until_ready() as one:
        plain = one.add("c1")
        sticky = one.add("c2", "shop/db-0", sticky=True)
        assert one.ask("POST", "/v1/ipam?owner=router&family=ipv4")[0] == 201
        one.kill()
    with agent(tmp_path, store, boot="boot-2").until_ready() as one:
        _, listed = one.ask("GET", "/v1/allocations")
        assert [each["owner"] for each in listed["allocations"]] == ["router"]
        assert "router" in INFRASTRUCTURE
        pools = {each["family"]: each for each in one.status()[1]["pools"]}
        assert (pools["ipv4"]["cooling"], pools["ipv4"]["used"]) == (1, 2), (
            "one cools, one waits for its owner"
        )
        others = [one.add(f"x{number}") for number in range(20)]
        assert plain not in others
        assert sticky not in others
        assert one.add("c9", "shop/db-0", sticky=True) == sticky


def test_releases_that_found_no_agent_are_carried_out_before_it_serves(
    tmp_path: Path, store: str, operator: OperatorProcess
) -> None:
    with agent(tmp_path, store).until_ready() as one:
        one.add("c1")
        one.add("c2")
        one.kill()
        directory = str(one.state / queue.FOLDER)
        with queue.locked(directory, wait_s=5.0) as held:
            assert held
            queue.put(directory, "net", "c1", "eth0")
            queue.put(directory, "net", "unknown", "eth0")
    with agent(tmp_path, store).until_ready() as one:
        assert set(one.held()) == {"c2"}
        assert list(queue.pending(directory)) == []


def test_a_second_agent_and_an_open_directory_are_refused(
    tmp_path: Path, store: str, operator: OperatorProcess
) -> None:
    with agent(tmp_path, store).until_ready() as one:
        other = AgentProcess(tmp_path / "other", f"--store={store}", f"--state-dir={one.state}")
        assert other.wait() == 1
        assert "another agent runs on this --state-dir" in other.text()
        assert one.status()[0] == 200
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    refused = AgentProcess(tmp_path / "open", f"--store={store}")
    assert refused.wait() == 2
    (line,) = [line for line in refused.text().splitlines() if line.startswith("omnipam:")]
    assert "everybody may write to" in line


@pytest.mark.parametrize("damage", ["text", "empty", "no -wal"])
def test_a_damaged_state_on_a_store_without_pods_says_so(
    tmp_path: Path, store: str, operator: OperatorProcess, damage: str
) -> None:
    with agent(tmp_path, store).until_ready() as one:
        one.add("c1")
        if damage == "text":
            one.stop()
        else:
            one.kill()
    path = one.state / "agent.db"
    if damage == "no -wal":
        path.with_name("agent.db-wal").unlink()
    else:
        path.write_bytes(b"no database" * 1000 if damage == "text" else b"")
    damaged = path.read_bytes()
    with agent(tmp_path, store) as one:
        one.until(lambda: one.status()[0] == 503, "it listens")
        assert one.status()[1]["reason"] == "Impaired"
        (aside,) = [
            each for each in one.state.glob("agent.db.damaged-*") if not each.name.endswith(("-wal", "-shm"))
        ]
        assert aside.read_bytes() == damaged
        assert one.stop() == 0
    with agent(tmp_path, store) as one:
        one.until(lambda: one.status()[0] == 503, "it listens")
        assert one.status()[1]["reason"] == "Impaired", "its pods run still"
        status, refused = one.put("c2")
        assert (status, refused["reason"]) == (503, "NotReady"), "it could be the address of c1"
    with agent(tmp_path, store, boot="boot-2").until_ready() as one:
        assert one.held() == {}


def test_a_refused_start_is_no_damage(tmp_path: Path, store: str, operator: OperatorProcess) -> None:
    """It has the state open already when it finds that it cannot go on."""
    with agent(tmp_path, store).until_ready() as one:
        one.add("c1")
        one.kill()
    for wrong in ("--socket-group=nobody-has-this-name", "--node-name=another"):
        refused = agent(tmp_path, store, wrong)
        assert refused.wait() == 2, refused.text()
    with agent(tmp_path, store).until_ready() as one:
        assert set(one.held()) == {"c1"}
        assert not list(one.state.glob("*damaged*"))


def test_its_row_comes_back_with_its_blocks(tmp_path: Path, store: str, operator: OperatorProcess) -> None:
    with agent(tmp_path, store).until_ready() as one, SqliteStore(store) as there:
        given = one.add("c1")
        before = there.node("node-1")
        assert before is not None
        there.delete_node("node-1")
        one.until(lambda: there.node("node-1") is not None, "made anew")
        after = there.node("node-1")
        assert after is not None
        assert set(after.holds.blocks) == set(before.holds.blocks)
        assert one.add("c1") == given
        assert one.add("c2") != given


@pytest.mark.parametrize("mode", ["cluster-pool", "multi-pool"])
def test_a_node_deleted_while_its_agent_is_down_loses_what_others_got_and_nothing_else(
    tmp_path: Path, mode: str
) -> None:
    """The operator gives others no address that is still in use, but those of the one block that it gave before the agent was back."""
    url = f"sqlite:///{tmp_path / 'omnipam.db'}"
    common = (f"--store={url}", f"--ipam={mode}")
    quick = (
        *(*common, "--cool-down=0s", "--ipam-cilium-node-update-rate=200ms"),
        "--ipam-multi-pool-pre-allocation=default=1",
    )
    pools = {
        "multi-pool": ("--auto-create-cilium-pod-ip-pools=default=ipv4-cidrs:10.1.0.0/25;ipv4-mask-size:28",),
        "cluster-pool": (
            *("--cluster-pool-ipv4-cidr=10.1.0.0/25", "--cluster-pool-ipv4-mask-size=28"),
            "--cluster-pool-max-blocks-per-node=8",
        ),
    }[mode]
    with (
        OperatorProcess(tmp_path / "op", *common, *pools) as op,
        SqliteStore(url) as there,
        AgentProcess(tmp_path / "two", *quick, node="node-2") as two,
    ):
        op.until_leading()
        two.until_ready().add("x0")
        first = AgentProcess(tmp_path / "one", *quick)
        try:
            given = {f"c{n}": first.until_ready().add(f"c{n}") for n in range(33)}
        finally:
            first.kill()
        before = _blocks(there, "node-1")
        deleted = subprocess.run(
            [sys.executable, "-m", "omnipam.runtime.cli", "node", "delete", "node-1", *common],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "if pods still run on node-1" in deleted.stderr
        number = 1
        while not _blocks(there, "node-2") & before:
            two.add(f"x{number}")
            number += 1
        with AgentProcess(tmp_path / "one", *quick) as one:
            one.until(lambda: "Impaired" in str(one.status()), "it says so")
            lost = _blocks(there, "node-2") & before
            for cidr in lost:
                assert f"{cidr}: it overlaps {cidr} of node node-2" in one.status()[1]["message"]
            assert "a block that pods use here is another node's" in one.text()
            assert _blocks(there, "node-1") >= before - lost
            for _ in range(200):
                status, _answer = two.put(f"x{number}", wait_s=1)
                if status == 503:
                    break
                number += 1
            assert status == 503, "the pool is exhausted"
            twice = {each["ipv4"] for each in given.values()} & {each["ipv4"] for each in two.held().values()}
            assert [each for each in twice if not any(_within(each, cidr) for cidr in lost)] == []
            assert {each: one.held()[each] for each in given} == given
            # Once the pods that suffer are started anew, all is well.
            for container, each in given.items():
                if any(_within(each["ipv4"], cidr) for cidr in lost):
                    one.delete(container)
            one.until_ready()


def _blocks(there: SqliteStore, name: str) -> set[str]:
    node = there.node(name)
    return {str(block.cidr) for block in node.holds.blocks} if node is not None else set()


def _within(address: str, cidr: str) -> bool:
    return ip_address(address) in ip_network(cidr)


def test_multi_pool_on_the_embedded_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'pools.db'}"
    pools = "default=ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:28,blue=ipv4-cidrs:10.20.0.0/16;ipv4-mask-size:28"
    mode = ("--ipam=multi-pool", f"--store={url}")
    made = f"--auto-create-cilium-pod-ip-pools={pools}"
    with (
        OperatorProcess(tmp_path / "op", *mode, made) as op,
        AgentProcess(
            tmp_path / "agent", *mode, "--cool-down=0s", "--ipam-cilium-node-update-rate=200ms"
        ) as one,
        SqliteStore(url) as there,
    ):
        op.until_leading()
        one.until_ready()
        for number in range(30):
            assert one.add(f"c{number}", pool="blue")["ipv4"].startswith("10.20.")
        assert one.add("d1")["ipv4"].startswith("10.10.")
        status, refused = one.put("c99", pool="red")
        assert (status, refused["reason"]) == (404, "UnknownPool")
        for number in range(30):
            one.delete(f"c{number}")

        def blue() -> int:
            node = there.node("node-1")
            assert node is not None
            return sum(block.pool == "blue" for block in node.holds.blocks)

        one.until(lambda: blue() == 0, "blue is given up")
