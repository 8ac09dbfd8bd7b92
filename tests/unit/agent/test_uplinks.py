"""A cloud's node: single addresses of interfaces, which are known, are shown no more, or were never seen; and what is asked for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from omnipam.core.attachment import AddressInUse, Allocation, NoAddress, NoUplink, Request, Want
from omnipam.core.cidr import parse, parse_address
from omnipam.core.node_agent import NodeAgent
from omnipam.core.uplink import Uplink
from omnipam.core.values import Block, Demand

ONE, TWO, THREE = ("10.7.0.20/32", "10.7.0.21/32", "10.7.0.22/32")
PREFIX = "10.7.1.16/28"


def eni(name: str, *addresses: str, prefixes: Iterable[str] = ()) -> Uplink:
    return Uplink(
        name,
        number=int(name[-1]),
        gateways={"ipv4": parse_address("10.7.0.1")},
        addresses=tuple(map(parse, addresses)),
        prefixes=tuple(map(parse, prefixes)),
    )


def blocks(*texts: str) -> list[Block]:
    return [Block("default", parse(text), first_usable=True, last_usable=True) for text in texts]


def node(*texts: str, cool_down_s: float = 30.0, ready: int = 0) -> NodeAgent:
    agent = NodeAgent(
        families=("ipv4",),
        pooled=False,
        gateway=False,
        rounded=False,
        cool_down_s=cool_down_s,
        pre_allocate={"default": ready},
    )
    singles = [text for text in texts if text.endswith("/32")]
    agent.uplinks_seen([eni("eni-1", *singles, prefixes=set(texts).difference(singles))])
    agent.blocks_seen(blocks(*texts))
    return agent


def request(container: str, address: str = "", *, sticky: bool = False) -> Request:
    wanted = parse_address(address).first if address else None
    return Request(
        ("net", container, "eth0"), f"shop/{container}", (Want("ipv4", "default", wanted),), sticky=sticky
    )


def add(
    agent: NodeAgent, container: str, address: str = "", *, now: float = 0.0, sticky: bool = False
) -> str:
    allocation, _ = agent.allocate(request(container, address, sticky=sticky), now)
    return str(allocation.given[0])


def of(agent: NodeAgent, container: str) -> Allocation:
    allocation = agent.get(("net", container, "eth0"))
    assert allocation is not None
    return allocation


# -- interfaces


def test_an_address_is_its_interface_s() -> None:
    agent = node(ONE)
    agent.uplinks_seen([eni("eni-1", ONE), eni("eni-2", prefixes=[PREFIX])])
    agent.blocks_seen(blocks(ONE, PREFIX))
    add(agent, "c1")
    add(agent, "c2", "10.7.1.31")
    for container, owner in (("c1", "eni-1"), ("c2", "eni-2")):
        uplink = agent.uplink(of(agent, container).given[0])
        assert uplink is not None
        assert uplink.id == owner


def test_what_is_held_keeps_the_interface_that_it_had() -> None:
    agent = node(ONE, TWO)
    add(agent, "c1")
    given = of(agent, "c1").given[0]
    agent.uplinks_seen([])
    agent.blocks_seen([])
    assert add(agent, "c1") == "10.7.0.20", "asked again"
    agent.uplinks_seen([])
    known = agent.uplink(given)
    assert known is not None, "also by the second look"
    assert known.id == "eni-1"
    agent.uplinks_seen([eni("eni-2", ONE)])
    shown = agent.uplink(given)
    assert shown is not None
    assert shown.id == "eni-2", "what is shown outweighs what was"
    agent.uplinks_seen([])
    agent.release(("net", "c1", "eth0"), 0.0)
    agent.tidy(1000.0)
    agent.uplinks_seen([])
    assert agent.uplink(given) is None, "nobody needs it"


def test_an_undone_release_keeps_the_interface() -> None:
    agent = node(ONE)
    add(agent, "c1")
    agent.uplinks_seen([])
    released = agent.release(("net", "c1", "eth0"), 0.0)
    assert released is not None
    agent.uplinks_seen([])
    agent.undo_release(released)
    assert add(agent, "c1") == "10.7.0.20"


def test_without_a_known_interface_nothing_is_answered() -> None:
    agent = node(ONE)
    agent.uplinks_seen([])
    with pytest.raises(NoUplink, match=r"^the interface of 10\.7\.0\.20 is not known"):
        add(agent, "c1")
    assert (list(agent.allocations), agent.drain()) == ([], [])
    agent.uplinks_seen([eni("eni-1", ONE)])
    assert add(agent, "c1") == "10.7.0.20"
    again = NodeAgent(families=("ipv4",), pooled=False, gateway=False, rounded=False)
    again.load(agent.stored(), 0.0)
    again.blocks_seen([])
    with pytest.raises(NoUplink):
        add(again, "c1")
    assert of(again, "c1") == of(agent, "c1"), "it is held all the same"


def test_pools_know_no_interfaces() -> None:
    agent = NodeAgent(families=("ipv4",), pooled=False)
    agent.blocks_seen(blocks("10.0.0.0/28"))
    add(agent, "c1")
    assert agent.uplink(of(agent, "c1").given[0]) is None


# -- blocks of one address


def test_one_given_back_comes_last() -> None:
    agent = node(ONE, TWO, THREE, cool_down_s=1.0)
    assert add(agent, "c1") == "10.7.0.20"
    agent.release(("net", "c1", "eth0"), 0.0)
    assert [add(agent, f"c{n}", now=5.0) for n in range(2, 5)] == ["10.7.0.21", "10.7.0.22", "10.7.0.20"]


def test_of_those_that_cool_the_oldest_goes_first_then_those_parked() -> None:
    agent = node(ONE, TWO, THREE)
    for container in ("c1", "c2", "c3"):
        add(agent, container, sticky=container == "c3")
    for container, now in (("c3", 1.0), ("c2", 2.0), ("c1", 3.0)):
        agent.release(("net", container, "eth0"), now)
    assert [add(agent, each, now=4.0) for each in ("d1", "d2", "d3")] == [
        "10.7.0.21",
        "10.7.0.20",
        "10.7.0.22",
    ]
    with pytest.raises(NoAddress) as none:
        add(agent, "d4", now=4.0)
    assert str(none.value) == (
        "pool default has no free ipv4 address: 3 of 3 in use; the operator was asked for 4"
    )


def test_the_oldest_parked_goes_first() -> None:
    agent = node(ONE, TWO)
    add(agent, "c1", sticky=True)
    add(agent, "c2", sticky=True)
    agent.release(("net", "c2", "eth0"), 1.0)
    agent.release(("net", "c1", "eth0"), 2.0)
    assert add(agent, "d1", now=3.0) == "10.7.0.21"


def test_no_block_is_too_small() -> None:
    agent = node("10.7.0.20/32", "10.7.0.22/31")
    assert [add(agent, f"c{n}") for n in range(3)] == ["10.7.0.20", "10.7.0.22", "10.7.0.23"]


# -- withheld


def test_a_withheld_address_is_given_to_nobody_until_it_is_let_go() -> None:
    agent = node(ONE, TWO)
    agent.withhold([parse(ONE)])
    assert agent.states(0.0)[0].free == 1
    with pytest.raises(AddressInUse, match="being given back"):
        add(agent, "c1", "10.7.0.20")
    assert add(agent, "c1") == "10.7.0.21"
    with pytest.raises(NoAddress):
        add(agent, "c2")
    agent.withhold([])
    assert add(agent, "c2") == "10.7.0.20"


def test_a_held_address_that_is_withheld_stays_its_holder_s() -> None:
    agent = node(ONE, TWO)
    assert add(agent, "c1") == "10.7.0.20"
    agent.withhold([parse(ONE)])
    assert add(agent, "c1") == "10.7.0.20"
    assert agent.states(0.0)[0].used == 1
    agent.release(("net", "c1", "eth0"), 0.0)
    assert [add(agent, "c2")] == ["10.7.0.21"]
    with pytest.raises(NoAddress):
        add(agent, "c3")


def test_its_owner_does_not_get_a_withheld_address_back() -> None:
    agent = node(ONE, TWO)
    assert add(agent, "c1", sticky=True) == "10.7.0.20"
    agent.release(("net", "c1", "eth0"), 0.0)
    agent.withhold([parse(ONE)])
    assert add(agent, "c1", sticky=True) == "10.7.0.21"


def test_an_address_withheld_before_it_is_shown() -> None:
    agent = node()
    agent.withhold([parse(ONE)])
    agent.uplinks_seen([eni("eni-1", ONE)])
    agent.blocks_seen(blocks(ONE))
    with pytest.raises(NoAddress):
        add(agent, "c1")
    agent.blocks_seen([])
    agent.blocks_seen(blocks(ONE))
    with pytest.raises(NoAddress):
        add(agent, "c1")


# -- what is asked for


def test_demand_is_exact() -> None:
    agent = node(ONE, TWO, ready=8)
    assert agent.demand(0.0) == (Demand("default", "ipv4", 8),)
    add(agent, "c1")
    add(agent, "c2")
    with pytest.raises(NoAddress):
        add(agent, "c3")
    assert agent.demand(0.0) == (Demand("default", "ipv4", 2 + 1 + 8),)
    agent.pre_allocates("default", 3)
    assert agent.demand(0.0) == (Demand("default", "ipv4", 2 + 1 + 3),)
    agent.pre_allocates("default", 0)
    assert agent.demand(1000.0) == (Demand("default", "ipv4", 2 + 8),), "who waited has given up"


def test_blocks_are_given_up_by_demand() -> None:
    agent = node(ONE, TWO, THREE, "10.7.0.23/32", ready=1)
    add(agent, "c1", "10.7.0.22")
    agent.give_up(0.0)
    assert [str(each.cidr) for each in agent.listed()] == [ONE, THREE]
    assert [str(each.cidr) for each in agent.released()] == ["10.7.0.23/32", TWO]
