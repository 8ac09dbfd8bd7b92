"""kubernetes: nodes use the pod CIDRs that Kubernetes gave to their machines; what is wrong with those is found and said.

The operator writes only where the node's object says nothing; a differing value is a finding, never a write (the agent writes
these in Cilium). Nothing is ever taken from anybody here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from omnipam.core.allocator import Outcome, Plan, Provider, Published, Settings, Step, Version
from omnipam.core.cidr import FAMILIES, Cidr
from omnipam.core.errors import Invalid
from omnipam.core.overlaps import Overlaps
from omnipam.core.values import (
    DEFAULT_POOL,
    Block,
    Capacity,
    Finding,
    Grant,
    Held,
    Kept,
    Node,
    PoolCapacity,
    PoolSpec,
    Problem,
)

WANTED = {
    "ipv4": "run kube-controller-manager with --allocate-node-cidrs and an IPv4 --cluster-cidr",
    "ipv6": "run kube-controller-manager with --allocate-node-cidrs and an IPv6 --cluster-cidr",
}


class KubernetesMode:
    """`omnipam.core.allocator.Allocator` for `Node.spec.podCIDRs`.

    What a node uses is what its object shows, else what its machine says, once that has a CIDR of every enabled family. Of two
    nodes whose CIDRs of an enabled family overlap, one that shows its own (or did, or was granted it) keeps it, since its pods
    run; of others, the younger is granted nothing. All that decides is in the nodes and in `kept`, so a restart decides the same.
    """

    def __init__(self, settings: Settings) -> None:
        self.families = settings.families
        self._grace_s = settings.grace_s
        self._nodes: dict[str, Node] = {}
        self._uses: dict[str, tuple[Cidr, ...]] = {}
        self._index = Overlaps()
        self._stale: set[str] = set()
        self._graces: list[tuple[float, str]] = []
        self._graced: dict[str, float] = {}
        self._late: set[str] = set()
        self._unserved: set[str] = set()
        # Granted: it may be written any moment, and is not shown yet. Lost: of what its machine says, what it had and shows no more.
        self._granted: set[str] = set()
        self._lost: dict[str, tuple[Cidr, ...]] = {}
        self._kept: tuple[Kept, ...] | None = ()  # as last answered; None: what is lost changed since
        self._restored = False

    def restore(
        self, nodes: Iterable[Node], pools: Iterable[PoolSpec], kept: Iterable[Kept], now: float
    ) -> None:
        for node in sorted(nodes, key=lambda node: (node.created, node.name)):
            self.seen(node, now)
        for each in kept:
            owner = self._nodes.get(each.owner)
            if owner is not None and not self._shown(owner) and each.cidr in self._enabled(_wanted(owner)):
                self._lose(owner.name, {*self._lost.get(owner.name, ()), each.cidr})
        self._restored = True
        self._stale.update(self._nodes)

    def seen(self, node: Node, now: float) -> None:
        name = node.name
        before = self._nodes.get(name)
        self._nodes[name] = node
        uses = _uses(node)
        if before is None or uses != self._uses[name]:
            self._record(name, uses)
        elif _rank(node) != _rank(before):
            self._stale.update(owner for owner, _, _ in self._overlaps(name))
        self._remember(node, before)
        until = node.created + self._grace_s
        if self._is_complete(uses):
            self._late.discard(name)
        elif until <= now:
            self._late.add(name)
        else:  # perhaps late before: a fresh object of an old machine has a grace time of its own
            self._late.discard(name)
            if until < self._graced.get(name, until + 1.0):
                self._graced[name] = until
                heapq.heappush(self._graces, (until, name))
        self._stale.add(name)

    def gone(self, name: str, now: float) -> None:
        if self._nodes.pop(name, None) is not None:
            self._record(name, ())
            del self._uses[name]
        for names in (self._stale, self._late, self._unserved, self._granted):
            names.discard(name)
        self._lose(name, ())

    def pools(self, specs: Iterable[PoolSpec], now: float) -> None:
        """There are none: the ranges are kube-controller-manager's."""

    def due(self, now: float) -> list[str]:
        while self._graces and self._graces[0][0] <= now:
            until, name = heapq.heappop(self._graces)
            if self._graced.get(name) == until:
                del self._graced[name]
            if name in self._nodes and not self._is_complete(self._uses[name]):
                self.seen(self._nodes[name], now)  # late, unless it is another node of that name by now
        return []

    def plan(self, name: str, now: float) -> Plan:
        return Plan(name, problems=self.grant(name).problems)

    def start(self, plan: Plan, now: float) -> None:
        """Nothing is ever taken."""

    def ready(self, now: float) -> list[Step]:
        return []

    def finish(self, step: Step, outcome: Outcome, now: float) -> None:
        raise Invalid(f"kubernetes mode has no steps, got one for {step.node}")

    def stale(self) -> list[str]:
        if not self._restored:
            return []
        stale, self._stale = self._stale, set()
        found = []
        for name in sorted(stale):
            grant = self.grant(name)
            (self._unserved.add if grant.problems else self._unserved.discard)(name)
            if not grant.shown_by(self._nodes[name].holds):
                found.append(name)
                node = self._nodes[name]
                may_be_written = node.present and not node.ignored and not node.holds.blocks
                if grant.blocks and may_be_written and name not in self._granted:
                    self._granted.add(name)
                    self._stale.update(owner for owner, _, _ in self._overlaps(name))
        return found

    def published(self, name: str, grant: Grant, outcome: Published, now: float) -> None:
        node = self._nodes.get(name)
        if node is not None and isinstance(outcome, Version):
            held = Held(grant.blocks, grant.error)
            self.seen(msgspec.structs.replace(node, version=outcome.version, holds=held), now)

    def wake(self, now: float) -> float | None:
        return self._graces[0][0] if self._graces else None

    def grant(self, name: str) -> Grant:
        node = self._nodes.get(name)
        if node is None:
            return Grant()
        overlaps = self._overlaps(name)
        blocks = node.holds.blocks
        if (
            not blocks
            and not node.unreadable
            and self._is_complete(self._uses[name])
            and not any(self._goes_before(other, node) for other, _, _ in overlaps)
        ):
            blocks = tuple(
                Block(DEFAULT_POOL, cidr) for cidr in self._uses[name] if cidr.family in self.families
            )
        return Grant(blocks, self._problems(node, overlaps))

    def node(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def kept(self) -> tuple[Kept, ...]:
        if self._kept is None:
            self._kept = tuple(
                sorted(Kept(DEFAULT_POOL, cidr, name) for name, lost in self._lost.items() for cidr in lost)
            )
        return self._kept

    def findings(self) -> tuple[Finding, ...]:
        found: set[Finding] = set()
        for name, node in self._nodes.items():
            for other, theirs, ours in self._overlaps(name):
                first, second = sorted(((name, ours), (other, theirs)))
                found.add(
                    Finding(
                        "CIDRsOverlap",
                        (f"Node/{first[0]}", f"Node/{second[0]}"),
                        f"node {first[0]} has {first[1]} and node {second[0]} has {second[1]}, which overlap",
                        "delete and re-create the younger Node, so that it is given another CIDR",
                        severity="error",
                    )
                )
            shown = tuple(block.cidr for block in node.holds.blocks)
            if shown and node.facts.pod_cidrs and self._enabled(shown) != self._enabled(_wanted(node)):
                found.add(
                    Finding(
                        "CIDRsDiffer",
                        (f"CiliumNode/{name}", f"Node/{name}"),
                        f"CiliumNode {name} has {_list(shown)} and its Node has {_list(node.facts.pod_cidrs)}",
                        "the agent uses the former: restart it, so that it takes over the Node's",
                    )
                )
        return tuple(sorted(found))

    def capacity(self) -> Capacity:
        used = dict.fromkeys(FAMILIES, 0)
        for uses in self._uses.values():
            for cidr in uses:
                used[cidr.family] += 1
        pools = tuple(PoolCapacity(DEFAULT_POOL, family, used=used[family]) for family in self.families)
        return Capacity(pools, len(self._nodes), len(self._unserved))

    def _record(self, name: str, uses: tuple[Cidr, ...]) -> None:
        """Brings the index up to date, and looks again at the nodes that this one began or ceased to overlap."""
        for cidr in self._enabled(self._uses.get(name, ())):
            self._index.remove(name, cidr)
            self._stale.update(owner for owner, _ in self._index.overlapping(cidr))
        for cidr in self._enabled(uses):
            self._stale.update(owner for owner, _ in self._index.overlapping(cidr))
            self._index.add(name, cidr)
        self._uses[name] = uses

    def _remember(self, node: Node, before: Node | None) -> None:
        """Keeps for a node what it had and shows no more: its pods run, and an older state of it must do no harm."""
        name, wanted = node.name, self._enabled(_wanted(node))
        had = set(self._lost.get(name, ()) if before is None else self._lost.get(name, self._shown(before)))
        if name in self._granted and not node.present:
            had = wanted  # it may have been written before the object vanished
        if node.holds.blocks or node.ignored or not node.present:
            self._granted.discard(name)
        self._lose(name, () if self._shown(node) else had & wanted)

    def _lose(self, name: str, lost: Iterable[Cidr]) -> None:
        after = tuple(sorted(lost))
        if after != self._lost.get(name, ()):
            self._kept = None
            self._lost.pop(name, None)
            if after:
                self._lost[name] = after

    def _shown(self, node: Node) -> tuple[Cidr, ...]:
        return tuple(block.cidr for block in node.holds.blocks if block.cidr.family in self.families)

    def _enabled(self, cidrs: Iterable[Cidr]) -> set[Cidr]:
        return {cidr for cidr in cidrs if cidr.family in self.families}

    def _is_complete(self, uses: tuple[Cidr, ...]) -> bool:
        return len({cidr.family for cidr in uses}.intersection(self.families)) == len(self.families)

    def _goes_before(self, name: str, node: Node) -> bool:
        """Whether the other node of that name keeps what both use, while `node` shows nothing."""
        other = self._nodes[name]
        if self._shown(other):
            return True
        if node.name in self._granted or node.name in self._lost:
            return False
        return name in self._granted or name in self._lost or _older(other, node)

    def _overlaps(self, name: str) -> list[tuple[str, Cidr, Cidr]]:
        """(other node, its CIDR, ours), sorted; of the enabled families, since nobody uses others."""
        return sorted(
            (owner, theirs, ours)
            for ours in self._enabled(self._uses[name])
            for owner, theirs in self._index.overlapping(ours, but=name)
        )

    def _problems(self, node: Node, overlaps: list[tuple[str, Cidr, Cidr]]) -> tuple[Problem, ...]:
        found = list(node.unreadable)
        found += [
            Problem(
                "CIDRsOverlap",
                f"{ours} overlaps {theirs} of node {other}",
                "delete and re-create the younger Node, so that it is given another CIDR",
            )
            for other, theirs, ours in overlaps
        ]
        uses = self._uses[node.name]
        if not self._is_complete(uses):  # a CIDR more than the enabled families need is no harm
            found += [
                Problem(
                    "WrongFamily",
                    f"{cidr} is {cidr.family}, which is not enabled",
                    f"set enable-{cidr.family}, or give kube-controller-manager a --cluster-cidr of the enabled family",
                )
                for cidr in uses
                if cidr.family not in self.families
            ]
        if node.name in self._late:
            found += [
                Problem(
                    "NoPodCIDR", f"no {family} pod CIDR: the Node has none, or is not there", WANTED[family]
                )
                for family in self.families
                if not any(cidr.family == family for cidr in uses)
            ]
        return tuple(found)


def _uses(node: Node) -> tuple[Cidr, ...]:
    shown = tuple(block.cidr for block in node.holds.blocks)
    return shown + tuple(cidr for cidr in _wanted(node) if cidr not in shown)


def _wanted(node: Node) -> tuple[Cidr, ...]:
    return tuple(sorted(node.facts.pod_cidrs))


def _rank(node: Node) -> tuple[object, ...]:
    """What decides between this node and those that overlap it, beside the CIDRs."""
    return node.created, node.present, node.ignored, node.holds.blocks


def _older(one: Node, other: Node) -> bool:
    return (one.created, one.name) < (other.created, other.name)


def _list(cidrs: Iterable[Cidr]) -> str:
    return ", ".join(map(str, sorted(cidrs)))


PROVIDER = Provider(mode="kubernetes", build=KubernetesMode, reads_machines=True)
