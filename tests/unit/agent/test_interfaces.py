"""What the agent says of its node's addresses in a cloud, and when it says nothing."""

from __future__ import annotations

import msgspec
from tests.unit.agent.house import SILENT

from omnipam.core.attachment import NoAddress, Request, Want
from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.handshake import MARKED
from omnipam.core.node_agent import NodeAgent
from omnipam.core.uplink import Uplink
from omnipam.core.values import Block, Demand, Held, Node
from omnipam.runtime.agent.interfaces import Interfaces, InterfacesReport, Wanted, capacity
from omnipam.runtime.kube.interfacenode import Shown

ONE, TWO, LOST = (parse_address(f"10.0.0.{number}") for number in (1, 2, 9))
PREFIX = parse("10.0.1.0/28")
UPLINK = Uplink("eni-1", 1, "02:00:00:00:00:01", addresses=(ONE, TWO), prefixes=(PREFIX,))


def shown(*pool: Cidr, **more: object) -> Shown:
    blocks = tuple(Block("default", each, True, True) for each in pool)
    node = Shown("a", uid="u", version="1", holds=Held(blocks), uplinks=(UPLINK,))
    return msgspec.structs.replace(node, **more)


class Bench:
    def __init__(self, wanted: Wanted = "addresses") -> None:
        self.now, self.known = 0.0, True
        self.agent = NodeAgent(
            families=("ipv4",),
            pooled=False,
            gateway=False,
            rounded=False,
            cool_down_s=30.0,
            pre_allocate={"default": 4},
        )
        self.half = Interfaces(
            self.agent, wanted=wanted, clock=lambda: self.now, knows=lambda: self.known, log=SILENT
        )

    def allocate(self, name: str, address: Cidr | None = None) -> str:
        want = Want("ipv4", "default", address.first if address else None)
        allocation, _ = self.agent.allocate(Request(("n", name, "i"), f"shop/{name}", (want,)), self.now)
        return str(allocation.given[0])

    def report(self, node: Node) -> InterfacesReport:
        return self.half.report(node)

    def is_dry(self) -> bool:
        try:
            self.allocate("x")
        except NoAddress:
            return True
        return False


def test_used_says_who_has_what_by_which_interface_and_a_new_owner_is_a_change() -> None:
    bench, node = Bench(), shown(ONE)
    bench.half.seen(node)
    bench.allocate("web")
    report = bench.report(node)
    assert report.used == ((ONE, "shop/web", "eni-1"),)
    assert not report.shown_by(node)
    said = shown(ONE, used=(ONE,), owners=((ONE, "shop/web"),))
    assert report.shown_by(said)
    assert not report.shown_by(shown(ONE, used=(ONE,), owners=((ONE, "shop/other"),)))


def test_that_nothing_is_used_is_said_once() -> None:
    bench, node = Bench(), shown(ONE)
    bench.half.seen(node)
    report = bench.report(node)
    assert report.used == ()
    assert not report.shown_by(node)
    bench.half.written(report, node)
    assert bench.report(node).shown_by(node), "Go leaves out what is empty: that is no reason to write again"


def test_an_address_without_a_known_interface_is_not_given_until_it_has_one() -> None:
    bench = Bench()
    bench.half.seen(shown(LOST))
    assert bench.is_dry()
    assert bench.half.seen(shown(LOST, uplinks=(Uplink("eni-2", addresses=(LOST,)),)))
    assert bench.allocate("web") == "10.0.0.9"


def test_of_an_object_that_cannot_be_read_nothing_is_given_and_nothing_is_written_into_it() -> None:
    bench = Bench()
    bench.half.seen(shown(ONE, TWO))
    held = bench.allocate("web")
    broken = Node("a", version="2")
    assert not bench.half.seen(broken)
    assert bench.is_dry()
    assert bench.report(broken).shown_by(broken)
    assert bench.half.seen(shown(ONE, TWO))
    assert bench.allocate("web") == held
    assert not bench.is_dry()


def test_before_it_is_known_what_is_in_use_nothing_is_said_and_what_live_pods_have_can_be_taken() -> None:
    bench = Bench()
    bench.known = False
    node = shown(ONE, TWO, releases=((ONE, MARKED),), used=(ONE,), owners=((ONE, "shop/web"),))
    bench.half.seen(node)
    assert bench.report(node).shown_by(node)
    assert not bench.half.is_waited_for
    assert bench.allocate("web", ONE) == "10.0.0.1"
    bench.known = True
    bench.half.matured()
    assert bench.half.is_waited_for
    assert bench.report(node).answers == ((ONE, "do-not-release"),)


def test_a_mark_that_is_withdrawn_gives_the_address_back() -> None:
    bench = Bench()
    bench.half.seen(shown(ONE, releases=((ONE, MARKED),)))
    assert bench.is_dry()
    assert bench.half.seen(shown(ONE))
    assert bench.allocate("web") == "10.0.0.1"


def test_what_cools_is_not_used_and_not_given_back() -> None:
    bench, node = Bench(), shown(ONE, releases=((ONE, MARKED),))
    bench.half.seen(shown(ONE))
    bench.allocate("web")
    bench.agent.release(("n", "web", "i"), bench.now)
    bench.half.seen(node)
    report = bench.report(node)
    assert report.used == ()
    assert report.answers == ((ONE, "do-not-release"),)


def test_the_form_is_what_an_earlier_agent_left() -> None:
    demand = (Demand("default", "ipv4", 4),)
    for node, form in (
        (shown(), "addresses"),
        (shown(demand=demand), "cidrs"),
        (shown(demand=demand, used=(ONE,)), "addresses"),
    ):
        bench = Bench("auto")
        bench.half.seen(node)
        assert bench.half.form == form
        bench.half.seen(shown())
        assert bench.half.form == form, "for all of this life"


def test_cidrs_are_all_that_interfaces_have_but_excluded_ones() -> None:
    other = Uplink("eni-2", addresses=(LOST,), excluded=True)
    assert [block.cidr for block in capacity((UPLINK, other))] == [ONE, TWO, PREFIX]


def test_cidrs_demand_is_linear_and_the_object_says_how_much_is_ready() -> None:
    bench = Bench("cidrs")
    node = shown(pre_allocate=6)
    bench.half.seen(node)
    bench.allocate("web")
    assert bench.report(node).demand == (Demand("default", "ipv4", 7),)
    bench.half.seen(shown())
    assert bench.report(shown()).demand == (Demand("default", "ipv4", 5),)


def test_without_interfaces_the_list_of_a_predecessor_stays() -> None:
    bench = Bench("cidrs")
    node = shown(uplinks=(), allocated=(Block("default", PREFIX),))
    bench.half.seen(node)
    assert bench.report(node).listed is None


def test_addresses_take_the_demand_of_the_other_form_away_only_with_usage_said() -> None:
    bench = Bench("addresses")
    node = shown(ONE, demand=(Demand("default", "ipv4", 4),), used=())
    bench.half.seen(node)
    assert not bench.report(node).shown_by(node)
    assert bench.report(node).shown_by(shown(ONE, used=()))
