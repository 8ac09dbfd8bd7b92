"""How a node grows: with the least calls, within every limit, and saying why where it cannot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.growth import Add, Filled, Growth, Made, Want, grow
from omnipam.core.inventory import Group, Interface, Limits, Subnet
from omnipam.core.placement import Placement, Terrain

M5_XLARGE = Limits(interfaces=4, addresses=15, ipv6_addresses=15, prefixes=True)
ETH0 = Interface("eni-0", instance="i-1", subnet="s-1", primary=1, groups=("sg-1",), first=True)


def terrain(**free: int) -> Terrain:
    subnets = {
        name.replace("_", "-"): Subnet(name.replace("_", "-"), free=number) for name, number in free.items()
    }
    return Terrain(subnets)


def calls(growth: Growth) -> int:
    """As AWS counts: one an interface that is filled (two for mixed contents), three a new one."""
    return sum(
        bool(add.addresses) + bool(add.prefixes) for each in growth.filled for add in each.add
    ) + 3 * len(growth.made)


def test_a_fresh_m5_xlarge_gets_30_addresses_with_7_calls() -> None:
    growth = grow(Want(30), Placement(home="s-1"), (ETH0,), M5_XLARGE, terrain(s_1=1000))
    assert growth == Growth(
        filled=(Filled("eni-0", (Add("ipv4", 14),)),),
        made=(
            Made("s-1", ("sg-1",), 1, (Add("ipv4", 14),)),
            Made("s-1", ("sg-1",), 2, (Add("ipv4", 2),)),
        ),
    )
    assert calls(growth) == 7


def test_with_the_first_interface_excluded_it_takes_9_and_with_primary_addresses_6() -> None:
    growth = grow(Want(30), Placement(first_index=1), (ETH0,), M5_XLARGE, terrain(s_1=1000))
    assert [each.index for each in growth.made] == [1, 2, 3]
    assert calls(growth) == 9
    growth = grow(Want(29), Placement(first_index=1, use_primary=True), (ETH0,), M5_XLARGE, terrain(s_1=1000))
    assert [each.add for each in growth.made] == [(Add("ipv4", 14),), (Add("ipv4", 13),)]


def test_48_addresses_in_prefixes_take_1_call_and_3_on_a_new_interface() -> None:
    want = Want(48, prefixes=True)
    growth = grow(want, Placement(), (ETH0,), M5_XLARGE, terrain(s_1=1000))
    assert growth == Growth(filled=(Filled("eni-0", (Add("ipv4", 0, 3),)),))
    growth = grow(want, Placement(first_index=1), (ETH0,), M5_XLARGE, terrain(s_1=1000))
    assert growth == Growth(made=(Made("s-1", ("sg-1",), 1, (Add("ipv4", 0, 3),)),))
    assert calls(growth) == 3


def test_ipv6_comes_in_the_same_calls() -> None:
    growth = grow(Want(3, ipv6=1), Placement(first_index=1), (ETH0,), M5_XLARGE, terrain(s_1=100))
    assert growth.made == (Made("s-1", ("sg-1",), 1, (Add("ipv4", 3), Add("ipv6", 0, 1))),)


def test_where_prefixes_are_refused_another_subnet_comes_before_single_addresses() -> None:
    subnets = {name: Subnet(name, free=200) for name in ("s-1", "s-2")}
    cooling = frozenset([("s-1", True)])
    growth = grow(Want(16, prefixes=True), Placement(), (ETH0,), M5_XLARGE, Terrain(subnets, cooling=cooling))
    assert growth.made == (Made("s-2", ("sg-1",), 1, (Add("ipv4", 0, 1),)),)
    cooling |= {("s-2", True)}
    growth = grow(Want(16, prefixes=True), Placement(), (ETH0,), M5_XLARGE, Terrain(subnets, cooling=cooling))
    assert growth.filled == (Filled("eni-0", (Add("ipv4", 14),)),)
    assert [each.add for each in growth.made] == [(Add("ipv4", 2),)]


def test_what_is_missing_says_why() -> None:
    full = grow(Want(60), Placement(type="m5.xlarge"), (ETH0,), M5_XLARGE, terrain(s_1=1000))
    assert full.lacking == 4
    assert str(full.problems[0]).startswith(
        "instance type m5.xlarge carries 4 interfaces of 14 addresses for pods, and all are there — "
    )
    subnets = {
        "s-1": Subnet("s-1", free=5, tags=(("tier", "pods"),)),
        **{name: Subnet(name, free=500) for name in ("s-2", "s-3", "s-4")},
    }
    narrow = Placement(subnet_tags=(("tier", "pods"),))
    found = grow(Want(30), narrow, (ETH0,), M5_XLARGE, Terrain(subnets))
    assert found.lacking == 25
    assert found.problems[0].text == "subnet s-1 is full, 3 others do not match"
    nowhere = grow(
        Want(30), Placement(subnet_tags=(("a", "b"),), zone="z"), (ETH0,), M5_XLARGE, Terrain(subnets)
    )
    assert nowhere.problems[0].reason == "NoSubnet"
    no_group = grow(Want(30), Placement(group_tags=(("a", "b"),)), (ETH0,), M5_XLARGE, Terrain(subnets))
    assert no_group.problems[0].text == "no security group carries the tags a=b"


def test_an_interface_in_transition_is_left_alone_and_takes_up_its_place() -> None:
    coming = Interface("eni-1", instance="i-1", index=1, subnet="s-1", state="attaching")
    trunk = Interface("eni-2", instance="i-1", index=2, subnet="s-1", serves=False)
    growth = grow(Want(56), Placement(), (ETH0, coming, trunk), M5_XLARGE, terrain(s_1=1000))
    assert [each.interface for each in growth.filled] == ["eni-0"]
    assert [each.index for each in growth.made] == [3]


names = st.sampled_from(["s-1", "s-2", "s-3"])
interfaces = st.lists(
    st.builds(
        lambda subnet, singles, prefixes, serves, state: (subnet, singles, prefixes, serves, state),
        names,
        st.integers(0, 14),
        st.integers(0, 3),
        st.booleans(),
        st.sampled_from(["attached", "attaching"]),
    ),
    max_size=4,
)


@given(
    st.builds(Want, st.integers(0, 300), st.integers(0, 2), st.booleans()),
    interfaces,
    st.dictionaries(names, st.integers(0, 100)),
    st.frozensets(st.tuples(names, st.booleans()), max_size=3),
    st.builds(
        lambda first, primary, prefixes, zone: Placement(
            first_index=first, use_primary=primary, prefixes=prefixes, zone=zone, groups=("g",)
        ),
        st.integers(0, 2),
        st.booleans(),
        st.booleans(),
        st.just(""),
    ),
    st.builds(Limits, st.integers(1, 5), st.integers(2, 15), st.integers(0, 15), st.booleans()),
)
def test_no_plan_breaks_a_limit(
    want: Want,
    there: list[tuple[str, int, int, bool, str]],
    free: dict[str, int],
    cooling: frozenset[tuple[str, bool]],
    placement: Placement,
    limits: Limits,
) -> None:
    known = tuple(
        Interface(
            f"eni-{at}",
            instance="i-1",
            index=at,
            subnet=subnet,
            addresses=tuple(range(min(singles, limits.addresses - 1))),
            serves=serves,
            state=state,  # type: ignore[arg-type]  # drawn from the literal's values
        )
        for at, (subnet, singles, _, serves, state) in enumerate(there)
    )[: limits.interfaces]
    subnets = {name: Subnet(name, free=number) for name, number in free.items()}
    growth = grow(want, placement, known, limits, Terrain(subnets, {"g": Group("g")}, cooling=cooling))
    by_id = {each.id: each for each in known}
    gained, six = 0, 0
    spent: dict[str, int] = {}
    for at, (subnet, add, before) in enumerate(
        [
            *(
                (by_id[each.interface].subnet, each.add, len(by_id[each.interface].addresses))
                for each in growth.filled
            ),
            *((each.subnet, each.add, 0) for each in growth.made),
        ]
    ):
        made = at >= len(growth.filled)
        v4 = [each for each in add if each.family == "ipv4"]
        v6 = [each for each in add if each.family == "ipv6"]
        places = sum(each.addresses + each.prefixes for each in v4)
        addresses = sum(each.addresses + 16 * each.prefixes for each in v4)
        assert before + places <= limits.addresses - 1
        assert add or placement.use_primary
        assert sum(each.prefixes for each in v6) <= limits.ipv6_addresses
        if any(each.prefixes for each in add):
            assert limits.prefixes
        if any(each.prefixes for each in v4):
            assert want.prefixes
            assert placement.prefixes
            assert (subnet, True) not in cooling
        if made or any(each.addresses for each in v4):
            assert (subnet, False) not in cooling
        spent[subnet] = spent.get(subnet, 0) + addresses + made
        gained += addresses + (made and placement.use_primary)
        six += sum(each.prefixes for each in v6)
    for subnet, number in spent.items():
        assert number <= free.get(subnet, 0) or number == 0
    assert len(known) + len(growth.made) <= limits.interfaces
    assert all(each.index >= placement.first_index for each in growth.made)
    assert len({*(each.index for each in growth.made), *(each.index for each in known)}) == len(known) + len(
        growth.made
    )
    assert growth.lacking == max(0, want.ipv4 - gained)
    assert gained < want.ipv4 + 16
    assert six <= want.ipv6
    assert bool(growth.problems) == (growth.lacking > 0 or six < want.ipv6)
