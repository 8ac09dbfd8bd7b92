"""What a person should know of a node in any mode that grants blocks; each mode adds what is its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omnipam.core.cidr import Cidr
from omnipam.core.space import Claim
from omnipam.core.values import Finding, Problem

from .contest import Claimant, Ground

NAMED = 3
"""How many of the ranges in the way one line names."""


def of_node(record: Claimant, blocks: Iterable[Cidr], ground: Ground) -> list[Finding]:
    """What others claim of its ranges, that its object is missing, that it cannot be read. blocks: its own, in the order to name them."""
    name, node = record.name, record.node
    subject = f"CiliumNode/{name}"
    found: list[Finding] = []
    contested = list(record.lost)
    if not record.writable:
        contested += record.holdings()
    for cidr in contested:
        others = ground.others(name, cidr)
        if not others and cidr not in record.lost:
            continue
        owners = sorted({owner for owner, _ in others})
        if cidr in record.lost:
            hint = f"the better claim stays; {name} gets a block of its own"
        else:
            hint = f"the object of {name} may not be written, so both stay: take it out of one of the two"
        found.append(
            Finding(
                "CIDRClaimedTwice",
                (f"CIDR/{cidr}", *(f"CiliumNode/{each}" for each in sorted({name, *owners}))),
                f"node {name} shows {cidr}, and {in_the_way(others) or 'another node shows it, too'}",
                hint,
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


def already_allocated(record: Claimant, cidr: Cidr, ground: Ground, then: str) -> Problem:
    """That another node has the better claim to what this one shows. then: what follows for it."""
    others = in_the_way(ground.others(record.name, cidr)) or "another node shows it, too"
    return Problem("AlreadyAllocated", f"requested CIDR ({cidr}) is already allocated", f"{others}; {then}")


def moved(record: Claimant, ground: Ground) -> tuple[Problem, ...]:
    """What a grant says once of ranges that it takes out of the node's object."""
    then = "the node's object gets its own block in place of it: restart its agent, and pods with addresses that it has no more"
    if not record.lost or not record.writable:
        return ()
    return tuple(already_allocated(record, cidr, ground, then) for cidr in sorted(record.lost))


def in_the_way(others: Sequence[Claim]) -> str:
    """The claims of others in the way of one, by node and range: the first few, and how many more."""
    listed = ", ".join(f"node {owner} has {cidr}" for owner, cidr in others[:NAMED])
    more = len(others) - NAMED
    return f"{listed} and {more} more" if more > 0 else listed
