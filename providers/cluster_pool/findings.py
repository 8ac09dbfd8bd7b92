"""What a person should know of a cluster-pool that is no single node's unmet demand."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.space import Space
from omnipam.core.values import Finding

from .record import Record


def is_notable(record: Record) -> bool:
    """Whether a person should hear of this node."""
    return bool(record.lost or record.foreign or record.node.unreadable or not record.node.present)


def standing(records: Iterable[Record], space: Space) -> list[Finding]:
    """What stands of these nodes."""
    found: list[Finding] = []
    for record in records:
        node = f"CiliumNode/{record.name}"
        for cidr in record.lost:
            owners = sorted({owner for owner, _ in space.others(record.name, cidr)})
            found.append(
                Finding(
                    "CIDRClaimedTwice",
                    (f"CIDR/{cidr}", *(f"CiliumNode/{name}" for name in sorted({record.name, *owners}))),
                    f"nodes {record.name} and {', '.join(owners) or 'another'} show {cidr}",
                    f"the older claim stays; {record.name} gets a fresh block",
                    severity="error",
                )
            )
        found += [
            Finding(
                "OutsidePool",
                (f"CIDR/{cidr}", node),
                f"node {record.name} holds {cidr}, which is not the pool's to give: see the node's status",
                "replace the node, or add the range to the pool",
            )
            for cidr in record.foreign
        ]
        if not record.node.present and record.blocks:
            listed = ", ".join(map(str, record.blocks))
            found.append(
                Finding(
                    "ObjectMissing",
                    (node,),
                    f"the CiliumNode of {record.name} is missing while its machine is there; {listed} stays with it",
                    "the agent makes it again; restart it if it does not",
                )
            )
        if record.node.unreadable:
            found.append(
                Finding(
                    "Unreadable",
                    (node,),
                    f"the object of {record.name} cannot be read: {record.node.unreadable[0].text}",
                    record.node.unreadable[0].hint,
                    severity="error",
                )
            )
    return found
