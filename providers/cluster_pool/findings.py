"""What a person should know of a cluster-pool that is no single node's unmet demand."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.space import Space
from omnipam.core.values import Finding

from ..findings import of_node
from .record import Record


def is_notable(record: Record) -> bool:
    """Whether a person should hear of this node."""
    return bool(record.lost or record.foreign or record.node.unreadable or not record.node.present)


def standing(records: Iterable[Record], space: Space) -> list[Finding]:
    """What stands of these nodes."""
    found: list[Finding] = []
    for record in records:
        found += of_node(record, record.blocks, space)
        found += [
            Finding(
                "OutsidePool",
                (f"CIDR/{cidr}", f"CiliumNode/{record.name}"),
                f"node {record.name} holds {cidr}, which is not the pool's to give: see the node's status",
                "replace the node, or add the range to the pool",
            )
            for cidr in record.foreign
        ]
    return found
