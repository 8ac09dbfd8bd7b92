"""Nodes and pools of an embedded store as Cilium's resources, so that scripts read every store alike."""

from __future__ import annotations

import datetime
from typing import Any

from omnipam.core.cidr import Family, format_address
from omnipam.core.values import Node

from ..kube.ciliumnode import IGNORE
from ..kube.poolednode import OURS, entries_of, limits_text, requested_of
from ..usage import Usage


def cilium_node(node: Node, *, pooled: bool = False) -> dict[str, Any]:
    """The node as a CiliumNode (`cilium.io/v2`). Fields without a value are left out. pooled: in the form of multi-pool."""
    metadata: dict[str, Any] = {"name": node.name, "uid": node.uid, "resourceVersion": node.version}
    if node.created:
        made = datetime.datetime.fromtimestamp(node.created, datetime.UTC)
        metadata["creationTimestamp"] = made.strftime("%Y-%m-%dT%H:%M:%SZ")
    if node.facts.labels:
        metadata["labels"] = dict(node.facts.labels)
    marks = {
        IGNORE: "true" if node.ignored else "",
        f"{OURS}default-pool": node.default_pool,
        f"{OURS}max-blocks": limits_text(node.limits),
    }
    if annotations := {key: text for key, text in marks.items() if text}:
        metadata["annotations"] = annotations
    spec: dict[str, Any] = {}
    if node.instance:
        spec["instance-id"] = node.instance
    if node.facts.addresses:
        spec["addresses"] = [
            {"type": "InternalIP", "ip": format_address(each.first, each.bits)}
            for each in node.facts.addresses
        ]
    if pooled:
        lists = {"requested": requested_of(node.demand), "allocated": entries_of(node.holds.blocks)}
        pools = {key: entries for key, entries in lists.items() if entries}
        spec["ipam"] = {"pools": pools} if pools else {}
    else:
        cidrs = [str(block.cidr) for block in node.holds.blocks]
        spec["ipam"] = {"podCIDRs": cidrs} if cidrs else {}
    ipam: dict[str, Any] = {"operator-status": {"error": node.holds.error} if node.holds.error else {}}
    said = [(cidr, "depleted") for cidr in node.agent.depleted] + [
        (cidr, "released") for cidr in node.agent.released
    ]
    if said:
        ipam["pod-cidrs"] = {str(cidr): {"status": word} for cidr, word in sorted(said)}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": metadata,
        "spec": spec,
        "status": {"ipam": ipam},
    }


def pool_status(usage: Usage, *, ranges: bool = False) -> dict[str, Any]:
    """How full a pool is, by family, in blocks. `ranges`: each range too, and every block outside of them with its node."""
    return {family: _family_status(usage, family, ranges=ranges) for family in usage.families}


def _family_status(usage: Usage, family: Family, *, ranges: bool) -> dict[str, Any]:
    configured, outside = usage.of(family), usage.outside_of(family)
    status: dict[str, Any] = {
        "total": sum(each.total for each in configured),
        "used": sum(each.used for each in configured),
        "free": sum(each.free for each in configured),
        "quarantined": sum(each.quarantined for each in configured),
        "reserved": sum(each.reserved for each in configured),
        "outside": len(outside),
        "nodesOnDrainedRanges": len({node for _, node in outside}),
    }
    if ranges:
        status["ranges"] = [
            {
                "cidr": str(each.cidr),
                "maskSize": each.mask,
                "total": each.total,
                "used": each.used,
                "free": each.free,
                "quarantined": each.quarantined,
                "reserved": each.reserved,
                "longestFreeRun": each.longest,
                "strandedAddresses": each.stranded,
            }
            for each in configured
        ]
        status["drained"] = [{"cidr": str(cidr), "node": node} for cidr, node in outside]
    return status
