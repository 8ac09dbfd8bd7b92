"""The values that every room passes on: nodes as seen, pools as configured, grants as published. Frozen, without behaviour."""

from __future__ import annotations

import msgspec

from .cidr import Cidr, Family
from .selector import Selector
from .uplink import Uplink

DEFAULT_POOL = "default"
POD_CIDRS = ""
"""The pool of blocks that an object shows in the form of another mode (`spec.ipam.podCIDRs`): occupied, never granted."""


class Problem(msgspec.Struct, frozen=True, gc=False):
    """One unmet demand of one node: shown in its status, as an event, a metric, and by `check`.

    reason: stable CamelCase word for programs, as Kubernetes events have it.
    text: what is wrong; Cilium's words verbatim where Cilium has them.
    hint: what to do next. Empty where nothing need be done.
    """

    reason: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.text} — {self.hint}" if self.hint else self.text


class Finding(msgspec.Struct, frozen=True, order=True):
    """Something a person should know that is no single node's unmet demand, or that explains one.

    objects: what it is about, as `CiliumNode/a`, `CIDR/10.0.0.0/24`; sorted, so that the same finding compares equal.
    """

    reason: str
    objects: tuple[str, ...]
    text: str
    hint: str = ""
    severity: str = "warning"

    def __str__(self) -> str:
        return f"{self.text} — {self.hint}" if self.hint else self.text


class Block(msgspec.Struct, frozen=True, gc=False):
    """A node's share of a pool. Whether its first and last address may be used is the pool's choice."""

    pool: str
    cidr: Cidr
    first_usable: bool = False
    last_usable: bool = False


class Facts(msgspec.Struct, frozen=True):
    """What is known of the machine, and is not ours to decide.

    addresses: the node's own addresses, each a /32 or /128.
    pod_cidrs: what the Kubernetes Node says (`spec.podCIDRs`, `podCIDR`, or the annotations); only kubernetes mode reads it.
    """

    addresses: tuple[Cidr, ...] = ()
    pod_cidrs: tuple[Cidr, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    cordoned: bool = False
    terminating: bool = False


class Agent(msgspec.Struct, frozen=True):
    """The agent's half of the node object; never written by us.

    depleted: blocks that it says are full (`status.ipam.pod-cidrs`, `depleted`).
    released: blocks that it gives up (`released`).
    """

    depleted: tuple[Cidr, ...] = ()
    released: tuple[Cidr, ...] = ()


class Demand(msgspec.Struct, frozen=True, gc=False):
    """Addresses of one family that the node's agent needs from a pool, those in use included."""

    pool: str
    family: Family
    needed: int


class Held(msgspec.Struct, frozen=True):
    """What the node object says that we gave: our half, as last seen. `error` is the status text, empty if none.

    outdated: it says so in a form of old: it must be written anew, even if it says the same.
    opaque: what the store must put back when it writes the blocks, since only it knows what that is; handed back unread.
    """

    blocks: tuple[Block, ...] = ()
    error: str = ""
    outdated: bool = False
    opaque: bytes = b""


NO_FACTS = Facts()
NO_AGENT = Agent()
NOTHING_HELD = Held()


class Node(msgspec.Struct, frozen=True):
    """One node as the store has it, the same for every mode.

    created: seconds since the epoch; the older of two nodes keeps what both claim.
    version: the store's precondition for a write, opaque, compared for equality only.
    present: False where the machine is known but its own object (CiliumNode, row) is missing: nothing can be published,
        and what it holds stays its own, since its pods still run.
    ignored: opted out (`ipam.cilium.io/ignore`): what it shows is occupied, and nothing of it is ever written.
    unreadable: parts of its object that could not be read: it gets nothing new until they can be.
    demand: what its agent asks for, where the mode lives on that; each pool and family once, by pool, IPv4 first.
    default_pool: the pool of its pods that name none, where it has one of its own.
    limits: pools with the most blocks of a family that it may have of them.
    uplinks: its interfaces, in modes whose addresses belong to interfaces.
    used: the addresses that its agent says are in use, sorted; None: it says nothing, and all count as in use.
    releases: how far the giving back of single addresses is, by address: the operator's and the agent's words, Cilium's.
    """

    name: str
    uid: str = ""
    created: float = 0.0
    version: str = ""
    present: bool = True
    ignored: bool = False
    unreadable: tuple[Problem, ...] = ()
    facts: Facts = NO_FACTS
    agent: Agent = NO_AGENT
    holds: Held = NOTHING_HELD
    instance: str = ""
    demand: tuple[Demand, ...] = ()
    default_pool: str = ""
    limits: tuple[tuple[str, int], ...] = ()
    uplinks: tuple[Uplink, ...] = ()
    used: tuple[Cidr, ...] | None = None
    releases: tuple[tuple[Cidr, str], ...] = ()


class PoolRange(msgspec.Struct, frozen=True, gc=False):
    """One configured CIDR of a pool and the prefix length of the blocks that it is cut into.

    wider: other, shorter prefix lengths of blocks that a large demand may get in place of many.
    """

    cidr: Cidr
    mask: int
    wider: tuple[int, ...] = ()


class PoolSpec(msgspec.Struct, frozen=True):
    """A pool as configured.

    ranges: in the order in which they are used up; families may be mixed.
    reserved: never granted; a block that touches one is not granted either.
    quarantine_s: seconds before a returned block is granted again.
    max_blocks: how many blocks of a family one node may have; 0: as many as it needs.
    created: seconds since the epoch; of two pools that overlap, the younger is refused.
    first_usable, last_usable: whether the agent may use the first and last address of each block.
    selector: labels that a node must have to be served.
    unreadable: why this is not what its object says: then an earlier state of it, if there was one, stays.
    """

    name: str = DEFAULT_POOL
    ranges: tuple[PoolRange, ...] = ()
    reserved: tuple[Cidr, ...] = ()
    quarantine_s: float = 0.0
    max_blocks: int = 1
    created: float = 0.0
    first_usable: bool = False
    last_usable: bool = False
    selector: Selector = ()
    unreadable: tuple[Problem, ...] = ()


class Kept(msgspec.Struct, frozen=True, order=True, gc=False):
    """A range kept from being granted that no node object shows: all the state that must outlive us beside the objects.

    owner: the node that it stays with, because its object vanished while the machine is still there; empty in quarantine.
    until: seconds since the epoch when a quarantine ends; 0 with an owner.
    """

    pool: str
    cidr: Cidr
    owner: str = ""
    until: float = 0.0


class Grant(msgspec.Struct, frozen=True):
    """All that we own in a node object, and nothing else: publishable at any moment."""

    blocks: tuple[Block, ...] = ()
    problems: tuple[Problem, ...] = ()
    preface: str = ""
    """What the mode's status text begins with; then each problem has a line of its own, as in Cilium."""
    notices: tuple[Problem, ...] = ()
    """What this grant mends, to be said when it is written and no longer: log and event, never the status."""

    @property
    def error(self) -> str:
        """The text for the node's status; empty clears it."""
        if not self.problems:
            return ""
        return self.preface + ("\n" if self.preface else "; ").join(map(str, self.problems))

    def shown_by(self, held: Held) -> bool:
        """Whether the object already says exactly this, so that there is nothing to write."""
        return self.blocks == held.blocks and not held.outdated and self.error == held.error


class PoolCapacity(msgspec.Struct, frozen=True):
    """Blocks of one pool and family. total: what the configured ranges hold; used: with an owner; free: could be granted now.

    outside: blocks of nodes that lie in no configured range (drained ranges among them).
    """

    pool: str
    family: Family
    total: int = 0
    used: int = 0
    quarantined: int = 0
    free: int = 0
    outside: int = 0


class Capacity(msgspec.Struct, frozen=True):
    """What there is, what is used, and how many nodes lack what they should have: there is no space, or their object cannot be read."""

    pools: tuple[PoolCapacity, ...] = ()
    nodes: int = 0
    unserved: int = 0
