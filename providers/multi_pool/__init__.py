"""multi-pool: nodes ask named pools for addresses, and get as many blocks of them as it takes (Cilium's multi-pool mode)."""

from __future__ import annotations

from omnipam.core.allocator import Provider

from .allocator import MultiPool

PROVIDER = Provider(mode="multi-pool", build=MultiPool, reads_pools=True)

__all__ = ["PROVIDER", "MultiPool"]
