"""A small blocking Kubernetes client for tests: JSON in, JSON out, over kept-alive connections."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
"""A decoded object; tests reach into it by key."""

TOO_EARLY = 429  # "storage is (re)initializing": the definition was made a moment ago; nothing was done
BUSY_S, PATIENCE_S = 0.1, 10.0
MERGE_PATCH = "application/merge-patch+json"
IDLE_S = 30.0
"""A connection that lay idle for longer is not used again: the server closes such (after 90 s), and a write must not meet that."""


class ApiError(Exception):
    """The server said no: `status` (HTTP), `reason` (such as `AlreadyExists`), the whole Status in `body`."""

    def __init__(self, request: str, status: int, answer: bytes) -> None:
        try:
            self.body: Json = json.loads(answer)
        except ValueError:
            self.body = {"message": answer[:300].decode(errors="replace")}
        self.status = status
        self.reason = str(self.body.get("reason", ""))
        super().__init__(f"{request}: {status} {self.reason}: {self.body.get('message', '')}")


class Admin:
    """One user's requests to one API server. Any thread may use it; each request has a connection to itself."""

    def __init__(
        self, url: str, *, tls: ssl.SSLContext, token: str | None = None, timeout_s: float = 30.0
    ) -> None:
        self._address = urlsplit(url)
        self._tls = tls
        self._headers = {"Accept": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        self._timeout_s = timeout_s
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []

    def get(self, path: str) -> Json:
        return self.request("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        return self.request("POST", path, body)

    def put(self, path: str, body: Mapping[str, Any]) -> Json:
        return self.request("PUT", path, body)

    def patch(self, path: str, body: Mapping[str, Any], content_type: str = MERGE_PATCH) -> Json:
        return self.request("PATCH", path, body, content_type)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Json:
        """Delete an object, or all of a collection if `path` is one."""
        return self.request("DELETE", path, body)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        """Send one request and return the decoded answer. Raises ApiError, or OSError if there is no answer."""
        answer: Json = json.loads(self.raw(method, path, body, content_type))
        return answer

    def raw(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Like `request`, and return the answer's bytes."""
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers if data is None else self._headers | {"Content-Type": content_type}
        until = time.monotonic() + PATIENCE_S
        while True:
            idle = self._kept()
            kept, connection = idle is not None, idle or self._connection()
            try:
                connection.request(method, f"{self._address.path.rstrip('/')}{path}", data, headers)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept and method == "GET":  # it was closed while it lay idle
                    continue
                if isinstance(error, OSError) and not isinstance(error, ssl.SSLEOFError):
                    raise
                raise ConnectionError(f"{method} {path}: {error!r}") from error
            self._idle.append((time.monotonic(), connection))
            if answer.status == TOO_EARLY and time.monotonic() < until:
                time.sleep(BUSY_S)
                continue
            if answer.status >= 400:
                raise ApiError(f"{method} {path}", answer.status, content)
            return content

    def watch(self, path: str, *, since: str, timeout_s: int = 5) -> list[Json]:
        """All events that a watch on a collection gives within `timeout_s`, after resourceVersion `since`."""
        mark = "&" if "?" in path else "?"
        lines = self.raw("GET", f"{path}{mark}watch=1&resourceVersion={since}&timeoutSeconds={timeout_s}")
        return [json.loads(line) for line in lines.splitlines()]

    def create_many(
        self, path: str, objects: Iterable[Mapping[str, Any]], connections: int = 16
    ) -> list[Json]:
        """Create all, fast, and return what the server made of them, in order. Raises the first error."""
        with ThreadPoolExecutor(connections) as threads:
            return list(threads.map(lambda item: self.post(path, item), objects))

    def apply(self, path: str, manifest: Mapping[str, Any]) -> Json:
        """Create an object in a collection, or merge it into the one of that name."""
        try:
            return self.post(path, manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return self.patch(f"{path}/{manifest['metadata']['name']}", manifest)

    def install_crds(self, definitions: Iterable[Mapping[str, Any]], timeout_s: float = 30.0) -> None:
        """Create or update CRDs, and return when every served version answers a list."""
        collection = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        definitions = list(definitions)
        for crd in definitions:
            self.apply(collection, {key: value for key, value in crd.items() if key != "status"})
        for crd in definitions:
            name, spec = crd["metadata"]["name"], crd["spec"]
            wait_until(partial(self._established, f"{collection}/{name}"), f"{name} established", timeout_s)
            for version in (each["name"] for each in spec["versions"] if each["served"]):
                path = f"/apis/{spec['group']}/{version}/{spec['names']['plural']}"
                wait_until(partial(self.exists, f"{path}?limit=1"), f"{path} served", timeout_s)

    def exists(self, path: str) -> bool:
        """Whether a GET finds something there."""
        try:
            self.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def close(self) -> None:
        """Close the kept connections; the next request opens a new one."""
        while self._idle:
            self._idle.pop()[1].close()

    def _kept(self) -> http.client.HTTPSConnection | None:
        """A connection that is open yet, if there is one."""
        while True:
            try:
                since, connection = self._idle.pop()
            except IndexError:  # another thread may have taken the last
                return None
            if time.monotonic() - since < IDLE_S:
                return connection
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        host = self._address.hostname or "127.0.0.1"
        port = self._address.port or 443
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)

    def _established(self, path: str) -> bool:
        conditions = self.get(path).get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def requests_counted(metrics: str, resource: str, verb: str, subresource: str | None = None) -> int:
    """Sum `apiserver_request_total` over all codes; of every subresource unless one is named ("" for none)."""
    total = 0.0
    for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", metrics, re.MULTILINE):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        wanted = subresource is None or pairs["subresource"] == subresource
        if wanted and pairs["resource"] == resource and pairs["verb"] == verb:
            total += float(value)
    return int(total)


def kubeconfig(
    server: str, *, ca: bytes | None, credentials: Mapping[str, str], tls_name: str | None = None
) -> str:
    """A kubeconfig with one context (JSON, which is YAML too). ca: PEM; `credentials` as its `user` has them."""
    cluster = {"server": server}
    if ca:
        cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
    if tls_name:
        cluster["tls-server-name"] = tls_name
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": dict(credentials)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    return json.dumps(content, indent=1)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Poll until `condition()` is true. Raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)
