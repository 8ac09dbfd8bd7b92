"""multi-pool by the book: Cilium's worked example and texts, two writers of one list, pools that come, change and go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.contract.test_multi_pool import asks, hand, pool

from omnipam.core.allocator import Settings, Version
from omnipam.core.cidr import Cidr, parse
from omnipam.core.selector import parse_selector
from omnipam.core.values import NO_FACTS, Block, Facts, Grant, Held, Node, PoolSpec
from omnipam.providers.multi_pool import MultiPool
from omnipam.providers.multi_pool.record import usable

NOW = 1000.0
BOTH = Settings(families=("ipv4", "ipv6"))


class World:
    """An allocator whose writes succeed at once, and the objects that it writes."""

    def __init__(self, *specs: PoolSpec, settings: Settings = BOTH) -> None:
        self.specs = list(specs)
        self.allocator = MultiPool(settings)
        self.allocator.restore((), specs, (), NOW)
        self.objects: dict[str, Node] = {}
        self._version = 0

    def restart(self) -> None:
        self.allocator = MultiPool(BOTH)
        self.allocator.restore(self.objects.values(), self.specs, (), NOW)

    def see(self, name: str, *, settle: bool = True, **changes: Any) -> Node:
        """The node's object is made, or changed by its agent, and seen."""
        before = self.objects.get(name) or Node(name, uid=name, created=float(len(self.objects)))
        self._version += 1
        node = msgspec.structs.replace(before, version=str(self._version), **changes)
        self.objects[name] = node
        self.allocator.seen(node, NOW)
        if settle:
            self.settle()
        return self.objects[name]

    def plan(self) -> None:
        while names := self.allocator.due(NOW):
            for name in names:
                self.allocator.start(self.allocator.plan(name, NOW), NOW)

    def settle(self) -> None:
        self.plan()
        while names := self.allocator.stale():
            for name in names:
                self.publish(name)
            self.plan()

    def publish(self, name: str) -> None:
        grant, node = self.allocator.grant(name), self.objects[name]
        if grant.shown_by(node.holds):
            return
        self._version += 1
        holds = Held(grant.blocks, grant.error)
        self.objects[name] = msgspec.structs.replace(node, version=str(self._version), holds=holds)
        self.allocator.published(name, grant, Version(str(self._version)), NOW)

    def pools(self, *specs: PoolSpec) -> None:
        self.specs = list(specs)
        self.allocator.pools(specs, NOW)
        self.settle()

    def gone(self, name: str) -> None:
        del self.objects[name]
        self.allocator.gone(name, NOW)
        self.settle()

    def has(self, name: str) -> list[str]:
        return [f"{block.pool} {block.cidr}" for block in self.objects[name].holds.blocks]

    def error(self, name: str) -> str:
        return self.objects[name].holds.error

    def findings(self) -> set[str]:
        return {finding.reason for finding in self.allocator.findings()}


def said(grant: Grant) -> list[str]:
    return [problem.text for problem in grant.problems]


# -- the core (spec 5.3, 5.4)


def test_the_worked_example() -> None:
    world = World(pool("mars", "10.20.0.0/16 28"))
    world.see("n", demand=asks(mars_ipv4=36))
    assert world.has("n") == ["mars 10.20.0.0/28", "mars 10.20.0.16/28", "mars 10.20.0.32/28"]


def test_sixteen_addresses_of_a_28_take_two_blocks() -> None:
    world = World(pool("default", "10.0.0.0/16 28"))
    world.see("n", demand=asks(default_ipv4=16))
    assert len(world.has("n")) == 2
    both = msgspec.structs.replace(pool("default", "10.0.0.0/16 28"), first_usable=True, last_usable=True)
    world = World(both)
    world.see("n", demand=asks(default_ipv4=16))
    (block,) = world.objects["n"].holds.blocks
    assert (block.first_usable, block.last_usable) == (True, True)


@pytest.mark.parametrize(
    ("cidr", "first", "last", "count"),
    [
        ("10.0.0.0/28", False, False, 14),
        ("10.0.0.0/28", True, False, 15),
        ("10.0.0.0/28", True, True, 16),
        ("10.0.0.0/30", False, False, 2),
        ("10.0.0.0/31", False, False, 2),
        ("10.0.0.0/32", False, False, 1),
        ("fd00::/127", False, True, 2),
        ("fd00::/128", False, False, 1),
        ("fd00::/120", False, False, 254),
    ],
)
def test_usable_addresses(cidr: str, first: bool, last: bool, count: int) -> None:
    assert usable(parse(cidr), PoolSpec(first_usable=first, last_usable=last)) == count


def test_blocks_are_listed_by_pool_then_ipv4_first_then_by_address() -> None:
    world = World(pool("b", "10.1.0.0/24 28", "fd00::/104 120"), pool("a", "10.0.0.0/24 28"))
    world.see("n", holds=Held(hand("b 10.1.0.32/28")), demand=asks(b_ipv4=20, b_ipv6=1, a_ipv4=1))
    assert world.has("n") == ["a 10.0.0.0/28", "b 10.1.0.0/28", "b 10.1.0.32/28", "b fd00::/120"]


def test_an_order_of_others_is_no_reason_to_write() -> None:
    world = World(pool("mars", "10.0.0.0/24 28"))
    before = world.see("n", holds=Held(hand("mars 10.0.0.32/28", "mars 10.0.0.0/28")))
    assert world.objects["n"] is before


def test_what_one_pool_lacks_keeps_nothing_from_the_others() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    world.see("n", demand=asks(mars_ipv4=60, mars_ipv6=1, venus_ipv4=8))
    assert world.has("n") == ["mars 10.0.0.0/28", "mars 10.0.0.16/28"]
    failed = 'failed to allocate {} address for node "n" from pool "{}": {}'
    assert said(world.allocator.grant("n")) == [
        failed.format("ipv4", "mars", "pool empty"),
        failed.format("ipv6", "mars", "pool empty"),
        failed.format("ipv4", "venus", "cannot allocate from non-existing pool: venus"),
    ]
    lines = world.error("n").splitlines()
    assert lines[0].startswith(
        f"ipam-multi-pool-sync allocation failed: {failed.format('ipv4', 'mars', 'pool empty')} — "
    )
    assert len(lines) == 3


def test_a_family_that_is_off_is_not_asked_for() -> None:
    world = World(pool("mars", "10.0.0.0/24 28", "fd00::/104 120"), settings=Settings())
    world.see("n", demand=asks(mars_ipv4=1, mars_ipv6=1))
    assert world.has("n") == ["mars 10.0.0.0/28"]
    assert not world.error("n")


# -- two writers


def test_what_the_agent_takes_out_is_free_for_others() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    world.see("a", demand=asks(mars_ipv4=28))
    world.see("b", demand=asks(mars_ipv4=1))
    assert world.has("b") == []
    world.see("a", demand=asks(mars_ipv4=14), holds=Held(hand("mars 10.0.0.0/28")))
    assert world.has("b") == ["mars 10.0.0.16/28"]
    assert not world.error("b")


def test_an_older_object_is_no_release() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    older = world.see("a", settle=False, demand=asks(mars_ipv4=14))
    world.settle()
    world.allocator.seen(older, NOW)
    world.see("b", demand=asks(mars_ipv4=28))
    assert (world.has("a"), world.has("b")) == (["mars 10.0.0.0/28"], ["mars 10.0.0.16/28"])


def test_a_newer_object_without_what_was_just_taken_is_no_release() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    world.see("a", settle=False, demand=asks(mars_ipv4=14))
    world.plan()  # taken; the write is refused, since the agent wrote meanwhile
    world.see("a", settle=False)
    world.see("b", demand=asks(mars_ipv4=28))
    assert (world.has("a"), world.has("b")) == (["mars 10.0.0.0/28"], ["mars 10.0.0.16/28"])


def test_an_object_that_was_made_anew_gets_all_back() -> None:
    world = World(pool("mars", "10.0.0.0/24 28"))
    world.see("a", demand=asks(mars_ipv4=20))
    had = world.has("a")
    world.see("a", settle=False, uid="another", holds=Held())
    assert {kept.owner for kept in world.allocator.kept()} == {"a"}
    world.settle()
    assert world.has("a") == had
    assert world.allocator.kept() == ()


def test_what_runs_on_a_node_stays_its_own_though_its_new_object_is_ignored() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    world.see("a", demand=asks(mars_ipv4=14))
    world.see("a", settle=False, uid="another", holds=Held(), ignored=True)
    world.see("b", demand=asks(mars_ipv4=28))
    assert (world.has("a"), world.has("b")) == ([], ["mars 10.0.0.16/28"])
    world.see("a", ignored=False)
    assert world.has("a") == ["mars 10.0.0.0/28"]


def test_who_waits_for_two_pools_waits_for_each_alone() -> None:
    world = World(pool("mars", "10.0.0.0/28 28"), pool("moon", "10.1.0.0/28 28"))
    world.see("holder", demand=asks(mars_ipv4=1, moon_ipv4=1))
    world.see("a", demand=asks(mars_ipv4=1, moon_ipv4=1))
    world.see("b", demand=asks(mars_ipv4=1))
    assert world.allocator.capacity().unserved == 2
    world.see("a", demand=asks(moon_ipv4=1))  # it wants no more of mars
    world.pools(world.specs[0], pool("moon", "10.1.0.0/28 28", "10.2.0.0/28 28"))
    assert world.has("a") == ["moon 10.2.0.0/28"]
    world.gone("holder")
    assert world.has("b") == ["mars 10.0.0.0/28"]
    assert world.allocator.capacity().unserved == 0


# -- whose claim wins


def test_of_two_claims_the_older_node_s_stays() -> None:
    world = World(pool("mars", "10.0.0.0/24 28"))
    for name in "ab":
        world.see(name, settle=False, demand=asks(mars_ipv4=14), holds=Held(hand("mars 10.0.0.0/28")))
    assert world.findings() == {"CIDRClaimedTwice"}
    world.settle()
    assert (world.has("a"), world.has("b")) == (["mars 10.0.0.0/28"], ["mars 10.0.0.16/28"])
    assert world.findings() == set()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_range_wider_than_any_block_takes_nothing_from_anybody(ignored: bool) -> None:
    world = World(pool("mars", "10.0.0.0/24 28"))
    world.see("typo", ignored=True)
    world.see("a", demand=asks(mars_ipv4=14))
    world.see("b", demand=asks(mars_ipv4=14))
    world.see("typo", ignored=ignored, demand=asks(mars_ipv4=1), holds=Held(hand("mars 10.0.0.0/25")))
    world.settle()
    assert (world.has("a"), world.has("b")) == (["mars 10.0.0.0/28"], ["mars 10.0.0.16/28"])
    assert world.has("typo") == (["mars 10.0.0.0/25"] if ignored else ["mars 10.0.0.32/28"])
    assert world.findings() == ({"CIDRClaimedTwice"} if ignored else set())
    world.see("c", demand=asks(mars_ipv4=14))
    assert world.has("c") == (["mars 10.0.0.128/28"] if ignored else ["mars 10.0.0.48/28"])


def test_one_block_under_two_names_counts_once() -> None:
    world = World(pool("mars", "10.0.0.0/24 28"), pool("moon", "10.1.0.0/24 28"))
    world.see("a", demand=asks(moon_ipv4=1), holds=Held(hand("mars 10.0.0.0/28", "moon 10.0.0.0/28")))
    assert world.has("a") == ["mars 10.0.0.0/28", "moon 10.1.0.0/28"]


def test_what_old_agents_have_in_pod_cidrs_is_nobody_else_s() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    shown = (Block("", parse("10.0.0.0/28")),)
    world.see("a", holds=Held(shown), demand=asks(mars_ipv4=1))
    assert world.has("a") == [" 10.0.0.0/28", "mars 10.0.0.16/28"]
    assert world.findings() == {"PodCIDRsLeft"}
    world.see("b", demand=asks(mars_ipv4=1))
    assert world.has("b") == []
    world.see("a", holds=Held(hand("mars 10.0.0.16/28")))
    assert world.has("b") == ["mars 10.0.0.0/28"]


# -- pools that come, change and go (5.6)


def test_a_deleted_pool_drains_and_heals() -> None:
    mars = pool("mars", "10.0.0.0/27 28")
    world = World(mars)
    world.see("a", demand=asks(mars_ipv4=14))
    for deleted in (False, True):
        world.pools()
        assert (
            "unable to find pool mars, prefix 10.0.0.0/28 is still allocated to the node but is marked as orphan"
            in world.error("a")
        )
        assert world.has("a") == ["mars 10.0.0.0/28"]
        assert world.findings() == {"PoolDraining"}
        if deleted:
            world.restart()
        world.pools(mars)
        assert not world.error("a")
        assert world.findings() == set()
    world.see("b", demand=asks(mars_ipv4=28))
    assert world.has("b") == ["mars 10.0.0.16/28"]


def test_orphans_of_a_node_that_is_gone_are_forgotten() -> None:
    mars = pool("mars", "10.0.0.0/28 28")
    world = World(mars)
    world.see("a", demand=asks(mars_ipv4=1))
    world.pools()
    world.gone("a")
    world.pools(mars)
    world.see("b", demand=asks(mars_ipv4=1))
    assert world.has("b") == ["mars 10.0.0.0/28"]


def test_a_range_that_was_taken_out_drains_and_is_replaced() -> None:
    world = World(pool("mars", "10.0.0.0/28 28", "10.0.1.0/28 28"))
    world.see("a", demand=asks(mars_ipv4=14))
    world.pools(pool("mars", "10.0.1.0/28 28"))
    assert world.has("a") == ["mars 10.0.0.0/28", "mars 10.0.1.0/28"]  # what drains counts no more
    assert (
        "unable to reuse from pool mars: cidr 10.0.0.0/28 is not part of the requested pool"
        in world.error("a")
    )
    world.see("a", holds=Held(hand("mars 10.0.1.0/28")))
    assert not world.error("a")
    assert world.findings() == set()


def test_an_orphan_is_not_given_from_another_pool() -> None:
    world = World(pool("mars", "10.0.0.0/27 28"))
    world.see("a", demand=asks(mars_ipv4=14))
    world.pools(pool("moon", "10.0.0.0/27 28"))
    world.see("b", demand=asks(moon_ipv4=28))
    assert world.has("b") == ["moon 10.0.0.16/28"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (pool("mars", "10.0.0.0/24 29"), 'cannot change IPv4 mask size in existing pool "mars"'),
        (pool("mars", "fd00::/104 120"), 'cannot change IPv4 mask size in existing pool "mars"'),
        (
            pool("mars", "10.0.0.0/24 28", "fd00::/104 120"),
            'cannot change IPv6 mask size in existing pool "mars"',
        ),
        (
            msgspec.structs.replace(pool("mars", "10.0.0.0/24 28"), first_usable=True),
            'cannot change allowFirstIP in existing pool "mars"',
        ),
        (
            msgspec.structs.replace(pool("mars", "10.0.0.0/24 28"), last_usable=True),
            'cannot change allowLastIP in existing pool "mars"',
        ),
        (
            pool("mars", "10.0.0.0/24 28", "10.0.0.0/25 28"),
            "requested CIDR 10.0.0.0/25 collides with clusterCIDR: 10.0.0.0/24, nodeMask: 28",
        ),
        (pool("mars", "10.0.0.0/24 28", "10.9.0.0/16 28"), "10.9.0.0/16 overlaps 10.9.0.0/24 of pool 'moon'"),
    ],
)
def test_what_is_refused_keeps_the_pool_as_it_was(changed: PoolSpec, text: str) -> None:
    moon = pool("moon", "10.9.0.0/24 28")
    world = World(pool("mars", "10.0.0.0/24 28"), moon)
    world.see("a", demand=asks(mars_ipv4=1))
    world.pools(changed, moon)
    (refusal,) = world.allocator.findings()
    assert (refusal.reason, refusal.objects[0]) == ("PoolRefused", "CiliumPodIPPool/mars")
    assert text in refusal.text
    assert refusal.text.startswith('failed to upsert pool "mars": ')
    assert refusal.hint
    world.see("b", demand=asks(mars_ipv4=1))
    assert world.has("b") == ["mars 10.0.0.16/28"]
    world.pools(pool("mars", "10.0.0.0/24 28"), moon)
    assert world.findings() == set()


def test_of_two_new_pools_that_overlap_the_younger_is_refused() -> None:
    older = msgspec.structs.replace(pool("zeta", "10.0.0.0/24 28"), created=1.0)
    younger = msgspec.structs.replace(pool("alpha", "10.0.0.0/16 28"), created=2.0)
    world = World(younger, older)
    (refusal,) = world.allocator.findings()
    assert refusal.objects == ("CiliumPodIPPool/alpha", "CiliumPodIPPool/zeta")
    world.see("a", demand=asks(alpha_ipv4=1, zeta_ipv4=1))
    assert world.has("a") == ["zeta 10.0.0.0/28"]
    world.pools(younger)
    assert world.has("a") == ["alpha 10.0.0.16/28", "zeta 10.0.0.0/28"]


def test_one_range_moves_from_pool_to_pool_in_one_go() -> None:
    world = World(pool("mars", "10.0.0.0/24 28", "10.0.1.0/24 28"), pool("moon", "10.0.2.0/24 28"))
    world.pools(pool("mars", "10.0.0.0/24 28"), pool("moon", "10.0.2.0/24 28", "10.0.1.0/24 28"))
    assert world.findings() == set()


def test_a_pool_concerns_only_those_who_ask_for_it() -> None:
    world = World(pool("mars", "10.0.0.0/24 28"), pool("moon", "10.1.0.0/24 28"))
    world.see("a", demand=asks(mars_ipv4=1))
    world.see("b", demand=asks(moon_ipv4=300))
    world.allocator.pools((world.specs[0], pool("moon", "10.1.0.0/24 28", "10.2.0.0/24 28")), NOW)
    assert world.allocator.due(NOW) == ["b"]


# -- beyond Cilium


def labelled(**labels: str) -> Facts:
    return msgspec.structs.replace(NO_FACTS, labels=tuple(labels.items()))


def test_a_pool_for_some_nodes_only() -> None:
    mars = msgspec.structs.replace(pool("mars", "10.0.0.0/24 28"), selector=parse_selector("zone=a"))
    world = World(mars)
    world.see("a", demand=asks(mars_ipv4=1), facts=labelled(zone="b"))
    assert "the pool's node selector does not match the node's labels" in world.error("a")
    world.see("a", facts=labelled(zone="a"))
    assert world.has("a") == ["mars 10.0.0.0/28"]
    world.see("a", facts=labelled())
    assert world.has("a") == ["mars 10.0.0.0/28"]  # nothing is taken away


def test_limits_of_a_pool_and_of_a_node() -> None:
    world = World(pool("mars", "10.0.0.0/24 28", most=2))
    world.see("a", demand=asks(mars_ipv4=60))
    world.see("b", demand=asks(mars_ipv4=60), limits=(("mars", 1), ("moon", 9)))
    assert (len(world.has("a")), len(world.has("b"))) == (2, 1)
    assert "the node has 2 blocks, of 2 that it may have" in world.error("a")
    world.see("b", limits=())
    assert len(world.has("b")) == 2
    world.pools(pool("mars", "10.0.0.0/24 28"))
    assert len(world.has("a")) == 5


def test_a_large_demand_gets_wide_blocks() -> None:
    world = World(pool("mars", "10.0.0.0/22 28 24 26"))
    world.see("small", demand=asks(mars_ipv4=8))
    world.see("large", demand=asks(mars_ipv4=224))
    world.see("larger", demand=asks(mars_ipv4=254 + 62 + 10))
    assert world.has("small") == ["mars 10.0.0.0/28"]
    assert world.has("large") == ["mars 10.0.1.0/24"]
    assert world.has("larger") == ["mars 10.0.0.16/28", "mars 10.0.0.64/26", "mars 10.0.2.0/24"]
    world.see("all", demand=asks(mars_ipv4=9999))
    total = sum(block.cidr.size for node in world.objects.values() for block in node.holds.blocks)
    assert total == 1024  # not a block is left over


def test_where_no_wide_block_is_left_narrow_ones_do() -> None:
    world = World(pool("mars", "10.0.0.0/24 28 24"))
    world.see("small", demand=asks(mars_ipv4=8))
    world.see("large", demand=asks(mars_ipv4=200))
    assert len(world.has("large")) == 15
    world.gone("small")
    world.gone("large")
    world.see("again", demand=asks(mars_ipv4=200))
    assert world.has("again") == ["mars 10.0.0.0/24"]


def test_reserved_ranges_are_passed_over_and_kept_by_who_has_them() -> None:
    world = World(pool("mars", "10.0.0.0/26 28", reserved=("10.0.0.0/27",)))
    world.see("a", holds=Held(hand("mars 10.0.0.0/28")), demand=asks(mars_ipv4=20))
    assert world.has("a") == ["mars 10.0.0.0/28", "mars 10.0.0.32/28"]


def test_a_default_pool_that_is_not_there_is_said() -> None:
    world = World(pool("mars", "10.0.0.0/26 28"))
    world.see("a", default_pool="moon")
    assert world.findings() == {"DefaultPoolMissing"}
    world.pools(*world.specs, pool("moon", "10.1.0.0/26 28"))
    assert world.findings() == set()


def test_plan_says_what_start_does() -> None:
    world = World(pool("mars", "10.0.0.0/24 28 26", "10.9.0.0/28 28"))
    world.see("x", settle=False, demand=asks(mars_ipv4=150))
    plan = world.allocator.plan("x", NOW)
    expected: list[Cidr] = [planned.action.expected for planned in plan.actions]  # type: ignore[union-attr]
    world.settle()
    assert {block.cidr for block in world.objects["x"].holds.blocks} == set(expected)


# -- found by trying to break it


def test_planning_thousands_of_wide_blocks_does_not_compare_each_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(pool("mars", "10.0.0.0/8 28 24"))
    world.see("a", settle=False, demand=asks(mars_ipv4=800 * 254 + 5))
    compared = 0
    overlaps = Cidr.overlaps

    def counting(self: Cidr, other: Cidr) -> bool:
        nonlocal compared
        compared += 1
        return overlaps(self, other)

    monkeypatch.setattr(Cidr, "overlaps", counting)
    plan = world.allocator.plan("a", 0.0)
    assert len(plan.actions) == 801
    assert compared < 20 * len(plan.actions)


def test_a_pool_that_overlaps_after_a_restart_serves_what_is_its_own_alone() -> None:
    world = World(pool("a", "10.0.0.0/24 28"), pool("b", "10.0.1.0/28 28", "10.0.9.0/24 28"))
    world.see("n", demand=asks(b_ipv4=14))
    assert world.has("n") == ["b 10.0.1.0/28"]
    world.pools(pool("a", "10.0.0.0/23 28"), pool("b", "10.0.1.0/28 28", "10.0.9.0/24 28"))
    assert world.findings() == {"PoolRefused"}
    world.see("m", demand=asks(b_ipv4=14))
    assert world.has("m") == ["b 10.0.9.0/28"]
    world.restart()
    world.see("o", demand=asks(b_ipv4=14))
    assert world.has("o")[0].startswith("b 10.0.9.")
    assert world.has("n")[0] == "b 10.0.1.0/28", "kept, and made up for where b still is"
    world.see("p", demand=asks(a_ipv4=14))
    assert world.has("p") != ["a 10.0.1.0/28"], "what a node has of b is given to nobody"


def test_a_node_with_thousands_of_orphans_has_a_status_that_fits() -> None:
    world = World(pool("mars", "10.0.0.0/16 28"))
    world.see("a", demand=asks(mars_ipv4=1000 * 14))
    world.pools()
    error = world.error("a")
    assert error.count("marked as orphan") == 3
    assert "997 prefixes more are orphans" in error


def test_what_a_pool_reserves_elsewhere_is_told() -> None:
    spec = msgspec.structs.replace(pool("mars", "10.0.0.0/24 28"), reserved=(parse("192.168.0.0/24"),))
    world = World(spec)
    (found,) = world.allocator.findings()
    assert (found.reason, found.objects) == (
        "ReservedElsewhere",
        ("CIDR/192.168.0.0/24", "CiliumPodIPPool/mars"),
    )


def test_a_pool_that_reserves_all_it_has_says_so_and_not_only_that_it_is_empty() -> None:
    mars = msgspec.structs.replace(pool("mars", "10.0.0.0/26 28"), reserved=(parse("10.0.0.0/26"),))
    world = World(mars)
    world.see("a", demand=asks(mars_ipv4=1), holds=Held(hand("mars 10.0.0.16/28")))
    assert world.findings() == {"PoolReserved"}
    assert not world.error("a")
    world.see("b", demand=asks(mars_ipv4=1))
    assert 'from pool "mars": pool empty — what pool mars reserves leaves no IPv4 block' in world.error("b")
    assert [problem.reason for problem in world.allocator.plan("b", NOW).problems] == ["PoolReserved"]
    # One address of every block is as good as all of it.
    spread = tuple(parse(f"10.0.0.{first}/32") for first in (3, 20, 40, 63))
    world.pools(msgspec.structs.replace(mars, reserved=spread))
    assert world.findings() == {"PoolReserved"}
    world.pools(msgspec.structs.replace(mars, reserved=spread[:3]))
    assert world.has("b") == ["mars 10.0.0.48/28"]
    assert (world.findings(), world.error("b")) == (set(), "")
    world.see("c", demand=asks(mars_ipv4=1))
    assert "add an IPv4 range to pool mars" in world.error("c"), "that it is full is another matter"
    world.pools(mars)
    assert "reserves leaves no IPv4 block" in world.error("c")
    world.pools()
    assert world.findings() == {"PoolDraining"}
