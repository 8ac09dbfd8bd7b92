"""Which pool a pod gets: the order of Cilium's rules, and its words where they fail."""

from __future__ import annotations

import pytest

from omnipam.core.errors import Invalid
from omnipam.core.selector import Requirement
from omnipam.runtime.agent.selection import (
    Expression,
    LabelSelector,
    Marked,
    SelectingPool,
    Unknown,
    read_owner,
    select,
    selector_of,
)

ANY, OF4, OF6 = "ipam.cilium.io/ip-pool", "ipam.cilium.io/ipv4-pool", "ipam.cilium.io/ipv6-pool"
REQUIRE = {"ipam.cilium.io/require-pool-match": "true"}
BOTH = frozenset(("ipv4", "ipv6"))
POD = ("shop", "web-0")
RED = SelectingPool("red", BOTH, pods=(Requirement("tier", ("red",)),))
SHOP = SelectingPool("shops", frozenset(("ipv4",)), namespaces=(Requirement("kind", ("shop",)),))
NONE = Marked()
PLAIN = SelectingPool("plain", BOTH)


def chosen(pod: Marked, namespace: Marked | None = NONE, *pools: SelectingPool, family: str = "ipv4") -> str:
    return select(family, POD, pod, namespace, pools, "default")  # type: ignore[arg-type]  # one of the two


def test_the_order_of_the_rules() -> None:
    red = {"tier": "red"}
    shop = {"kind": "shop"}
    whole = Marked(red, {OF4: "four", OF6: "six", ANY: "any"})
    namespace = Marked(shop, {OF4: "ns-four", ANY: "ns-any"})
    assert chosen(whole, namespace, RED) == "four"
    assert chosen(whole, namespace, RED, family="ipv6") == "six"
    assert chosen(Marked(red, {ANY: "any"}), namespace, RED) == "any"
    assert chosen(Marked(red), namespace, RED) == "ns-four"
    assert chosen(Marked(red), namespace, RED, family="ipv6") == "ns-any"
    assert chosen(Marked(red), Marked(shop), RED, PLAIN) == "red"
    assert chosen(Marked(), Marked(shop), RED, SHOP, PLAIN) == "shops"
    assert chosen(Marked(), Marked(shop), RED, SHOP, PLAIN, family="ipv6") == "default", "shops has no IPv6"
    assert chosen(Marked(), Marked(), RED, SHOP, PLAIN) == "default"


def test_an_annotation_beats_what_is_missing_and_what_is_required() -> None:
    assert chosen(Marked({}, {ANY: "any"} | REQUIRE), None) == "any"
    with pytest.raises(Unknown, match='resource Namespace "shop" not found'):
        chosen(Marked(), None)


def test_two_that_match_are_an_error_with_both_names() -> None:
    with pytest.raises(
        Invalid, match=r"multiple CiliumPodIPPools match pod shop/web-0 \(family=ipv4\): \[red shops\]"
    ):
        chosen(Marked({"tier": "red"}), Marked({"kind": "shop"}), SHOP, RED)


@pytest.mark.parametrize("where", ["pod", "namespace"])
def test_required_and_none_matches(where: str) -> None:
    marked = Marked({}, REQUIRE)
    pod, namespace = (marked, Marked()) if where == "pod" else (Marked(), marked)
    with pytest.raises(Invalid, match=f"require-pool-match annotation is set on {where}$"):
        chosen(pod, namespace, RED)
    assert chosen(Marked({}, {"ipam.cilium.io/require-pool-match": "True"}), Marked(), RED) == "default"


def test_both_selectors_must_match_and_names_are_labels_too() -> None:
    both = SelectingPool(
        "both",
        BOTH,
        (Requirement("io.kubernetes.pod.name", ("web-0",)),),
        (Requirement("kind", ("shop",)),),
    )
    assert chosen(Marked(), Marked({"kind": "shop"}), both) == "both"
    assert chosen(Marked(), Marked({"kind": "bank"}), both) == "default"
    everybody = SelectingPool("all", BOTH, ())
    assert chosen(Marked(), Marked(), everybody) == "all", (
        "an empty selector selects all, and no selector none"
    )


def test_label_selectors_as_objects() -> None:
    source = LabelSelector(
        {"a": "1"},
        [
            Expression("b", "In", ["y", "x"]),
            Expression("c", "NotIn", ["z"]),
            Expression("d", "Exists"),
            Expression("e", "DoesNotExist", []),
        ],
    )
    selector = selector_of(source)
    assert selector is not None
    assert ",".join(map(str, selector)) == "a=1,b in (x,y),c!=z,d,!e"
    for operator, values in (("In", []), ("Exists", ["x"]), ("Near", ["x"])):
        with pytest.raises(Invalid):
            selector_of(LabelSelector(None, [Expression("k", operator, values)]))


def test_owners_that_are_pods() -> None:
    assert read_owner("shop/web-0.example") == ("shop", "web-0.example")
    for text in ("router", "", "a/b/c", "Shop/web", "shop/", "/web", "shop/web_0", "x" * 64 + "/web"):
        assert read_owner(text) is None
