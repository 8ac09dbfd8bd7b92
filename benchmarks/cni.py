"""`omnipam-cni` ADD as a whole process, over the bare interpreter with json and socket plus one durable commit.

The agent is the real one, with a block of its own in an embedded store. Debian's host-local, a compiled program without an agent,
is told beside the table.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.agent_process import AgentProcess
from tests.node.netns import PLUGINS

from omnipam.runtime.cni.install import install_plugin, interpreter

from .agent import granted
from .runs import RunFailed
from .table import Row

ROUNDS = 60
WARM_UP = 3
TARGET = 1.5
_BARE = "import json, socket"


def rows() -> list[Row]:
    """The table's row; every round runs all sides in turn, so that a busy moment of the machine meets all of them."""
    with TemporaryDirectory(prefix="omnipam-bench-") as name:
        folder = Path(name)
        install_plugin(folder / "bin", python=interpreter())
        with AgentProcess(folder / "agent", granted(folder / "agent"), "--log-level=warning") as agent:
            agent.until_ready()
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
        "socket": f"{folder}/agent/agent.sock",
        "stateDir": f"{folder}/agent/state",
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
