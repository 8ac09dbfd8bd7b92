"""A real Kubernetes API server for tests and benchmarks: etcd, kube-apiserver and, on request, kube-controller-manager.

`python -m tests.kube.apiserver` starts all three for a person (`make kube`).
"""

from __future__ import annotations

import argparse
import base64
import ipaddress
import json
import secrets
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.kube.admin import Admin, ApiError, Json, wait_until
from tests.kube.binary import NoServer, kubernetes_version, server_binary
from tests.kube.cluster import USERS, Cluster
from tests.kube.ports import free_port
from tests.kube.processes import Process, StartFailed
from tests.kube.proxy import Proxy

__all__ = ["Admin", "ApiError", "ApiServer", "Json", "NoServer", "Proxy", "StartFailed", "wait_until"]

MASTERS = ("admin", "controllers")
"""Who may do everything: the tests, and the controller manager, so that the audit log tells them apart."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "users": ["system:apiserver"]}, {"level": "Metadata"}],
}


class ApiServer(Cluster):
    """Starts on construction (about 3 s), on free loopback ports, with everything in a directory of its own.

    The processes end with this one, however it ends. Raises NoServer if there is no server and none can be built,
    StartFailed with the end of its log if one does not start.
    """

    ca: Path

    def __init__(
        self,
        *,
        cluster_cidrs: Sequence[str] = (),
        node_mask_ipv4: int = 24,
        node_mask_ipv6: int = 64,
        watch_cache_sizes: Mapping[str, int] | None = None,
        compaction_interval_s: int | None = None,
        audit: bool = False,
    ) -> None:
        """cluster_cidrs: one or, dual stack, two: starts a controller manager that gives Nodes their podCIDRs of them.

        watch_cache_sizes: by `resource.group`; only 0 has a meaning to the server: watches read etcd itself, and end
        with 410 Gone as soon as `compact()` has passed their resourceVersion.
        """
        super().__init__()
        self._binary = server_binary()
        self._cidrs = [ipaddress.ip_network(each) for each in cluster_cidrs]
        self._masks = {4: node_mask_ipv4, 6: node_mask_ipv6}
        self._tokens = {user: secrets.token_hex(16) for user in (*MASTERS, *USERS)}
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        self._port = free_port()
        self._processes: dict[str, Process] = {}
        self.url = f"https://127.0.0.1:{self._port}"
        self.ca = self.directory / "apiserver.crt"
        self._audit_log = self.directory / "audit.jsonl"
        self._flags = [
            f"--watch-cache-sizes={name}#{size}" for name, size in (watch_cache_sizes or {}).items()
        ]
        if compaction_interval_s is not None:
            self._flags.append(f"--etcd-compaction-interval={compaction_interval_s}s")
        if audit:
            self._flags += [
                f"--audit-policy-file={self.directory / 'audit.json'}",
                f"--audit-log-path={self._audit_log}",
            ]
        try:
            self._write_files()
            self._start_etcd()
            self._start_apiserver()
            if self._cidrs:
                self.start_controllers()
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes that run, by the program's name: `etcd`, `kube-apiserver`, `kube-controller-manager`."""
        return {name: process.pid for name, process in self._processes.items() if process.running}

    def credentials(self, user: str) -> dict[str, str]:
        return {"token": self._tokens[user]}

    def subject(self, user: str) -> dict[str, str]:
        return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}

    def proxy(self) -> Proxy:
        facing_client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        facing_client.load_cert_chain(self.ca, self.ca.with_suffix(".key"))
        return Proxy(self.url, server_tls=facing_client, client_tls=self._tls())

    def kill_apiserver(self) -> None:
        """End kube-apiserver as a power cut would; etcd keeps what was written."""
        self._processes["kube-apiserver"].kill()

    def restart_apiserver(self) -> None:
        """Start kube-apiserver again, at the same address, killing it first if it runs; return when it is ready.

        Its counters begin at 0, and older resourceVersions are too old for a watch (410).
        """
        self.kill_apiserver()
        self.admin.close()
        self._start_apiserver()

    def kill_controllers(self) -> None:
        """End the controller manager as a power cut would."""
        self._processes["kube-controller-manager"].kill()

    def start_controllers(self) -> None:
        """Start the controller manager, after `kill_controllers()`; return when it is healthy.

        Nodes get their podCIDRs some seconds later.
        """
        port = free_port()
        flags = [
            f"--kubeconfig={self.kubeconfig('controllers')}",
            "--controllers=node-ipam-controller",
            "--allocate-node-cidrs",
            f"--cluster-cidr={','.join(map(str, self._cidrs))}",
            "--leader-elect=false",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.directory / 'controllers'}",
        ]
        flags += [
            f"--node-cidr-mask-size-ipv{cidr.version}={self._masks[cidr.version]}" for cidr in self._cidrs
        ]
        process = self._start("kube-controller-manager", flags)
        certificate = self.directory / "controllers" / "kube-controller-manager.crt"
        process.wait_for(
            lambda: certificate.exists() and _answers(f"https://127.0.0.1:{port}/healthz", certificate)
        )

    def compact(self) -> int:
        """Make etcd forget all history up to now; return the revision (a resourceVersion) that is now the oldest.

        A watch that reads etcd and has missed anything before it gets 410. One served from the watch cache does not:
        see `watch_cache_sizes` and `restart_apiserver`.
        """
        # etcd still serves a watch that lacks only the revision compacted at, so that one is a write of ours.
        mark = base64.b64encode(b"omnipam-compaction").decode()
        revision = int(self._etcd("put", {"key": mark, "value": mark})["header"]["revision"])
        self._etcd("compaction", {"revision": revision, "physical": True})
        return revision

    def audit(self) -> list[Json]:
        """Every request with its user, verb, object and answer, oldest first (`audit.k8s.io/v1` Event, Metadata)."""
        lines = self._audit_log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def stop(self) -> None:
        """End the processes, asking first, and remove the directory."""
        if hasattr(self, "admin"):
            self.admin.close()
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            if name in self._processes:
                self._processes[name].stop()
        super().stop()

    def _write_files(self) -> None:
        key = subprocess.run([self._binary, "key"], capture_output=True, check=True).stdout
        (self.directory / "service-account.key").write_bytes(key)
        groups = {user: "system:masters" if user in MASTERS else "tests" for user in self._tokens}
        tokens = [f'{token},{user},{user},"{groups[user]}"\n' for user, token in self._tokens.items()]
        (self.directory / "tokens.csv").write_text("".join(tokens))
        (self.directory / "audit.json").write_text(json.dumps(AUDIT_POLICY))

    def _start(self, program: str, flags: list[str]) -> Process:
        process = Process([str(self._binary), program, *flags], log=self.directory / f"{program}.log")
        self._processes[program] = process
        return process

    def _start_etcd(self) -> None:
        peer_url = f"http://127.0.0.1:{free_port()}"
        flags = [
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]
        self._start("etcd", flags).wait_for(lambda: _answers(f"{self._etcd_url}/health"))

    def _start_apiserver(self) -> None:
        key = self.directory / "service-account.key"
        flags = [
            f"--etcd-servers={self._etcd_url}",
            f"--secure-port={self._port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.directory}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            "--delete-collection-workers=16",
        ]
        process = self._start("kube-apiserver", flags + self._flags)
        token = self._tokens["admin"]
        process.wait_for(lambda: self.ca.exists() and _answers(f"{self.url}/readyz", self.ca, token))
        if not hasattr(self, "admin"):
            self.admin = self.client("admin")

    def _etcd(self, call: str, body: Json) -> Json:
        """One call through etcd's HTTP gateway."""
        request = urllib.request.Request(f"{self._etcd_url}/v3/kv/{call}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            decoded: Json = json.load(answer)
            return decoded


def _answers(url: str, ca: Path | None = None, token: str = "") -> bool:
    """Whether a GET is answered with 200."""
    try:
        tls = ssl.create_default_context(cafile=ca) if ca else None
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=5, context=tls):
            return True
    except (
        OSError,
        ssl.SSLError,
    ):  # refused, not ready (HTTPError is an OSError), a certificate half written
        return False


def main() -> int:
    """Run a cluster until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.kube.apiserver", description=__doc__)
    parser.add_argument(
        "--cluster-cidr", action="append", help="where Nodes get their podCIDRs from; twice for dual stack"
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job starts with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        with ApiServer(cluster_cidrs=arguments.cluster_cidr or ["10.200.0.0/16"]) as server:
            print(
                f"# Kubernetes {kubernetes_version()} at {server.url}, logs in {server.directory}; Ctrl-C ends it."
            )
            print(f"export KUBECONFIG={server.kubeconfig()}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("\n# ended", file=sys.stderr)
    except (NoServer, StartFailed, ValueError) as error:
        print(f"tests/kube: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
