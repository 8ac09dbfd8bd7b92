"""A CiliumNode for a person to read: its state in one word, its row in a list, its facts."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from omnipam.core.values import Node

from ..kube.poolednode import NEEDED
from ..tree import branch
from . import output

HEAD = ("NAME", "POD-CIDRS", "STATE", "AGE", "ERROR")


def state(node: Node) -> str:
    if node.unreadable:
        return "unreadable"
    if not node.present:
        return "missing"
    if node.ignored:
        return "ignored"
    if node.holds.error:
        return "error"
    return "granted" if node.holds.blocks else "waiting"


def state_of_object(made: Mapping[str, Any]) -> str:
    from ..cluster import node_of

    return state(node_of(made))


def row(made: Mapping[str, Any], word: str, now: float) -> tuple[str, ...]:
    return (name_of(made), ",".join(_cidrs(made)), word, _age(made, now), _error(made))


def pairs(made: Mapping[str, Any], word: str, now: float) -> list[tuple[str, object]]:
    metadata, spec = branch(made, "metadata"), branch(made, "spec")
    addresses = spec.get("addresses")
    return [
        ("Name", name_of(made)),
        ("State", word),
        ("Pod CIDRs", ", ".join(_cidrs(made))),
        *([("Asks for", asked)] if (asked := _requested(made)) else []),
        ("Error", _error(made)),
        ("Instance", spec.get("instance-id", "")),
        (
            "Addresses",
            ", ".join(str(each.get("ip")) for each in addresses if isinstance(each, dict))
            if isinstance(addresses, list)
            else "",
        ),
        (
            "Labels",
            ", ".join(f"{key}={value}" for key, value in sorted(branch(made, "metadata", "labels").items())),
        ),
        ("Created", metadata.get("creationTimestamp", "")),
        ("Age", _age(made, now)),
        ("UID", metadata.get("uid", "")),
    ]


def name_of(made: Mapping[str, Any]) -> str:
    return str(branch(made, "metadata").get("name", ""))


def _cidrs(made: Mapping[str, Any]) -> list[str]:
    """Those of `podCIDRs`, then those of pools, each with its pool's name."""
    found = branch(made, "spec", "ipam").get("podCIDRs")
    cidrs = [str(each) for each in found] if isinstance(found, list) else []
    entries = branch(made, "spec", "ipam", "pools").get("allocated")
    for entry in entries if isinstance(entries, list) else ():
        listed = branch(entry).get("cidrs")
        cidrs += [f"{entry.get('pool')}={each}" for each in listed] if isinstance(listed, list) else []
    return cidrs


def _requested(made: Mapping[str, Any]) -> str:
    """What its agent asks pools for."""
    entries = branch(made, "spec", "ipam", "pools").get("requested")
    said = []
    for entry in entries if isinstance(entries, list) else ():
        needed = branch(entry, "needed")
        said += [
            f"{needed[key]} {family} of {entry.get('pool')}"
            for family, key in NEEDED.items()
            if key in needed
        ]
    return ", ".join(said)


def _error(made: Mapping[str, Any]) -> str:
    return str(branch(made, "status", "ipam", "operator-status").get("error") or "")


def _age(made: Mapping[str, Any], now: float) -> str:
    try:
        created = datetime.datetime.fromisoformat(str(branch(made, "metadata").get("creationTimestamp")))
    except ValueError:
        return ""
    return output.age(now - created.timestamp())
