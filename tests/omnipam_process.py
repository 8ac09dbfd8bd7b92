"""One of omnipam's commands as a process of its own, for tests: with a log file and a clean environment, watched by polling, ended by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tests.until import tail, until

END_S = 20.0


class OmnipamProcess:
    """Runs from construction until `stop()`. A context manager: leaving it kills what still runs.

    directory: where its log goes, and its home. Nothing of the caller's environment that could configure it is passed on.
    """

    def __init__(
        self,
        directory: Path,
        command: str,
        *flags: str,
        name: str,
        kubeconfig: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = directory / f"{name}.log"
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OMNIPAM_", "CILIUM_", "KUBE"))
        }
        kept |= {"HOME": str(directory), "XDG_STATE_HOME": str(directory)}
        if kubeconfig is not None:
            kept["KUBECONFIG"] = str(kubeconfig)
        line = [
            sys.executable,
            "-m",
            "omnipam.runtime.cli",
            command,
            "--log-format=json",
            "--log-level=debug",
        ]
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file:
            self._child = subprocess.Popen(
                [*line, *flags],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=kept | dict(environ or {}),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

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

    def text(self) -> str:
        """All it has printed in this life."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            return file.read().decode(errors="replace")

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        """Polls until the condition is true. Raises AssertionError with the end of its log if it ends before."""
        until(self._child, self.name, self.text, condition, what, timeout_s)
