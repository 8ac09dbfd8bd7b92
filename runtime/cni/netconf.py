"""What the runtime gave us, read and judged: the environment, the network configuration on stdin, and CNI_ARGS.

Sources: the CNI specification 1.1.0 and the order of checks of containernetworking/cni's `skel` package, so that callers meet the
codes and texts that they know.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Of the CNI specification; oldest first."""
SOCKET = "/run/omnipam/agent.sock"
STATE = "/var/lib/omnipam"
"""The agent's defaults for --socket and --state-dir."""

BAD_VERSION, BAD_ENVIRONMENT, IO_FAILED, UNDECODABLE, BAD_CONFIG, TRY_LATER = 1, 4, 5, 6, 7, 11
"""Codes of the specification. 3 (container unknown) is not used: it would tell the runtime that no DEL is needed."""

_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
"""Verbs, and what each cannot do without. CNI_PATH, which the specification wants too, is for plugins that call others."""
_SINCE = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}
FAMILIES = {"ipv4": (socket.AF_INET, 32), "ipv6": (socket.AF_INET6, 128)}
"""The system's number of the family, and the bits of an address."""
_MOST_PATH = 107
"""Bytes of a unix socket's path (unix(7): sun_path has 108, the last is 0)."""
_MOST_STATE, _MOST_NAME = 3072, 255
"""Bytes of the state directory's path and of each name in it: PATH_MAX and NAME_MAX of Linux, less the queue's own names."""
_MOST_PART = 512
"""Characters that the agent takes as a part of a key."""
_is_id = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*").fullmatch


class Failure(Exception):
    """An error object of the specification: code, msg, details."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


# -- the environment


def read_verb(environ: Mapping[str, str]) -> str:
    """CNI_COMMAND, after the check that all it needs is there. Raises Failure 4."""
    verb = environ["CNI_COMMAND"]
    if verb not in _NEEDS:
        raise Failure(BAD_ENVIRONMENT, f"unknown CNI_COMMAND: {verb}")
    missing = [name for name in _NEEDS[verb] if not environ.get(name)]
    if missing:
        raise Failure(BAD_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if "CNI_CONTAINERID" in _NEEDS[verb]:
        check_container(environ["CNI_CONTAINERID"], BAD_ENVIRONMENT)
        check_ifname(environ["CNI_IFNAME"], BAD_ENVIRONMENT)
        if verb != "DEL":  # which must succeed for what an ADD refused
            check_holdable(environ["CNI_CONTAINERID"], environ["CNI_IFNAME"], BAD_ENVIRONMENT)
    return verb


def check_container(text: str, code: int) -> None:
    """Raises Failure with that code for what is no container id."""
    if not _is_id(text):
        raise Failure(code, "invalid characters in containerID", text)


def check_holdable(container: str, ifname: str, code: int) -> None:
    """Raises Failure with that code for what is legal, and yet never given addresses: no agent takes it."""
    if len(container) > _MOST_PART:
        raise Failure(code, f"containerID has more than {_MOST_PART} characters", container)
    if not ifname.isprintable():
        raise Failure(code, "interface name is not UTF-8, or not printable", ascii(ifname))


def check_ifname(text: str, code: int) -> None:
    """Raises Failure with that code for what Linux would not take as an interface's name."""
    size = len(text.encode("utf-8", "replace"))  # the environment's bytes that are no UTF-8 count one each
    if not size:
        raise Failure(code, "interface name is empty")
    if size > 15:
        raise Failure(
            code, "interface name is too long", f"interface name should be less than 16 characters: {text}"
        )
    if text in (".", "..") or any(c in "/:" or c.isspace() for c in text):
        raise Failure(code, "interface name is invalid", text)


class Args:
    """CNI_ARGS, of which we know some; the others are for plugins beside us. Raises Failure 4."""

    def __init__(self, text: str) -> None:
        known: dict[str, str] = {}
        ips = []
        for pair in filter(None, text.split(";")):
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise Failure(BAD_ENVIRONMENT, "invalid CNI_ARGS", f"{pair!r} is no KEY=VALUE")
            known[key] = os.fsencode(value).decode("utf-8", "replace")
            if key == "IP" and value:
                ips.append(known[key])
        namespace, pod = known.get("K8S_POD_NAMESPACE"), known.get("K8S_POD_NAME")
        self.pod = f"{namespace}/{pod}" if namespace and pod else ""
        self.pod_uid = known.get("K8S_POD_UID", "")
        self.ips = ips


# -- stdin


class Network:
    """The network configuration as far as every verb needs it. Raises Failure 6, 7 or 1."""

    def __init__(self, content: bytes, verb: str) -> None:
        self.document = decode(content)
        name = self.document.get("name")
        if not name:
            raise Failure(BAD_CONFIG, "missing network name")
        if not isinstance(name, str) or not _is_id(name):
            raise Failure(BAD_CONFIG, "invalid characters found in network name", shown(name))
        if len(name) > _MOST_PART:
            raise Failure(BAD_CONFIG, f"network name has more than {_MOST_PART} characters", shown(name))
        self.name = name
        self.version = _version(self.document, verb)
        ipam = self.document.get("ipam")
        if not isinstance(ipam, dict):
            raise Failure(
                BAD_CONFIG, "IPAM config missing 'ipam' key" if ipam is None else "'ipam' is no object"
            )
        self.ipam: dict[str, object] = ipam
        self.socket = read_socket(self.ipam.get("socket"), "ipam.socket")
        self.state = read_state(self.ipam.get("stateDir"), "ipam.stateDir")


def read_socket(value: object, name: str) -> str:
    """The path of the agent's socket, its default if none is given. Raises Failure 7, which calls it `name`."""
    return _path(value, name, SOCKET, _MOST_PATH)


def read_state(value: object, name: str) -> str:
    """The agent's state directory, its default if none is given. Raises Failure 7, which calls it `name`."""
    return _path(value, name, STATE, _MOST_STATE)


def _path(value: object, name: str, default: str, most: int) -> str:
    if value is None or value == "":
        return default
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise Failure(BAD_CONFIG, f"{name} is no absolute path", shown(value))
    if len(os.fsencode(value)) > most:
        raise Failure(BAD_CONFIG, f"{name} is too long", f"{shown(value)}: at most {most} bytes")
    if any(len(os.fsencode(part)) > _MOST_NAME for part in value.split("/")):
        raise Failure(
            BAD_CONFIG, f"{name} is too long", f"{shown(value)}: at most {_MOST_NAME} bytes between slashes"
        )
    return value


def decode(content: bytes) -> dict[str, object]:
    """Raises Failure 6 for what is no JSON object in UTF-8; as Go's decoder, it takes neither a byte order mark nor NaN."""
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        text = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise Failure(UNDECODABLE, "the network configuration on stdin is no JSON", text) from None
    if not isinstance(document, dict):
        raise Failure(UNDECODABLE, "the network configuration on stdin is no JSON object")
    return document


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def _version(document: Mapping[str, object], verb: str) -> str:
    version = document.get("cniVersion") or "0.1.0"  # the library's reading of an absent one
    if not isinstance(version, str):
        raise Failure(UNDECODABLE, "cniVersion is no text", shown(version))
    since = _SINCE.get(verb)
    if since is not None:
        numbers = _numbers(version)
        if numbers < since:
            raise Failure(
                BAD_VERSION, f"config version does not allow {verb}", f"it has cniVersion {version}"
            )
        if numbers > _numbers(VERSIONS[-1]):
            raise Failure(
                BAD_VERSION, f"plugin version does not allow {verb}", f"config has cniVersion {version}"
            )
    if version not in VERSIONS:
        known = " ".join(f'"{each}"' for each in VERSIONS)
        raise Failure(
            BAD_VERSION, "incompatible CNI versions", f'config is "{version}", plugin supports [{known}]'
        )
    return version


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts) or len(parts) > 3:
        raise Failure(UNDECODABLE, "cniVersion is no version", version)
    return tuple(map(int, (*parts, "0", "0")))[:3]


# -- addresses


def read_address(text: object) -> tuple[str, str, int | None] | None:
    """Family, address in the system's own spelling, and prefix length if there is one; None for what is no address or CIDR."""
    if not isinstance(text, str):
        return None
    address, slash, length = text.partition("/")
    family = "ipv6" if ":" in address else "ipv4"
    kind, bits = FAMILIES[family]
    try:
        plain = socket.inet_ntop(kind, socket.inet_pton(kind, address))
    except (OSError, ValueError):  # ValueError: a null byte, or what is no ASCII
        return None
    if not slash:
        return family, plain, None
    if not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= bits):
        return None
    return family, plain, int(length)


def shown(value: object) -> str:
    """The value as an error's details tell it."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except RecursionError:  # it was just shallow enough to be read
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + "…"
