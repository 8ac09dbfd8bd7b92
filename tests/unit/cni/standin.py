"""A stand-in for the agent on a real unix socket: it gives addresses by key, and misbehaves on demand.

It keeps everything in memory and knows blocks, not nodes. What the real agent decides is tested with the real agent; this one is for
answers that a good agent never gives.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

Key = tuple[str, str, str]
Answer = tuple[int, object]
Fault = Callable[["StandIn", socket.socket, Callable[[], Answer]], None]
"""Has the connection and what would carry the request out; does with both what it likes."""


class Request:
    """One request as it came."""

    def __init__(self, method: str, target: str, body: Any) -> None:
        self.method = method
        self.target = target
        self.body = body


class StandIn:
    """Serves from construction until `close`. pools: blocks by pool; an address comes from the first block of its family with one free."""

    def __init__(self, path: Path, pools: Mapping[str, Sequence[str]] | None = None) -> None:
        self.path = path
        self.pools = {"default": ("10.0.7.0/24",)} if pools is None else dict(pools)
        self.choose: Callable[[str], str] = lambda owner: "default"
        """The pool of an owner that asks for none."""
        self.held: dict[Key, list[dict[str, Any]]] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        """Each of the next requests meets one, first come first served."""
        self.ready: Answer = (200, {"ready": True})
        self.resume = threading.Event()
        """Ends the waiting of `silent`."""
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Nobody listens any more, and the socket's file is gone."""
        self.resume.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for thread in self._threads:
            thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def addresses(self) -> list[str]:
        """All that are given."""
        return [each["address"] for held in self.held.values() for each in held]

    # -- the wire

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = _receive(connection)
                if request is None:
                    return
                with self._lock:
                    self.requests.append(request)
                    fault = self.faults.pop(0) if self.faults else None

                def carry_out() -> Answer:
                    with self._lock:
                        return self._answer(request)

                if fault:
                    fault(self, connection, carry_out)
                else:
                    send(connection, *carry_out())
            except OSError:
                pass  # the caller is gone

    # -- the rules

    def _answer(self, request: Request) -> Answer:
        parts = urlsplit(request.target).path.split("/")[1:]
        match (request.method, parts):
            case ("GET", ["v1", "status"]):
                return self.ready
            case ("GET", ["v1", "allocations"]):
                listed = [{"key": key, "addresses": held} for key, held in self.held.items()]
                return 200, {"version": 1, "allocations": listed}
            case ("POST", ["v1", "gc"]):
                keep = {(request.body["network"], *pair) for pair in request.body["keep"]}
                gone = [key for key in self.held if key[0] == request.body["network"] and key not in keep]
                for key in gone:
                    del self.held[key]
                return 200, {"released": gone}
            case (method, ["v1", "allocations", *rest]) if len(rest) == 3:
                network, container, ifname = map(unquote, rest)
                return self._allocation(method, (network, container, ifname), request.body)
        return error(404, "NoRoute", request.target)

    def _allocation(self, method: str, key: Key, body: Any) -> Answer:
        if method == "DELETE":
            self.held.pop(key, None)
            return 204, None
        if method == "GET":
            held = self.held.get(key)
            return (200, {"key": key, "addresses": held}) if held else error(404, "NotFound", str(key))
        if key in self.held:
            return 200, {"key": key, "owner": body["owner"], "addresses": self.held[key]}
        pool = body.get("pool") or self.choose(body["owner"])
        pools = pool if isinstance(pool, dict) else dict.fromkeys(body.get("families", ("ipv4",)), pool)
        given = []
        for family, name in pools.items():
            blocks = [ip_network(text) for text in self.pools.get(name, ())]
            blocks = [block for block in blocks if f"ipv{block.version}" == family]
            if not blocks:
                return error(404, "UnknownPool", f"pool {name} has no {family}", pool=name, family=family)
            wanted = body.get("address", {}).get(family)
            found = self._choose(blocks, wanted)
            if found is None and wanted:
                return error(403, "PoolMismatch", f"{wanted} is outside pool {name}")
            if found is None:
                used = sum(block.num_addresses - 3 for block in blocks)
                return error(
                    503,
                    "Exhausted",
                    f"pool {name} has no free {family} address: {used} of {used} in use; the operator was asked for 16",
                    pool=name,
                    family=family,
                    used=used,
                    total=used,
                    requested=16,
                )
            block, address = found
            if address in self.addresses:
                return error(409, "AddressInUse", f"{address} is in use")
            given.append(
                {
                    "family": family,
                    "address": address,
                    "prefix": str(block),
                    "pool": name,
                    "gateway": str(block[1]),
                    "prefix_length": block.prefixlen,
                    "interface": None,
                }
            )
        self.held[key] = given
        return 201, {"key": key, "owner": body["owner"], "addresses": given}

    def _choose(self, blocks: Sequence[Any], wanted: str | None) -> tuple[Any, str] | None:
        if wanted:
            return next(((block, wanted) for block in blocks if ip_address(wanted) in block), None)
        taken = set(self.addresses)
        for block in blocks:
            for number in range(2, block.num_addresses - 1):
                if str(block[number]) not in taken:
                    return block, str(block[number])
        return None


# -- what can go wrong


def lose_reply(_: StandIn, connection: socket.socket, carry_out: Callable[[], Answer]) -> None:
    """Carried out; then the connection ends."""
    carry_out()


def drop(_: StandIn, connection: socket.socket, carry_out: Callable[[], Answer]) -> None:
    """Not carried out; the connection ends."""


def silent(agent: StandIn, connection: socket.socket, carry_out: Callable[[], Answer]) -> None:
    """Says nothing until the caller has long left."""
    agent.resume.wait(60)


def half(_: StandIn, connection: socket.socket, carry_out: Callable[[], Answer]) -> None:
    """Carried out; half of the answer comes."""
    content = render(*carry_out())
    connection.sendall(content[: len(content) - 20])


def answer(status: int, document: object) -> Fault:
    """Not carried out; this is said instead."""
    return lambda agent, connection, carry_out: send(connection, status, document)


def raw(content: bytes) -> Fault:
    """Not carried out; these bytes come."""
    return lambda agent, connection, carry_out: connection.sendall(content)


# -- HTTP


def error(status: int, reason: str, message: str, **details: object) -> Answer:
    """As the agent tells errors."""
    return status, {"reason": reason, "message": message, "details": details}


def send(connection: socket.socket, status: int, document: object) -> None:
    """One answer."""
    connection.sendall(render(status, document))


def render(status: int, document: object) -> bytes:
    """One answer's bytes."""
    content = b"" if document is None else json.dumps(document).encode()
    length = "" if status == 204 else f"Content-Length: {len(content)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{length}\r\n".encode() + content


def _receive(connection: socket.socket) -> Request | None:
    content = b""
    while b"\r\n\r\n" not in content:
        more = connection.recv(65536)
        if not more:
            return None
        content += more
    head, _, rest = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert fields["connection"] == "close"
    while len(rest) < int(fields["content-length"]):
        rest += connection.recv(65536)
    method, target, protocol = first.split(" ")
    assert protocol == "HTTP/1.1"
    return Request(method, target, json.loads(rest) if rest else None)
