"""What a next life, and a next boot, makes of the reservations on disk."""

from __future__ import annotations

from omnipam.core.attachment import Key, Request, Want
from omnipam.core.cidr import parse
from omnipam.core.node_agent import NodeAgent
from omnipam.core.values import Block

BLOCK = Block("default", parse("10.0.0.0/28"))


def node() -> NodeAgent:
    return NodeAgent(families=("ipv4",), pooled=False, cool_down_s=30.0)


def request(container: str) -> Request:
    key: Key = ("net", container, "eth0")
    return Request(key, "shop/db-0", (Want("ipv4", "default"),), sticky=True)


def test_a_release_that_the_disk_refuses_leaves_what_was_kept_before() -> None:
    agent = node()
    agent.blocks_seen([BLOCK])
    first, _ = agent.allocate(request("c1"), 1.0)
    second, _ = agent.allocate(request("c2"), 2.0)
    agent.release(first.key, 3.0)
    agent.release(second.key, 4.0)
    agent.undo_release(second, agent.displaced)
    assert list(agent.parked) == [first]
    assert list(agent.allocations) == [second]
    (state,) = agent.states(5.0)
    assert (state.used, state.cooling) == (2, 0)
    assert agent.recorded == len(agent.stored()) == 2


def test_of_two_that_are_kept_for_an_owner_the_newer_one_is_its_own() -> None:
    """The pod's first sandbox is released; its second one runs when the machine starts anew."""
    before = node()
    before.blocks_seen([BLOCK])
    first, _ = before.allocate(request("c1"), 1.0)
    second, _ = before.allocate(request("c2"), 2.0)
    before.release(first.key, 3.0)
    after = node()
    after.load(before.stored(), 100.0, booted=True)
    after.blocks_seen([BLOCK])
    assert [each.given for each in after.parked] == [second.given]
    returned, _ = after.allocate(request("c3"), 101.0)
    assert returned.given == second.given
    assert after.recorded == len(after.stored()) == 1
