"""`omnipam operator`: watches the store and grants."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from omnipam.core.errors import Denied, NotFound, OmnipamError, Retryable
from omnipam.core.values import Problem

from ..config import Loaded, add_arguments, load, store_of
from ..config.config import Config
from ..config.modes import Served
from ..connect import PATIENCE_S, Connected, connect, identity, kubernetes_api, user_agent, version
from ..store import Store
from ..together import Together
from . import streams
from .parser import namespace

if TYPE_CHECKING:
    import structlog

    from ..kube.rest import Api
    from ..operator.reload import Reloader

CONFIGMAP = "cilium-config"
RETRY_S = (0.5, 15.0)

NO_NAMESPACE = (
    " — make that namespace, or name another with --k8s-namespace: the Lease and our state lie in it"
)
DEFAULT_LEASE = "cilium-operator-resource-lock"
IN_ITS_PLACE = (
    "this Lease is that of Cilium's operator: while we lead, it stands still with all else that it does (node taints, "
    "NetworkUnavailable, garbage collection of identities and endpoints, LB-IPAM, ingress, Gateway API); to run side by side, "
    "give Cilium's operator --ipam=kubernetes and us --lease-name omnipam-operator"
)


def add(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument(
        "--namespace", type=namespace, default="kube-system", help="where ConfigMap cilium-config lies"
    )
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal. 0: stopped; 1: the lease was lost; 2: a person must act. Raises OmnipamError, too."""
    try:
        return asyncio.run(_run(args))
    except (Denied, NotFound) as error:  # a right or a namespace is missing: trying again would not help
        missing = NO_NAMESPACE if isinstance(error, NotFound) and 'namespaces "' in str(error) else ""
        streams.trouble(type(error)(f"{error}{missing}"))
        return 2


class _Signals:
    """What the signals do at the moment; from the first moment on, so that none of them ends us in its own way."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self.stop = stop
        self.reload: Callable[[], object] = lambda: None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self.stop())
        loop.add_signal_handler(signal.SIGHUP, lambda: self.reload())


async def _run(args: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    signals = _Signals(task.cancel)
    try:
        return await _serve(args, signals)
    except asyncio.CancelledError:  # asked to end before there was anything to be ended
        return 0


async def _serve(args: argparse.Namespace, signals: _Signals) -> int:
    from omnipam.providers.registry import find

    from ..logs import configure, logger
    from ..operator.operator import Operator
    from ..operator.reload import Reloader

    async with _configmap(args) as source:
        first = await source.first()
        read = partial(_load, args, first)
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
            connected = _greeting(connected, config)
            operator = Operator(config, provider, connected, identity=me, log=log)
            reloader = Reloader(
                loaded,
                read,
                fetch=source.read,
                adopt=operator.reload,
                refused=partial(_refused, connected.store, log),
                metrics=operator.metrics,
                log=log,
            )
            signals.stop, signals.reload = operator.stop, reloader.ask
            log.info("operator", version=version(), mode=config.ipam, store=config.store)
            if config.store == "kubernetes" and config.lease_name == DEFAULT_LEASE:
                log.warning(IN_ITS_PLACE)
            if source.is_missing(first):
                log.warning(
                    "this ConfigMap is not there: defaults, environment and flags alone", name=source.name
                )
            async with Together() as beside:
                serving = beside.start(operator.run())
                beside.start(reloader.run())
                beside.start(_follow(source, reloader, log))
                end = await beside.until(serving)
    return end.value


async def _follow(source: _ConfigMap, reloader: Reloader, log: structlog.typing.FilteringBoundLogger) -> None:
    """Without the right to watch it the operator serves on."""
    try:
        await source.follow(reloader.configmap)
    except OmnipamError as error:
        log.warning("the ConfigMap is not followed: SIGHUP reads it again", name=source.name, why=str(error))


def _load(
    args: argparse.Namespace, first: Mapping[str, str] | None, newest: Mapping[str, str] | None
) -> Loaded:
    configmap = newest if newest is not None else first
    name = f"{args.namespace}/{CONFIGMAP}"
    return load(args, os.environ, configmap, configmap_name=name, modes=Served(strict=True))


async def _refused(store: Store, log: structlog.typing.FilteringBoundLogger, why: str) -> None:
    """Shows a refused reload where a person looks, beside the log."""
    try:
        await store.report(None, Problem("ConfigurationRefused", why, "the running one stays: correct it"))
    except OmnipamError as error:
        log.debug("not reported", why=str(error))


def _greeting(connected: Connected, config: Config) -> Connected:
    """The same, which greets once the store is open: the operator opens its ports before. Among lines of JSON it does not."""
    for_people = config.log_format == "console" or (config.log_format == "auto" and sys.stderr.isatty())
    if config.store == "kubernetes" or not for_people:
        return connected
    greeted = False

    async def open_and_greet() -> None:
        nonlocal greeted
        await connected.open()
        if not greeted:
            greeted = True
            _greet(config)

    return replace(connected, open=open_and_greet)


def _greet(config: Config) -> None:
    """What it is doing, and what to type next."""
    given = "" if config.sources["store"] == "default" else f" --store {shlex.quote(config.store)}"
    if config.ipam == "multi-pool":
        does = "every node gets blocks of the pools that it asks"
        first = [
            "pool add mars --ipv4-cidr 10.20.0.0/16 --ipv4-mask-size 28",
            "node add node-1 --pool mars=36",
        ]
    else:
        pools = ", ".join(
            f"{cidr} in /{config.pool_mask(family)}"
            for family in config.families
            for cidr in config.pool_cidrs(family)
        )
        does, first = f"every node gets a block of {pools}", ["node add node-1"]
    streams.say(f"omnipam operator: {config.ipam} on {config.store}")
    streams.say(f"  {does}; Ctrl-C stops it")
    streams.say("  in a second terminal:")
    for words in (*first, "node list"):
        streams.say(f"    {_command()} {words}{given}")


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
        self.name = f"{namespace}/{CONFIGMAP}"

    async def first(self) -> Mapping[str, str] | None:
        """Its keys; None where it is no source, or not there. Waits while the API server is away, and says so once."""
        delay, longest = RETRY_S
        said = False
        while True:
            try:
                return await self.read()
            except Retryable as error:
                if not said:
                    said = True
                    streams.say(f"omnipam: {error}; trying on")
                await asyncio.sleep(delay)
                delay = min(longest, delay * 2)

    async def read(self) -> Mapping[str, str] | None:
        """Its keys now."""
        if self._api is None:
            return None
        from ..kube import configmap

        return await configmap.read(self._api, self._namespace, CONFIGMAP)

    def is_missing(self, keys: Mapping[str, str] | None) -> bool:
        """Whether it is a source, and was not there."""
        return self._api is not None and keys is None

    async def follow(self, sink: Callable[[Mapping[str, str]], None]) -> None:
        """Tells every change."""
        if self._api is not None:
            from ..kube import configmap

            await configmap.follow(self._api, self._namespace, CONFIGMAP, sink)


@asynccontextmanager
async def _configmap(args: argparse.Namespace) -> AsyncIterator[_ConfigMap]:
    variables = [prefix + name for prefix in ("OMNIPAM_", "CILIUM_") for name in ("CONFIG", "CONFIG_DIR")]
    named = args.config or args.config_dir or any(os.environ.get(name) for name in variables)
    if named or store_of(args, os.environ) != "kubernetes":
        yield _ConfigMap(args.namespace, None)
        return
    async with kubernetes_api(
        context=args.context, user_agent=user_agent("operator"), patience_s=PATIENCE_S
    ) as api:
        yield _ConfigMap(args.namespace, api)
