"""The two sides of a comparison as child processes, each fresh: the operator, and the raw client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tests.kube.ports import free_port

from .cluster import LEASE, ROOT, USER, BenchmarkServer
from .machine import cpu_s
from .raw import Done, Job, Task

RAW_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 15.0
MB = 1_000_000
QUIET = 0.1
"""Of the machine's time may go to strangers before a run is doubted."""


class RunFailed(Exception):
    """A run did not do what is to be measured; the text says what happened instead."""


def raw(
    server: BenchmarkServer, task: Task, *, count: int = 0, turn: int = 0, pools: Sequence[str] = ()
) -> Done:
    """Let the raw client do a task, in a process of its own and, but for creating, with the operator's rights."""
    token = server.token("admin" if task == "create" else USER)
    job = Job(
        task=task,
        url=server.url,
        ca=str(server.ca),
        token=token,
        count=count,
        turn=turn,
        pools=tuple(pools),
    )
    command = [sys.executable, "-m", "benchmarks.raw"]
    try:
        child = subprocess.run(
            command,
            check=False,
            input=msgspec.json.encode(job),
            capture_output=True,
            cwd=ROOT,
            timeout=RAW_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"the raw client's {task} took more than {RAW_TIMEOUT_S:g} s") from None
    if child.returncode:
        raise RunFailed(
            f"the raw client's {task} failed: {_last_line(child.stderr.decode(errors='replace'))}"
        )
    return msgspec.json.decode(child.stdout, type=Done)


class Operator:
    """`omnipam operator` on the Kubernetes store, as it is shipped; its clock runs from just before its process is made."""

    def __init__(self, server: BenchmarkServer, *flags: str) -> None:
        self._log = server.directory / "operator.log"
        self._port = free_port()
        command = [sys.executable, "-m", "omnipam.runtime.cli", "operator", "--store=kubernetes"]
        command += [f"--lease-name={LEASE}", f"--operator-api-serve-addr=127.0.0.1:{self._port}"]
        command += [f"--operator-prometheus-serve-addr=127.0.0.1:{free_port()}", *flags]
        environ = os.environ | {"KUBECONFIG": str(server.kubeconfig(USER))}
        with self._log.open("wb") as log:
            self.began = time.perf_counter()
            self._child = subprocess.Popen(
                command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def check(self) -> None:
        """Raises RunFailed if it has ended."""
        if self._child.poll() is not None:
            raise RunFailed(
                f"the operator ended with {self._child.returncode}: {_last_line(self._log.read_text())}"
            )

    @property
    def cpu_s(self) -> float:
        """User and system time up to now."""
        return cpu_s(self._child.pid)

    @property
    def peak_mb(self) -> float:
        """The most memory it ever had, in MB of a million bytes (VmHWM)."""
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(kib) * 1024 / MB

    def is_ready(self) -> bool:
        """Whether /readyz answers 200; by a bare socket, for this is asked often while it works."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.1 200 ")
        except OSError:
            return False  # it does not listen yet

    def stop(self) -> None:
        """Ask it to end, and wait. Raises RunFailed if it does not end well."""
        self._child.terminate()
        try:
            code = self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"the operator did not end within {STOP_TIMEOUT_S:g} s of SIGTERM") from None
        if code:
            raise RunFailed(f"the operator ended with {code}: {_last_line(self._log.read_text())}")

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._child.kill()
        self._child.wait()


@contextmanager
def operator(server: BenchmarkServer, *flags: str) -> Iterator[Operator]:
    """An operator that finds no Lease, and ends with the block."""
    server.forget_lease()
    running = Operator(server, *flags)
    try:
        yield running
        running.stop()
    finally:
        running.kill()


def note_of(side: str, seconds: float, cpu_s: float, server_cpu_s: float, strangers: float) -> None:
    """Say for a reader, beside the table, where the time went. strangers: share of the machine that others took, 0 to 1."""
    doubt = f"; OTHERS TOOK {strangers:.0%} OF THE MACHINE" if strangers > QUIET else ""
    print(
        f"#   {side:8} {seconds:7.3f} s; CPU: client {cpu_s:.2f} s, server {server_cpu_s:.2f} s{doubt}",
        file=sys.stderr,
        flush=True,
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "nothing was said"
