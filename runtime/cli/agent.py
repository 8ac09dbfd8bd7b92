"""`omnipam agent`: gives this node's pods their addresses."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omnipam.core.cidr import Cidr, parse_address
from omnipam.core.errors import Denied, Invalid, NotFound
from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import Facts

from ..agent import instance
from ..config import add_arguments, load
from ..config.config import Config
from ..config.values import Endpoint, read_duration, read_endpoint
from ..connect import PATIENCE_S, kubernetes_api, user_agent, version

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from ..agent.agent import Agent, Settings
    from ..agent.side import NodeSide
    from ..kube.rest import Api

BLOCKS = ("cluster-pool", "kubernetes", "multi-pool")
CLOUDS = ("alibabacloud", "azure", "eni")
MODES = (*BLOCKS, *CLOUDS)
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
    instance.add_arguments(parser)
    parser.add_argument(
        "--cloud-form",
        choices=("auto", "addresses", "cidrs"),
        default="auto",
        help="in clouds: single addresses that the operator gives, or all that the interfaces have (%(default)s:"
        " as the node's object shows)",
    )
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

    loaded = load(args, os.environ, modes=_Modes())
    config = loaded.config
    _check_cloud(args, config)
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
        pre_allocate={} if config.ipam in BLOCKS[:2] else dict(config.ipam_multi_pool_pre_allocation),
        only_masquerade_default=config.ipam_default_ip_pool
        if config.only_masquerade_default_pool and config.ipam == "multi-pool"
        else "",
        allocation_wait_s=_seconds(args, "allocation_wait"),
        cool_down_s=_seconds(args, "cool_down"),
        leak_grace_s=_seconds(args, "leak_grace"),
        update_s=config.ipam_cilium_node_update_rate,
        sticky=args.sticky,
        metrics=_endpoint(args.metrics_addr),
        boot_id=Path(args.boot_id),
        cloud_form=args.cloud_form,
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
        patience_s=PATIENCE_S,
    ) as api:
        side: NodeSide = (
            _cloud_side(args, api, settings, logger())
            if settings.cloud
            else KubeSide(api, settings.node, mode=settings.mode, default_pool=settings.default_pool)
        )
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


def _cloud_side(
    args: argparse.Namespace, api: Api, settings: Settings, log: FilteringBoundLogger
) -> NodeSide:
    from omnipam.providers.published import form_of

    from ..agent.cloud_side import CloudSide
    from ..agent.kube_object import Machine
    from ..clock import SteadyClock

    conf = Path(args.read_cni_conf) if args.read_cni_conf else None
    wishes = instance.wishes_of(settings.mode, instance.texts_of(args), conf, log)
    form = form_of(settings.mode)
    if form is None:
        raise Invalid(f"ipam: {settings.mode} has no interfaces")

    async def ask(machine: Machine) -> instance.Instance:
        return await instance.instance_of(
            settings.mode,
            environ=os.environ,
            log=log,
            clock=SteadyClock().now,
            sleep=asyncio.sleep,
            provider_id=(machine.spec.provider_id if machine.spec else None) or "",
            labels=machine.metadata.labels,
            wishes=wishes,
        )

    return CloudSide(api, settings.node, form=form, instance=ask, log=log)


async def _sqlite(args: argparse.Namespace, config: Config, settings: Settings) -> None:
    from ..agent.agent import Agent
    from ..agent.sqlite_side import SqliteSide
    from ..clock import SteadyClock
    from ..logs import logger

    if settings.mode == "kubernetes":
        raise Invalid("store: mode kubernetes takes pod CIDRs from Kubernetes Nodes; use --store kubernetes")
    node = _node_agent(settings)
    side = SqliteSide(
        config.store,
        settings.node,
        pooled=settings.pooled,
        facts=Facts(_node_ips(args.node_ip)),
        log=logger(),
        pools=node.pools_seen,
        held=node.listed,
    )
    await side.open()
    try:
        agent = Agent(
            settings, node, side, None, clock=SteadyClock().now, log=logger(), impaired=lambda: side.impaired
        )
        await _until_signal(agent)
    finally:
        await side.close()


def _node_agent(settings: Settings) -> NodeAgent:
    return NodeAgent(
        families=settings.families,
        pooled=settings.pooled,
        gateway=not settings.cloud,
        cool_down_s=settings.cool_down_s,
        default_pool=settings.default_pool,
        pre_allocate=settings.pre_allocate,
        rounded=not settings.cloud,
    )


class _Modes:
    """What an agent serves."""

    def has(self, mode: str, store: str) -> bool:
        return mode in MODES

    def advice(self, store: str) -> str:
        return f"the agent serves {', '.join(MODES)}"


def _check_cloud(args: argparse.Namespace, config: Config) -> None:
    """Raises Invalid for what cannot be in a cloud, or only there."""
    if config.ipam not in CLOUDS:
        if args.cloud_form != "auto":
            raise Invalid(f"--cloud-form: mode {config.ipam} is of no cloud: leave it out")
        return
    if config.store != "kubernetes":
        raise Invalid(f"store: mode {config.ipam} needs its CiliumNode so far: use --store kubernetes")
    if config.ipam == "alibabacloud" and args.cloud_form == "cidrs":
        raise Invalid("--cloud-form: mode alibabacloud has the form addresses only: leave it out")


async def _until_signal(agent: Agent) -> None:
    loop = asyncio.get_running_loop()
    stop: Callable[[], None] = agent.stop
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await agent.run()


def _node_ips(texts: Sequence[str]) -> tuple[Cidr, ...]:
    try:
        return tuple(map(parse_address, texts))
    except Invalid as error:
        raise Invalid(f"--node-ip: {error}; write it as in 192.0.2.1 or 2001:db8::1") from None


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
