"""Releases that find no agent: they wait on disk, are applied once, and never take what was given since."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.cni.conftest import Runtime
from tests.unit.cni.standin import StandIn, answer, drop, error, lose_reply, silent

from omnipam.runtime.cni import queue, releases


@pytest.mark.parametrize("again", [1, 3])
def test_a_del_without_an_agent_waits_on_disk(agent: StandIn, runtime: Runtime, again: int) -> None:
    runtime("ADD")
    agent.close()
    for _ in range(again):
        assert runtime("DEL") is None
    (name,) = runtime.queued
    (waiting,) = queue.pending(str(runtime.queue))
    assert waiting.key == ("podnet", "c1", "eth0")
    assert sorted(os.listdir(runtime.queue)) == [name, "lock"], "no partial file stays"
    assert (runtime.queue / name).stat().st_mode & 0o777 == 0o600
    assert runtime.queue.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "faults",
    [
        [silent],
        [drop],
        [lose_reply],
        [answer(500, None)],
        [answer(*error(503, "NotReady", "starting"))],
        [answer(200, {})],
        [answer(200, None)],
        [answer(302, None)],
        [answer(404, "<html>")],
        [answer(404, {"message": "no such page"})],
        [answer(401, {})],
    ],
    ids=["silent", "drop", "lost", "500", "503", "200", "empty", "302", "page", "other", "401"],
)
def test_a_del_that_may_have_failed_waits_too(agent: StandIn, runtime: Runtime, faults: list[object]) -> None:
    runtime("ADD")
    agent.faults += faults
    assert runtime("DEL") is None
    assert len(runtime.queued) == 1


def test_a_del_that_is_refused_for_good_does_not_wait(agent: StandIn, runtime: Runtime) -> None:
    agent.faults.append(answer(*error(400, "Invalid", "no such key")))
    assert runtime.fail("DEL")[0] == 7
    assert runtime.queued == []


def test_a_del_of_what_the_agent_does_not_hold_is_done(agent: StandIn, runtime: Runtime) -> None:
    agent.faults.append(answer(*error(404, "NotFound", "nothing is held")))
    assert runtime("DEL") is None
    assert runtime.queued == []


@pytest.mark.parametrize("verb", ["ADD", "DEL", "GC"])
def test_the_next_call_applies_what_waits(tmp_path: Path, runtime: Runtime, verb: str) -> None:
    with StandIn(tmp_path / "agent.sock") as agent:
        for container in ("c1", "c2"):
            runtime("ADD", CNI_CONTAINERID=container)
    for container in ("c1", "c2"):
        runtime("DEL", CNI_CONTAINERID=container)
    assert len(runtime.queued) == 2
    with StandIn(tmp_path / "agent.sock") as again:
        again.held = agent.held
        keep = [{"containerID": c, "ifname": "eth0"} for c in ("c1", "c2")]
        runtime(verb, runtime.conf() | {"cni.dev/valid-attachments": keep}, CNI_CONTAINERID="c3")
        assert runtime.queued == []
        assert list(again.held) == ([("podnet", "c3", "eth0")] if verb == "ADD" else [])


def test_an_add_comes_after_the_waiting_release_of_its_key(tmp_path: Path, runtime: Runtime) -> None:
    runtime("DEL")
    with StandIn(tmp_path / "agent.sock") as agent:
        runtime("ADD")
        assert [request.method for request in agent.requests] == ["DELETE", "PUT"]
        runtime("DEL", CNI_CONTAINERID="c2")
        assert len(agent.held) == 1, "nothing takes it afterwards"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", [silent, drop, lose_reply, answer(503, None)])
def test_an_add_does_not_overtake_the_waiting_release_of_its_key(
    tmp_path: Path, runtime: Runtime, fault: object
) -> None:
    runtime("DEL")
    with StandIn(tmp_path / "agent.sock") as agent:
        agent.faults.append(fault)
        code, msg, _ = runtime.fail("ADD")
        assert (code, msg) == (11, "an earlier release of this attachment waits for the agent")
        assert not agent.held
        assert len(runtime.queued) == 1
        runtime("ADD")
        assert len(agent.held) == 1
        assert runtime.queued == []


@pytest.mark.usefixtures("impatient")
def test_other_keys_wait_for_nobody(tmp_path: Path, runtime: Runtime) -> None:
    runtime("DEL")
    with StandIn(tmp_path / "agent.sock") as agent:
        agent.faults.append(drop)
        runtime("ADD", CNI_CONTAINERID="c2")
        assert len(runtime.queued) == 1
        with queue.locked(str(runtime.queue), wait_s=0):
            runtime("ADD", CNI_CONTAINERID="c3")
            assert runtime.fail("ADD")[0] == 11, "somebody else applies it just now"
        assert len(agent.held) == 2


def test_one_s_own_release_comes_first(tmp_path: Path, runtime: Runtime) -> None:
    """It is the one that an ADD cannot do without; for the others there may be no time."""
    for age, container in enumerate(("c1", "c2")):
        runtime("DEL", CNI_CONTAINERID=container)
        os.utime(queue.path_of(str(runtime.queue), "podnet", container, "eth0"), (100 + age, 100 + age))
    with StandIn(tmp_path / "agent.sock") as agent:
        runtime("ADD", CNI_CONTAINERID="c2")
        assert [(request.method, request.target.split("/")[-2]) for request in agent.requests] == [
            ("DELETE", "c2"),
            ("DELETE", "c1"),
            ("PUT", "c2"),
        ]


def test_one_release_that_is_refused_does_not_block_the_rest(tmp_path: Path, runtime: Runtime) -> None:
    for container in ("c1", "c2"):
        runtime("DEL", CNI_CONTAINERID=container)
    with StandIn(tmp_path / "agent.sock") as agent:
        agent.faults.append(answer(*error(400, "Invalid", "no such key")))
        runtime("ADD", CNI_CONTAINERID="c3")
    assert runtime.queued == []
    assert len(list(runtime.queue.glob("*.refused"))) == 1


def test_a_del_waits_for_an_agent_that_starts(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent holds the lock from reading the queue until it listens: a DEL in between finds it, and leaves nothing behind."""
    with queue.locked(str(runtime.queue), wait_s=0):
        asked = threading.Event()
        real = queue.locked.__enter__

        def entering(lock: queue.locked) -> bool:
            asked.set()
            return real(lock)

        monkeypatch.setattr(queue.locked, "__enter__", entering)
        caller = threading.Thread(target=runtime, args=("DEL",))
        caller.start()
        assert asked.wait(10)
        agent = StandIn(tmp_path / "agent.sock")
    caller.join(10)
    agent.close()
    assert [request.method for request in agent.requests] == ["DELETE"]
    assert runtime.queued == []


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_nobody_gives_back_does_not_stop_a_del(runtime: Runtime) -> None:
    with queue.locked(str(runtime.queue), wait_s=0):
        runtime("DEL")
    assert len(runtime.queued) == 1


def test_where_nothing_can_be_queued_del_fails(runtime: Runtime) -> None:
    state = runtime.folder / "state"
    state.write_text("a file where the directory should be")
    code, msg, details = runtime.fail("DEL")
    assert (code, msg) == (5, "node agent unreachable, and the release cannot be queued")
    assert str(state) in details
    assert "agent.sock: No such file or directory" in details


def test_the_queue_has_an_end(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST", 2)
    for container in ("c1", "c2"):
        runtime("DEL", CNI_CONTAINERID=container)
    runtime("DEL", CNI_CONTAINERID="c1")
    code, _, details = runtime.fail("DEL", CNI_CONTAINERID="c3")
    assert code == 11
    assert "2 releases wait there already" in details


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"version": 2, "network": "a", "container": "b", "ifname": "c"}',
        b'{"version": 1, "network": "a", "container": "b"}',
        b'{"version": 1, "network": "", "container": "b", "ifname": "c"}',
        b'{"version": 1, "network": 1, "container": "b", "ifname": "c"}',
    ],
)
def test_what_cannot_be_read_is_set_aside(tmp_path: Path, content: bytes) -> None:
    queue.put(str(tmp_path), "net", "c1", "eth0")
    (tmp_path / f"{'0' * 64}.json").write_bytes(content)
    assert [each.container for each in queue.pending(str(tmp_path))] == ["c1"]
    assert (tmp_path / f"{'0' * 64}.json.corrupt").read_bytes() == content
    assert len(queue.pending(str(tmp_path))) == 1


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _full_folder(path: Path) -> None:
    (path / "x").mkdir(parents=True)


ODD: dict[str, Callable[[Path], object]] = {
    "folder": _full_folder,
    "dangling": lambda path: path.symlink_to("/nonexistent"),
    "loop": lambda path: path.symlink_to(path),
    "link": lambda path: path.symlink_to("/etc/hostname"),
    "fifo": os.mkfifo,
    "socket": _socket,
}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((make, "a.json") for make in ODD.values()),
        *((make, "a" * 250 + ".json") for make in ODD.values() if make is not _socket),  # which has 107 bytes
    ],
)
def test_what_is_no_file_is_set_aside_and_the_rest_goes_on(
    make: Callable[[Path], object], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "q"
    queue.put(str(folder), "net", "c1", "eth0")
    monkeypatch.chdir(folder)  # a socket's path has 107 bytes
    for _ in range(2):  # the second finds the name of the first taken
        make(Path(name) if make is _socket else folder / name)
        assert [each.container for each in queue.pending(str(folder))] == ["c1"]
        assert not os.path.lexists(folder / name)
    assert [path.name for path in folder.glob("*.corrupt")]


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_an_odd_entry_stops_no_call(
    agent: StandIn, runtime: Runtime, make: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.queue.mkdir(parents=True)
    monkeypatch.chdir(runtime.queue)
    own = Path(queue.path_of("", "podnet", "c1", "eth0"))
    make(own)
    runtime("ADD")
    runtime("DEL")
    agent.close()
    make(own)
    runtime("DEL")
    assert own.is_file(), "its release has taken the place"


@pytest.mark.parametrize("where", ["state", "state/deletions"])
def test_a_queue_that_is_no_folder_is_told_before_a_release_needs_it(
    agent: StandIn, runtime: Runtime, where: str
) -> None:
    path = runtime.folder / where
    path.parent.mkdir(exist_ok=True)
    path.touch()
    code, msg, details = runtime.fail("ADD")
    assert (code, msg, details) == (5, "releases wait there, and it is no directory", str(runtime.queue))
    assert runtime("DEL") is None, "which the agent has carried out"
    agent.close()
    assert runtime.fail("DEL")[0] == 5
    with pytest.raises(queue.NoQueue, match="no directory"):
        queue.locked(str(runtime.queue), wait_s=0).__enter__()
    with pytest.raises(queue.NoQueue, match="no directory"):
        queue.pending(str(runtime.queue))


def test_a_lock_that_is_no_file_is_told(runtime: Runtime) -> None:
    (runtime.queue / "lock").mkdir(parents=True)
    code, _, details = runtime.fail("DEL")
    assert code == 5
    assert details.startswith(f"{runtime.queue}/lock: it is the queue's lock, and no regular file")


def test_what_dead_writers_left_is_removed(tmp_path: Path) -> None:
    for name, written in (("old.json.7.partial", 100), ("young.json.8.partial", 5000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (written, written))
    (tmp_path / "folder.partial").mkdir()
    os.utime(tmp_path / "folder.partial", (100, 100))
    assert queue.pending(str(tmp_path), now=lambda: 6000.0) == []
    assert sorted(os.listdir(tmp_path)) == ["folder.partial", "young.json.8.partial"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        queue.put(str(tmp_path), "net", "c1", "eth0")
    assert os.listdir(tmp_path) == []


def test_oldest_first(tmp_path: Path) -> None:
    for number in range(5):
        queue.put(str(tmp_path), "net", f"c{number}", "eth0")
        os.utime(queue.path_of(str(tmp_path), "net", f"c{number}", "eth0"), (100 - number, 100 - number))
    assert [each.container for each in queue.pending(str(tmp_path))] == ["c4", "c3", "c2", "c1", "c0"]
    assert queue.pending(str(tmp_path / "none")) == []


def test_the_lock_is_one_s_alone_and_ends_with_its_process(tmp_path: Path) -> None:
    now = [0.0]
    with queue.locked(str(tmp_path), wait_s=0) as held:
        assert held
        sleep: Callable[[float], None] = lambda seconds: now.__setitem__(0, now[0] + seconds)
        with queue.locked(str(tmp_path), wait_s=3, clock=lambda: now[0], sleep=sleep) as second:
            assert not second
        assert now[0] >= 3
    code = "import os, sys\nfrom omnipam.runtime.cni import queue\nqueue.locked(sys.argv[1], wait_s=0).__enter__()\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    with queue.locked(str(tmp_path), wait_s=0) as third:
        assert third


def test_it_imports_no_more_than_it_must() -> None:
    code = "import sys\nfrom omnipam.runtime.cni import queue\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"msgspec", "structlog", "asyncio", "omnipam.core", "omnipam.runtime.agent"} & set(loaded)


class Attachments(RuleBasedStateMachine):
    """A runtime that keeps to its promises, against an agent that comes, goes and loses replies: who holds what stays true."""

    def __init__(self) -> None:
        super().__init__()
        from tempfile import TemporaryDirectory

        self.folder = TemporaryDirectory()
        self.runtime = Runtime(Path(self.folder.name))
        self.agent: StandIn | None = None
        self.held: dict[tuple[str, str, str], list[dict[str, object]]] = {}
        self.state: dict[str, str] = {}
        """Container -> added, gone, or unsure (an ADD failed)."""

    @rule()
    def start_or_stop(self) -> None:
        if self.agent:
            self.agent.close()
            self.agent = None
        else:
            self.agent = StandIn(Path(self.folder.name) / "agent.sock")
            self.agent.held = self.held

    @precondition(lambda self: self.agent is not None)
    @rule(fault=st.sampled_from([drop, lose_reply]))
    def trouble(self, fault: object) -> None:
        assert self.agent
        self.agent.faults.append(fault)

    @rule(container=st.sampled_from(["c1", "c2", "c3"]))
    def add(self, container: str) -> None:
        if self.state.get(container) == "added":
            return
        code, _ = self.runtime.raw("ADD", json.dumps(self.runtime.conf()).encode(), CNI_CONTAINERID=container)
        self.state[container] = "unsure" if code else "added"

    @rule(container=st.sampled_from(["c1", "c2", "c3"]))
    def delete(self, container: str) -> None:
        self.runtime("DEL", CNI_CONTAINERID=container)
        self.state[container] = "gone"

    @invariant()
    def what_was_added_is_held(self) -> None:
        for container, state in self.state.items():
            if state == "added":
                assert ("podnet", container, "eth0") in self.held

    def teardown(self) -> None:
        if self.agent is None:
            self.start_or_stop()
        assert self.agent
        self.agent.faults.clear()
        for container in ("c1", "c2", "c3"):
            self.delete(container)
        assert not self.held
        assert self.runtime.queued == []
        self.agent.close()
        self.folder.cleanup()


TestAttachments = Attachments.TestCase
TestAttachments.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_what_is_told_twice_is_told_alike() -> None:
    assert (releases.FOLDER, releases.SUFFIX) == (queue.FOLDER, queue._SUFFIX)
