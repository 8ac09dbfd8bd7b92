"""Free ports on loopback for servers that cannot tell which one they took."""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 20000, 29999
"""Below every system's range for outgoing connections: a client that knocks at a closed port in that range can be
given the same port for its own end, and then talks to itself and keeps the server from coming back."""

_taken: set[int] = set()


def free_port() -> int:
    """A port where nothing listens, not given out before by this process."""
    while True:
        port = random.SystemRandom().randint(LOWEST, HIGHEST)  # no seed: processes must not agree on one
        if port in _taken:
            continue
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        _taken.add(port)
        return port
