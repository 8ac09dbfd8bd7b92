"""The operator as a process of its own, for tests: started with free ports and a log file, watched by polling, ended by pid."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.kube.admin import Json, wait_until
from tests.kube.ports import free_port
from tests.until import tail, until

READY_S = 60.0
END_S = 20.0
SHORT_LEASE = (
    "--leader-election-lease-duration=3s",
    "--leader-election-renew-deadline=2s",
    "--leader-election-retry-period=500ms",
)
"""Fast enough for a test to wait until it runs out."""

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class OperatorProcess:
    """Runs from construction until `stop()`. A context manager: leaving it kills what still runs.

    directory: where its log goes, and its home. Nothing of the caller's environment that could configure it is passed on.
    """

    def __init__(
        self,
        directory: Path,
        *flags: str,
        name: str = "operator",
        kubeconfig: Path | None = None,
        environ: Mapping[str, str] | None = None,
        api_port: int | None = None,
        metrics_port: int | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = directory / f"{name}.log"
        self.api_port = api_port or free_port()
        self.metrics_port = metrics_port or free_port()
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OMNIPAM_", "CILIUM_", "KUBE"))
        }
        kept |= {"HOME": str(directory), "XDG_STATE_HOME": str(directory)}
        if kubeconfig is not None:
            kept["KUBECONFIG"] = str(kubeconfig)
        command = [
            *(
                sys.executable,
                "-m",
                "omnipam.runtime.cli",
                "operator",
                "--log-format=json",
                "--log-level=debug",
            ),
            f"--operator-api-serve-addr=127.0.0.1:{self.api_port}",
            f"--operator-prometheus-serve-addr=127.0.0.1:{self.metrics_port}",
            *flags,
        ]
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=kept | dict(environ or {})
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    # -- its life

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._child.send_signal(number)

    def kill(self) -> None:
        """Ends it as a power cut would. May be called twice."""
        self._child.kill()
        self._child.wait()

    def wait(self, timeout_s: float = END_S) -> int:
        """Its exit code, once it has ended by itself. Raises TimeoutError with the end of its log."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"{self.name} has not ended within {timeout_s:g} s; {tail(self.text)}"
            ) from None

    def stop(self, timeout_s: float = END_S) -> int:
        """Asks it to end; its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    # -- what it says

    def text(self) -> str:
        """All it has printed in this life."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            return file.read().decode(errors="replace")

    def lines(self, event: str = "") -> list[Json]:
        """Its log lines whose event begins so; what is no JSON is left out."""
        found = []
        for line in self.text().rpartition("\n")[0].splitlines():  # what is half written is left out
            if line.startswith("{") and line.endswith("}"):
                decoded = json.loads(line)
                if str(decoded.get("event", "")).startswith(event):
                    found.append(decoded)
        return found

    def plain(self) -> list[str]:
        """What it printed that is no log line."""
        return [line for line in self.text().splitlines() if line and not line.startswith("{")]

    def get(self, path: str, *, port: int | None = None) -> tuple[int, str]:
        """Status and body of one of its pages; 0 where nothing answers."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port or self.api_port}{path}", timeout=5
            ) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name with the labels as they are printed."""
        _, body = self.get("/metrics", port=self.metrics_port)
        return {
            f"{name}{{{labels}}}" if labels else name: float(value)
            for name, labels, value in _SAMPLE.findall(body)
        }

    # -- waiting for it

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        """Polls until the condition is true. Raises AssertionError with the end of its log if it ends before."""
        until(self._child, self.name, self.text, condition, what, timeout_s)

    def until_ready(self, timeout_s: float = READY_S) -> Self:
        self.until(lambda: self.get("/readyz")[0] == 200, f"{self.name} ready", timeout_s)
        return self

    def until_leading(self, timeout_s: float = READY_S) -> Self:
        """Restored, not only elected."""
        self.until(lambda: self.lines("restored"), f"{self.name} leads", timeout_s)
        return self

    def until_said(self, event: str, timeout_s: float = 30.0) -> Json:
        """The first log line whose event begins so."""
        self.until(lambda: self.lines(event), f"{self.name} says {event!r}", timeout_s)
        return self.lines(event)[0]


class Replicas:
    """Two operators, always; whoever ends is replaced by a new one with a log of its own. `start`: by name.

    A context manager: leaving it kills them.
    """

    def __init__(self, start: Callable[[str], OperatorProcess]) -> None:
        self._start = start
        self._born = 0
        self.live: list[OperatorProcess] = []

    def __enter__(self) -> Self:
        self.fill()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.live:
            each.kill()

    def fill(self) -> None:
        """Replaces those that ended."""
        for each in [each for each in self.live if not each.running]:
            self.live.remove(each)
            assert "Traceback" not in each.text(), each.text()[-4000:]
        while len(self.live) < 2:
            self._born += 1
            self.live.append(self._start(f"operator-{self._born}"))

    def leader(self) -> OperatorProcess:
        """The one that leads and has restored; waits until there is one."""
        found: list[OperatorProcess] = []

        def leads() -> bool:
            self.fill()
            found[:] = [each for each in self.live if each.lines("restored")]
            return bool(found)

        wait_until(leads, "a replica leads", 60)
        return found[-1]
