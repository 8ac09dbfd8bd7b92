"""The configuration of one process: every key's value, typed, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from omnipam.core.cidr import Cidr, Family
from omnipam.core.values import PoolSpec

from .values import Endpoint


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A field for each key of `keys.KEYS`, `-` written `_`. Durations are seconds.

    Pools are empty where their family is off or the mode is not cluster-pool.
    sources: key to where its value came from, `default` where nothing set it.
    """

    ipam: str
    enable_ipv4: bool
    enable_ipv6: bool
    cluster_pool_ipv4_cidr: tuple[Cidr, ...]
    cluster_pool_ipv4_mask_size: int
    cluster_pool_ipv6_cidr: tuple[Cidr, ...]
    cluster_pool_ipv6_mask_size: int
    cluster_pool_reserved: tuple[Cidr, ...]
    cluster_pool_quarantine: float
    cluster_pool_max_blocks_per_node: int
    auto_create_cilium_pod_ip_pools: tuple[PoolSpec, ...]
    ipam_default_ip_pool: str
    ipam_multi_pool_pre_allocation: Mapping[str, int]
    ipam_cilium_node_update_rate: float
    only_masquerade_default_pool: bool
    enable_cluster_pool_to_multi_pool_migration: bool
    multi_pool_migration_workers: int
    service_cidr: tuple[Cidr, ...]
    pod_cidr_grace: float
    cluster_name: str
    store: str
    leader_election_lease_duration: float
    leader_election_renew_deadline: float
    leader_election_retry_period: float
    lease_name: str
    k8s_namespace: str
    k8s_client_qps: float
    k8s_client_burst: int
    nodes_gc_interval: float
    operator_api_serve_addr: Endpoint
    operator_prometheus_serve_addr: Endpoint
    enable_metrics: bool
    skip_crd_creation: bool
    log_format: str
    log_level: str
    sources: Mapping[str, str]

    @property
    def families(self) -> tuple[Family, ...]:
        """The enabled families, IPv4 first."""
        ipv4: tuple[Family, ...] = ("ipv4",) if self.enable_ipv4 else ()
        return (*ipv4, "ipv6") if self.enable_ipv6 else ipv4

    def pool_cidrs(self, family: Family) -> tuple[Cidr, ...]:
        return self.cluster_pool_ipv4_cidr if family == "ipv4" else self.cluster_pool_ipv6_cidr

    def pool_mask(self, family: Family) -> int:
        return self.cluster_pool_ipv4_mask_size if family == "ipv4" else self.cluster_pool_ipv6_mask_size

    @property
    def request_timeout_s(self) -> float:
        """The longest a leader's request may take, so that it has ended when another replica may lead."""
        return self.leader_election_lease_duration - self.leader_election_renew_deadline
