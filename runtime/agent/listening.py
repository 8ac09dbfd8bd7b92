"""The agent's socket: made where only its owner and one group may reach it, and nowhere that others could put another in its place."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
from pathlib import Path

from omnipam.core.errors import Invalid

from .http import Connection, Serve

BACKLOG = 512
MODE = 0o660


class Listening:
    """serve: answers requests. group: a name or number; empty leaves the owner's."""

    def __init__(self, path: Path, serve: Serve, *, group: str = "") -> None:
        self.path = path
        self._serve = serve
        self._group = _group(group) if group else -1
        self._connections: set[Connection] = set()
        self._server: asyncio.AbstractServer | None = None
        self._made: tuple[int, int, int] | None = None

    def has_one_client(self) -> bool:
        """Whether no more than one connection is open."""
        return len(self._connections) <= 1

    async def open(self) -> None:
        """Listens. Raises Invalid where the directory is open to all, or something else is in the socket's place."""
        prepare(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            before = os.umask(0o777)  # nobody may connect before owner and mode are right
            try:
                listener.bind(str(self.path))
            finally:
                os.umask(before)
            if self._group >= 0:
                os.chown(self.path, -1, self._group)
            os.chmod(self.path, MODE)
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: Connection(self._serve, self._connections), sock=listener, backlog=BACKLOG
            )
        except OSError as error:
            listener.close()
            raise Invalid(f"socket {self.path} cannot be made ({error.strerror or error})") from None
        self._made = _identity(self.path)

    async def close(self, patience_s: float = 2.0) -> None:
        """Listens no more; requests under way are answered first, for so long."""
        if self._server is None:
            return
        self._server.close()
        try:
            if _identity(self.path) == self._made:  # another agent's must stay
                os.unlink(self.path)
        except OSError:
            pass
        deadline = asyncio.get_running_loop().time() + patience_s
        while any(not each.idle for each in self._connections):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        for each in list(self._connections):
            each.close()
        self._server = None


def prepare(path: Path) -> None:
    """Makes the directory, and clears away a socket that nobody listens on. Raises Invalid."""
    directory = path.absolute().parent
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        mode = directory.stat().st_mode
        if mode & stat.S_IWOTH:
            raise Invalid(
                f"socket {path}: everybody may write to {directory}, and so put another socket in its place: chmod o-w it"
            )
        there = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Invalid(f"socket {path}: {directory} cannot be used ({error.strerror})") from None
    if not stat.S_ISSOCK(there.st_mode):
        raise Invalid(f"socket {path} is another file: move it away, or pass --socket with another path")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise Invalid(f"socket {path} is listened on: another agent runs; end it, or pass --socket")


def _group(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise Invalid(f"--socket-group: there is no group {text!r} on this machine") from None


def _identity(path: Path) -> tuple[int, int, int]:
    """Tells a file from a later one in its place, which may have the same inode."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_ctime_ns
