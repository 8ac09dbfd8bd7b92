"""What an ADD asks beyond its key: pool and families, static addresses, and what is added to the answer."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping

from .netconf import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    FAMILIES,
    IO_FAILED,
    Args,
    Failure,
    Network,
    read_address,
    shown,
)

_ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")
"""Members of a route since 1.1.0 of the specification."""
_MOST_NUMBER = (1 << 32) - 1
"""Of a route: the kernel has 32 bits for each."""
_MOST_RESOLV = 1 << 16
"""Bytes of a resolv.conf."""


class Wishes:
    """What an ADD asks beyond the key: pool, families, static addresses, and what is added to the answer. Raises Failure."""

    def __init__(self, network: Network, args: Args) -> None:
        ipam = network.ipam
        self.pool, self.families = _pool(ipam.get("pool"))
        self.addresses = _static(network.document, args)
        self.gateways = _gateways(ipam.get("gateway"))
        for family, gateway in self.gateways.items():
            if self.addresses.get(family) == gateway:
                raise Failure(BAD_CONFIG, "the requested address is ipam.gateway", gateway)
        self.routes = _routes(ipam.get("routes"), network.version)
        self.dns = _resolv_conf(ipam.get("resolvConf"))
        on_link = ipam.get("onLink", False)
        if not isinstance(on_link, bool):
            raise Failure(BAD_CONFIG, "ipam.onLink is neither true nor false", shown(on_link))
        self.on_link = on_link

    def routes_of(self, families: set[str]) -> list[dict[str, object]]:
        """The routes that a pod with addresses of these families can follow.

        The main plugins would make one without a next hop of the others: an IPv4 pod with a default route for IPv6 that leads nowhere.
        """
        return [
            route
            for route in self.routes
            if "gw" in route or ("ipv6" if ":" in str(route["dst"]) else "ipv4") in families
        ]


def check_gateway(family: str, address: str, length: int, gateway: str) -> None:
    """Raises Failure 7 if a gateway that the configuration names cannot be the address's.

    length: the block's; that of a single address says nothing of where its gateway lies. A link-local one lies on every link.
    """
    if gateway == address:
        raise Failure(BAD_CONFIG, "ipam.gateway is the pod's own address", gateway)
    bits = FAMILIES[family][1]
    inside = _number(family, address) >> (bits - length) == _number(family, gateway) >> (bits - length)
    if length < bits and not inside and not _is_link_local(family, gateway):
        raise Failure(
            BAD_CONFIG, "ipam.gateway lies outside of the pod's block", f"{gateway} for {address}/{length}"
        )


def reaching(family: str, address: str, length: int, gateway: str) -> int:
    """The longest prefix, not longer than `length`, with which both lie in one network and are neither its first nor its last address.

    A single address has no route to its gateway, which `ptp` and `bridge` cannot add a route through. A link-local gateway needs none.
    """
    if _is_link_local(family, gateway):
        return length
    bits = FAMILIES[family][1]
    both = [_number(family, text) for text in (address, gateway)]
    for shorter in range(length, 0, -1):
        hosts = (1 << (bits - shorter)) - 1
        if both[0] | hosts == both[1] | hosts and not {each & hosts for each in both} & {0, hosts}:
            return shorter
    return length


def _number(family: str, address: str) -> int:
    return int.from_bytes(socket.inet_pton(FAMILIES[family][0], address))


def _is_link_local(family: str, address: str) -> bool:
    return family == "ipv6" and _number(family, address) >> 118 == 0xFE80 >> 6


def _pool(value: object) -> tuple[object, list[str] | None]:
    """As the agent takes it: a name for all families, or one a family, which are then the families asked."""
    if value is None or value == "":
        return None, None
    if isinstance(value, str):
        return value, None
    if (
        isinstance(value, dict)
        and value
        and all(family in FAMILIES and isinstance(name, str) and name for family, name in value.items())
    ):
        return value, sorted(value)
    raise Failure(
        BAD_CONFIG, "ipam.pool is no pool's name, nor an object with ipv4, ipv6 or both", shown(value)
    )


def _static(document: Mapping[str, object], args: Args) -> dict[str, str]:
    """The requested addresses of all three conventions, at most one a family."""
    generic = document.get("args")
    cni = generic.get("cni") if isinstance(generic, dict) else None
    runtime = document.get("runtimeConfig")
    requests: list[tuple[str, object, int]] = [("CNI_ARGS IP", args.ips, BAD_ENVIRONMENT)]
    for where, source in (("args.cni.ips", cni), ("runtimeConfig.ips", runtime)):
        requests.append((where, source.get("ips") if isinstance(source, dict) else None, BAD_CONFIG))
    found: dict[str, str] = {}
    for where, texts, code in requests:
        if texts is None:
            continue
        if not isinstance(texts, list):
            raise Failure(code, f"{where} is no list of addresses", shown(texts))
        for text in texts:
            read = read_address(text)
            if read is None:
                raise Failure(code, f"{where}: invalid IP address", shown(text))
            family, address, _ = read
            if found.setdefault(family, address) != address:
                raise Failure(
                    code,
                    f"{where}: a second {family} address is requested",
                    f"{address} after {found[family]}",
                )
    return found


def _gateways(value: object) -> dict[str, str]:
    """One a family; a single one may stand without a list."""
    if value is None or value == "":
        return {}
    found: dict[str, str] = {}
    for text in value if isinstance(value, list) else [value]:
        read = read_address(text)
        if read is None or "/" in str(text):
            raise Failure(BAD_CONFIG, "ipam.gateway is no address", shown(text))
        if read[0] in found:
            raise Failure(BAD_CONFIG, f"ipam.gateway has a second {read[0]} address", shown(text))
        found[read[0]] = read[1]
    return found


def _routes(value: object, version: str) -> list[dict[str, object]]:
    """As they are written; the members that 1.1.0 brought are left out of older results."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Failure(BAD_CONFIG, "ipam.routes is no list", shown(value))
    routes = []
    for route in value:
        dst = route.get("dst") if isinstance(route, dict) else None
        target = read_address(dst)
        if target is None or "/" not in str(dst):
            raise Failure(BAD_CONFIG, "ipam.routes: a route has no dst that is a CIDR", shown(route))
        length = FAMILIES[target[0]][1] - (target[2] or 0)
        if _number(target[0], target[1]) & ((1 << length) - 1):
            raise Failure(BAD_CONFIG, "ipam.routes: dst has bits beyond its prefix length", shown(route))
        made: dict[str, object] = {"dst": dst}
        if route.get("gw") not in (None, ""):
            gateway = read_address(route["gw"])
            if gateway is None or "/" in route["gw"] or gateway[0] != target[0]:
                raise Failure(BAD_CONFIG, f"ipam.routes: gw is no {target[0]} address", shown(route))
            made["gw"] = route["gw"]
        for name in _ROUTE_NUMBERS:
            number = route.get(name)
            if number is None:
                continue
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _MOST_NUMBER:
                raise Failure(BAD_CONFIG, f"ipam.routes: {name} is no number of 32 bits", shown(route))
            if version == "1.1.0":
                made[name] = number
        routes.append(made)
    return routes


def _resolv_conf(path: object) -> dict[str, object]:
    """A resolv.conf(5) as `dns`, empty if none is configured. Raises Failure 7 for what cannot be one, 5 if it cannot be read."""
    if path is None or path == "":
        return {}
    if not isinstance(path, str) or not path.startswith("/") or not path.isprintable():
        raise Failure(BAD_CONFIG, "ipam.resolvConf is no absolute path", shown(path))
    try:
        text = _regular(path)
    except (OSError, ValueError) as error:
        raise Failure(
            IO_FAILED, "ipam.resolvConf cannot be read", f"{shown(path)}: {getattr(error, 'strerror', error)}"
        ) from None
    lines = text.splitlines()
    nameservers: list[str] = []
    dns: dict[str, object] = {}
    options: list[str] = []
    for line in lines:
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        keyword, values = words[0], words[1:]
        if keyword == "nameserver" and values:
            if read_address(values[0].partition("%")[0]) is None or "/" in values[0]:
                raise Failure(
                    BAD_CONFIG,
                    "ipam.resolvConf has a nameserver that is no address",
                    f"{path}: {shown(line)}",
                )
            nameservers.append(values[0])
        elif keyword == "domain" and values:
            dns["domain"] = values[0]
        elif keyword == "search":
            dns["search"] = values  # the last one counts
        elif keyword == "options":
            options += values
    if nameservers:
        dns["nameservers"] = nameservers
    if options:
        dns["options"] = options
    return dns


def _regular(path: str) -> str:
    """Raises OSError, ValueError for what is no text file of a bearable size. Never waits, as for a FIFO's writer."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("it is no regular file")
        content = b""
        while len(content) <= _MOST_RESOLV and (part := os.read(file, _MOST_RESOLV + 1)):
            content += part
    finally:
        os.close(file)
    if len(content) > _MOST_RESOLV:
        raise ValueError(f"it has more than {_MOST_RESOLV} bytes")
    if b"\0" in content:
        raise ValueError("it has null bytes")
    return content.decode("utf-8", "replace")
