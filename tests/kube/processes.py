"""A child process with a log file, that ends when this process ends."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.kube.admin import wait_until

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
TAIL = 2000


class StartFailed(Exception):
    """A program ended or was not ready in time; the text has the end of its log."""


class Process:
    """Runs from construction. The child holds our pipe as its standard input and ends when that does (server/main.go)."""

    def __init__(self, command: list[str], *, log: Path) -> None:
        self._log = log
        self._name = log.stem
        with log.open("ab") as file:
            # A session of its own: Ctrl-C in the terminal is for us, and we end the children in order.
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Return when it is ready. Raises StartFailed if it ends before, or takes too long."""
        try:
            wait_until(lambda: not self.running or ready(), f"{self._name} ready", START_TIMEOUT_S)
        except TimeoutError as error:
            raise StartFailed(f"{error}; its log ends with:\n{self._tail()}") from None
        if not self.running:
            raise StartFailed(
                f"{self._name} ended with {self._child.returncode}; its log ends with:\n{self._tail()}"
            )

    def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not."""
        self._child.terminate()
        try:
            self._child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """End it at once. May be called twice."""
        self._child.kill()
        self._child.wait()
        assert self._child.stdin is not None
        self._child.stdin.close()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-TAIL:]
