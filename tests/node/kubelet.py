"""What a kubelet and its container runtime do of pods' networks: sandboxes by CNI, tried until they stand, shown in the Pod.

Pods are real objects of an API server. What runtimes do after a failure differs: here all of it is done, as a seed has it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.kube.admin import Admin, Json, wait_until
from tests.node.netns import Failed, Host, Pod

NETWORK = "podnet"
FORCE = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
TRY_LATER = 11
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Wanted:
    """A pod to be. pool: where its address must come from, for what it or its namespace says."""

    namespace: str
    name: str
    pool: str
    marks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of its metadata: annotations, labels."""

    @property
    def owner(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        return f"{_pods(self.namespace)}/{self.name}"


class Kubelet:
    """One node's. ready: whether the agent serves. Any thread may use it, each pod one at a time."""

    def __init__(self, host: Host, admin: Admin, node: str, *, seed: int, ready: Callable[[], bool]) -> None:
        self._host, self._admin, self._node, self._seed, self._ready = host, admin, node, seed, ready
        self._conf = host.conf("ptp", NETWORK)
        self._making = threading.Lock()
        self.standing: dict[str, tuple[Wanted, Pod, str]] = {}
        """By owner: what was wanted, its sandbox, and the address that the runtime was told."""
        self.retries = 0

    def start(self, wanted: Wanted) -> None:
        """A Pod, its sandbox and its address. Raises Failed where a failure is not one to try again, or for too long."""
        rng = random.Random(f"{self._seed} {wanted.owner}")
        uid = self._create(wanted)
        sandbox = self._sandbox(wanted.owner, uid)
        deadline = time.monotonic() + PATIENCE_S
        while (address := self._added(sandbox, deadline)) is None:
            after = rng.choice(("again", "DEL", "anew"))  # what runtimes do next
            if after != "again":
                self._host.call("DEL", self._conf, sandbox)
            if after == "anew":
                self._end(sandbox)
                sandbox = self._sandbox(wanted.owner, uid)
            wait_until(self._ready, "an agent serves", PATIENCE_S)
        with self._making:
            others = [owner for owner, each in self.standing.items() if each[2] == address]
            assert not others, f"{wanted.owner} got {address}, which {others} has"
            self.standing[wanted.owner] = wanted, sandbox, address
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        self._admin.patch(f"{wanted.path}/status", {"status": status})

    def stop(self, owner: str) -> None:
        """In good order: DEL, which must succeed whatever becomes of the agent, the sandbox, the Pod."""
        with self._making:
            wanted, sandbox, _ = self.standing.pop(owner)
        self._host.call("DEL", self._conf, sandbox)
        self._host.call("DEL", self._conf, sandbox)  # runtimes do it twice
        self._end(sandbox)
        self.forget(wanted)

    def forget(self, wanted: Wanted) -> None:
        """By force: the Pod is gone from the API server, and nobody told the runtime."""
        self._admin.delete(wanted.path, FORCE)

    def crash(self, owner: str) -> None:
        """The sandbox is gone, and with it its link and the host's route, without a DEL."""
        _, sandbox, _ = self.standing.pop(owner)
        self._end(sandbox)

    def ask(self, verb: str, **more: object) -> Any:
        """What `omnipam-cni` answers to GC or STATUS, which Debian's ptp is too old for. Raises Failed."""
        conf = self._conf | {"cniVersion": "1.1.0", "type": "omnipam-cni"} | more
        environ = {"CNI_COMMAND": verb, "CNI_PATH": str(self._host.bin), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [self._host.bin / "omnipam-cni"],
            input=json.dumps(conf).encode(),
            env=environ,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise Failed(json.loads(done.stdout))
        return json.loads(done.stdout) if done.stdout.strip() else None

    def collect(self, valid: Collection[Pod]) -> None:
        """CNI GC: nothing is attached but these."""
        attachments = [{"containerID": each.name, "ifname": "eth0"} for each in valid]
        self.ask("GC", **{"cni.dev/valid-attachments": attachments})

    def _create(self, wanted: Wanted) -> str:
        metadata: Json = {"name": wanted.name, **wanted.marks}
        spec = {"nodeName": self._node, "containers": [{"name": "c", "image": "none"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        return str(self._admin.post(_pods(wanted.namespace), body)["metadata"]["uid"])

    def _sandbox(self, owner: str, uid: str) -> Pod:
        with self._making:  # their names are numbers
            return self._host.pod(owner, uid)

    def _added(self, sandbox: Pod, deadline: float) -> str | None:
        try:
            (ip,) = self._host.call("ADD", self._conf, sandbox)["ips"]
        except Failed as failed:
            if failed.code != TRY_LATER or time.monotonic() > deadline:
                raise
            self.retries += 1
            return None
        return str(ip["address"]).partition("/")[0]

    def _end(self, sandbox: Pod) -> None:
        subprocess.run(["ip", "netns", "delete", sandbox.name], check=True, capture_output=True)


def _pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"
