"""Address arithmetic on integers: one value, `Cidr`, for IPv4 and IPv6 alike."""

from __future__ import annotations

import ipaddress
from struct import unpack
from typing import Literal

import msgspec

from .errors import Invalid

Family = Literal["ipv4", "ipv6"]
FAMILIES: tuple[Family, Family] = ("ipv4", "ipv6")
BITS: dict[Family, int] = {"ipv4": 32, "ipv6": 128}

# Reading by look-up is twice as fast as checking digits and calling int().
_OCTETS = {str(number): number for number in range(256)}
_LENGTHS = {str(number): number for number in range(129)}
_ZEROS = tuple(":" + "0:" * count for count in range(8, 1, -1))


class Cidr(msgspec.Struct, frozen=True, order=True, gc=False):
    """A network. Sorts IPv4 before IPv6, then by first address, then the wider one first.

    bits: 32 or 128, the family's address width.
    first: the network address as an integer; host bits are always zero.
    length: the prefix length, 0 to `bits`.
    """

    bits: int
    first: int
    length: int

    @property
    def family(self) -> Family:
        return "ipv4" if self.bits == 32 else "ipv6"

    @property
    def size(self) -> int:
        """How many addresses it holds."""
        return 1 << (self.bits - self.length)

    @property
    def last(self) -> int:
        """The last address, as an integer."""
        return self.first + (1 << (self.bits - self.length)) - 1

    def contains(self, other: Cidr) -> bool:
        """Whether every address of `other` is in here; a CIDR contains itself."""
        return (
            self.length <= other.length
            and self.bits == other.bits
            and (other.first ^ self.first) >> (self.bits - self.length) == 0
        )

    def overlaps(self, other: Cidr) -> bool:
        """Whether they share an address. Of two networks that do, one contains the other."""
        return self.contains(other) or other.contains(self)

    def widened(self, length: int) -> Cidr:
        """The network of prefix length `length` that contains this one. `length` must not be longer than ours."""
        shift = self.bits - length
        return Cidr(self.bits, self.first >> shift << shift, length)

    def __str__(self) -> str:
        return f"{format_address(self.first, self.bits)}/{self.length}"


def format_address(address: int, bits: int) -> str:
    """The address in its usual spelling: IPv6 as in RFC 5952, so an IPv4-mapped one ends in four numbers."""
    if bits == 32:
        return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"
    if address >> 32 == 0xFFFF:
        return "::ffff:" + format_address(address & 0xFFFF_FFFF, 32)
    groups = ":{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:{:x}:".format(*unpack("!8H", address.to_bytes(16, "big")))
    for zeros in _ZEROS:  # the longest run of two or more, and of equal ones the first
        at = groups.find(zeros)
        if at >= 0:
            return f"{groups[1:at]}::{groups[at + len(zeros) : -1]}"
    return groups[1:-1]


def parse(text: str) -> Cidr:
    """Reads `10.0.1.0/24` or `fd00::/104`; host bits are masked off, as Cilium does.

    Raises Invalid where it is no address, or has no prefix length or one that is out of range.
    """
    head, slash, tail = text.partition("/")
    quads = head.split(".")
    if len(quads) == 4 and ":" not in head:
        first, bits = 0, 32
        for quad in quads:
            value = _OCTETS.get(quad)
            if value is None:
                raise Invalid(f"{text!r} is not a CIDR: {quad!r} is not a number from 0 to 255")
            first = first << 8 | value
    else:
        try:
            address = ipaddress.IPv6Address(head)
        except ValueError:
            raise Invalid(f"{text!r} is not a CIDR: {head!r} is not an IPv4 or IPv6 address") from None
        if address.scope_id is not None:
            raise Invalid(f"{text!r} is not a CIDR: a zone ({address.scope_id!r}) has no place in it")
        first, bits = int(address), 128
    if not slash:
        raise Invalid(f"{text!r} is not a CIDR: it has no prefix length, as in {head}/{bits - bits // 4}")
    length = _LENGTHS.get(tail)
    if length is None and len(tail) <= 3 and tail.isascii() and tail.isdigit():
        length = int(tail)  # leading zeros, which Go reads too
    if length is None or length > bits:
        raise Invalid(f"{text!r} is not a CIDR: the prefix length must be a number from 0 to {bits}")
    shift = bits - length
    return Cidr(bits, first >> shift << shift, length)


def parse_address(text: str) -> Cidr:
    """Reads one address, `10.0.0.7` or `fd00::7`, as the CIDR that holds only it. Raises Invalid."""
    if "/" in text:
        raise Invalid(f"{text!r} is not an address")
    width = 32 if text.count(".") == 3 and ":" not in text else 128
    try:
        return parse(f"{text}/{width}")
    except Invalid:
        raise Invalid(f"{text!r} is not an address") from None
