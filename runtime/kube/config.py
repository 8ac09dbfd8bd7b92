"""Where the API server is and who we are there: the pod's service account, or a kubeconfig.

Order, as Kubernetes' own tools: $KUBECONFIG, then the pod's service account, then ~/.kube/config; `--context` skips the pod.
This module only reads and checks; `credentials` turns the result into headers and TLS contexts. Environment proxies are not
used; a kubeconfig's `proxy-url` is. Format: "Organizing Cluster Access Using kubeconfig Files", client-go `clientcmd/api/v1`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from omnipam.core.errors import Invalid

from .errors import one_line

LARGEST = 4 << 20  # bytes of a file that is read; a device may be endless
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class Exec(msgspec.Struct, frozen=True, kw_only=True):
    """A credential plugin: a command that prints an ExecCredential. `command` is absolute or found on PATH."""

    api_version: str
    command: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    install_hint: str
    cluster_info: Mapping[str, object] | None = None

    def __repr__(self) -> str:  # arguments and environment may be secrets
        return f"Exec({self.command})"


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """Who we are: at most one of the ways is used, in the order exec, token file, token, basic; a certificate beside any.

    token_file wins over token, as in client-go: it is the one that is renewed.
    certificate, key: PEM.
    headers: impersonation.
    """

    token: str | None = None
    token_file: Path | None = None
    username: str | None = None
    password: str | None = None
    exec: Exec | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:  # secrets, nearly all of it
        return "Auth(…)"


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """One API server and our account on it.

    server: URL without a slash at its end. namespace: ours, or "default". in_pod: this is the cluster that we run in.
    ca: PEM; None means the system's. server_name: what the certificate must say, if not the URL's host.
    source: where this came from, for messages.
    """

    server: str
    source: str
    namespace: str = "default"
    auth: Auth = Auth()
    ca: bytes | None = None
    insecure: bool = False
    server_name: str | None = None
    proxy: str | None = None
    in_pod: bool = False

    def __repr__(self) -> str:  # the proxy's URL may carry a password
        return f"Cluster({self.server}, {self.source})"


class _Cluster(msgspec.Struct, rename="kebab"):
    server: str = ""
    certificate_authority: str | None = None
    certificate_authority_data: str | None = None
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None
    proxy_url: str | None = None


class _ExecVar(msgspec.Struct):
    name: str
    value: str


class _Exec(msgspec.Struct, rename="camel"):
    command: str
    api_version: str = ""
    args: list[str] | None = None
    env: list[_ExecVar] | None = None
    install_hint: str | None = None
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


class _User(msgspec.Struct, rename="kebab"):
    token: str | None = None
    token_file: str | None = msgspec.field(name="tokenFile", default=None)
    client_certificate: str | None = None
    client_certificate_data: str | None = None
    client_key: str | None = None
    client_key_data: str | None = None
    username: str | None = None
    password: str | None = None
    exec: _Exec | None = None
    auth_provider: dict[str, object] | None = None
    as_: str | None = msgspec.field(name="as", default=None)
    as_uid: str | None = None
    as_groups: list[str] | None = None
    as_user_extra: dict[str, list[str]] | None = None


class _Context(msgspec.Struct):
    cluster: str = ""
    user: str = ""
    namespace: str | None = None


class _NamedCluster(msgspec.Struct):
    name: str
    cluster: _Cluster | None = None


class _NamedUser(msgspec.Struct):
    name: str
    user: _User | None = None


class _NamedContext(msgspec.Struct):
    name: str
    context: _Context | None = None


class _Kubeconfig(msgspec.Struct):
    current_context: str | None = msgspec.field(name="current-context", default=None)
    clusters: list[_NamedCluster] | None = None
    users: list[_NamedUser] | None = None
    contexts: list[_NamedContext] | None = None


def load(
    *,
    environ: Mapping[str, str] = os.environ,
    context: str | None = None,
    service_account: Path = SERVICE_ACCOUNT,
    home: Path | None = None,
) -> Cluster:
    """Return the cluster that this process should talk to. Raises Invalid, one line, saying what to do."""
    if listed := environ.get("KUBECONFIG"):
        paths = [Path(part) for part in listed.split(os.pathsep) if part]
        present = [path for path in paths if _is_there(path)]
        if not present:
            raise Invalid(f"KUBECONFIG={listed}: no such file; correct it, or unset it to use ~/.kube/config")
        return from_kubeconfig(present, context)
    pod = context is None and environ.get("KUBERNETES_SERVICE_HOST")
    if pod and _is_there(service_account / "token"):
        return from_service_account(environ, service_account)
    default = (home if home is not None else _home()) / ".kube" / "config"
    if _is_there(default):
        return from_kubeconfig([default], context)
    raise Invalid(
        f"no kubeconfig: set KUBECONFIG, or write {default}, or run in a pod with a service account"
    )


def from_service_account(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> Cluster:
    """Return the cluster this pod runs in."""
    host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace = folder / "namespace"
    return Cluster(
        server=f"https://{host}:{port}",
        source=str(folder),
        namespace=read_file(namespace, "namespace").decode().strip() if namespace.exists() else "default",
        auth=Auth(token_file=folder / "token"),
        ca=read_file(folder / "ca.crt", "certificate authority"),
        in_pod=True,
    )


def from_kubeconfig(paths: list[Path], context: str | None = None) -> Cluster:
    """Return the cluster of one context (default: the current one). Of several files the first to name a thing wins."""
    current: str | None = None
    clusters: dict[str, tuple[Path, _Cluster]] = {}
    users: dict[str, tuple[Path, _User]] = {}
    contexts: dict[str, tuple[Path, _Context]] = {}
    for path in paths:
        config = _parse(path)
        current = current or config.current_context
        for c in config.clusters or ():
            clusters.setdefault(c.name, (path, c.cluster or _Cluster()))
        for u in config.users or ():
            users.setdefault(u.name, (path, u.user or _User()))
        for x in config.contexts or ():
            contexts.setdefault(x.name, (path, x.context or _Context()))
    where = os.pathsep.join(map(str, paths))
    name = context or current
    if not name:
        raise Invalid(
            f"{where}: no current-context; set one with `kubectl config use-context`, or use --context"
        )
    path, chosen = _entry(contexts, name, where, "context", "contexts")
    cluster_path, cluster = _entry(clusters, chosen.cluster, f"{path}: context {name}", "cluster", "clusters")
    user = Auth()  # a context without a user is one who says nothing of itself, as with kubectl
    if chosen.user:
        user_path, entry = _entry(users, chosen.user, f"{path}: context {name}", "user", "users")
        user = _auth(user_path, chosen.user, entry, cluster)
    return _cluster(cluster_path, chosen.cluster, cluster, user, chosen.namespace or "default")


def _cluster(path: Path, name: str, entry: _Cluster, auth: Auth, namespace: str) -> Cluster:
    where = f"{path}: cluster {name}"
    server = _url(entry.server, where, "server")
    if entry.proxy_url:
        _url(entry.proxy_url, where, "proxy-url")
    if entry.insecure_skip_tls_verify and (entry.certificate_authority or entry.certificate_authority_data):
        raise Invalid(f"{where}: insecure-skip-tls-verify together with a certificate-authority; remove one")
    return Cluster(
        server=server.rstrip("/"),
        source=str(path),
        namespace=namespace,
        auth=auth,
        ca=_pem(
            path,
            where,
            "certificate-authority",
            entry.certificate_authority,
            entry.certificate_authority_data,
        ),
        insecure=entry.insecure_skip_tls_verify,
        server_name=entry.tls_server_name or None,
        proxy=entry.proxy_url or None,
    )


def _auth(path: Path, name: str, user: _User, cluster: _Cluster) -> Auth:
    where = f"{path}: user {name}"
    for field, value in (("token", user.token), ("as", user.as_), ("as-uid", user.as_uid)):
        sendable(value, f"{where}: {field}")
    for group in user.as_groups or ():
        sendable(group, f"{where}: as-groups")
    if user.auth_provider is not None:
        raise Invalid(f"{where}: auth-provider left Kubernetes in 1.26; use an exec plugin or a token")
    if user.as_user_extra:
        raise Invalid(f"{where}: as-user-extra is not supported; remove it, or use an account of its own")
    certificate = _pem(
        path, where, "client-certificate", user.client_certificate, user.client_certificate_data
    )
    key = _pem(path, where, "client-key", user.client_key, user.client_key_data)
    if (certificate is None) != (key is None):
        has, lacks = ("client-certificate", "client-key")[:: 1 if key is None else -1]
        raise Invalid(f"{where}: {has} without {lacks}; give both or neither")
    headers = [("Impersonate-User", user.as_)] if user.as_ else []
    headers += [("Impersonate-Uid", user.as_uid)] if user.as_uid else []
    headers += [("Impersonate-Group", group) for group in user.as_groups or ()]
    return Auth(
        token=user.token or None,
        token_file=path.parent / user.token_file if user.token_file else None,
        username=user.username or None,
        password=user.password,
        exec=_exec(path, where, user.exec, cluster) if user.exec else None,
        certificate=certificate,
        key=key,
        headers=tuple(headers),
    )


def _exec(path: Path, where: str, plugin: _Exec, cluster: _Cluster) -> Exec:
    if plugin.api_version not in EXEC_VERSIONS:
        choices = " or ".join(EXEC_VERSIONS)
        raise Invalid(
            f"{where}: exec.apiVersion {plugin.api_version or 'is missing'}: must be {choices}; update the plugin"
        )
    if plugin.interactive_mode == "Always":
        raise Invalid(
            f"{where}: exec.interactiveMode Always: there is no terminal here; use a plugin that does not ask"
        )
    if not plugin.command:
        raise Invalid(f"{where}: exec.command is empty; name the plugin's program")
    relative = os.sep in plugin.command  # beside the kubeconfig; a bare name is looked up on PATH
    told: dict[str, object] | None = None
    if plugin.provide_cluster_info:
        ca = _pem(
            path,
            where,
            "certificate-authority",
            cluster.certificate_authority,
            cluster.certificate_authority_data,
        )
        told = {
            "server": cluster.server,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            **({"tls-server-name": cluster.tls_server_name} if cluster.tls_server_name else {}),
            **({"certificate-authority-data": base64.b64encode(ca).decode()} if ca else {}),
            **({"proxy-url": cluster.proxy_url} if cluster.proxy_url else {}),
        }
    return Exec(
        api_version=plugin.api_version,
        command=str(path.parent.absolute() / plugin.command) if relative else plugin.command,
        args=tuple(plugin.args or ()),
        env=tuple((var.name, var.value) for var in plugin.env or ()),
        install_hint=plugin.install_hint or "",
        cluster_info=told,
    )


E_ = TypeVar("E_")


def _entry(
    entries: Mapping[str, tuple[Path, E_]], name: str, where: str, kind: str, key: str
) -> tuple[Path, E_]:
    if name not in entries:
        known = ", ".join(sorted(entries)) or "none"
        step = (
            "name one of those with --context"
            if kind == "context" and entries
            else "add it, or correct the name"
        )
        raise Invalid(f"{where}: {kind} {name or '(empty)'}: not in {key} (there: {known}); {step}")
    return entries[name]


def _url(text: str, where: str, key: str) -> str:
    try:
        parts = urlsplit(text)
        good = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and _is_word(text)
        )
    except ValueError:
        good = False
    if not good:
        shown = (
            "is missing" if not text else "is not a URL" if "@" in text else f"{one_line(text)}: is not a URL"
        )
        raise Invalid(f"{where}: {key} {shown}; write http(s)://HOST:PORT")
    return text


def _pem(path: Path, where: str, key: str, file: str | None, inline: str | None) -> bytes | None:
    if inline:  # wins over the file, as in client-go
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise Invalid(
                f"{where}: {key}-data is not base64 ({exc}); encode the PEM file with `base64 -w0`"
            ) from exc
    return read_file(path.parent / file, f"{where}: {key}") if file else None


def read_file(path: Path, what: str) -> bytes:
    """The content of a regular file of sane size. Raises Invalid, which begins with `what`."""
    step = "make it readable or name another file"
    try:
        if path.exists() and not path.is_dir() and not path.is_file():  # reading a pipe might never end
            raise Invalid(f"{what} {path}: not a regular file; {step}")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path
        raise Invalid(f"{what} {path}: {getattr(exc, 'strerror', None) or exc}; {step}") from exc
    if len(content) > LARGEST:
        raise Invalid(f"{what} {path}: larger than {LARGEST >> 20} MiB; name another file")
    return content


def _is_there(path: Path) -> bool:
    """Whether the file exists. One that may not be looked at does: reading it then says what is wrong."""
    try:
        return path.exists()
    except OSError:
        return True


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in the user database
        raise Invalid(
            "no kubeconfig: there is no home directory to look in; set KUBECONFIG, or HOME"
        ) from None


def _is_word(text: str) -> bool:
    return text.isprintable() and " " not in text


def sendable(value: str | None, where: str) -> str | None:
    """The value as it is. Raises Invalid, never showing it, where no header can carry it."""
    if value and not value.isprintable():
        raise Invalid(f"{where}: has a line break or a control character in it; write it on one line")
    return value


def _parse(path: Path) -> _Kubeconfig:
    text = read_file(path, "kubeconfig")
    import yaml  # a third of this module's import time; in a pod it is never needed

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: not UTF-8, or no such date
        mark = getattr(exc, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        why = one_line(str(getattr(exc, "problem", None) or type(exc).__name__))
        raise Invalid(
            f"{path}:{line} is not YAML ({why}); mend it, or name another file with KUBECONFIG"
        ) from exc
    try:
        return msgspec.convert(content if content is not None else {}, _Kubeconfig)
    except msgspec.ValidationError as exc:
        step = "correct that field, or name another file with KUBECONFIG"
        raise Invalid(one_line(f"{path}: not a kubeconfig: {exc}; {step}")) from exc
