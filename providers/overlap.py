"""Pool ranges that overlap what others use: the nodes' own addresses, the services."""

from __future__ import annotations

from collections.abc import Iterable

from omnipam.core.cidr import Cidr
from omnipam.core.values import Finding, Node, PoolSpec


class Overlap:
    """Pool ranges that share addresses with the nodes' own or with services: found once a range, not once a node."""

    def __init__(self, services: tuple[Cidr, ...], reserve: str) -> None:
        """reserve: where a person reserves a range."""
        self._services = services
        self._reserve = reserve
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
                f"pods there cannot reach those services: put the service range into {self._reserve}",
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
                            f"a pod could get a node's address: put the nodes' range into {self._reserve}",
                        )
                    )
                    break

    def _is_reserved(self, cidr: Cidr) -> bool:
        return any(reserved.contains(cidr) for reserved in self._reserved)
