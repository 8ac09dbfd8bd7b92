"""What a person should know of a node in any mode that grants blocks; each mode adds what is its own."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.cidr import Cidr
from omnipam.core.values import Finding

from .contest import Claimant, Ground


def of_node(record: Claimant, blocks: Iterable[Cidr], ground: Ground) -> list[Finding]:
    """What it lost to a better claim, that its object is missing, that it cannot be read. blocks: its own, in the order to name them."""
    name, node = record.name, record.node
    subject = f"CiliumNode/{name}"
    found: list[Finding] = []
    for cidr in record.lost:
        owners = sorted({owner for owner, _ in ground.others(name, cidr)})
        found.append(
            Finding(
                "CIDRClaimedTwice",
                (f"CIDR/{cidr}", *(f"CiliumNode/{each}" for each in sorted({name, *owners}))),
                f"nodes {name} and {', '.join(owners) or 'another'} show {cidr}",
                f"the older claim stays; {name} gets a fresh block",
                severity="error",
            )
        )
    if not node.present and (listed := ", ".join(map(str, blocks))):
        found.append(
            Finding(
                "ObjectMissing",
                (subject,),
                f"the CiliumNode of {name} is missing while its machine is there; {listed} stays with it",
                "the agent makes it again; restart it if it does not",
            )
        )
    if node.unreadable:
        found.append(
            Finding(
                "Unreadable",
                (subject,),
                f"the object of {name} cannot be read: {node.unreadable[0].text}",
                node.unreadable[0].hint,
                severity="error",
            )
        )
    return found
