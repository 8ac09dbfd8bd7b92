"""What a CiliumNode says of single addresses, and how that is patched. The object is one that Cilium's operator wrote, shortened."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from omnipam.core.cidr import parse, parse_address
from omnipam.providers.aws.published import FORM
from omnipam.runtime.kube.interfacenode import InterfaceForm, InterfaceNode, Shown, releases_patch, used_patch

FIRST, SECOND, SIX = parse_address("10.0.96.251"), parse_address("10.0.120.142"), parse_address("fd00::7")

WRITTEN: dict[str, Any] = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNode",
    "metadata": {"name": "node-0003", "uid": "u", "resourceVersion": "7"},
    "spec": {
        "alibaba-cloud": {},
        "azure": {},
        "encryption": {},
        "eni": {
            "availability-zone": "us-east-1a",
            "first-interface-index": 0,
            "instance-type": "m5.xlarge",
            "subnet-ids": ["subnet-5769edd5b2af040fa"],
            "vpc-id": "vpc-9731bdd97897363aa",
        },
        "health": {},
        "ingress": {},
        "instance-id": "i-b7969d6fe57219dc5",
        "ipam": {
            "pool": {
                "10.0.120.142": {"resource": "eni-55c59d23569058160"},
                "10.0.96.251": {"resource": "eni-55c59d23569058160"},
            },
            "pools": {},
            "pre-allocate": 30,
        },
    },
    "status": {
        "alibaba-cloud": {},
        "azure": {},
        "eni": {
            "enis": {
                "eni-55c59d23569058160": {
                    "addresses": ["10.0.96.251", "10.0.120.142"],
                    "description": "Cilium-CNI (i-b7969d6fe57219dc5)",
                    "id": "eni-55c59d23569058160",
                    "ip": "10.0.58.204",
                    "mac": "02:00:00:41:c1:01",
                    "number": 2,
                    "security-groups": ["sg-7208cd044dd9c3e26"],
                    "subnet": {"cidr": "10.0.0.0/17", "id": "subnet-5769edd5b2af040fa"},
                    "tags": {"io.cilium/cilium-managed": "true"},
                    "vpc": {"id": "vpc-9731bdd97897363aa", "primary-cidr": "10.0.0.0/16"},
                }
            }
        },
        "ipam": {"operator-status": {}},
    },
}


def shown(**status: object) -> Shown:
    tree = WRITTEN | {"status": WRITTEN["status"] | {"ipam": status}}
    node = InterfaceForm(FORM).node(
        msgspec.json.decode(json.dumps(tree).encode(), type=InterfaceNode), own_addresses=True
    )
    assert isinstance(node, Shown)
    return node


def test_as_cilium_wrote_it() -> None:
    node = shown()
    assert [block.cidr for block in node.holds.blocks] == [FIRST, SECOND]
    assert all(block.first_usable and block.last_usable for block in node.holds.blocks)
    (uplink,) = node.uplinks
    assert (uplink.number, uplink.mac, uplink.native) == (2, "02:00:00:41:c1:01", (parse("10.0.0.0/16"),))
    assert node.instance == "i-b7969d6fe57219dc5"
    assert node.pre_allocate == 30
    assert (node.used, node.releases, node.odd) == (None, (), ())
    assert not node.pools_agent


def test_usage_and_words_of_both_families() -> None:
    node = shown(
        **{
            "used": {"10.0.96.251": {"owner": "shop/web", "resource": "eni-1"}},
            "ipv6-used": {"fd00::7": {"owner": "shop/six"}},
            "release-ips": {"10.0.120.142": "marked-for-release"},
            "release-ipv6s": {"fd00::7": "do-not-release"},
        }
    )
    assert node.used == (FIRST, SIX)
    assert node.owners == ((FIRST, "shop/web"), (SIX, "shop/six"))
    assert node.releases == ((SECOND, "marked-for-release"), (SIX, "do-not-release"))


def test_nothing_used_is_not_nothing_said() -> None:
    assert shown().used is None
    assert shown(used=None).used is None
    assert shown(used={}).used == ()


@pytest.mark.parametrize("text", ["10.0.0.256", "10.0.0.0/28", "", "name"])
def test_what_is_no_address_is_told_and_does_no_harm(text: str) -> None:
    node = shown(used={text: {"owner": "x"}, "10.0.96.251": {"owner": "y"}})
    assert node.used == (FIRST,)
    (odd,) = node.odd
    assert "status.ipam.used" in odd.text


def test_what_does_not_decode_is_no_sight_of_it() -> None:
    node = InterfaceForm(FORM).salvaged(json.dumps(WRITTEN | {"spec": {"ipam": []}}).encode(), "it is bad")
    assert not isinstance(node, Shown)
    assert node.unreadable


def test_used_is_patched_to_exactly_what_is_used() -> None:
    used = {FIRST: ("shop/web", "eni-1"), SIX: ("shop/six", "")}
    assert used_patch(used, (SECOND,), whole=False) == {
        "used": {"10.0.96.251": {"owner": "shop/web", "resource": "eni-1"}, "10.0.120.142": None},
        "ipv6-used": {"fd00::7": {"owner": "shop/six"}},
    }
    assert used_patch({}, (), whole=True) == {"used": {}}
    assert used_patch({}, (), whole=False) == {}


def test_words_are_patched_one_by_one() -> None:
    assert releases_patch([(FIRST, "do-not-release"), (SIX, "")]) == {
        "release-ips": {"10.0.96.251": "do-not-release"},
        "release-ipv6s": {"fd00::7": None},
    }
