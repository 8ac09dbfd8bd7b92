"""What a command works on: the store that the configuration names, and the configuration that goes with it."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from ..config import InvalidConfig, Loaded, load, store_of
from ..config.modes import Served
from ..connect import NAMESPACE, SQLITE_LEASE, form_of, kubernetes_api, namespace_of, user_agent
from ..snapshot import Snapshot, of_sqlite
from .output import say

if TYPE_CHECKING:
    from ..kube.rest import Api
    from ..sqlite.store import SqliteStore

KUBERNETES = "kubernetes"
CONFIG_MAP = "cilium-config"
REQUEST_S = 10.0
NO_OPERATOR = "no operator is serving this store; start omnipam operator"
T = TypeVar("T")


def look(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> tuple[Loaded, Snapshot]:
    """The configuration and a picture of the store. An embedded store that is not there is empty, and not created.

    The mode is the argument MODE, else the key `ipam`, else what the operator recorded in the store.
    Raises InvalidConfig, Unavailable, Denied, Invalid.
    """
    if getattr(args, "mode", None):
        args.ipam = args.mode
    url = store_of(args, env)
    if url == KUBERNETES:
        return asyncio.run(_look_at_cluster(args, env))
    loaded = load(args, env, modes=Served())
    store = existing(url)
    if store is None:
        if not getattr(args, "makes_store", False):
            say(f"there is no {url} yet: omnipam operator and omnipam node add make it")
        snapshot = Snapshot(where=f"store {url}")
    else:
        with store:
            snapshot = of_sqlite(store, SQLITE_LEASE)
    if snapshot.mode and loaded.config.sources["ipam"] == "default":
        args.ipam = snapshot.mode
        loaded = load(args, env, modes=Served())
    _warn(loaded)
    return loaded, snapshot


def is_kubernetes(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> bool:
    """Whether the store is a cluster. Raises InvalidConfig."""
    return store_of(args, env) == KUBERNETES


def existing(url: str) -> SqliteStore | None:
    """The embedded store, opened; None where there is none yet."""
    from ..sqlite.location import is_there, path_of

    return writable(url) if is_there(path_of(url)) else None


def writable(url: str, author: str = "") -> SqliteStore:
    """The embedded store, opened, and created if need be. author: who writes, for its history."""
    from ..sqlite.store import SqliteStore

    return SqliteStore(url, author=author)


def on_cluster(args: argparse.Namespace, job: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
    """Runs a few requests against the cluster that the environment and `--context` name. Raises what the client raises."""

    async def run() -> T:
        async with connection(args) as api:
            return await job(api)

    return asyncio.run(run())


def connection(
    args: argparse.Namespace, env: Mapping[str, str] = os.environ
) -> AbstractAsyncContextManager[Api]:
    """A client of the cluster that the environment and `--context` name. Raises Invalid where nothing names one."""
    return kubernetes_api(
        environ=env, context=args.context, user_agent=user_agent(args.command), timeout_s=REQUEST_S
    )


async def _look_at_cluster(args: argparse.Namespace, env: Mapping[str, str]) -> tuple[Loaded, Snapshot]:
    from omnipam.providers.registry import find

    async with connection(args, env) as api:  # says so where what it needs is not installed
        from .. import cluster

        loaded = await configured(api, args, env)
        config = loaded.config
        provider = find(config.ipam)
        namespace = namespace_of(config, api.cluster)
        args.lease = f"{namespace}/{config.lease_name}"
        snapshot = await cluster.read(
            api,
            form=form_of(config, provider),
            reads_pools=provider.reads_pools,
            reads_machines=provider.reads_machines,
            namespace=namespace,
            lease=config.lease_name,
            audit=args.command == "check",
        )
    return loaded, snapshot


async def configured(api: Api, args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> Loaded:
    """The configuration on a cluster: ConfigMap cilium-config under the environment and flags, unless a file is given."""
    from ..kube import configmap

    named = (
        args.config
        or args.config_dir
        or any(
            env.get(prefix + name) for prefix in ("OMNIPAM_", "CILIUM_") for name in ("CONFIG", "CONFIG_DIR")
        )
    )
    name = f"{args.namespace}/{CONFIG_MAP}"
    keys = None if named else await configmap.read(api, args.namespace, CONFIG_MAP)
    try:
        loaded = load(args, env, keys, configmap_name=name, modes=Served())
    except InvalidConfig as error:
        if keys is None:
            raise
        kept = f"ConfigMap {name} is refused as a whole: an operator that runs keeps the configuration that it had until then"
        raise InvalidConfig(
            (*error.problems, f"{kept}; correct it, or override those keys by flags")
        ) from None
    if keys is None and not named and args.namespace != NAMESPACE:  # somebody said that it is there
        say(
            f"omnipam: ConfigMap {name} is not there: defaults, environment and flags alone (--namespace, --config)"
        )
    _warn(loaded)
    return loaded


def _warn(loaded: Loaded) -> None:
    for warning in loaded.warnings:
        say(f"omnipam: {warning}")
