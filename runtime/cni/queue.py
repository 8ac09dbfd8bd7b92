"""Releases that found no agent: a durable file a key, applied and removed under one lock, by the plugin's next call or by the agent.

Standard library only; the agent imports it too:

    with queue.locked(directory, wait_s=10.0):
        for each in queue.pending(directory):
            ...release it, durably; a key that nothing holds is fine...
            queue.remove(each)
        ...listen, then leave: a plugin that waits for the lock asks once more, and finds the agent...

Two promises keep a late release from taking what the same key was given since: nobody applies a release without the lock, or from a
list older than the lock; and the plugin's ADD first applies and removes what its own key left here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable

FOLDER = "deletions"
"""Within the agent's state directory."""
MOST = 16384
"""Releases that may wait. A runtime that retries pods while no agent runs makes one a try; more than this would be no queue."""
_VERSION = 1
_SUFFIX = ".json"
_LOCK = "lock"
_LOOK_S = 0.02
_PARTIAL = ".partial"
_LEFT_S = 3600.0
"""Age at which a file of an unfinished write is a dead writer's."""
_PASSES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""Why a file may not be read that are not the file's fault."""


_NO_DIRECTORY = "releases wait there, and it is no directory"


class NoQueue(OSError):
    """The directory is none, or its lock cannot be had: a person must mend it."""


class Deletion:
    """One release that waits. path: its file."""

    __slots__ = ("container", "ifname", "network", "path")

    def __init__(self, network: str, container: str, ifname: str, path: str) -> None:
        self.network = network
        self.container = container
        self.ifname = ifname
        self.path = path

    @property
    def key(self) -> tuple[str, str, str]:
        """Network, container, interface."""
        return self.network, self.container, self.ifname


class locked:  # noqa: N801 - used as a function; contextlib would cost each call in trouble a millisecond
    """`with locked(directory, wait_s=…) as held:` the directory's lock, made if need be; `held` is False if others kept it so long.

    Raises NoQueue if the directory is none, OSError if it cannot be made or written.
    """

    def __init__(
        self,
        directory: str,
        *,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory = directory
        self._wait_s = wait_s
        self._clock = clock
        self._sleep = sleep
        self._file = -1

    def __enter__(self) -> bool:
        _make(self._directory)
        path = os.path.join(self._directory, _LOCK)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
                raise NoQueue(error.errno, "it is the queue's lock, and no regular file", path) from None
            raise
        deadline = self._clock() + self._wait_s
        try:
            while True:
                try:
                    fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self._clock() >= deadline:
                        return False
                    self._sleep(_LOOK_S)
                else:
                    return True
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def put(directory: str, network: str, container: str, ifname: str) -> None:
    """Queues a release; it is on disk when this returns. Twice the same is once. Raises OSError, also if too many wait."""
    path = path_of(directory, network, container, ifname)
    _make(directory)
    if stat.S_ISDIR(_mode(path)):
        _aside(path, "corrupt")  # nothing else keeps a file from taking the place
    if len(os.listdir(directory)) > MOST and not os.path.exists(path):
        raise OSError(errno.EDQUOT, f"{MOST} releases wait there already")
    partial = f"{path}.{os.getpid()}{_PARTIAL}"
    document = {"version": _VERSION, "network": network, "container": container, "ifname": ifname}
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(file, json.dumps(document).encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(partial, path)
    except OSError:
        os.unlink(partial)
        raise
    _sync(directory)


def pending(directory: str, *, now: Callable[[], float] = time.time) -> list[Deletion]:
    """What waits, oldest first; only to be acted on under the lock. What is no readable file is set aside as NAME.corrupt.

    now: seconds of the clock that files are dated by; what an unfinished write left long ago is removed. Raises NoQueue, OSError.
    """
    found = []
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise NoQueue(error.errno, _NO_DIRECTORY, directory) from None
    for name in names:
        path = os.path.join(directory, name)
        if name.endswith(_PARTIAL):
            _clean(path, now)
        if not name.endswith(_SUFFIX):
            continue
        try:
            since, deletion = _read(path)
        except FileNotFoundError:
            continue
        if deletion is None:
            _aside(path, "corrupt")
        else:
            found.append((since, name, deletion))
    found.sort(key=lambda each: each[:2])
    return [deletion for _, _, deletion in found]


def set_aside(deletion: Deletion) -> None:
    """Keeps a release that the agent refused for good as NAME.refused, out of the others' way."""
    _aside(deletion.path, "refused")


def remove(deletion: Deletion) -> None:
    """Forgets a release that was carried out.

    Not synced: what a crash of the machine brings back is for containers that the crash ended.
    """
    try:
        os.unlink(deletion.path)
    except FileNotFoundError:
        pass


def path_of(directory: str, network: str, container: str, ifname: str) -> str:
    """The file of a key, whether it is there or not."""
    key = json.dumps([network, container, ifname]).encode()
    return os.path.join(directory, hashlib.sha256(key).hexdigest() + _SUFFIX)


def _read(path: str) -> tuple[int, Deletion | None]:
    """When it was written, in nanoseconds, and what it says; None for what is no release, or no file. Never waits, as for a FIFO's writer."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _PASSES:
            raise
        return 0, None
    try:
        found = os.fstat(file)
        content = os.read(file, 1 << 16) if stat.S_ISREG(found.st_mode) else b""
    except OSError:
        return 0, None
    finally:
        os.close(file)
    return found.st_mtime_ns, _decoded(content, path)


def _decoded(content: bytes, path: str) -> Deletion | None:
    try:
        document = json.loads(content)
        network, container, ifname = (document[name] for name in ("network", "container", "ifname"))
        if document["version"] != _VERSION:
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(part, str) and part for part in (network, container, ifname)):
        return None
    return Deletion(network, container, ifname, path)


def _aside(path: str, word: str) -> None:
    """Renames it, under a shorter name if its own is too long or taken by what cannot be replaced.

    Where even that fails it stays, and is passed over: it must not stop the rest.
    """
    directory, name = os.path.split(path)
    short = hashlib.sha256(os.fsencode(name) + os.urandom(8)).hexdigest()[:16]
    for new in (name, short):
        try:
            os.replace(path, os.path.join(directory, f"{new}.{word}"))
        except OSError:
            continue
        return


def _clean(path: str, now: Callable[[], float]) -> None:
    try:
        if now() - os.lstat(path).st_mtime > _LEFT_S:
            os.unlink(path)
    except OSError:
        pass  # gone, or no file: it is in nobody's way


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return 0


def _make(directory: str) -> None:
    if not os.path.isdir(directory):
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NoQueue(error.errno, _NO_DIRECTORY, error.filename or directory) from None
        _sync(os.path.dirname(directory))


def _sync(directory: str) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
