"""Notices that a configuration file or directory changed, by a stat or two a look, without a clock of its own."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TypeAlias

Fingerprint: TypeAlias = tuple[object, ...]

DATA = "..data"  # kubelet's link to the volume's newest version, swapped in one rename


def fingerprint(path: str | Path) -> Fingerprint:
    """A value that differs once the file, or any file of the directory, was written, replaced or removed.

    Of a mounted ConfigMap only the target of `..data` is looked at. Never raises: what cannot be looked at has a
    fingerprint too, and so has what is not there.
    """
    try:
        status = os.stat(path)
        if not os.path.isdir(path):
            return _of(status)
        link = os.path.join(path, DATA)
        if os.path.islink(link):
            return (os.readlink(link), *_of(os.stat(link)))
        with os.scandir(path) as entries:
            return tuple(
                sorted((entry.name, *_entry(entry)) for entry in entries if not entry.name.startswith("."))
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        return (type(error).__name__,)


def _entry(entry: os.DirEntry[str]) -> Fingerprint:
    try:
        return _of(entry.stat())
    except OSError as error:  # one dangling link must not hide the other files
        return (type(error).__name__,)


def _of(status: os.stat_result) -> tuple[int, ...]:
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return status.st_dev, status.st_ino  # reading a pipe changes its times
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class Watched:
    """A path whose changes are reported once each, and only when they have settled.

    A change counts when two looks in a row see the same new state, so a file in the middle of being written is not
    taken for a finished one. Looks are the caller's; two seconds apart is plenty.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._adopted = self._last = fingerprint(path)

    def changed(self) -> bool:
        """Looks once. True: it changed and has settled; read it now."""
        now = fingerprint(self._path)
        settled, self._last = now == self._last, now
        if not settled or now == self._adopted:
            return False
        self._adopted = now
        return True
