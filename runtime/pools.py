"""From the configuration to the pools that an allocator is given."""

from __future__ import annotations

from omnipam.core.allocator import Settings
from omnipam.core.values import DEFAULT_POOL, PoolRange, PoolSpec

from .config.config import Config


def pool_specs(config: Config) -> tuple[PoolSpec, ...]:
    """The pools of the mode: one, `default`, in cluster-pool; none in kubernetes, where others own the ranges."""
    if config.ipam != "cluster-pool":
        return ()
    return (
        PoolSpec(
            name=DEFAULT_POOL,
            ranges=tuple(
                PoolRange(cidr, config.pool_mask(family))
                for family in config.families
                for cidr in config.pool_cidrs(family)
            ),
            reserved=config.cluster_pool_reserved,
            quarantine_s=config.cluster_pool_quarantine,
            max_blocks=config.cluster_pool_max_blocks_per_node,
        ),
    )


def settings(config: Config) -> Settings:
    """What a mode is built from."""
    return Settings(config.families, config.pod_cidr_grace, config.service_cidr)
