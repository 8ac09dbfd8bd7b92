"""cluster-pool: every node gets a block of each family from the configured ranges (Cilium's default mode)."""

from __future__ import annotations

from omnipam.core.allocator import Provider

from .allocator import ClusterPool

PROVIDER = Provider(mode="cluster-pool", build=ClusterPool)

__all__ = ["PROVIDER", "ClusterPool"]
