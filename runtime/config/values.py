"""One written value in, one typed value out: the spellings that configuration knows, and back.

Every reader takes the text of a value and raises Invalid with the reason alone ("'7x' is not a whole number");
who calls it adds the key, the source and what to do.
"""

from __future__ import annotations

import re

import msgspec

from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.errors import Invalid

from ..sqlite.location import SCHEME, fault

# strconv.ParseBool
_BOOLS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5; Go takes both signs
    "μs": 1_000,  # U+03BC
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LONGEST = (1 << 63) - 1  # nanoseconds of Go's longest Duration, 292 years
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"\+?(?:{_PART})+")
_PARTS = re.compile(_PART)
LARGEST = (1 << 31) - 1
"""Of whole numbers; none of ours is meant to be near it."""
_WHOLE = re.compile(r"([+-]?)([0-9]+)")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?")
_SEPARATORS = re.compile(r"[\s,]+")
_KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")  # a DNS subdomain, RFC 1123
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{0,63}")


class Endpoint(msgspec.Struct, frozen=True):
    """Where to listen. host: a name or address without brackets, empty for all; port: 0 to 65535, 0 for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def printable(text: str) -> str:
    """The text as it is if it is one printable word, else quoted so that it is."""
    return text if text.isprintable() and text and " " not in text else repr(text)


def shown(text: str) -> str:
    """A value as an error quotes it: printable, and at most 60 characters."""
    quoted = printable(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:59]}…"


def read_bool(text: str) -> bool:
    """Go's ParseBool: 1, t, T, TRUE, true, True and their opposites."""
    value = _BOOLS.get(text)
    if value is None:
        raise Invalid(f"{shown(text)} is neither true nor false")
    return value


def read_int(text: str) -> int:
    """A whole number. Zeros before it are refused: Go, and YAML 1.1, take them for octal."""
    match = _WHOLE.fullmatch(text)
    if match is None:
        raise Invalid(f"{shown(text)} is not a whole number")
    sign, digits = match.groups()
    if len(digits) > 1 and digits.startswith("0"):
        raise Invalid(f"{shown(text)} begins with 0, which some read as octal")
    if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
        raise Invalid(f"{shown(text)} is too {'small' if sign == '-' else 'large'}")
    return int(text)


def read_float(text: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise Invalid(f"{shown(text)} is not a number")
    return float(text)


def read_duration(text: str) -> float:
    """Seconds, of Go's spelling: `60s`, `5m`, `1m30s`, `500ms`, and `0`. Never negative."""
    if text == "0":
        return 0.0
    if text.startswith("-"):
        raise Invalid(f"{shown(text)} is negative")
    if _DECIMAL.fullmatch(text):
        raise Invalid(f"{shown(text)} has no unit")
    if not _DURATION.fullmatch(text):
        raise Invalid(f"{shown(text)} is not a duration")
    total = 0
    for number, unit in _PARTS.findall(text):
        part = float(number) * _NANOSECONDS[unit]
        if part > _LONGEST:
            raise Invalid(f"{shown(text)} is longer than a duration can be")
        total += round(part)
    if total > _LONGEST:
        raise Invalid(f"{shown(text)} is longer than a duration can be")
    return total / 1e9


def format_duration(seconds: float) -> str:
    """The shortest spelling that `read_duration` reads back: `5m`, `1m30.5s`, `500ms`, `0s`."""
    rest = round(seconds * 1e9)
    if 0 < rest < 1_000_000_000:
        for unit in ("ms", "us"):
            if rest % _NANOSECONDS[unit] == 0:
                return f"{rest // _NANOSECONDS[unit]}{unit}"
        return f"{rest}ns"
    hours, rest = divmod(rest, _NANOSECONDS["h"])
    minutes, rest = divmod(rest, _NANOSECONDS["m"])
    whole, fraction = divmod(rest, _NANOSECONDS["s"])
    tail = f"{whole}.{fraction:09}".rstrip("0").rstrip(".") if fraction else str(whole)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{tail}s" if rest else ""]
    return "".join(parts) or "0s"


def split_list(text: str) -> list[str]:
    """The items of a list, which are separated by commas, spaces or both."""
    return [item for item in _SEPARATORS.split(text) if item]


def _networks(text: str) -> list[str]:
    """The items of a list of CIDRs; one too long to be one is refused here, where it is quoted in part only."""
    items = split_list(text)
    for item in items:
        if len(item) > 60:
            raise Invalid(f"{shown(item)} is not a CIDR")
    return items


def read_cidrs(text: str) -> tuple[Cidr, ...]:
    """CIDRs in the order written; host bits are masked off, as Cilium does."""
    return tuple(parse(item) for item in _networks(text))


def read_ranges(text: str) -> tuple[Cidr, ...]:
    """CIDRs, or single addresses for themselves."""
    return tuple(parse(item) if "/" in item else parse_address(item) for item in _networks(text))


def format_cidrs(cidrs: tuple[Cidr, ...]) -> str:
    return ",".join(map(str, cidrs))


def read_map(text: str) -> dict[str, str]:
    """`k1=v1,k2=v2`, or a JSON object of strings; a key written twice is refused."""
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text, type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            raise Invalid(f"{shown(text)} is not a JSON object of strings") from None
    pairs: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise Invalid(f"{shown(item)} is not of the form key=value")
        if pairs.setdefault(name.strip(), value.strip()) != value.strip():
            raise Invalid(f"{shown(name.strip())} is given two values")
    return pairs


def read_endpoint(text: str) -> Endpoint:
    """`localhost:9234`, `:9963`, `[::1]:9234`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = _address(text, host[1:-1])
    elif ":" in host:
        raise Invalid(f"{shown(text)} is ambiguous: an IPv6 address stands in brackets before its port")
    if not colon:
        raise Invalid(f"{shown(text)} has no port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise Invalid(f"{shown(text)} has no port from 0 to 65535")
    if ":" not in host and not _HOST.fullmatch(host):
        raise Invalid(f"{shown(text)} has no host name or address before its port")
    return Endpoint(host, int(port))


def _address(text: str, host: str) -> str:
    try:
        if ":" not in host:
            raise Invalid(host)
        return str(parse_address(host)).partition("/")[0]
    except Invalid:
        raise Invalid(f"{shown(text)} has no IPv6 address in its brackets") from None


def read_kubernetes_name(text: str) -> str:
    if not _KUBERNETES_NAME.fullmatch(text):
        raise Invalid(f"{shown(text)} is not a name Kubernetes takes (lower-case letters, digits, '-', '.')")
    return text


def read_namespace(text: str) -> str:
    """A namespace's name is one DNS label, without dots (RFC 1123)."""
    if not _LABEL.fullmatch(text):
        raise Invalid(
            f"{shown(text)} is not a namespace Kubernetes takes (at most 63 lower-case letters, digits, '-')"
        )
    return text


def read_counts(text: str) -> dict[str, int]:
    """`name=N,name=N`; of one named twice, the last counts."""
    found: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, number = (part.strip() for part in item.partition("="))
        if not name or not equals or not (number.isascii() and number.isdigit() and int(number) <= LARGEST):
            raise Invalid(f"{shown(item)} is not of the form name=N")
        found[name] = int(number)
    return found


def read_store(text: str) -> str:
    """`kubernetes`, or `sqlite:///PATH` (a fourth slash begins an absolute path)."""
    reason = "" if text == "kubernetes" else fault(text)
    if reason:
        raise Invalid(f"{shown(text)} {reason if text.startswith(SCHEME) else 'is no store'}")
    return text


def read_text(text: str) -> str:
    if not text.isprintable():
        raise Invalid(f"{shown(text)} has characters that cannot be printed")
    return text
