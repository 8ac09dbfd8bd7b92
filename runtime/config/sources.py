"""Where settings come from: a directory, a YAML file, a ConfigMap, the environment, flags. Each becomes one Layer.

A source that cannot be read at all raises Invalid with a finished line. Values of keys that are not ours are never kept:
they may be secret.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from omnipam.core.errors import Invalid

from .keys import BY_NAME, KEYS
from .values import printable
from .watch import DATA, fingerprint

LARGEST = 4 << 20  # bytes; a ConfigMap holds 1 MiB at most
PREFIXES = ("CILIUM_", "OMNIPAM_")  # the last one wins
_LOCATIONS = ("CONFIG", "CONFIG_DIR")  # variables that say where to read, not what

T = TypeVar("T")


class Setting(msgspec.Struct, frozen=True):
    """A key's value as written, without surrounding white space, and where that stands."""

    text: str
    source: str


class Layer(msgspec.Struct, frozen=True):
    """What one source says. unknown: names that are no keys of ours, sorted; problems: finished lines. ended: False for a file
    whose last line has no end, as one cut off has, and some never had."""

    label: str
    settings: dict[str, Setting]
    unknown: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    ended: bool = True


def from_flags(args: argparse.Namespace) -> Layer:
    settings = {}
    for key in KEYS:
        given = getattr(args, key.field, None)
        if given is not None:
            text = ",".join(given) if isinstance(given, list) else str(given)
            settings[key.name] = Setting(text.strip(), f"flag --{key.name}")
    return Layer("flags", settings)


def from_environment(env: Mapping[str, str]) -> Layer:
    """`OMNIPAM_KEY` and `CILIUM_KEY`; where both are set, ours wins."""
    settings = {}
    for prefix in PREFIXES:
        for key in KEYS:
            text = env.get(prefix + key.variable)
            if text is not None:
                settings[key.name] = Setting(text.strip(), f"environment {prefix}{key.variable}")
    known = {prefix + key.variable for prefix in PREFIXES for key in KEYS}
    known.update(prefix + name for prefix in PREFIXES for name in _LOCATIONS)
    unknown = (name for name in env if name.startswith(PREFIXES) and name not in known)
    return Layer("the environment", settings, tuple(sorted(unknown)))


def from_mapping(values: Mapping[str, str], label: str) -> Layer:
    """A ConfigMap's `data`. label: as in `ConfigMap kube-system/cilium-config`."""
    settings = {name: Setting(text.strip(), label) for name, text in values.items() if name in BY_NAME}
    return Layer(label, settings, tuple(sorted(values.keys() - settings.keys())))


def from_directory(path: str) -> Layer:
    """One file a key, as a ConfigMap is mounted. Dot-names and directories are passed over."""
    return _steady(path, _read_directory)


def from_file(path: str) -> Layer:
    """YAML or JSON: a flat mapping of keys, or a ConfigMap object."""
    return _steady(path, _read_file)


def _steady(path: str, read: Callable[[str], T]) -> T:
    """Reads again where the path changed meanwhile: a mounted ConfigMap is swapped under its readers."""
    for _ in range(5):
        before = fingerprint(path)
        try:
            result = read(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            if fingerprint(path) != before:
                continue
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Invalid(
                f"{printable(path)}: cannot be read: {why}; check the path and its permissions"
            ) from None
        except Invalid:
            if fingerprint(path) != before:
                continue
            raise
        if fingerprint(path) == before:
            return result
    raise Invalid(f"{printable(path)}: changes while it is read; write it aside and rename it into place")


def _read_directory(path: str) -> Layer:
    if not os.path.isdir(path):
        os.stat(path)  # says what is wrong with it, if it is there at all
        raise Invalid(f"{printable(path)}: is not a directory; name it with --config")
    data = Path(path, DATA)
    base = data.resolve(strict=True) if data.is_symlink() else Path(path)
    settings, unknown = {}, []
    for name in sorted(os.listdir(base)):
        file = base / name
        if name.startswith(".") or file.is_dir():
            continue
        if name in BY_NAME:
            settings[name] = Setting(
                _read_text(str(file)).strip(), f"file {printable(str(Path(path, name)))}"
            )
        else:
            unknown.append(name)
    if not settings and not unknown:
        raise Invalid(f"{printable(path)}: holds no keys; check that it is the directory meant")
    return Layer(f"directory {printable(path)}", settings, tuple(unknown))


def _read_text(path: str) -> str:
    if not stat.S_ISREG(os.stat(path).st_mode):  # of a pipe nobody knows when, or whether, it ends
        raise Invalid(f"{printable(path)}: is not a regular file; copy what it gives into one, and name that")
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Invalid(
            f"{printable(path)}: is larger than {LARGEST >> 20} MiB; check that it is the file meant"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{printable(path)}: byte {error.start} is not UTF-8; save it as UTF-8") from None


def _read_file(path: str) -> Layer:
    from . import yamlfile  # YAML is slow to import, and most configurations have none

    if os.path.isdir(path):
        raise Invalid(f"{printable(path)}: is a directory; name it with --config-dir")
    text = _read_text(path)
    try:
        entries = yamlfile.read(text)
    except Invalid as error:
        raise Invalid(f"{printable(path)}: {error}") from None
    settings: dict[str, Setting] = {}
    unknown, problems = [], []
    for name, value, line in entries:
        if name not in BY_NAME:
            unknown.append(name)
        elif name in settings:
            problems.append(
                f"{name}: is written twice ({settings[name].source}, and line {line}); keep one of them"
            )
        else:
            settings[name] = Setting(value.strip(), f"{printable(path)} line {line}")
    return Layer(
        printable(path), settings, tuple(sorted(unknown)), tuple(problems), ended=text.endswith("\n")
    )
