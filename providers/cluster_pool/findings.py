"""What a person should know of a cluster-pool that is no single node's unmet demand."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.space import Space
from omnipam.core.values import Finding

from ..findings import of_node
from .record import Record


def is_notable(record: Record) -> bool:
    """Whether a person should hear of this node."""
    return bool(record.lost or record.foreign or not record.writable)


def standing(records: Iterable[Record], space: Space) -> list[Finding]:
    """What stands of these nodes."""
    found: list[Finding] = []
    for record in records:
        found += of_node(record, record.blocks, space)
        if record.node.ignored and (apart := record.apart()):
            listed = ", ".join(map(str, apart))
            found.append(
                Finding(
                    "BlockNotShown",
                    (f"CiliumNode/{record.name}",),
                    f"node {record.name} was granted {listed}, its object does not show it any more, and is ignored: it stays with the node",
                    "if no pod of it uses those addresses, delete the node's object and its Node to give them back",
                )
            )
        for cidr in record.holdings():
            if space.excess(cidr) and space.touches(cidr) and (cidr in record.foreign or not record.writable):
                found.append(
                    Finding(
                        "RangeTooWide",
                        (f"CIDR/{cidr}", f"CiliumNode/{record.name}"),
                        f"node {record.name} shows {cidr}, wider than any block: all that it covers of the pool is given to nobody",
                        "take it out of spec.ipam.podCIDRs, or replace the node",
                    )
                )
        for cidr in record.foreign:
            replaced = cidr.family in record.replaced() and list(map(str, record.of(cidr.family)))
            objects = (f"CIDR/{cidr}", f"CiliumNode/{record.name}")
            if replaced:
                found.append(
                    Finding(
                        "CIDRReplaced",
                        objects,
                        f"node {record.name} shows {cidr} in place of {', '.join(replaced)}, which it was granted; both stay with it",
                        "put the granted one back into spec.ipam.podCIDRs, or replace the node",
                    )
                )
            elif not space.touches(cidr):
                found.append(
                    Finding(
                        "OutsidePool",
                        objects,
                        f"node {record.name} holds {cidr}, which is in no range of the pool; it stays with the node",
                        f"replace the node, or add the range to cluster-pool-{cidr.family}-cidr",
                        severity="info",
                    )
                )
    return found
