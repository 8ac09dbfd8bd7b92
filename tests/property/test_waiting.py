"""Those who wait, against a list that is sorted anew each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.cidr import FAMILIES, Family
from omnipam.core.waiting import Needs, Waiting

NEEDS: tuple[Needs, ...] = (("ipv4",), ("ipv6",), ("ipv4", "ipv6"))

arrivals = st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 5).map(float), st.sampled_from(NEEDS))
steps = st.lists(
    st.one_of(arrivals, st.sampled_from("abcdefgh"), st.tuples(st.integers(0, 4), st.integers(0, 4))),
    max_size=40,
)


def expected(entries: dict[str, tuple[float, Needs]], left: dict[Family, int]) -> list[str]:
    woken = []
    for _, name in sorted((created, name) for name, (created, _) in entries.items()):
        needs = entries[name][1]
        if all(left[family] > 0 for family in needs):
            woken.append(name)
            for family in needs:
                left[family] -= 1
    for name in woken:
        del entries[name]
    return woken


@given(steps=steps)
def test_it_serves_as_a_sorted_list_would(steps: list[object]) -> None:
    waiting = Waiting()
    entries: dict[str, tuple[float, Needs]] = {}
    for step in steps:
        match step:
            case (str(name), float(created), tuple(needs)):
                waiting.add(name, created, needs)
                entries[name] = (created, needs)
            case str(name):
                waiting.discard(name)
                entries.pop(name, None)
            case (int(ipv4), int(ipv6)):
                left = dict(zip(FAMILIES, (ipv4, ipv6), strict=True))
                assert waiting.served(dict(left).__getitem__) == expected(entries, left)
        assert len(waiting) == len(entries)
