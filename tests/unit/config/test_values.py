"""Spellings of values: what is read, what is refused, and that what we write reads back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.cidr import Cidr, parse
from omnipam.core.errors import Invalid
from omnipam.runtime.config import values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("60s", 60.0),
        ("5m", 300.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("+2s", 2.0),
        ("10us", 1e-5),
        ("10µs", 1e-5),
        ("1ns", 1e-9),
        ("1s1m", 61.0),
    ],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert values.read_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60",
        "1.5",
        "s",
        "-1s",
        "5 m",
        "5m ",
        "1d",
        "1e3s",
        "٣s",
        "inf",
        "nan",
        "1s-1s",
        ".s",
        "9" * 400 + "h",
        "300000000h",
    ],
)
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        values.read_duration(text)


@given(st.integers(0, 10**15))
def test_durations_round_trip(nanoseconds: int) -> None:
    seconds = nanoseconds / 1e9
    assert values.read_duration(values.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (300, "5m"),
        (90.5, "1m30.5s"),
        (0.5, "500ms"),
        (0.0015, "1500us"),
        (1e-9, "1ns"),
        (3600, "1h"),
        (15, "15s"),
    ],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert values.format_duration(seconds) == text


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(text: str) -> None:
    assert values.read_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false(text: str) -> None:
    assert values.read_bool(text) is False


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", "2"])
def test_neither(text: str) -> None:
    with pytest.raises(Invalid):
        values.read_bool(text)


@pytest.mark.parametrize("text", ["", "1_000", "1.0", "0x10", "٣", "9" * 5000, "1e3"])
def test_no_whole_number(text: str) -> None:
    with pytest.raises(Invalid):
        values.read_int(text)


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "", ".", "1_0"])
def test_no_number(text: str) -> None:
    with pytest.raises(Invalid):
        values.read_float(text)


cidrs = st.one_of(
    st.builds(
        lambda first, length: Cidr(32, first, 32).widened(length),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda first, length: Cidr(128, first, 128).widened(length),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)


@given(st.lists(cidrs, max_size=5), st.sampled_from([",", " ", ", ", " ,\t", ",,"]))
def test_lists_round_trip_however_separated(items: list[Cidr], separator: str) -> None:
    assert values.read_cidrs(separator.join(map(str, items))) == tuple(items)
    assert values.read_cidrs(values.format_cidrs(tuple(items))) == tuple(items)


def test_ranges_take_single_addresses() -> None:
    assert values.read_ranges("10.0.0.7 fd00::/120") == (parse("10.0.0.7/32"), parse("fd00::/120"))


@pytest.mark.parametrize(
    "text", ["k1=v1,k2=v2", '{"k1": "v1", "k2": "v2"}', " k1 = v1 , k2=v2,", "k1=v1,k1=v1,k2=v2"]
)
def test_maps(text: str) -> None:
    assert values.read_map(text) == {"k1": "v1", "k2": "v2"}


@pytest.mark.parametrize("text", ["k1", "=v", '{"k": 1}', "{", "k=1,k=2", '{"\ud800": "x"}'])
def test_no_map(text: str) -> None:
    with pytest.raises(Invalid):
        values.read_map(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:9234", "localhost", 9234),
        (":9963", "", 9963),
        ("[::1]:0", "::1", 0),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    endpoint = values.read_endpoint(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    ["", "localhost", "9234", "::1:80", "[::1]", "[10.0.0.1]:80", "[x]:80", "a b:1", "h:65536", "h:-1", "h:"],
)
def test_no_endpoint(text: str) -> None:
    with pytest.raises(Invalid):
        values.read_endpoint(text)


@given(st.text())
def test_quoted_values_are_one_short_line(text: str) -> None:
    quoted = values.shown(text)
    assert quoted.isprintable()
    assert 0 < len(quoted) <= 60


@pytest.mark.parametrize(
    "read", [values.read_cidrs, values.read_ranges, values.read_endpoint, values.read_store, values.read_map]
)
def test_long_garbage_is_quoted_in_part(read: Callable[[str], object]) -> None:
    with pytest.raises(Invalid) as caught:
        read("x" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("030", "begins with 0"),
        ("-01", "begins with 0"),
        ("00", "begins with 0"),
        ("2147483648", "is too large"),
        ("9" * 5000, "is too large"),
        ("-" + "9" * 5000, "is too small"),
        ("3.0", "is not a whole number"),
        ("٣", "is not a whole number"),
    ],
)
def test_whole_numbers_that_are_refused(text: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        values.read_int(text)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("+7", 7), ("-7", -7), ("2147483647", 2**31 - 1)])
def test_whole_numbers(text: str, number: int) -> None:
    assert values.read_int(text) == number
