"""What a person should know of a cluster-pool that is no single node's unmet demand."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.cidr import Cidr
from omnipam.core.space import Space
from omnipam.core.values import Finding, Node, PoolSpec

from .record import Record


class Overlap:
    """Pool ranges that share addresses with the nodes' own or with services: found once a range, not once a node."""

    def __init__(self, services: tuple[Cidr, ...]) -> None:
        self._services = services
        self._reserved: tuple[Cidr, ...] = ()
        self._unwarned: list[Cidr] = []
        self.found: list[Finding] = []

    def pool(self, spec: PoolSpec, nodes: Iterable[Node]) -> None:
        """The pool changed: begins anew."""
        ranges = [given.cidr for given in spec.ranges]
        self._reserved = spec.reserved
        self._unwarned = list(ranges)
        self.found = [
            Finding(
                "PoolOverlapsServices",
                (f"CIDR/{cidr}", f"CIDR/{service}"),
                f"pool range {cidr} overlaps the service range {service}",
                "pods there cannot reach those services: put the service range into cluster-pool-reserved",
            )
            for cidr in ranges
            for service in self._services
            if cidr.overlaps(service) and not self._is_reserved(service)
        ]
        for node in nodes:
            self.see(node)

    def see(self, node: Node) -> None:
        """Looks at a node's own addresses."""
        if not self._unwarned:
            return
        for address in node.facts.addresses:
            for cidr in self._unwarned:
                if cidr.contains(address) and not self._is_reserved(address):
                    self._unwarned.remove(cidr)
                    self.found.append(
                        Finding(
                            "PoolOverlapsNodes",
                            (f"CIDR/{cidr}", f"CIDR/{address}"),
                            f"pool range {cidr} overlaps the node addresses, as {address} of node {node.name}",
                            "a pod could get a node's address: put the nodes' range into cluster-pool-reserved",
                        )
                    )
                    break

    def _is_reserved(self, cidr: Cidr) -> bool:
        return any(reserved.contains(cidr) for reserved in self._reserved)


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
