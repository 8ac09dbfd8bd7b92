"""A cluster that somebody else runs, named by OMNIPAM_TEST_KUBECONFIG.

It should be one for tests alone. Our users there are service accounts; what it had before the tests is left alone.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest
import yaml
from tests.kube.admin import Admin, ApiError, Json
from tests.kube.cluster import USERS, Cluster
from tests.kube.proxy import Proxy

VARIABLE = "OMNIPAM_TEST_KUBECONFIG"
NAMESPACE = "omnipam-tests"
TOKEN_LIFETIME_S = 86_400


def cannot(why: str) -> NoReturn:
    """Skip a test for want of a server of the right kind; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"no Kubernetes API server to test on (CI=true): {why}", pytrace=False)
    pytest.skip(f"no Kubernetes API server to test on: {why}")


class BlindProxy(Proxy):
    """It has no key of the server's, so it passes ciphertext on, and no fault can pick its request: such tests are skipped."""

    def lose_answer(self, pattern: bytes = b"", times: int = 1) -> None:
        self._needs_sight(pattern)
        super().lose_answer(pattern, times)

    def lose_request(self, pattern: bytes = b"", times: int = 1) -> None:
        self._needs_sight(pattern)
        super().lose_request(pattern, times)

    @staticmethod
    def _needs_sight(pattern: bytes) -> None:
        if pattern:
            cannot(f"needs a proxy that reads requests, and {VARIABLE} is set")


class ExternalCluster(Cluster):
    """The current context of a kubeconfig, by token or client certificate. Raises ValueError for any other kind."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._base = path.parent
        config: Json = yaml.safe_load(path.read_text())
        context = _named(config, "context", config["current-context"])
        cluster = _named(config, "cluster", context["cluster"])
        self._user = _named(config, "user", context["user"])
        self.url = cluster["server"]
        self.ca = self._file(cluster, "certificate-authority")
        self._credentials = self._read_user(path)
        tls = self._tls()
        certificate = self._file(self._user, "client-certificate")
        if certificate:
            tls.load_cert_chain(certificate, self._file(self._user, "client-key"))
        self.admin = Admin(self.url, tls=tls, token=self._credentials.get("token"))
        self._tokens: dict[str, str] = {}

    def credentials(self, user: str) -> dict[str, str]:
        if user == "admin":
            return self._credentials
        if user not in self._tokens:
            self._tokens[user] = self._service_account(user)
        return {"token": self._tokens[user]}

    def subject(self, user: str) -> dict[str, str]:
        return {"kind": "ServiceAccount", "namespace": NAMESPACE, "name": user}

    def proxy(self) -> Proxy:
        return BlindProxy(self.url)

    def stop(self) -> None:
        self.admin.close()
        super().stop()

    def _service_account(self, user: str) -> str:
        if user not in USERS:
            raise KeyError(user)
        self._ensure("/api/v1/namespaces", {"kind": "Namespace"}, NAMESPACE)
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        self._ensure(accounts, {"kind": "ServiceAccount"}, user)
        spec = {"expirationSeconds": TOKEN_LIFETIME_S}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token: str = self.admin.post(f"{accounts}/{user}/token", body)["status"]["token"]
        return token

    def _ensure(self, path: str, body: Json, name: str) -> None:
        try:
            self.admin.post(path, {"apiVersion": "v1", **body, "metadata": {"name": name}})
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def _read_user(self, path: Path) -> dict[str, str]:
        """What a kubeconfig of ours for the same user needs."""
        certificate, key = (self._file(self._user, f"client-{part}") for part in ("certificate", "key"))
        if "token" in self._user:
            return {"token": self._user["token"]}
        if "tokenFile" in self._user:
            return {"token": (self._base / self._user["tokenFile"]).read_text().strip()}
        if certificate and key:
            return {"client-certificate": str(certificate), "client-key": str(key)}
        raise ValueError(
            f"{VARIABLE}={path}: its user has no token and no client certificate, other kinds are not known here"
        )

    def _file(self, entry: Json, name: str) -> Path | None:
        """A file that `entry` names, or one of ours with the content that it holds."""
        if f"{name}-data" in entry:
            path = self.directory / f"{name}.pem"
            path.write_bytes(base64.b64decode(entry[f"{name}-data"]))
            path.chmod(0o600)
            return path
        return self._base / entry[name] if name in entry else None

    def _tls_name(self, server: str | None) -> str | None:
        return urlsplit(self.url).hostname if server else None


def _named(config: Json, kind: str, name: str) -> Json:
    found: Json = next(each[kind] for each in config[f"{kind}s"] if each["name"] == name)
    return found
