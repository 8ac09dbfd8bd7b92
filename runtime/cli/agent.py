"""`omnipam agent`: gives this node's pods their addresses."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omnipam.core.cidr import Cidr
from omnipam.core.errors import Denied, Invalid, NotFound
from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import Facts

from ..config import add_arguments, load
from ..config.config import Config
from ..config.values import Endpoint, read_duration, read_endpoint
from ..connect import kubernetes_api, user_agent, version

if TYPE_CHECKING:
    from ..agent.agent import Agent, Settings

MODES = ("cluster-pool", "kubernetes", "multi-pool")
SOCKET, STATE = "/run/omnipam/agent.sock", "/var/lib/omnipam"


def add(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    node = os.environ.get("K8S_NODE_NAME") or os.environ.get("NODE_NAME") or socket.gethostname()
    parser.add_argument("--node-name", default=node, metavar="NAME", help="this node (%(default)s)")
    parser.add_argument(
        "--node-ip", action="append", default=[], metavar="ADDRESS", help="on SQLite: its own"
    )
    parser.add_argument(
        "--socket", default=SOCKET, metavar="PATH", help="what plugins speak to (%(default)s)"
    )
    parser.add_argument("--socket-group", default="", metavar="GROUP", help="who may, beside root")
    parser.add_argument("--state-dir", default=STATE, metavar="DIR", help="reservations (%(default)s)")
    parser.add_argument("--sticky", action="store_true", help="pods of StatefulSets keep their addresses")
    for flag, default, text in (
        ("--allocation-wait", "10s", "longest that a pod waits for an address"),
        ("--cool-down", "30s", "time before a released address is given again, while others are free"),
        ("--leak-grace", "15m", "how long a pod must be gone before its address is taken; 0s: never"),
    ):
        parser.add_argument(flag, default=default, metavar="DURATION", help=f"{text} (%(default)s)")
    parser.add_argument(
        "--metrics-addr", default="", metavar="HOST:PORT", help="serves /metrics; nothing listens without it"
    )
    parser.add_argument("--boot-id", default="/proc/sys/kernel/random/boot_id", help=argparse.SUPPRESS)
    parser.add_argument("--context", help="context of the kubeconfig")
    add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal. 0: stopped; 2: a person must act. Raises OmnipamError, too."""
    try:
        return asyncio.run(_run(args))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "omnipam":
            raise
        raise Invalid(f"omnipam agent needs the package {error.name}; install omnipam[kubernetes]") from None
    except (Denied, NotFound) as error:  # a right or an object is missing: trying again would not help
        print(f"omnipam: {error}", file=sys.stderr)
        return 2


async def _run(args: argparse.Namespace) -> int:
    from ..agent.agent import Settings
    from ..logs import configure, logger

    loaded = load(args, os.environ)
    config = loaded.config
    if config.ipam not in MODES:
        raise Invalid(f"ipam: the agent serves {', '.join(MODES)}, and not {config.ipam} yet")
    configure(config.log_format, config.log_level)
    log = logger()
    for warning in loaded.warnings:
        log.warning(warning)
    settings = Settings(
        node=args.node_name,
        mode=config.ipam,
        families=config.families,
        socket=Path(args.socket),
        state=Path(args.state_dir),
        group=args.socket_group,
        default_pool=config.ipam_default_ip_pool if config.ipam == "multi-pool" else "default",
        pre_allocate=dict(config.ipam_multi_pool_pre_allocation) if config.ipam == "multi-pool" else {},
        only_masquerade_default=config.ipam_default_ip_pool if config.only_masquerade_default_pool else "",
        allocation_wait_s=_seconds(args, "allocation_wait"),
        cool_down_s=_seconds(args, "cool_down"),
        leak_grace_s=_seconds(args, "leak_grace"),
        update_s=config.ipam_cilium_node_update_rate,
        sticky=args.sticky,
        metrics=_endpoint(args.metrics_addr),
        boot_id=Path(args.boot_id),
    )
    log.info("agent", version=version(), mode=config.ipam, store=config.store, node=settings.node)
    await (_kubernetes if config.store == "kubernetes" else _sqlite)(args, config, settings)
    return 0


async def _kubernetes(args: argparse.Namespace, config: Config, settings: Settings) -> None:
    from ..agent.agent import Agent
    from ..agent.kube_pods import KubePods
    from ..agent.kube_side import KubeSide
    from ..clock import SteadyClock
    from ..logs import logger

    node = _node_agent(settings)
    async with kubernetes_api(
        context=args.context,
        user_agent=user_agent("agent"),
        qps=config.k8s_client_qps,
        burst=config.k8s_client_burst,
    ) as api:
        side = KubeSide(api, settings.node, mode=settings.mode, default_pool=settings.default_pool)

        pods = KubePods(
            api,
            settings.node,
            pooled=settings.pooled,
            default_pool=settings.default_pool,
            sticky=settings.sticky,
            known=node.pools_seen,
            log=logger(),
        )
        await _until_signal(Agent(settings, node, side, pods, clock=SteadyClock().now, log=logger()))


async def _sqlite(args: argparse.Namespace, config: Config, settings: Settings) -> None:
    from ..agent.agent import Agent
    from ..agent.sqlite_side import SqliteSide
    from ..clock import SteadyClock
    from ..kube.ciliumnode import addresses_of
    from ..logs import logger

    if settings.mode == "kubernetes":
        raise Invalid("store: mode kubernetes takes pod CIDRs from Kubernetes Nodes; use --store kubernetes")
    node = _node_agent(settings)
    addresses: tuple[Cidr, ...] = addresses_of(args.node_ip)

    side = SqliteSide(
        config.store, settings.node, pooled=settings.pooled, facts=Facts(addresses), pools=node.pools_seen
    )
    await side.open()
    try:
        await _until_signal(Agent(settings, node, side, None, clock=SteadyClock().now, log=logger()))
    finally:
        await side.close()


def _node_agent(settings: Settings) -> NodeAgent:
    return NodeAgent(
        families=settings.families,
        pooled=settings.pooled,
        cool_down_s=settings.cool_down_s,
        default_pool=settings.default_pool,
        pre_allocate=settings.pre_allocate,
    )


async def _until_signal(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    stop: Callable[[], None] = agent.stop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await agent.run()


def _endpoint(text: str) -> Endpoint | None:
    try:
        return read_endpoint(text) if text else None
    except Invalid as error:
        raise Invalid(f"--metrics-addr: {error}; write it as in localhost:9962 or :9962") from None


def _seconds(args: argparse.Namespace, name: str) -> float:
    try:
        return float(read_duration(getattr(args, name)))
    except Invalid as error:
        raise Invalid(f"--{name.replace('_', '-')}: {error}; write it as in 10s or 5m") from None
