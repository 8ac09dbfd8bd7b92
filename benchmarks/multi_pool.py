"""multi-pool: from the operator's process start until the last of 2,000 nodes that ask three pools each is served.

As in `operator_start`, over as many bare PATCH requests of `spec.ipam.pools.allocated`.
"""

from __future__ import annotations

from .operator_start import Size, measure
from .table import Row

POOLS = {"mars": "10.0.0.0/16", "moon": "10.1.0.0/16", "venus": "10.2.0.0/16"}
SIZE = Size(2_000, 1.5, 90.0, 5)


def rows() -> list[Row]:
    """Time, writes a node and memory of one start."""
    return measure(SIZE, "multi-pool operator, three pools", POOLS)
