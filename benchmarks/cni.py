"""`omnipam-cni` ADD as a whole process, over the bare interpreter with json and socket plus one durable commit.

The agent's part is the least that an agent can do: a process of its own that commits one row durably and answers. What the real agent
takes beyond that is a row of its own benchmark. Debian's host-local, a compiled program without an agent, is told beside the table.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.node.netns import PLUGINS

from omnipam.runtime.cni.install import install_plugin, interpreter

from .cluster import ROOT
from .runs import RunFailed
from .table import Row

ROUNDS = 60
WARM_UP = 3
TARGET = 1.5
_START_S = 10.0
_BARE = "import json, socket"


def rows() -> list[Row]:
    """The table's row; every round runs all sides in turn, so that a busy moment of the machine meets all of them."""
    with TemporaryDirectory(prefix="omnipam-bench-") as name:
        folder = Path(name)
        install_plugin(folder / "bin", python=interpreter())
        with _agent(folder):
            database = _database(folder / "floor.db")
            sides = {
                "bare": lambda number: _process([interpreter(), "-IS", "-c", _BARE], b"", number),
                "commit": lambda number: _commit(database, number),
                "plugin": lambda number: _process(
                    [str(folder / "bin" / "omnipam-cni")], _conf(folder, "omnipam-cni"), number
                ),
            }
            local = next((path for path in map(Path, PLUGINS) if (path / "host-local").exists()), None)
            if local is not None:
                path = str(local / "host-local")
                sides["host-local"] = lambda number: _process([path], _conf(folder, "host-local"), number)
            for number in range(WARM_UP):
                for side in sides.values():
                    side(-number)
            rounds = [{name: side(number) for name, side in sides.items()} for number in range(1, ROUNDS + 1)]
            database.close()
    seconds = {name: median(each[name] for each in rounds) for name in sides}
    told = ", ".join(f"{name} {value * 1e3:.2f} ms" for name, value in seconds.items())
    print(f"#   {told}" + ("" if local else "; host-local is not installed"), file=sys.stderr, flush=True)
    floor = seconds["bare"] + seconds["commit"]
    return [
        Row.over("omnipam-cni ADD, whole process with the agent's answer", seconds["plugin"], floor, TARGET)
    ]


def _process(command: list[str], stdin: bytes, number: int) -> float:
    """Seconds of one run, from before its process is made until it has ended. Raises RunFailed if it fails."""
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": f"c{number % 1000}",
        "CNI_NETNS": "/run/netns/none",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": os.path.dirname(command[0]),
    }
    began = time.perf_counter()
    done = subprocess.run(command, input=stdin, env=environ, capture_output=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RunFailed(f"{command[0]} ended with {done.returncode}: {(done.stdout or done.stderr).decode()}")
    return seconds


def _conf(folder: Path, type: str) -> bytes:
    """The network configuration of that IPAM plugin, with the same address space."""
    ipam = {
        "type": type,
        "socket": f"{folder}/agent.sock",
        "stateDir": f"{folder}/state",
        "dataDir": f"{folder}/host-local",
        "ranges": [[{"subnet": "10.0.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "bench", "type": "ptp", "ipam": ipam}).encode()


def _database(path: Path) -> sqlite3.Connection:
    """As durable as the agent's: a commit is on disk when it returns."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE held (key TEXT PRIMARY KEY, address TEXT NOT NULL)")
    return database


def _commit(database: sqlite3.Connection, number: int) -> float:
    began = time.perf_counter()
    database.execute("INSERT OR REPLACE INTO held VALUES (?, ?)", (f"bench/c{number}/eth0", "10.0.7.19"))
    return time.perf_counter() - began


@contextmanager
def _agent(folder: Path) -> Iterator[None]:
    """The least of an agent, in a process of its own; ended with the block."""
    child = subprocess.Popen([sys.executable, "-m", __name__, str(folder)], cwd=ROOT)
    try:
        end = time.monotonic() + _START_S
        while not (folder / "agent.sock").exists():
            if child.poll() is not None or time.monotonic() > end:
                raise RunFailed("the agent's stand-in did not start")
            time.sleep(0.01)
        yield
    finally:
        child.kill()
        child.wait()


def _serve(folder: Path) -> None:
    """Each request commits one row and is answered with one address, until killed."""
    database = _database(folder / "agent.db")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "agent.partial"))
    listener.listen()
    (folder / "agent.partial").rename(folder / "agent.sock")  # it is there once it listens
    address = {"family": "ipv4", "address": "10.0.7.19", "prefix_length": 24, "gateway": "10.0.7.1"}
    content = json.dumps({"addresses": [address]}).encode()
    answer = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    number = 0
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            number += 1
            _commit(database, number)
            connection.sendall(answer)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
