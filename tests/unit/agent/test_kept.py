"""Reservations over time: who may ask again under a key, what is kept for owners who are away, and clocks that were wrong."""

from __future__ import annotations

import pytest

from omnipam.core.attachment import Key, NotForPods, Request, Stored, Want
from omnipam.core.cidr import parse, parse_address
from omnipam.core.errors import Conflict
from omnipam.core.node_agent import NodeAgent
from omnipam.core.reservations import LONGEST_LAPSE_S, PARKED_S
from omnipam.core.values import Block

NOW = 1_000_000.0


def node(*, pre_allocate: int = 0, cool_down_s: float = 30.0) -> NodeAgent:
    agent = NodeAgent(
        families=("ipv4",), pooled=True, cool_down_s=cool_down_s, pre_allocate={"default": pre_allocate}
    )
    agent.blocks_seen([Block("default", parse("10.0.0.0/28"))])
    return agent


def request(container: str, owner: str, **more: object) -> Request:
    key: Key = ("net", container, "eth0")
    return Request(key, owner, (Want("ipv4", "default"),), **more)  # type: ignore[arg-type]  # by name


def needed(agent: NodeAgent, now: float) -> int:
    return sum(each.needed for each in agent.demand(now))


def test_a_key_is_one_owner_s() -> None:
    """A runtime that names two sandboxes alike: the second pod must not live on the first one's address, which goes with that."""
    agent = node()
    agent.allocate(request("c1", "shop/one"), NOW)
    with pytest.raises(Conflict, match="held by shop/one, and asked for by shop/two: release it first"):
        agent.allocate(request("c1", "shop/two"), NOW)


def test_what_is_kept_for_an_owner_who_is_away_is_no_demand_and_keeps_its_block() -> None:
    agent = node()
    for number in range(5):
        agent.allocate(request(f"c{number}", f"shop/db-{number}", sticky=True), NOW)
    assert needed(agent, NOW) == 6  # with the gateway
    for number in range(5):
        agent.release(("net", f"c{number}", "eth0"), NOW)
    assert needed(agent, NOW) == 1
    agent.give_up(NOW)
    assert agent.released() == ()


def test_it_is_kept_for_a_day() -> None:
    agent = node()
    agent.allocate(request("c1", "shop/db-0", sticky=True), NOW)
    agent.release(("net", "c1", "eth0"), NOW + 5)
    rows = agent.stored()
    agent.tidy(NOW + PARKED_S)
    assert len(list(agent.parked)) == 1
    again = node()
    again.load(rows, NOW + 10)
    for each in (agent, again):
        each.tidy(NOW + 5 + PARKED_S)
        assert list(each.parked) == []
        assert each.stored() == ()
        assert each.states(NOW)[0].used == 0
        assert each.drain()[-1].stored is None


@pytest.mark.parametrize("ahead_s", [60.0, 4 * 365 * 86400.0])
def test_times_that_lie_ahead_are_of_a_wrong_clock(ahead_s: float) -> None:
    agent = node()
    cooling, _ = agent.allocate(request("c1", "shop/a"), NOW + ahead_s)
    lapsing, _ = agent.allocate(request("c2", "shop/b", expires=NOW + ahead_s + 600), NOW + ahead_s)
    again = node()
    again.load([Stored(cooling, NOW + ahead_s), Stored(lapsing)], NOW)
    assert again.states(NOW)[0].cooling == 1
    again.tidy(NOW + 30)
    assert again.states(NOW + 30)[0].cooling == 0
    assert again.expired(NOW + LONGEST_LAPSE_S) == [("net", "c2", "eth0")]


def test_what_a_network_uses_as_gateway_is_passed_over_and_stays_as_it_was() -> None:
    agent = node()
    avoid = frozenset([(32, parse_address("10.0.0.2").first), (32, parse_address("10.0.0.4").first)])
    given = [agent.allocate(request(f"c{n}", f"shop/{n}", avoid=avoid), NOW)[0].given[0] for n in range(3)]
    assert [str(each) for each in given] == ["10.0.0.3", "10.0.0.5", "10.0.0.6"]
    wish = Want("ipv4", "default", parse_address("10.0.0.4").first)
    with pytest.raises(NotForPods, match=r"10\.0\.0\.4 is not for pods"):
        agent.allocate(Request(("net", "c9", "eth0"), "shop/x", (wish,), avoid=avoid), NOW)
    allocation, _ = agent.allocate(Request(("other", "c9", "eth0"), "shop/x", (wish,)), NOW)
    assert str(allocation.given[0]) == "10.0.0.4"


def test_one_owner_who_tries_again_waits_once() -> None:
    agent = node(cool_down_s=0.0)
    for number in range(13):
        agent.allocate(request(f"c{number}", f"shop/{number}"), NOW)
    full = needed(agent, NOW)
    for number in range(5):
        with pytest.raises(Exception, match="no free ipv4 address"):
            agent.allocate(request(f"try{number}", "shop/late", waits_as="shop/late"), NOW)
    assert needed(agent, NOW) == full + 1
    agent.release(("net", "c0", "eth0"), NOW)
    agent.allocate(request("try9", "shop/late", waits_as="shop/late"), NOW)
    assert needed(agent, NOW) == full
