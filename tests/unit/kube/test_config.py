"""Where the API server is and who we are there: what is read, and what is said about bad input."""

from __future__ import annotations

import base64
import copy
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from omnipam.core.errors import Denied, Invalid
from omnipam.runtime.kube import credentials
from omnipam.runtime.kube.config import Auth, Cluster, Exec, load

EXEC = "client.authentication.k8s.io/v1"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def content(**user: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": b64("CA")},
            }
        ],
        "users": [{"name": "u", "user": user or {"token": "T"}}],
        "contexts": [
            {"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "kube-system"}},
            {"name": "bare", "context": {"cluster": "c"}},
        ],
    }


def write(path: Path, what: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(what))
    return path


def at(path: Path, **more: Any) -> Cluster:
    return load(environ={"KUBECONFIG": str(path)}, home=path.parent / "no-home", **more)


def test_a_kubeconfig_with_a_token(tmp_path: Path) -> None:
    path = write(tmp_path / "k", content())
    cluster = at(path)
    assert (cluster.server, cluster.namespace, cluster.ca) == ("https://10.0.0.1:6443", "kube-system", b"CA")
    assert cluster.auth.token == "T"
    assert cluster.source == str(path)
    assert at(path, context="bare").auth == Auth()


def test_the_home_directory_and_the_order(tmp_path: Path) -> None:
    write(tmp_path / ".kube" / "config", content(token="HOME"))
    account = tmp_path / "sa"
    write(tmp_path / "env", content(token="ENV"))
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert load(environ=pod, home=tmp_path, service_account=account).auth.token == "HOME"  # no account there
    account.mkdir()
    for name, text in (("token", "SA"), ("ca.crt", "CA"), ("namespace", "ns\n")):
        (account / name).write_text(text)
    in_pod = load(environ=pod, home=tmp_path, service_account=account)
    assert (in_pod.server, in_pod.namespace, in_pod.ca) == ("https://10.96.0.1:443", "ns", b"CA")
    assert in_pod.auth.token_file == account / "token"
    assert load(environ=pod, home=tmp_path, service_account=account, context="main").auth.token == "HOME"
    env = {**pod, "KUBECONFIG": str(tmp_path / "env")}
    assert load(environ=env, home=tmp_path, service_account=account).auth.token == "ENV"
    v6 = load(environ={**pod, "KUBERNETES_SERVICE_HOST": "fd00::1"}, home=tmp_path, service_account=account)
    assert v6.server == "https://[fd00::1]:443"


def test_of_several_files_the_first_to_name_a_thing_wins(tmp_path: Path) -> None:
    one = content(token="ONE")
    one["current-context"] = ""
    one["contexts"] = []
    a, b = write(tmp_path / "a", one), write(tmp_path / "b", content(token="TWO"))
    cluster = load(environ={"KUBECONFIG": f"{tmp_path / 'missing'}:{a}:{b}"}, home=tmp_path)
    assert cluster.auth.token == "ONE"
    assert cluster.namespace == "kube-system"


def test_files_are_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir()
    for name in ("ca", "crt", "key"):
        (tmp_path / "pki" / name).write_text(name.upper())
    what = content(**{"client-certificate": "pki/crt", "client-key": "pki/key", "tokenFile": "pki/token"})
    what["clusters"][0]["cluster"] = {
        "server": "https://h/",
        "certificate-authority": "pki/ca",
        "tls-server-name": "n",
    }
    cluster = at(write(tmp_path / "k", what))
    assert (cluster.ca, cluster.auth.certificate, cluster.auth.key) == (b"CA", b"CRT", b"KEY")
    assert cluster.auth.token_file == tmp_path / "pki" / "token"
    assert (cluster.server, cluster.server_name) == ("https://h", "n")


def test_impersonation_becomes_headers(tmp_path: Path) -> None:
    cluster = at(
        write(tmp_path / "k", content(token="T", **{"as": "joe", "as-groups": ["a", "b"], "as-uid": "7"}))
    )
    assert cluster.auth.headers == (
        ("Impersonate-User", "joe"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
    )


def change(what: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Set one field, by a path such as `users.0.user.token`."""
    what = copy.deepcopy(what)
    *steps, last = path.split(".")
    here: Any = what
    for step in steps:
        here = here[int(step)] if step.isdigit() else here[step]
    here[last] = value
    return what


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("current-context", "", "no current-context; set one with"),
        ("current-context", "other", r"context other: not in contexts \(there: bare, main\)"),
        (
            "contexts.0.context",
            {"cluster": "x", "user": "u"},
            r"context main: cluster x: not in clusters \(there: c\)",
        ),
        (
            "contexts.0.context",
            {"cluster": "c", "user": "x"},
            r"context main: user x: not in users \(there: u\)",
        ),
        ("clusters.0.cluster.server", "", "cluster c: server is missing; write http"),
        ("clusters.0.cluster.server", "10.0.0.1:6443", "server 10.0.0.1:6443: is not a URL"),
        ("clusters.0.cluster.server", "https://h:99999", "is not a URL"),
        ("clusters.0.cluster.proxy-url", "socks5://user:SECRET@h", "proxy-url is not a URL"),
        ("clusters.0.cluster.certificate-authority-data", "%%", "certificate-authority-data is not base64"),
        (
            "clusters.0.cluster.insecure-skip-tls-verify",
            True,
            "together with a certificate-authority; remove one",
        ),
        ("users.0.user", {"client-certificate-data": b64("x")}, "client-certificate without client-key"),
        ("users.0.user", {"client-key-data": b64("x")}, "client-key without client-certificate"),
        ("users.0.user", {"client-certificate": "nope"}, "client-certificate .*nope: No such file"),
        ("users.0.user", {"token": 7}, r"not a kubeconfig: Expected `str \| null`, got `int`.*token"),
        ("users.0.user", {"auth-provider": {"name": "gcp"}}, "auth-provider left Kubernetes in 1.26"),
        ("users.0.user", {"as": "x", "as-user-extra": {"a": ["b"]}}, "as-user-extra is not supported"),
        ("users.0.user", {"exec": {"command": "x"}}, "exec.apiVersion is missing"),
        (
            "users.0.user",
            {"exec": {"command": "x", "apiVersion": "client.authentication.k8s.io/v1alpha1"}},
            "v1alpha1: must be",
        ),
        ("users.0.user", {"exec": {"command": "", "apiVersion": EXEC}}, "exec.command is empty"),
        (
            "users.0.user",
            {"exec": {"command": "x", "apiVersion": EXEC, "interactiveMode": "Always"}},
            "no terminal here",
        ),
        ("clusters", "text", "not a kubeconfig: .*; correct that field, or name another file"),
        (
            "users.0.user",
            {"token": "SECRET\nSECRET"},
            "user u: token: has a line break .*; write it on one line",
        ),
        ("users.0.user", {"token": "SECRET\r"}, "user u: token: has a line break"),
        ("users.0.user", {"as": "SECRET\x00"}, "user u: as: has a line break"),
        ("users.0.user", {"as": "a", "as-groups": ["SECRET\n"]}, "user u: as-groups: has a line break"),
        ("clusters.0.cluster.server", "https://h\n:6443", "is not a URL; write http"),
        ("users.0.user", {"client-certificate": "a\0b"}, "client-certificate .*null .*; make it readable"),
        ("current-context", "other", "name one of those with --context"),
        ("contexts.0.context", {"cluster": "x"}, "cluster x: .*; add it, or correct the name"),
        ("contexts.0.context", {"cluster": "c", "user": "x"}, "user x: .*; add it, or correct the name"),
    ],
)
def test_bad_input_is_one_line_that_names_it(tmp_path: Path, where: str, value: Any, says: str) -> None:
    path = write(tmp_path / "k", change(content(), where, value))
    with pytest.raises(Invalid, match=says) as caught:
        at(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert "SECRET" not in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [b\n", "line 2 is not YAML .*; mend it, or name another file with KUBECONFIG"),
        ("current-context: 2001-99-99", "is not YAML"),
        ("[" * 3000, "is not YAML"),
        ("\x00", "is not YAML"),
        ("just words", "not a kubeconfig"),
        ("", "no current-context"),
    ],
)
def test_files_that_are_no_kubeconfig(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(Invalid, match=says):
        at(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(Invalid, match="is not YAML"):
        at(path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """Reading a pipe or a device might never end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to(fifo)
    for path in (fifo, link, "/dev/zero"):
        with pytest.raises(Invalid, match=f"{path}: not a regular file; make it readable or name another"):
            load(environ={"KUBECONFIG": str(path)}, home=tmp_path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 300, "File name too long; make it readable or name another file"),
        (".", "Is a directory; make it readable or name another file"),
        ("\0", "no such file; correct it"),
    ],
)
def test_a_path_that_cannot_be_looked_at(tmp_path: Path, path: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        load(environ={"KUBECONFIG": path}, home=tmp_path)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "k"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(Invalid, match="larger than 4 MiB; name another file"):
        at(path)


def test_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(Invalid, match="set KUBECONFIG, or HOME"):
        load(environ={}, service_account=tmp_path)


def test_nothing_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        Invalid, match=r"no kubeconfig: set KUBECONFIG, or write .*\.kube/config, or run in a pod"
    ):
        load(environ={}, home=tmp_path, service_account=tmp_path)
    with pytest.raises(Invalid, match="KUBECONFIG=/no/such: no such file; correct it"):
        load(environ={"KUBECONFIG": "/no/such"}, home=tmp_path, service_account=tmp_path)


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["clusters", "users", "contexts", "name", "user", "cluster", "context"]),
                inner,
            )
        ),
    )
)
def test_no_content_raises_anything_but_invalid(what: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.raises(Invalid):
        at(write(Path(folder) / "k", what))


# Credentials


def plugin(path: Path, code: str, **more: Any) -> Auth:
    path.write_text(code)
    return Auth(
        exec=Exec(
            api_version=EXEC,
            command=sys.executable,
            args=(str(path),),
            env=(("EXTRA", "e"),),
            install_hint="",
            **more,
        )
    )


ANSWER = """
import json, os
told = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert told["kind"] == "ExecCredential" and told["spec"]["interactive"] is False, told
status = {"token": os.environ["EXTRA"] + told["spec"].get("cluster", {}).get("server", ""), %s}
print(json.dumps({"apiVersion": told["apiVersion"], "kind": "ExecCredential", "status": status}))
"""


async def test_an_exec_plugin_gives_a_token_with_an_end(tmp_path: Path) -> None:
    auth = plugin(
        tmp_path / "p.py",
        ANSWER % '"expirationTimestamp": "2023-11-14T22:13:20Z"',
        cluster_info={"server": "S"},
    )
    got = await credentials.obtain(auth, clock=lambda: 100.0, wall=lambda: 1_700_000_000 - 60.0)
    assert got.headers == (("Authorization", "Bearer eS"),)
    assert got.until_s == 150  # 10 s early
    late = await credentials.obtain(auth, clock=lambda: 100.0, wall=lambda: 1_700_000_000 + 60.0)
    assert late.until_s == 100
    assert "eS" not in repr(got)


async def test_an_exec_plugin_without_expiry_is_good_until_a_401(tmp_path: Path) -> None:
    auth = plugin(tmp_path / "p.py", ANSWER % '"clientCertificateData": "C", "clientKeyData": "K"')
    got = await credentials.obtain(auth, clock=lambda: 0.0, wall=lambda: 0.0)
    assert (got.until_s, got.certificate, got.key) == (None, b"C", b"K")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; print('SECRET'); sys.exit('a\\nlog in again')", "exit 1: log in again"),
        ("print('SECRET, no JSON')", "its output is no ExecCredential"),
        (
            'print(\'{"kind":"ExecCredential","apiVersion":"v9"}\')',
            f"answered ExecCredential v9, not ExecCredential {EXEC}",
        ),
        (
            f'print(\'{{"kind":"ExecCredential","apiVersion":"{EXEC}"}}\')',
            "gave neither token nor certificate",
        ),
    ],
)
async def test_a_plugin_that_gives_nothing_is_denied(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(Denied, match=says) as caught:
        await credentials.obtain(plugin(tmp_path / "p.py", code), clock=lambda: 0.0, wall=lambda: 0.0)
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_no_token_with_a_line_break_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("SECRET\nSECRET\n")
    code = f"""import json
print(json.dumps({{"kind": "ExecCredential", "apiVersion": "{EXEC}", "status": {{"token": "SECRET\\nx"}}}}))
"""
    for auth in (Auth(token_file=file), plugin(tmp_path / "p.py", code)):
        with pytest.raises((Invalid, Denied), match="line break") as caught:
            await credentials.obtain(auth, clock=lambda: 0.0, wall=lambda: 0.0)
        assert "SECRET" not in str(caught.value)


async def test_a_plugin_that_cannot_even_be_started() -> None:
    auth = Auth(exec=Exec(api_version=EXEC, command="a\0b", args=(), env=(), install_hint=""))
    with pytest.raises(Invalid, match=r"credential plugin .*; install it, or use another context"):
        await credentials.obtain(auth, clock=lambda: 0.0, wall=lambda: 0.0)


async def test_a_missing_plugin_says_how_to_install_it() -> None:
    auth = Auth(
        exec=Exec(
            api_version=EXEC, command="no-such-plugin", args=(), env=(), install_hint="brew install\nit"
        )
    )
    with pytest.raises(
        Invalid, match="credential plugin no-such-plugin: No such file or directory; brew install it"
    ):
        await credentials.obtain(auth, clock=lambda: 0.0, wall=lambda: 0.0)


async def test_token_file_wins_over_token_and_must_have_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    auth = Auth(token="STATIC", token_file=file)
    with pytest.raises(Invalid, match="No such file"):
        await credentials.obtain(auth, clock=lambda: 5.0, wall=lambda: 0.0)
    file.write_text("\n")
    with pytest.raises(Invalid, match="empty"):
        await credentials.obtain(auth, clock=lambda: 5.0, wall=lambda: 0.0)
    file.write_text("FILE\n")
    got = await credentials.obtain(auth, clock=lambda: 5.0, wall=lambda: 0.0)
    assert got.headers == (("Authorization", "Bearer FILE"),)
    assert got.until_s == 65


async def test_basic() -> None:
    got = await credentials.obtain(Auth(username="u", password="p"), clock=lambda: 0.0, wall=lambda: 0.0)
    assert got.headers == (("Authorization", f"Basic {b64('u:p')}"),)


async def test_bad_certificates_are_invalid() -> None:
    ours = await credentials.obtain(Auth(certificate=b"x", key=b"y"), clock=lambda: 0.0, wall=lambda: 0.0)
    with pytest.raises(Invalid, match="src: certificate authority is not PEM"):
        credentials.tls_context(Cluster(server="https://h", source="src", ca=b"nonsense"), ours)
    with pytest.raises(Invalid, match="src: client certificate or key cannot be used"):
        credentials.tls_context(Cluster(server="https://h", source="src"), ours)


def test_reading_a_configuration_imports_neither_yaml_nor_ssl_nor_aiohttp() -> None:
    """Process start is in the benchmark; in a pod no kubeconfig is read."""
    import subprocess

    code = (
        "import sys; import omnipam.runtime.kube.config, omnipam.runtime.election;"
        "assert not {'yaml', 'aiohttp', 'aiohttp.web'} & set(sys.modules);"
        "import omnipam.runtime.kube.reflector, omnipam.runtime.kube.lease;"
        "assert not {'yaml', 'aiohttp.web'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_token_file_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    with pytest.raises(Invalid, match=r"token file .*token: not a regular file; make it readable"):
        credentials._token(Auth(token_file=tmp_path / "token"))
