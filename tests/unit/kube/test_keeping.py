"""What is kept, as lines of a ConfigMap: the same state is the same text, and nothing unreadable is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.cidr import Cidr, parse
from omnipam.core.values import Kept
from omnipam.runtime.kube.keeping import read_lines, write_lines

cidrs = st.builds(
    lambda first, length: Cidr(32, first, 32).widened(length), st.integers(0, 2**32 - 1), st.integers(0, 32)
)
kepts = st.builds(
    Kept,
    st.sampled_from(["default", "mars"]),
    cidrs,
    st.sampled_from(["", "worker-1", "a.b-c"]),
    st.floats(0, 4e9),
)
strays = st.dictionaries(
    st.sampled_from(["default", "venus"]),
    st.lists(st.sampled_from(["nonsense", "{}", '{"cidr": 7}', '{"cidr":"x"}']), min_size=1, max_size=3),
)


@given(st.lists(kepts, max_size=8), strays)
def test_what_is_written_is_what_is_read(kept: list[Kept], unread: dict[str, list[str]]) -> None:
    data = write_lines(kept, unread)
    back, found, findings = read_lines(data, "kube-system/omnipam-ipam-state")
    assert back == tuple(sorted(kept))
    assert found == unread
    assert len(findings) == sum(map(len, unread.values()))
    assert write_lines(back, found) == data


@given(st.lists(kepts, max_size=8).flatmap(lambda kept: st.tuples(st.just(kept), st.permutations(kept))))
def test_the_order_in_which_it_came_does_not_show(pair: tuple[list[Kept], list[Kept]]) -> None:
    assert write_lines(pair[0], {}) == write_lines(pair[1], {})


def test_the_lines_are_short() -> None:
    kept = (Kept("default", parse("10.0.1.0/24"), owner="a"), Kept("default", parse("fd00::/120"), until=5.0))
    text = '{"cidr":"10.0.1.0/24","owner":"a"}\n{"cidr":"fd00::/120","until":5.0}\n'
    assert write_lines(kept, {}) == {"default": text}


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"cidr":"10.0.0/24"}',
        '{"cidr":"10.0.0.0/24","x":1}',
        '{"cidr":"10.0.0.0/24","until":"5"}',
    ],
)
def test_a_finding_names_map_key_and_line(line: str) -> None:
    kept, unread, (finding,) = read_lines({"default": f"\n{line}\n"}, "kube-system/omnipam-ipam-state")
    assert (kept, unread) == ((), {"default": [line]})
    assert finding.text.startswith(
        "ConfigMap kube-system/omnipam-ipam-state, key default, line 2 cannot be read ("
    )
    assert "\n" not in str(finding)
