"""The operator as a process of its own, for tests: started with free ports, its log and pages read."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.kube.admin import Json, wait_until
from tests.kube.ports import free_port
from tests.omnipam_process import OmnipamProcess

READY_S = 60.0
SHORT_LEASE = (
    "--leader-election-lease-duration=3s",
    "--leader-election-renew-deadline=2s",
    "--leader-election-retry-period=500ms",
)
"""Fast enough for a test to wait until it runs out."""

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class OperatorProcess(OmnipamProcess):
    """directory: where its log goes, and its home. Ports that are not given are free ones."""

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
        self.api_port = api_port or free_port()
        self.metrics_port = metrics_port or free_port()
        super().__init__(
            directory,
            "operator",
            f"--operator-api-serve-addr=127.0.0.1:{self.api_port}",
            f"--operator-prometheus-serve-addr=127.0.0.1:{self.metrics_port}",
            *flags,
            name=name,
            kubeconfig=kubeconfig,
            environ=environ,
        )

    # -- what it says

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
