"""From a configuration to the store and lease that it names: opened by the caller, closed with the context."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import string
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnipam.core.allocator import Provider
from omnipam.core.errors import Invalid

from .config.config import Config
from .election import LeaseLock
from .garbage import Yard
from .store import Store

if TYPE_CHECKING:
    from .kube.ciliumnode import Form
    from .kube.config import Cluster
    from .kube.rest import Api

CONNECTIONS = 32
SQLITE_WRITES = 500
PATIENCE_S = 30.0
NAMESPACE = "kube-system"
SQLITE_LEASE = "omnipam-operator"


@dataclass(frozen=True, slots=True)
class Connected:
    """A store with what belongs to it.

    open: makes store and lock ready, and may be called again after an error. Raises Unavailable, Denied, Invalid.
    limit: writes under way at once. guard: installs the check that each write passes before it starts.
    yard: where node objects without a machine are collected; None where there are no machines.
    """

    store: Store
    lock: LeaseLock
    open: Callable[[], Coroutine[Any, Any, None]]
    limit: int
    guard: Callable[[Callable[[], None]], None]
    yard: Yard | None = None


def identity() -> str:
    """Who we are in a lease: the host's name and ten random letters, as Cilium's operator has it."""
    return f"{socket.gethostname()}-{''.join(random.choices(string.ascii_letters, k=10))}"


def version() -> str:
    """Which omnipam this is."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("omnipam")
    except PackageNotFoundError:
        return "unknown"


def user_agent(command: str) -> str:
    """How we name ourselves to an API server."""
    return f"omnipam/{version()} ({command})"


def namespace_of(config: Config, cluster: Cluster | None) -> str:
    """Where our Lease and ConfigMap lie: `k8s-namespace`, else the pod's own, else kube-system."""
    if config.k8s_namespace:
        return config.k8s_namespace
    return cluster.namespace if cluster is not None and cluster.in_pod else NAMESPACE


@asynccontextmanager
async def connect(
    config: Config,
    provider: Provider,
    *,
    environ: Mapping[str, str] = os.environ,
    context: str | None = None,
    author: str,
    user_agent: str,
) -> AsyncIterator[Connected]:
    """The store of `config.store`. Raises Invalid where it cannot even be tried."""
    if config.store == "kubernetes":
        async with kubernetes_api(
            environ=environ,
            context=context,
            user_agent=user_agent,
            timeout_s=config.request_timeout_s,
            qps=config.k8s_client_qps,
            burst=config.k8s_client_burst,
            patience_s=PATIENCE_S,
        ) as api:
            yield _kubernetes(config, provider, api)
    else:
        async with _sqlite(config, provider, author) as connected:
            yield connected


@asynccontextmanager
async def kubernetes_api(
    *,
    environ: Mapping[str, str] = os.environ,
    context: str | None = None,
    user_agent: str,
    timeout_s: float = 5.0,
    qps: float = 0.0,
    burst: int = 0,
    patience_s: float = 0.0,
) -> AsyncIterator[Api]:
    """A client of the cluster that kubeconfig or the pod's service account names. Raises Invalid where there is none.

    patience_s: what stays up passes PATIENCE_S, so that an API server which is only starting does not end it (`Api`).
    """
    try:
        from .kube.config import load
        from .kube.rest import Api
    except ModuleNotFoundError as error:
        raise Invalid(
            f"store: kubernetes needs the package {error.name}; install omnipam[kubernetes]"
        ) from None
    cluster = load(environ=environ, context=context)
    async with Api(
        cluster,
        user_agent=user_agent,
        connections=CONNECTIONS,
        timeout_s=timeout_s,
        qps=qps,
        burst=burst,
        patience_s=patience_s,
    ) as api:
        yield api


def _kubernetes(config: Config, provider: Provider, api: Api) -> Connected:
    from .kube.lease import KubeLease
    from .kube.store import KubernetesStore

    namespace = namespace_of(config, api.cluster)
    store = KubernetesStore(
        api,
        namespace=namespace,
        reads_machines=provider.reads_machines,
        create_definitions=not config.skip_crd_creation,
        form=form_of(config, provider),
        reads_pools=provider.reads_pools,
        clock=asyncio.get_running_loop().time,
        wall=time.time,
    )
    lock = KubeLease(api, namespace, config.lease_name, timeout_s=config.request_timeout_s)

    def guard(gate: Callable[[], None]) -> None:
        api.gate = gate

    return Connected(store, lock, store.open, CONNECTIONS, guard, store)


def form_of(config: Config, provider: Provider) -> Form:
    """How the mode uses a CiliumNode."""
    from .kube.ciliumnode import PodCidrs
    from .kube.poolednode import Pooled

    if not provider.reads_pools:
        return PodCidrs()
    return Pooled(
        default_pool=config.ipam_default_ip_pool,
        migrate=config.enable_cluster_pool_to_multi_pool_migration,
    )


@asynccontextmanager
async def _sqlite(config: Config, provider: Provider, author: str) -> AsyncIterator[Connected]:
    from .sqlite.adapter import AsyncSqliteStore
    from .sqlite.lease import SqliteLease

    if provider.reads_machines:
        raise Invalid(
            f"store: mode {provider.mode} takes pod CIDRs from Kubernetes Nodes; use --store kubernetes, or another mode"
        )
    store = AsyncSqliteStore(
        config.store, author=author, lease=SQLITE_LEASE, reads_pools=provider.reads_pools
    )
    lock = SqliteLease(config.store, SQLITE_LEASE, request_s=config.request_timeout_s)

    async def open_both() -> None:
        await store.open()
        await lock.open()

    def guard(gate: Callable[[], None]) -> None:
        store.gate = gate

    try:
        yield Connected(store, lock, open_both, SQLITE_WRITES, guard)
    finally:
        await lock.close()
        await store.close()
