"""The node agent: an address and its release through the socket, durably; and choosing one of a block that is nearly full."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.agent_process import AgentProcess, ask
from tests.kube.admin import wait_until

from omnipam.core.addresses import Addresses
from omnipam.core.cidr import parse
from omnipam.core.drive import Publish
from omnipam.core.values import Block, Grant, Node
from omnipam.runtime.sqlite.store import SqliteStore

from .table import Row

PAIRS, ROUNDS = 400, 9
CLIENTS, EACH, BURSTS = 32, 60, 7
P50, P99, RATE, FLAT = 1.5, 4.0, 0.75, 2.0
_PUT = b"PUT /v1/allocations/net/%b/eth0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n" + (
    b'{"owner":"shop/web"}'
)
_DELETE = b"DELETE /v1/allocations/net/%b/eth0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


def rows() -> Sequence[Row]:
    """The agent's rows. Raises what starting it raises."""
    with tempfile.TemporaryDirectory(prefix="omnipam-bench-") as name:
        folder = Path(name)
        with (
            AgentProcess(folder / "agent", granted(folder / "agent"), "--log-level=warning") as agent,
            _floor(folder / "bare", "bare") as bare,
            _floor(folder / "nothing", "nothing") as nothing,
        ):
            agent.until_ready()
            return [*_one(agent.socket, bare), _many(agent.socket, nothing), _choice()]


def granted(folder: Path) -> str:
    """The flag that names a store whose one node has a /16."""
    folder.mkdir()
    url = f"sqlite:///{folder / 'omnipam.db'}"
    with SqliteStore(url) as store:
        node = store.add_node(Node("node-1"))
        store.publish(Publish(node, Grant((Block("default", parse("10.0.0.0/16")),))))
    return f"--store={url}"


@contextmanager
def _floor(folder: Path, kind: str) -> Iterator[Path]:
    granted(folder)
    path = folder / "agent.sock"
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.agent_floor", kind, str(folder)])
    try:
        wait_until(lambda: answers(path), f"{kind} serves")
        yield path
    finally:
        child.kill()
        child.wait()


def answers(path: Path) -> bool:
    """Whether it serves what the agent does when it is ready."""
    try:
        return ask(path, "GET", "/v1/status")[0] in (200, 201)
    except OSError:
        return False


def _one(agent: Path, bare: Path) -> list[Row]:
    """One client, both servers in turn: the median of the rounds' own ratios, since a busy moment meets both."""
    ratios: list[tuple[float, float]] = []
    took: list[tuple[float, float, float, float]] = []
    for number in range(ROUNDS):
        measured, floor = _pairs(agent, number), _pairs(bare, number)
        took.append((*measured, *floor))
        ratios.append((measured[0] / floor[0], measured[1] / floor[1]))
    p50, p99, floor50, floor99 = (median(column) for column in zip(*took, strict=True))
    over50, over99 = (median(column) for column in zip(*ratios, strict=True))
    name = "agent allocate+release, one client, durable"
    return [
        Row.over(f"{name}, p50", p50, floor50, P50, ratio=over50),
        Row.over(f"{name}, p99", p99, floor99, P99, ratio=over99),
    ]


def _pairs(path: Path, number: int) -> tuple[float, float]:
    """The median and the 99th percentile of two requests, one after the other on one connection."""
    times = []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        for turn in range(PAIRS):
            container = b"c%d-%d" % (number, turn)
            begun = time.perf_counter()
            for request in (_PUT % container, _DELETE % container):
                client.sendall(request)
                answer = client.recv(65536)
                assert answer.startswith(b"HTTP/1.1 20"), answer
            times.append(time.perf_counter() - begun)
    times.sort()
    return times[PAIRS // 2], times[PAIRS * 99 // 100]


def _many(agent: Path, nothing: Path) -> Row:
    """32 clients at once, both servers in turn."""
    pairs = [
        tuple(asyncio.run(_burst(path, number)) for path in (agent, nothing)) for number in range(BURSTS)
    ]
    measured, floor = (median(column) for column in zip(*pairs, strict=True))
    ratio = median(ours / theirs for ours, theirs in pairs)
    name = f"agent, {CLIENTS} clients at once, seconds a request over committing nothing"
    return Row.over(name, measured, floor, 1 / RATE, ratio=ratio)


async def _burst(path: Path, number: int) -> float:
    """Seconds a request."""

    async def client(name: int) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as link:
            link.setblocking(False)
            await loop.sock_connect(link, str(path))
            for turn in range(EACH):
                container = b"m%d-%d-%d" % (number, name, turn)
                for request in (_PUT % container, _DELETE % container):
                    await loop.sock_sendall(link, request)
                    answer = await loop.sock_recv(link, 65536)
                    assert answer.startswith(b"HTTP/1.1 20"), answer

    begun = time.perf_counter()
    await asyncio.gather(*map(client, range(CLIENTS)))
    return (time.perf_counter() - begun) / (2 * CLIENTS * EACH)


def _choice() -> Row:
    """A /16 with one address free over an empty one."""
    empty, full = (Addresses(Block("default", parse("10.0.0.0/16")), gateway=True) for _ in range(2))
    while (address := full.choose(0.0)) is not None:
        full.take(address)
    full.release(full.block.cidr.first + 40000)

    def cost(block: Addresses) -> float:
        begun = time.perf_counter()
        for _ in range(500):
            address = block.choose(0.0)
            assert address is not None
            block.take(address)
            block.release(address)
        return (time.perf_counter() - begun) / 500

    gc.collect()
    rounds = [(cost(full), cost(empty)) for _ in range(20)]
    measured, floor = (min(column) for column in zip(*rounds, strict=True))
    return Row.over("agent, address of a /16 with one free over an empty one", measured, floor, FLAT)
