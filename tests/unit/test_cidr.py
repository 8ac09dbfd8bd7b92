"""Spelling of addresses, and the words in which bad ones are refused."""

from __future__ import annotations

import pytest

from omnipam.core.cidr import Cidr, format_address, parse, parse_address
from omnipam.core.errors import Invalid


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("10.0.1.7/24", "10.0.1.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("255.255.255.255/32", "255.255.255.255/32"),
        ("10.0.0.0/08", "10.0.0.0/8"),  # Go reads this
        ("::/0", "::/0"),
        ("FD00:0:0:0:0:0:0:1/128", "fd00::1/128"),
        (
            "2001:db8:0:1:1:1:1:1/128",
            "2001:db8:0:1:1:1:1:1/128",
        ),  # RFC 5952 4.2.2: one group is not shortened
        ("2001:0:0:1:0:0:0:1/128", "2001:0:0:1::1/128"),  # 4.2.3: the longest run
        ("2001:db8:0:0:1:0:0:1/128", "2001:db8::1:0:0:1/128"),  # 4.2.3: of equal runs the first
        ("fd00:1:2:3:4:5:0:0/112", "fd00:1:2:3:4:5::/112"),
        ("::ffff:a00:1/128", "::ffff:10.0.0.1/128"),  # 5: mapped addresses
    ],
)
def test_spelling(text: str, written: str) -> None:
    assert str(parse(text)) == written
    assert parse(written) == parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not an IPv4 or IPv6 address"),
        ("10.0.0.0", "it has no prefix length, as in 10.0.0.0/24"),
        ("fd00::", "it has no prefix length, as in fd00::/96"),
        ("10.0.0/8", "'10.0.0' is not an IPv4 or IPv6 address"),
        ("10.0.0.256/8", "'256' is not a number from 0 to 255"),
        ("10.0.00.1/8", "'00' is not a number from 0 to 255"),
        ("10.0.0.١/8", "'١' is not a number from 0 to 255"),
        ("10.0.0.0/33", "the prefix length must be a number from 0 to 32"),
        ("fd00::/129", "the prefix length must be a number from 0 to 128"),
        ("10.0.0.0/-1", "the prefix length must be a number from 0 to 32"),
        ("10.0.0.0/", "the prefix length must be a number from 0 to 32"),
        ("10.0.0.0/1_0", "the prefix length must be a number from 0 to 32"),
        ("10.0.0.0/" + "9" * 5000, "the prefix length must be a number from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "the prefix length must be a number from 0 to 32"),
        ("fe80::1%eth0/64", "a zone ('eth0') has no place in it"),
        (" 10.0.0.0/8", "is not a number from 0 to 255"),
    ],
)
def test_refusal_names_value_and_reason(text: str, why: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert str(caught.value).startswith(f"{text!r} is not a CIDR: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_addresses() -> None:
    assert parse_address("10.0.0.7") == Cidr(32, 10 << 24 | 7, 32)
    assert parse_address("fd00::7") == Cidr(128, 0xFD << 120 | 7, 128)
    assert parse_address("::ffff:10.0.0.7").bits == 128
    assert format_address(10 << 24 | 7, 32) == "10.0.0.7"
    for text in ("10.0.0.7/32", "node-1", "10.0.0", ""):
        with pytest.raises(Invalid, match="is not an address"):
            parse_address(text)


def test_families_never_meet() -> None:
    everything4, everything6 = parse("0.0.0.0/0"), parse("::/0")
    assert not everything4.overlaps(everything6)
    assert not everything6.contains(everything4)
    assert sorted([everything6, parse("10.0.0.0/8"), everything4]) == [
        everything4,
        parse("10.0.0.0/8"),
        everything6,
    ]
