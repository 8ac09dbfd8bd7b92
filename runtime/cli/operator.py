"""`omnipam operator`: watches the store and grants."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from omnipam.core.errors import OmnipamError, Retryable
from omnipam.core.values import Problem

from ..config import Loaded, add_arguments, load, store_of
from ..config.config import Config
from ..connect import connect, identity, kubernetes_api, user_agent, version
from ..store import Store
from ..together import Together

if TYPE_CHECKING:
    import structlog

    from ..kube.rest import Api

CONFIGMAP = "cilium-config"

DEFAULT_LEASE = "cilium-operator-resource-lock"
IN_ITS_PLACE = (
    "this Lease is that of Cilium's operator: while we lead, it stands still with all else that it does (node taints, "
    "NetworkUnavailable, garbage collection of identities and endpoints, LB-IPAM, ingress, Gateway API); to run side by side, "
    "give Cilium's operator --ipam=kubernetes and us --lease-name omnipam-operator"
)


def add(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("--namespace", default="kube-system", help="where ConfigMap cilium-config lies")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal. 0: stopped; 1: the lease was lost. Raises OmnipamError for what a person must mend."""
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    from omnipam.providers.registry import find

    from ..logs import configure, logger
    from ..operator.operator import Operator
    from ..operator.reload import Reloader

    async with _configmap(args) as source:
        read = partial(_load, args, await source.first())
        loaded = read(None)
        config = loaded.config
        configure(config.log_format, config.log_level)
        log = logger()
        for warning in loaded.warnings:
            log.warning(warning)
        provider = find(config.ipam)
        me = identity()
        async with connect(
            config, provider, context=args.context, author=me, user_agent=user_agent("operator")
        ) as connected:
            operator = Operator(config, provider, connected, identity=me, log=log)
            reloader = Reloader(
                loaded,
                read,
                adopt=operator.reload,
                refused=partial(_refused, connected.store, log),
                metrics=operator.metrics,
                log=log,
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.ask)
            _greet(config, log)
            async with Together() as beside:
                beside.start(reloader.run())
                beside.start(source.follow(reloader.configmap))
                end = await operator.run()
    return end.value


def _load(
    args: argparse.Namespace, first: Mapping[str, str] | None, newest: Mapping[str, str] | None
) -> Loaded:
    configmap = newest if newest is not None else first
    return load(args, os.environ, configmap, configmap_name=f"{args.namespace}/{CONFIGMAP}")


async def _refused(store: Store, log: structlog.typing.FilteringBoundLogger, why: str) -> None:
    """Shows a refused reload where a person looks, beside the log."""
    try:
        await store.report(None, Problem("ConfigurationRefused", why, "the running one stays: correct it"))
    except OmnipamError as error:
        log.debug("not reported", why=str(error))


def _greet(config: Config, log: structlog.typing.FilteringBoundLogger) -> None:
    """What it is doing, and on a terminal with the embedded store, what to type next."""
    log.info("operator", version=version(), mode=config.ipam, store=config.store)
    if config.store == "kubernetes":
        if config.lease_name == DEFAULT_LEASE:
            log.warning(IN_ITS_PLACE)
        return
    given = "" if config.sources["store"] == "default" else f" --store {config.store}"
    pools = ", ".join(
        f"{cidr} in /{config.pool_mask(family)}"
        for family in config.families
        for cidr in config.pool_cidrs(family)
    )
    print(
        f"omnipam operator: {config.ipam} on {config.store}\n"
        f"  every node gets a block of {pools}; Ctrl-C stops it\n"
        f"  in a second terminal:\n"
        f"    {_command()} node add node-1{given}\n"
        f"    {_command()} node list{given}",
        file=sys.stderr,
        flush=True,
    )


def _command() -> str:
    """How this very omnipam is typed in another terminal that stands in the same folder."""
    given = sys.argv[0]
    if os.path.basename(given) != "omnipam":
        return f"{sys.executable} -m omnipam.runtime.cli"
    found = shutil.which("omnipam")
    if found is not None and os.path.realpath(found) == os.path.realpath(given):
        return "omnipam"
    return os.path.relpath(given) if os.path.isabs(given) else given


class _ConfigMap:
    """ConfigMap cilium-config, where it is a source: on the Kubernetes store, unless a file or directory is named."""

    def __init__(self, namespace: str, api: Api | None) -> None:
        self._namespace, self._api = namespace, api

    async def first(self) -> Mapping[str, str] | None:
        """Its keys; None where it is no source. Waits while the API server is away."""
        if self._api is None:
            return None
        from ..kube import configmap

        delay = 0.5
        while True:
            try:
                return await configmap.read(self._api, self._namespace, CONFIGMAP)
            except Retryable as error:
                print(f"omnipam: {error}; trying on", file=sys.stderr, flush=True)
                await asyncio.sleep(delay)
                delay = min(15.0, delay * 2)

    async def follow(self, sink: Callable[[Mapping[str, str]], None]) -> None:
        """Tells every change."""
        if self._api is not None:
            from ..kube import configmap

            await configmap.follow(self._api, self._namespace, CONFIGMAP, sink)


@asynccontextmanager
async def _configmap(args: argparse.Namespace) -> AsyncIterator[_ConfigMap]:
    named = getattr(args, "config", None) or getattr(args, "config_dir", None)
    if named or store_of(args, os.environ) != "kubernetes":
        yield _ConfigMap(args.namespace, None)
        return
    async with kubernetes_api(context=args.context, user_agent=user_agent("operator")) as api:
        yield _ConfigMap(args.namespace, api)
