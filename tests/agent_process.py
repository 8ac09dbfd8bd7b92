"""The agent as a process of its own, for tests: a socket and a state directory of its own, watched by polling, ended by pid."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.until import until

END_S = 20.0


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path, timeout_s: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str, body: object = None, **headers: str) -> tuple[int, Any]:
    """Status and decoded body of one answer, on a connection of its own. Raises OSError where nobody answers."""
    connection = UnixConnection(path)
    try:
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {target}: {error!r}") from error
    finally:
        connection.close()
    return answer.status, json.loads(content) if content else None


class AgentProcess:
    """Runs from construction until `stop()`. A context manager: leaving it kills what still runs.

    directory: where its log, socket and state are; again with the same one, it is the same agent's next life.
    """

    def __init__(
        self,
        directory: Path,
        *flags: str,
        node: str = "node-1",
        kubeconfig: Path | None = None,
        boot: str = "boot-1",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.node = node
        self.log = directory / "agent.log"
        self.socket = directory / "agent.sock"
        self.state = directory / "state"
        (directory / "boot").write_text(boot)
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OMNIPAM_", "CILIUM_", "KUBE"))
        }
        kept |= {"HOME": str(directory), "XDG_STATE_HOME": str(directory)}
        if kubeconfig is not None:
            kept["KUBECONFIG"] = str(kubeconfig)
        command = [
            *(sys.executable, "-m", "omnipam.runtime.cli", "agent", "--log-format=json", "--log-level=debug"),
            *(f"--node-name={node}", f"--socket={self.socket}", f"--state-dir={self.state}"),
            *(f"--boot-id={directory / 'boot'}", *flags),
        ]
        self._offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=kept
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def kill(self) -> None:
        """Ends it as a power cut would. May be called twice."""
        self._child.kill()
        self._child.wait()

    def wait(self, timeout_s: float = END_S) -> int:
        return self._child.wait(timeout_s)

    def stop(self) -> int:
        """Asks it to end; its exit code."""
        self._child.send_signal(signal.SIGTERM)
        return self.wait()

    def text(self) -> str:
        """All it has printed in this life."""
        with self.log.open("rb") as file:
            file.seek(self._offset)
            return file.read().decode(errors="replace")

    def ask(self, method: str, target: str, body: object = None, **headers: str) -> tuple[int, Any]:
        return ask(self.socket, method, target, body, **headers)

    def add(self, container: str, owner: str = "", *, network: str = "net", **more: object) -> Any:
        """The addresses by family. Raises AssertionError where they are refused."""
        status, answer = self.put(container, owner, network=network, **more)
        assert status in (200, 201), (status, answer)
        return {each["family"]: each["address"] for each in answer["addresses"]}

    def put(
        self, container: str, owner: str = "", *, network: str = "net", **more: object
    ) -> tuple[int, Any]:
        body = {"owner": owner or f"shop/{container}", "wait_s": 10} | more
        return self.ask("PUT", f"/v1/allocations/{network}/{container}/eth0", body)

    def delete(self, container: str, *, network: str = "net") -> int:
        return self.ask("DELETE", f"/v1/allocations/{network}/{container}/eth0")[0]

    def held(self) -> dict[str, dict[str, str]]:
        """Addresses by container and family."""
        _, answer = self.ask("GET", "/v1/allocations")
        return {
            each["key"][1]: {given["family"]: given["address"] for given in each["addresses"]}
            for each in answer["allocations"]
        }

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        """Polls until the condition is true. Raises with the end of its log."""
        until(self._child, "the agent", self.text, condition, what, timeout_s)

    def until_ready(self) -> Self:
        self.until(lambda: self.status()[0] == 200, "the agent is ready")
        return self

    def status(self) -> tuple[int, Any]:
        """0 where nobody listens."""
        try:
            return self.ask("GET", "/v1/status")
        except OSError:
            return 0, None
