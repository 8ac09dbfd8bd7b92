"""What an ADD asks beyond its key: pool and families, static addresses, and what is added to the answer."""

from __future__ import annotations

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


class Wishes:
    """What an ADD asks beyond the key: pool, families, static addresses, and what is added to the answer. Raises Failure."""

    def __init__(self, network: Network, args: Args) -> None:
        ipam = network.ipam
        self.pool, self.families = _pool(ipam.get("pool"))
        self.addresses = _static(network.document, args)
        self.gateways = _gateways(ipam.get("gateway"))
        self.routes = _routes(ipam.get("routes"), network.version)
        self.dns = _resolv_conf(ipam.get("resolvConf"))


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
    requests: list[tuple[str, object, int]] = [("CNI_ARGS IP", [args.ip] if args.ip else [], BAD_ENVIRONMENT)]
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
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise Failure(BAD_CONFIG, f"ipam.routes: {name} is no number", shown(route))
            if version == "1.1.0":
                made[name] = number
        routes.append(made)
    return routes


def _resolv_conf(path: object) -> dict[str, object]:
    """A resolv.conf(5) as `dns`, empty if none is configured. Raises Failure 5 if it cannot be read."""
    if path is None or path == "":
        return {}
    if not isinstance(path, str):
        raise Failure(BAD_CONFIG, "ipam.resolvConf is no path", shown(path))
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except (OSError, ValueError) as error:
        raise Failure(
            IO_FAILED, "ipam.resolvConf cannot be read", f"{path}: {getattr(error, 'strerror', error)}"
        ) from None
    nameservers: list[str] = []
    dns: dict[str, object] = {}
    options: list[str] = []
    for line in lines:
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        keyword, values = words[0], words[1:]
        if keyword == "nameserver":
            nameservers += values[:1]
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
