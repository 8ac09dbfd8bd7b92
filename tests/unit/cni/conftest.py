"""The stand-in for the agent, and calls of the plugin as a runtime makes them, but in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cni.standin import StandIn

from omnipam.runtime.cni import plugin, releases

BASE = {
    "CNI_CONTAINERID": "c1",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_PATH": "/opt/cni/bin",
}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn(tmp_path / "agent.sock") as running:
        yield running


class Runtime:
    """Calls the plugin. path: where its configurations say the agent is, and its state beside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue = folder / "state" / "deletions"

    def conf(self, version: object = "1.1.0", **ipam: object) -> dict[str, Any]:
        """A network configuration."""
        own = {
            "type": "omnipam-cni",
            "socket": f"{self.folder}/agent.sock",
            "stateDir": f"{self.folder}/state",
        }
        return {"cniVersion": version, "name": "podnet", "type": "ptp", "ipam": own | ipam}

    def raw(self, verb: str, stdin: bytes, **environ: str | None) -> tuple[int, bytes]:
        """Exit code and stdout. environ: None takes one out."""
        given = BASE | {"CNI_COMMAND": verb} | environ
        return plugin.call({name: value for name, value in given.items() if value is not None}, lambda: stdin)

    def __call__(self, verb: str, conf: object = None, **environ: str | None) -> Any:
        """What a call that succeeds prints, None for nothing."""
        code, out = self.raw(verb, json.dumps(self.conf() if conf is None else conf).encode(), **environ)
        assert code == 0, out
        return json.loads(out) if out else None

    def fail(self, verb: str, conf: object = None, **environ: str | None) -> tuple[int, str, str]:
        """Code, msg and details of a call that fails."""
        code, out = self.raw(verb, json.dumps(self.conf() if conf is None else conf).encode(), **environ)
        return self.problem(code, out)

    @staticmethod
    def problem(code: int, out: bytes) -> tuple[int, str, str]:
        """The error object of a failed call, after a look at its shape."""
        assert code == 1
        document = json.loads(out)
        assert set(document) - {"details"} == {"cniVersion", "code", "msg"}
        assert isinstance(document["cniVersion"], str)
        assert document["code"] > 0
        assert document["msg"]
        assert out.count(b"\n") == 1, "one line"
        return document["code"], document["msg"], document.get("details", "")

    @property
    def queued(self) -> list[str]:
        """Files of releases that wait."""
        return sorted(path.name for path in self.queue.glob("*.json")) if self.queue.exists() else []


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent agent costs a test tenths of a second."""
    for module, names in ((plugin, ("ADD_S", "OTHER_S")), (releases, ("LOCK_S", "SETTLE_S"))):
        for name in names:
            monkeypatch.setattr(module, name, 0.5)
