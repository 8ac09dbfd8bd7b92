"""What a request carries to prove who we are: headers and a TLS context, renewed before they run out.

Token files are read again every minute (the kubelet replaces them), exec plugins are run again when their credential expires,
both also after a 401. Format of plugins: "client-go credential plugins", `client.authentication.k8s.io/v1`.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from omnipam.core.errors import Denied, Invalid, Unavailable

from .config import Auth, Cluster, Exec, read_file, sendable
from .errors import one_line

if TYPE_CHECKING:
    import ssl

REREAD_S = 60.0
PLUGIN_S = 60.0  # a plugin may open a connection or two, no more
EARLY_S = 10.0  # renew this long before the end, so that no request carries a dead token


class Credential(msgspec.Struct, frozen=True):
    """What to send now. until_s: on the clock passed in; None: for ever. The repr shows nothing of it."""

    headers: tuple[tuple[str, str], ...]
    until_s: float | None
    certificate: bytes | None
    key: bytes | None

    def __repr__(self) -> str:
        return f"Credential(until_s={self.until_s})"


class _ExecStatus(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime.datetime | None = None


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _ExecStatus | None = None


async def obtain(auth: Auth, *, clock: Callable[[], float], wall: Callable[[], float]) -> Credential:
    """Return a fresh credential.

    clock: monotonic; wall: seconds since 1970, against which a plugin states its expiry.
    Raises Invalid (a file or plugin is not there), Denied (the plugin gives nothing), Unavailable (it hangs).
    """
    if auth.exec is not None:
        return await _from_plugin(auth, auth.exec, clock, wall)
    until: float | None = None
    bearer = auth.token
    if auth.token_file is not None:
        bearer, until = _token(auth), clock() + REREAD_S
    headers = list(auth.headers)
    if bearer:
        headers.append(("Authorization", f"Bearer {bearer}"))
    elif auth.username is not None:
        pair = base64.b64encode(f"{auth.username}:{auth.password or ''}".encode()).decode()
        headers.append(("Authorization", f"Basic {pair}"))
    return Credential(tuple(headers), until, auth.certificate, auth.key)


def _token(auth: Auth) -> str:
    assert auth.token_file is not None
    try:
        token = read_file(auth.token_file, "token file").decode().strip()
    except UnicodeDecodeError as exc:
        raise Invalid(f"token file {auth.token_file}: not text; put a token there") from exc
    if not token:
        raise Invalid(f"token file {auth.token_file}: empty; put a token there")
    sendable(token, f"token file {auth.token_file}")
    return token


async def _from_plugin(
    auth: Auth, plugin: Exec, clock: Callable[[], float], wall: Callable[[], float]
) -> Credential:
    out = await _run(plugin)
    try:
        answer = msgspec.json.decode(out, type=_ExecCredential)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Denied(
            f"credential plugin {plugin.command}: its output is no ExecCredential; run it by hand"
        ) from exc
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        got = one_line(f"{answer.kind} {answer.api_version}")
        raise Denied(
            f"credential plugin {plugin.command}: answered {got}, not ExecCredential {plugin.api_version};"
            " update it, or correct exec.apiVersion"
        )
    status = answer.status
    if status is None or not (status.token or status.client_certificate_data):
        raise Denied(
            f"credential plugin {plugin.command}: gave neither token nor certificate; log in with it"
        )
    headers = list(auth.headers)
    if status.token and not status.token.isprintable():
        raise Denied(
            f"credential plugin {plugin.command}: its token has a line break in it; log in with it anew"
        )
    if status.token:
        headers.append(("Authorization", f"Bearer {status.token}"))
    until: float | None = None
    if status.expiration_timestamp is not None:
        left = status.expiration_timestamp.timestamp() - wall()
        until = clock() + max(left - EARLY_S, left / 2, 0.0)
    return Credential(
        tuple(headers),
        until,
        status.client_certificate_data.encode() if status.client_certificate_data else auth.certificate,
        status.client_key_data.encode() if status.client_key_data else auth.key,
    )


async def _run(plugin: Exec) -> bytes:
    spec: dict[str, object] = {"interactive": False}
    if plugin.cluster_info is not None:
        spec["cluster"] = plugin.cluster_info
    told = msgspec.json.encode(
        {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    ).decode()
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **dict(plugin.env), "KUBERNETES_EXEC_INFO": told},
        )
    except (OSError, ValueError) as exc:  # ValueError: a NUL in its command, arguments or environment
        hint = one_line(plugin.install_hint) or "install it, or use another context"
        why = getattr(exc, "strerror", None) or exc
        raise Invalid(one_line(f"credential plugin {plugin.command}: {why}; {hint}")) from exc
    try:
        async with asyncio.timeout(PLUGIN_S):
            out, err = await process.communicate()
    except TimeoutError as exc:
        raise Unavailable(
            f"credential plugin {plugin.command}: no answer in {PLUGIN_S:.0f} s; run it by hand"
        ) from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines() or ["no message"]
        why = one_line(lines[-1])
        raise Denied(f"credential plugin {plugin.command}: exit {process.returncode}: {why}; run it by hand")
    return out


def tls_context(cluster: Cluster, credential: Credential) -> ssl.SSLContext:
    """Return the context for a cluster on https. Raises Invalid where a certificate or key cannot be used."""
    import ssl

    try:
        context = ssl.create_default_context(cadata=cluster.ca.decode("ascii") if cluster.ca else None)
    except (ssl.SSLError, ValueError) as exc:
        raise Invalid(
            f"{cluster.source}: certificate authority is not PEM ({exc}); give the API server's CA"
        ) from exc
    # As Go does: cluster CAs often lack the extensions that Python 3.13 began to demand, and the anchor may be a leaf.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if cluster.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if credential.certificate and credential.key:
        load_certificate(context, credential, cluster.source)
    return context


def load_certificate(context: ssl.SSLContext, credential: Credential, source: str) -> None:
    """Put the client certificate into the context; Python's ssl reads it from a file only, so it is one for a moment."""
    import ssl

    with tempfile.NamedTemporaryFile(prefix="omnipam-") as file:  # mode 0600
        file.write((credential.certificate or b"") + b"\n" + (credential.key or b""))
        file.flush()
        try:
            # A password is never asked for on the terminal.
            context.load_cert_chain(file.name, password=lambda: "")
        except (ssl.SSLError, OSError, ValueError) as exc:
            raise Invalid(
                f"{source}: client certificate or key cannot be used ({exc}); they must be a PEM pair"
            ) from exc
