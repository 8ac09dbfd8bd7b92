"""What tests may ask of any cluster: ours from apiserver.py, or the one that OMNIPAM_TEST_KUBECONFIG names."""

from __future__ import annotations

import ssl
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from tests.kube.admin import Admin, Json, kubeconfig, requests_counted
from tests.kube.proxy import Proxy

USERS = ("omnipam-operator", "omnipam-agent", "viewer")
"""Users with no rights but what `bind` gives them; beside them there is `admin`, who may do everything."""


class Cluster(ABC):
    """A running API server. A context manager: leaving it calls `stop()`, which may be called twice."""

    url: str
    ca: Path | None
    """Its certificate authority (PEM); None for the system's own."""
    admin: Admin

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="omnipam-kube-")
        self.directory = Path(self._directory.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def credentials(self, user: str) -> dict[str, str]:
        """A kubeconfig's `user` entry."""

    @abstractmethod
    def subject(self, user: str) -> dict[str, str]:
        """The user as a subject of a ClusterRoleBinding."""

    @abstractmethod
    def proxy(self) -> Proxy:
        """A new proxy before the server; `kubeconfig(user, server=proxy.url)` goes through it. The caller stops it."""

    def token(self, user: str) -> str:
        """The user's bearer token."""
        return self.credentials(user)["token"]

    def kubeconfig(self, user: str = "admin", *, server: str | None = None) -> Path:
        """Write a kubeconfig for `user`, which ends with the cluster."""
        ca = self.ca.read_bytes() if self.ca else None
        content = kubeconfig(
            server or self.url, ca=ca, credentials=self.credentials(user), tls_name=self._tls_name(server)
        )
        port = f"-{server.rpartition(':')[2]}" if server else ""
        path = self.directory / f"{user}{port}.kubeconfig"
        path.write_text(content)
        path.chmod(0o600)
        return path

    def client(self, user: str, *, server: str | None = None) -> Admin:
        """A client with the user's rights. The caller closes it."""
        return Admin(server or self.url, tls=self._tls(), token=self.token(user))

    def bind(self, user: str, cluster_role: str) -> None:
        """Give `user` the rights of a ClusterRole, in all namespaces."""
        binding: Json = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{user}-{cluster_role}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": cluster_role},
            "subjects": [self.subject(user)],
        }
        self.admin.apply("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)

    def requests(self, resource: str, verb: str, subresource: str | None = None) -> int:
        """Requests the server has counted since it started, such as `requests("ciliumnodes", "PATCH")`.

        subresource: None counts them all, "" the object itself only, "status" that only.
        """
        return requests_counted(self.admin.raw("GET", "/metrics").decode(), resource, verb, subresource)

    def stop(self) -> None:
        """End everything that was started."""
        self._directory.cleanup()

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def _tls_name(self, server: str | None) -> str | None:
        """The name in the certificate where it is not the address's."""
        return None
