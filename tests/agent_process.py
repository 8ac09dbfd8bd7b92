"""The agent as a process of its own, for tests: with a socket and a state directory of its own, and asked through the former."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any, Self

from tests.omnipam_process import OmnipamProcess


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


class AgentProcess(OmnipamProcess):
    """directory: where its log, socket and state are; again with the same one, it is the same agent's next life."""

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
        self.socket = directory / "agent.sock"
        self.state = directory / "state"
        (directory / "boot").write_text(boot)
        super().__init__(
            directory,
            "agent",
            *(f"--node-name={node}", f"--socket={self.socket}", f"--state-dir={self.state}"),
            *(f"--boot-id={directory / 'boot'}", *flags),
            name="agent",
            kubeconfig=kubeconfig,
        )

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

    def until_ready(self) -> Self:
        self.until(lambda: self.status()[0] == 200, "the agent is ready")
        return self

    def status(self) -> tuple[int, Any]:
        """0 where nobody listens."""
        try:
            return self.ask("GET", "/v1/status")
        except OSError:
            return 0, None
