"""Address arithmetic against the standard library's ipaddress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.cidr import Cidr, format_address, parse, parse_address
from omnipam.core.errors import Invalid

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@st.composite
def networks(draw: st.DrawFn) -> Network:
    if draw(st.booleans()):
        return ipaddress.IPv4Network(
            (draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 32))), strict=False
        )
    # Addresses with runs of zeros, which is where spelling IPv6 goes wrong.
    groups = draw(st.lists(st.sampled_from([0, 0, 0, 1, 0xA0, 0xFFFF, 0x2001]), min_size=8, max_size=8))
    address = int.from_bytes(b"".join(group.to_bytes(2, "big") for group in groups), "big")
    return ipaddress.IPv6Network((address, draw(st.integers(0, 128))), strict=False)


def is_mapped(network: Network) -> bool:
    """IPv4-mapped addresses are spelled differently by different Python versions: tests/unit/test_cidr.py has them."""
    return isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None


def ours(network: Network) -> Cidr:
    return Cidr(network.max_prefixlen, int(network.network_address), network.prefixlen)


@given(networks())
def test_reads_and_writes_as_ipaddress_does(network: Network) -> None:
    cidr = parse(str(network))
    assert cidr == ours(network)
    assert cidr == parse(str(cidr))
    assert is_mapped(network) or str(cidr) == str(network)
    assert (cidr.size, cidr.last) == (network.num_addresses, int(network.broadcast_address))
    assert cidr.family == f"ipv{network.version}"


@given(networks(), st.integers(0, 2**128 - 1))
def test_host_bits_are_masked_off(network: Network, noise: int) -> None:
    address = int(network.network_address) | noise & int(network.hostmask)
    text = format_address(address, network.max_prefixlen)
    assert parse(f"{text}/{network.prefixlen}") == ours(network)
    assert parse_address(text) == Cidr(network.max_prefixlen, address, network.max_prefixlen)


@given(networks(), networks(), st.integers(0, 128))
def test_relations_are_those_of_ipaddress(one: Network, other: Network, length: int) -> None:
    # Two random networks hardly ever meet: look at a piece of the first as well.
    inner = type(one)(
        (int(one.broadcast_address), min(one.max_prefixlen, one.prefixlen + length)), strict=False
    )
    for a, b in ((one, other), (one, inner), (inner, one), (one, one)):
        same = a.version == b.version
        assert ours(a).overlaps(ours(b)) == (same and a.overlaps(b))
        assert ours(a).contains(ours(b)) == (same and b.subnet_of(a))  # type: ignore[arg-type]  # versions are equal
    wider = max(0, one.prefixlen - length)
    assert ours(one).widened(wider) == ours(one.supernet(new_prefix=wider))


@given(st.lists(networks(), max_size=8))
def test_sorts_by_family_address_and_size(several: list[Network]) -> None:
    expected = sorted(
        several, key=lambda network: (network.version, int(network.network_address), network.prefixlen)
    )
    assert sorted(map(ours, several)) == [ours(network) for network in expected]


@given(st.one_of(st.text(), st.text("0123456789abcdef.:/% -+_x", max_size=24)))
def test_any_text_is_read_as_ipaddress_reads_it_or_refused_in_one_line(text: str) -> None:
    try:
        expected = ours(ipaddress.ip_network(text, strict=False))
    except ValueError:
        expected = None
    length = text.partition("/")[2]
    if expected is not None and length.isascii() and length.isdigit() and "%" not in text:
        assert parse(text) == expected
        return
    with pytest.raises(Invalid) as caught:  # ipaddress reads more: no length, a mask for a length, zones
        parse(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)
