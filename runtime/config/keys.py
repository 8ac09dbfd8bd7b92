"""The table of keys: every one with its spelling, default, unit, meaning, whether a reload applies it, and whose it is.

Flags (`--KEY VALUE`), variables (`OMNIPAM_KEY`, `CILIUM_KEY`) and the documentation are made from it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from omnipam.providers.registry import OURS

from . import poolspecs, values

MODES = ("cluster-pool", "kubernetes", "multi-pool", "eni", "azure", "alibabacloud")
"""Cilium's; what is served here `modes` knows."""


class Kind(msgspec.Struct, frozen=True):
    """How a value is written. read: raises Invalid with the reason; advice: what to do then."""

    metavar: str
    read: Callable[[str], object]
    advice: str
    many: bool = False  # a flag given again adds to it


BOOL = Kind("BOOL", values.read_bool, "write true or false")
INT = Kind("N", values.read_int, f"write a whole number, at most {values.LARGEST}")
FLOAT = Kind("N", values.read_float, "write a number, as in 20 or 0.5")
DURATION = Kind("DURATION", values.read_duration, "write it as in 60s, 5m, 1m30s or 500ms")
CIDRS = Kind(
    "CIDR,…", values.read_cidrs, "write CIDRs separated by commas, as in 10.0.0.0/16,10.8.0.0/16", many=True
)
RANGES = Kind(
    "RANGE,…",
    values.read_ranges,
    "write CIDRs or addresses separated by commas, as in 10.0.0.0/28,10.0.1.7",
    many=True,
)
POOLS = Kind(
    "NAME=SPEC,…",
    poolspecs.read_pool_specs,
    "write it as in default=ipv4-cidrs:10.10.0.0/16;ipv4-mask-size:24",
    many=True,
)
COUNTS = Kind("NAME=N,…", values.read_counts, "write it as in default=8,blue=16", many=True)
ENDPOINT = Kind("HOST:PORT", values.read_endpoint, "write host and port, as in localhost:9234 or :9963")
NAME = Kind("NAME", values.read_kubernetes_name, "write the object's name")
NAMESPACE = Kind("NAME", values.read_namespace, "write the namespace's name")
STORE = Kind("STORE", values.read_store, "write kubernetes, or sqlite:///path.db")
TEXT = Kind("TEXT", values.read_text, "write plain text")


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key.

    default: as a person would write it; None where what applies hangs on other keys or the machine, as `unset` tells.
    unit: unit or values, for the table.
    live: a reload applies it to a running operator; all others wait for a restart.
    ours: why the key exists though Cilium has none; empty for Cilium's own.
    optional: an empty value is a value.
    least: the smallest number or duration (in seconds) allowed.
    """

    name: str
    kind: Kind
    default: str | None
    unit: str
    meaning: str
    live: bool = False
    ours: str = ""
    unset: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    least: float | None = None

    @property
    def field(self) -> str:
        """Its field in Config, and its attribute among parsed arguments."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Its environment variable, without the prefix."""
        return self.name.replace("-", "_").upper()


KEYS: tuple[Key, ...] = (
    Key(
        name="ipam", kind=TEXT, default="cluster-pool", unit=", ".join(OURS),
        meaning="IPAM mode; the same as the agents'",
    ),
    Key(name="enable-ipv4", kind=BOOL, default="true", unit="true, false", meaning="serve IPv4"),
    Key(name="enable-ipv6", kind=BOOL, default="false", unit="true, false", meaning="serve IPv6"),
    Key(
        name="cluster-pool-ipv4-cidr", kind=CIDRS, default=None, unset="10.0.0.0/8", unit="CIDRs", live=True,
        meaning="IPv4 pool, cluster-pool mode; set but empty is refused, set while IPv4 is off too",
    ),
    Key(
        name="cluster-pool-ipv4-mask-size", kind=INT, default="24", unit="prefix length, bits", live=True,
        meaning="IPv4 block of a node; a change is for new blocks only",
    ),
    Key(
        name="cluster-pool-ipv6-cidr", kind=CIDRS, default=None, unset="fd00::/104", unit="CIDRs", live=True,
        meaning="IPv6 pool, cluster-pool mode; set but empty is refused, set while IPv6 is off too",
    ),
    Key(
        name="cluster-pool-ipv6-mask-size", kind=INT, default=None, unit="prefix length, bits", live=True,
        unset="120; 112 where cluster-pool-ipv6-cidr is set",
        meaning="IPv6 block of a node; a change is for new blocks only",
    ),
    Key(
        name="cluster-pool-reserved", kind=RANGES, default="", unit="CIDRs or addresses", live=True, optional=True,
        meaning="never granted: a block that touches one is passed over",
        ours="parts of a pool may belong to others",
    ),
    Key(
        name="cluster-pool-quarantine", kind=DURATION, default="0s", unit="duration", live=True,
        meaning="time before a returned block is granted again",
        ours="peers may still send to the pods of a node that is gone",
    ),
    Key(
        name="cluster-pool-max-blocks-per-node", kind=INT, default="1", unit="blocks a family", live=True, least=1,
        meaning="more for a node whose `status.ipam.pod-cidrs` says `depleted` for all it has of a family; "
        "only `omnipam agent` reports and uses it",
        ours="Cilium's nodes get one block for life",
    ),
    Key(
        name="auto-create-cilium-pod-ip-pools", kind=POOLS, default="", unit="NAME=SPEC,…", optional=True,
        meaning="multi-pool mode: pools that are made at start where they are absent; one that is there stays as it is. "
        "SPEC: `ipv4-cidrs:CIDR,…;ipv4-mask-size:N`, the same for ipv6, `allow-first-ip:true`, `allow-last-ip:true`",
    ),
    Key(
        name="ipam-default-ip-pool", kind=NAME, default="default", unit="pool name",
        meaning="multi-pool mode: pool of pods that name none, and of what is migrated",
    ),
    Key(
        name="ipam-multi-pool-pre-allocation", kind=COUNTS, default="default=8", unit="pool=addresses", optional=True,
        meaning="multi-pool mode, agent: addresses of each family to have ready, by pool",
    ),
    Key(
        name="ipam-cilium-node-update-rate", kind=DURATION, default="15s", unit="duration", least=0.001,
        meaning="agent: least time between two writes of its node's object while no pod waits",
    ),
    Key(
        name="only-masquerade-default-pool", kind=BOOL, default="false", unit="true, false",
        meaning="multi-pool mode, agent: addresses of other pools are marked `skip-masquerade`",
    ),
    Key(
        name="enable-cluster-pool-to-multi-pool-migration", kind=BOOL, default="false", unit="true, false",
        meaning="multi-pool mode: `spec.ipam.podCIDRs` become blocks of the default pool; unset they are only kept from others",
    ),
    Key(
        name="multi-pool-migration-workers", kind=INT, default="16", unit="nodes at once",
        meaning="does nothing here: nodes that are migrated are written like all others, 32 at once at most",
    ),
    Key(
        name="service-cidr", kind=CIDRS, default="", unit="CIDRs", optional=True,
        meaning="the cluster's service range, for the warning when a pool overlaps it",
        ours="no API says what it is",
    ),
    Key(
        name="pod-cidr-grace", kind=DURATION, default="60s", unit="duration",
        meaning="kubernetes mode: age at which a Node without podCIDR is reported",
        ours="Cilium says nothing about such a Node",
    ),
    Key(
        name="cluster-name", kind=TEXT, default="default", unit="text", meaning="this cluster's name, in tags and messages",
    ),
    Key(
        name="store", kind=STORE, default=None, unset="sqlite:///$XDG_STATE_HOME/omnipam/omnipam.db",
        unit="kubernetes, sqlite:///PATH", meaning="where nodes and grants live; a fourth slash begins an absolute path",
        ours="runs without Kubernetes too",
    ),
    Key(
        name="leader-election-lease-duration", kind=DURATION, default="15s", unit="whole seconds", least=1,
        meaning="an unrenewed Lease is taken by another replica after this",
    ),
    Key(
        name="leader-election-renew-deadline", kind=DURATION, default="10s", unit="duration, < lease-duration", least=0.001,
        meaning="the leader gives up after this long without a renewal; what is left of the Lease is the longest "
        "a request may take",
    ),
    Key(
        name="leader-election-retry-period", kind=DURATION, default="2s", unit="duration, × 1.2 < renew-deadline",
        least=0.001, meaning="between two tries to take or renew the Lease",
    ),
    Key(
        name="lease-name", kind=NAME, default="cilium-operator-resource-lock", unit="object name",
        meaning="the Lease that decides who leads; Cilium's by default, so that two allocators never lead at once",
        ours="side by side with Cilium's operator, each needs a Lease of its own",
    ),
    Key(
        name="k8s-namespace", kind=NAMESPACE, default="", unset="the pod's own, else kube-system", unit="namespace", optional=True,
        meaning="where the Lease is, and the Events and state that have no namespace of their own",
    ),
    Key(
        name="k8s-client-qps", kind=FLOAT, default="0", unit="requests/s, 0: no limit", least=0,
        meaning="most requests to the API server; it has a limit of its own (priority and fairness)",
    ),
    Key(
        name="k8s-client-burst", kind=INT, default="0", unit="requests, 0: as k8s-client-qps", least=0,
        meaning="requests that may go at once under k8s-client-qps",
    ),
    Key(
        name="nodes-gc-interval", kind=DURATION, default="5m", unit="duration, 0: off",
        meaning="CiliumNodes without a Node are collected this often",
    ),
    Key(
        name="operator-api-serve-addr", kind=ENDPOINT, default="localhost:9234", unit="host:port",
        meaning="serves /healthz and /readyz",
    ),
    Key(
        name="operator-prometheus-serve-addr", kind=ENDPOINT, default=":9963", unit="host:port",
        meaning="serves /metrics, with enable-metrics",
    ),
    Key(name="enable-metrics", kind=BOOL, default="true", unit="true, false", meaning="serve metrics"),
    Key(
        name="skip-crd-creation", kind=BOOL, default="false", unit="true, false",
        meaning="leave the resource definitions alone",
    ),
    Key(
        name="log-format", kind=TEXT, default="auto", choices=("auto", "console", "json"), unit="auto, console, json",
        meaning="auto: console on a terminal, JSON elsewhere",
        ours="Cilium's log-opt speaks its own library's words",
    ),
    Key(
        name="log-level", kind=TEXT, default="info", choices=("debug", "info", "warning", "error"),
        unit="debug, info, warning, error", meaning="the least severe line that is logged",
        ours="Cilium's log-opt speaks its own library's words",
    ),
)  # fmt: skip

BY_NAME: dict[str, Key] = {key.name: key for key in KEYS}
