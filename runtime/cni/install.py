"""Putting the plugin in place: a launcher with an absolute interpreter, and the plugin's sources compiled beside it.

    BIN/omnipam-cni                              the launcher, a few lines: the one thing that each call compiles
    BIN/omnipam-cni.d/omnipam_cni_DIGEST/*.py    the sources, named by their content, with their __pycache__

Sources and not one archive: an interpreter of another minor version compiles them anew, once, and no call pays more than a
`stat` for that. The launcher finds them relative to itself, so that a mounted host directory may be filled from a container. It is
replaced last and in one step, and the version before it stays: a call that is under way ends with the code that it began with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from omnipam.core.errors import Invalid, Unavailable

from .netconf import SOCKET, STATE

NAME = "omnipam-cni"
CONFLIST = "10-omnipam.conflist"
MODULES = ("__init__", "agent", "exchange", "netconf", "plugin", "queue", "releases", "wishes")
_FOLDER = f"{NAME}.d"
_PACKAGE = re.compile(r"omnipam_cni_[0-9a-f]{12}")
_CONFIGURATIONS = (".conf", ".conflist", ".json")
"""What container runtimes take for a network configuration (libcni: ConfFiles)."""
_MOST_SHEBANG = 127
"""Bytes that Linux before 5.1 reads of a script's first line (execve(2))."""
_TRIAL_S = 30.0
_LOAD = """\
import importlib, sys
sys.path.append(sys.argv[1])
for name in sys.argv[2:]: importlib.import_module(name)
"""
_COMPILE = """\
import os, py_compile, sys
for path in sys.argv[1:]:
    file = os.open(py_compile.compile(path, doraise=True), os.O_RDONLY)
    os.fchmod(file, 0o644)
    os.fsync(file)
    os.close(file)
    os.chmod(os.path.join(os.path.dirname(path), "__pycache__"), 0o755)
"""
"""Run by the plugin's interpreter. What a crash of the machine cuts short would not be compiled again: its date and size still fit."""
_LAUNCHER = '''\
#!{python} -IS
"""omnipam-cni {version}, put here by `omnipam cni install`; its code lies in {folder} beside it."""
import os
import sys

sys.path.append(os.path.join(os.path.dirname(os.path.realpath(__file__)), "{folder}"))
from {package}.plugin import main

os._exit(main())  # what is written is written; an orderly end would only take its time
'''


def interpreter() -> str:
    """The one that a virtual environment was made from, if we run in one: it outlives the environment."""
    return getattr(sys, "_base_executable", "") or sys.executable


def install_plugin(bin_dir: Path, *, python: str, dry_run: bool = False) -> str:
    """Puts launcher and sources there, and answers what was done as one line.

    python: absolute path of an interpreter, as the host will see it; one that is not there now is not tried.
    Raises Invalid for paths that cannot be, Unavailable if writing fails or the launcher does not run; then nothing was replaced.
    """
    _check_interpreter(python)
    bin_dir = bin_dir.absolute()  # the trial calls the launcher by its path, which a bare name is not
    here = Path(__file__).parent
    sources = {f"{module}.py": (here / f"{module}.py").read_bytes() for module in MODULES}
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:12]
    package = f"omnipam_cni_{digest}"
    launcher = _LAUNCHER.format(python=python, version=version("omnipam"), folder=_FOLDER, package=package)
    target, folder = bin_dir / NAME, bin_dir / _FOLDER
    if target.is_dir():
        raise Invalid(
            f"{target} is a directory, and the plugin's place; remove it, or choose another --bin-dir"
        )
    before = _text(target)
    placed = before == launcher and all(
        _bytes(folder / package / name) == text and _mode(folder / package / name) == 0o644
        for name, text in sources.items()
    )
    if placed and _is_sound(python, target, folder, package):
        return f"{target} unchanged"
    done = "replaced" if target.exists() else "installed"
    if dry_run:
        return f"{target} {done} (dry run)"
    with _told(bin_dir):
        made = [
            path for path in (bin_dir,) if not path.exists()
        ]  # one that was there has its rights from others
        (folder / package).mkdir(parents=True, exist_ok=True)
        for path in (*made, folder, folder / package):
            path.chmod(0o755)
        for name, content in sources.items():
            _replace(folder / package / name, content, 0o644)
        staged = bin_dir / f".{NAME}.{os.getpid()}"
        try:
            _write(staged, launcher.encode(), 0o755)
            tried = _compile(python, [folder / package / name for name in sources])
            if tried:
                _ask(python, staged)
            staged.replace(target)
            _sync(bin_dir)
        finally:
            staged.unlink(missing_ok=True)
        _forget(folder, keep={package, *_PACKAGE.findall(before or "")})
    return f"{target} {done}" + ("" if tried else f"; not tried, since {python} is not there")


def install_conflist(conf_dir: Path, *, socket: str, state_dir: str, dry_run: bool = False) -> str:
    """Writes our example configuration unless there is any network configuration, and answers what was done as one line.

    A runtime takes the first file by name: beside another network's ours would win or lose by its name, and no one would see why.
    """
    with _told(conf_dir):
        present = sorted(path.name for path in conf_dir.glob("*") if path.suffix in _CONFIGURATIONS)
        if present:
            return f"{conf_dir} has {present[0]}: left as it is"
        target = conf_dir / CONFLIST
        if dry_run:
            return f"{target} installed (dry run)"
        conf_dir.mkdir(parents=True, exist_ok=True)
        _replace(target, conflist(socket, state_dir).encode(), 0o644)
        _sync(conf_dir)
    return f"{target} installed"


def conflist(socket: str = SOCKET, state_dir: str = STATE) -> str:
    """The example in deploy/cni/, with the paths that differ from the agent's defaults."""
    ipam: dict[str, object] = {"type": NAME, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    if socket != SOCKET:
        ipam["socket"] = socket
    if state_dir != STATE:
        ipam["stateDir"] = state_dir
    plugins = [
        {"type": "ptp", "capabilities": {"ips": True}, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "omnipam", "plugins": plugins}, indent=2) + "\n"


def _check_interpreter(python: str) -> None:
    shebang = f"#!{python} -IS"
    if not python.startswith("/"):
        raise Invalid(f"--python {python}: it is no absolute path; a launcher needs one")
    if any(c.isspace() or not c.isprintable() for c in python):
        raise Invalid(f"--python {python!r}: the kernel ends an interpreter's path at a space; name another")
    if len(os.fsencode(shebang)) > _MOST_SHEBANG:
        raise Invalid(
            f"--python {python}: too long for the kernel ({_MOST_SHEBANG} bytes); link to it from elsewhere"
        )


def _is_sound(python: str, launcher: Path, folder: Path, package: str) -> bool:
    """Whether everybody may run what is there, and all of it loads. An interpreter that is not there now is not asked."""
    compiled = folder / package / "__pycache__"
    folders = [folder, folder / package, *([compiled] if compiled.exists() else [])]
    if _mode(launcher) != 0o755 or any(_mode(each) != 0o755 for each in folders):
        return False
    if not Path(python).exists():
        return True
    try:
        _ask(python, launcher)
        # VERSION loads but what it needs
        _run(
            python, [python, "-BIS", "-c", _LOAD, str(folder), *(f"{package}.{name}" for name in MODULES[1:])]
        )
    except (Unavailable, OSError):
        return False
    return True


def _compile(python: str, sources: list[Path]) -> bool:
    """Compiles the sources by that interpreter, durably; False if it is not there. Raises Unavailable."""
    if not Path(python).exists():
        return False
    _run(python, [python, "-IS", "-c", _COMPILE, *map(str, sources)])
    return True


def _ask(python: str, launcher: Path) -> None:
    """Asks the launcher its VERSION. Raises Unavailable if that is not what it says."""
    answer = _run(python, [str(launcher)], b'{"cniVersion": "1.1.0"}', {"CNI_COMMAND": "VERSION"})
    try:
        if json.loads(answer)["cniVersion"] == "1.1.0":
            return
    except (ValueError, KeyError, TypeError):
        pass
    raise _not_running(python, f"it said {answer!r}")


def _run(
    python: str, words: list[str], stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> bytes:
    """Its stdout. Raises Unavailable if it fails or takes too long, OSError if it cannot be run at all."""
    try:
        return subprocess.run(
            words, check=True, capture_output=True, timeout=_TRIAL_S, input=stdin, env=environ
        ).stdout
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else f"it ended with {error.returncode}"
    except subprocess.TimeoutExpired as error:
        said = str(error)
    raise _not_running(python, said)


def _not_running(python: str, said: str) -> Unavailable:
    return Unavailable(f"the plugin does not run with {python}: {said}; name another with --python")


def _forget(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if _PACKAGE.fullmatch(path.name) and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _replace(path: Path, content: bytes, mode: int) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(partial, content, mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(path: Path, content: bytes, mode: int) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _text(path: Path) -> str | None:
    content = _bytes(path)
    return None if content is None else content.decode(errors="replace")


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _mode(path: Path) -> int | None:
    """The rights; None if it is not there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """The system's errors as a line."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise Unavailable(f"{where}: {error.strerror or error}; look at the path and its rights") from error
