"""Work in another network namespace, and a door through which what runs there reaches a server of the machine's own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.kube.proxy import Proxy

T = TypeVar("T")

_NETWORK = 0x40000000  # CLONE_NEWNET
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12


def inside(namespace: str, work: Callable[[], T]) -> T:
    """What `work` answers, done in the namespace. Processes that it starts and sockets that it opens stay there."""

    def enter_and_work() -> T:
        with Path("/run/netns", namespace).open() as place:
            if _libc.setns(place.fileno(), _NETWORK):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), place.name)
        return work()

    with ThreadPoolExecutor(1) as apart:  # a thread is in a namespace, and this one ends with the work
        return apart.submit(enter_and_work).result()


class Door(Proxy):
    """Listens on the namespace's loopback, and passes on to a server on the machine's."""

    def __init__(self, target: str, namespace: str) -> None:
        self._namespace = namespace
        super().__init__(target)

    async def _listen(self) -> None:
        if self._accepting is None:
            place = ("127.0.0.1", self._port)
            listener = inside(self._namespace, lambda: socket.create_server(place, backlog=1024))
            listener.setblocking(False)
            self._accepting = asyncio.create_task(self._accept(listener))
