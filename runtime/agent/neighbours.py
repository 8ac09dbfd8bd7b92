"""Who answers on this host's links: a sandbox behind a bridge has no route of its own, and tells of itself only when it is asked.

Source: rtnetlink(7), `RTM_GETNEIGH`. Nothing here raises: what cannot be told is told as nothing.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable

Place = tuple[int, int]
"""Bits and address, as `Given.place`."""

ANSWER_S = 1.0
DISCARD = 9
_GETNEIGH, _DUMP, _DONE, _ERROR = 30, 0x301, 3, 2
_DST = 1
_KNOWN = (
    0x02 | 0x04 | 0x08 | 0x10 | 0x80
)  # reachable, stale, delay, probe, permanent: not incomplete, failed, or without a need


async def answering(places: Iterable[Place]) -> frozenset[Place]:
    """Those of the places where somebody is: each is sent an empty datagram, so that the kernel asks for its link address.

    One whose link address is known from before counts as there until the kernel has found out that it does not answer.
    """
    asked = frozenset(places)
    for bits, address in asked:
        _send(bits, address)
    await asyncio.sleep(ANSWER_S)
    return asked & known()


def known() -> frozenset[Place]:
    """Every address whose link address this host knows."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
            link.settimeout(ANSWER_S)
            link.sendto(struct.pack("=LHHLLB11x", 28, _GETNEIGH, _DUMP, 1, 0, socket.AF_UNSPEC), (0, 0))
            found: set[Place] = set()
            while _read(link.recv(1 << 18), found):
                pass
            return frozenset(found)
    except (OSError, struct.error):
        return frozenset()


def _read(answer: bytes, found: set[Place]) -> bool:
    """Adds what one part of the answer tells. Answers whether more follows."""
    while len(answer) >= 16:
        length, kind = struct.unpack_from("=LH", answer)
        if kind in (_DONE, _ERROR) or length < 16:
            return False
        (state,) = struct.unpack_from("=H", answer, 24)
        rest = answer[28:length]
        while state & _KNOWN and len(rest) >= 4:
            size, name = struct.unpack_from("=HH", rest)
            if name == _DST and size in (8, 20):
                found.add(((size - 4) * 8, int.from_bytes(rest[4:size], "big")))
            rest = rest[max(4, size + 3 & ~3) :]
        answer = answer[length + 3 & ~3 :]
    return True


def _send(bits: int, address: int) -> None:
    family = socket.AF_INET if bits == 32 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b"", (socket.inet_ntop(family, address.to_bytes(bits // 8, "big")), DISCARD))
    except OSError:
        pass  # no route to it: then nobody is there that we could reach
