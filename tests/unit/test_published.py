"""What a CiliumNode's status says of interfaces: as Cilium writes it on three clouds, and with parts that make no sense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.uplink import Uplink, Uplinks
from omnipam.providers.published import FORMS, Read, form_of


def read(mode: str, status: dict[str, Any], spec: dict[str, Any] | None = None) -> Read:
    form = form_of(mode)
    assert form is not None
    return form.read(json.dumps(spec or {}).encode(), json.dumps(status).encode())


def addresses(*texts: str) -> tuple[Cidr, ...]:
    return tuple(parse_address(text) for text in texts)


ENI = {
    "id": "eni-1",
    "ip": "10.0.0.7",
    "mac": "02:00:00:bb:a2:04",
    "subnet": {"id": "subnet-1", "cidr": "10.0.0.0/17"},
    "vpc": {"id": "vpc-1", "primary-cidr": "10.0.0.0/16", "cidrs": ["100.64.0.0/16"]},
    "addresses": ["10.0.103.26", "10.0.1.16", "10.0.1.31", "10.0.109.16"],
    "prefixes": ["10.0.1.16/28"],
    "ipv6-prefixes": ["2600:1f14:1:2:3::/80"],
    "tags": {"team": "a", "zone": "x"},
}


def test_an_eni() -> None:
    found = read("eni", {"enis": {"eni-1": {**ENI, "number": 2}}})
    assert found.problems == ()
    assert found.uplinks == (
        Uplink(
            id="eni-1",
            number=2,
            mac="02:00:00:bb:a2:04",
            gateways={"ipv4": parse_address("10.0.0.1"), "ipv6": parse_address("fe80:ec2::1")},
            native=(parse("10.0.0.0/16"), parse("100.64.0.0/16")),
            addresses=addresses("10.0.103.26", "10.0.109.16"),
            prefixes=(parse("10.0.1.16/28"), parse("2600:1f14:1:2:3::/80")),
        ),
    )


@pytest.mark.parametrize(
    ("number", "spec", "excluded"),
    [
        (0, {}, False),
        (0, {"first-interface-index": 0}, False),
        (0, {"first-interface-index": 1}, True),
        (1, {"first-interface-index": 1}, False),
        (1, {"exclude-interface-tags": {"team": "a"}}, True),
        (1, {"exclude-interface-tags": {"team": "a", "zone": "y"}}, False),
        (1, {"exclude-interface-tags": {}}, False),
    ],
)
def test_an_eni_may_be_excluded(number: int, spec: dict[str, Any], excluded: bool) -> None:
    assert read("eni", {"enis": {"eni-1": {**ENI, "number": number}}}, spec).uplinks[0].excluded is excluded


def test_an_azure_interface() -> None:
    interface = {
        "id": "/subscriptions/s/…/nic-1",
        "name": "nic-1",
        "mac": "00:0d:3a:00:00:01",
        "state": "succeeded",
        "addresses": [
            {"ip": "10.1.0.5", "subnet": "s", "state": "succeeded"},
            {"ip": "10.1.0.4", "subnet": "s", "state": "updating"},
            {"ip": "10.1.0.32/28", "subnet": "s", "state": "Succeeded"},
        ],
        "GatewayIP": "10.1.0.1",
        "cidr": "10.1.0.0/24",
    }
    found = read("azure", {"interfaces": [interface]})
    assert found.problems == ()
    assert found.uplinks == (
        Uplink(
            id="/subscriptions/s/…/nic-1",
            mac="00:0d:3a:00:00:01",
            gateways={"ipv4": parse_address("10.1.0.1")},
            native=(parse("10.1.0.0/24"),),
            addresses=addresses("10.1.0.5"),
            prefixes=(parse("10.1.0.32/28"),),
        ),
    )
    assert read("azure", {"interfaces": [interface]}, {"interface-name": "nic-2"}).uplinks[0].excluded


def test_an_alibaba_interface() -> None:
    eni = {
        "network-interface-id": "eni-a",
        "mac-address": "00:16:3e:00:00:01",
        "type": "Secondary",
        "vswitch": {"vswitch-id": "vsw-1", "cidr": "192.168.0.0/24"},
        "primary-ip-address": "192.168.0.10",
        "private-ipsets": [
            {"private-ip-address": "192.168.0.10", "primary": True},
            {"private-ip-address": "192.168.0.12"},
            {"private-ip-address": "192.168.0.11", "primary": False},
        ],
        "tags": {"cilium-eni-index": "3"},
    }
    found = read("alibabacloud", {"enis": {"eni-a": eni}})
    assert found.problems == ()
    assert found.uplinks == (
        Uplink(
            id="eni-a",
            number=3,
            mac="00:16:3e:00:00:01",
            gateways={"ipv4": parse_address("192.168.0.253")},
            native=(parse("192.168.0.0/24"),),
            addresses=addresses("192.168.0.10", "192.168.0.11", "192.168.0.12"),
        ),
    )
    assert read("alibabacloud", {"enis": {"eni-a": {**eni, "type": "Primary"}}}).uplinks[0].excluded


@pytest.mark.parametrize("mode", sorted(FORMS))
@pytest.mark.parametrize(
    "status", [None, {}, {"enis": None, "interfaces": None}, {"enis": {}, "interfaces": []}]
)
def test_nothing_is_no_interface(mode: str, status: dict[str, Any] | None) -> None:
    form = form_of(mode)
    assert form is not None
    assert form.read(b"null", json.dumps(status).encode()) == Read()


def test_null_is_what_is_missing() -> None:
    """Go's encoders write it, and its decoders take it for nothing."""
    empty = dict.fromkeys(("number", "mac", "subnet", "vpc", "prefixes", "tags"))
    found = read("eni", {"enis": {"eni-1": {**ENI, **empty}}})
    assert found.problems == ()
    assert found.uplinks[0].number == 0
    azure = read(
        "azure",
        {"interfaces": [{"id": "a", "gateway": None, "addresses": [{"ip": "10.0.0.4", "state": None}]}]},
    )
    assert azure.problems == ()
    assert azure.uplinks[0].addresses == addresses("10.0.0.4")
    assert read("alibabacloud", {"enis": {"a": {"vswitch": None}}}).uplinks == (Uplink("a"),)


@pytest.mark.parametrize("mode", ["eni", "azure"])
def test_a_wish_that_cannot_be_read_excludes_all(mode: str) -> None:
    status = {"enis": {"eni-1": ENI}, "interfaces": [{"id": "a"}]}
    found = read(mode, status, {"first-interface-index": "x", "interface-name": 3})
    assert found.uplinks[0].excluded
    assert found.problems[0].text.startswith(f"spec.{mode}: ")


def test_a_part_that_makes_no_sense_hides_nothing_else() -> None:
    broken = {**ENI, "addresses": ["10.0.0.300", "10.0.0.9"], "prefixes": ["x"], "subnet": {"cidr": "?"}}
    found = read("eni", {"enis": {"eni-1": broken, "eni-2": {"number": "two"}, "eni-3": ENI}})
    assert [each.id for each in found.uplinks] == ["eni-1", "eni-3"]
    assert found.uplinks[0].addresses == addresses("10.0.0.9")
    assert "ipv4" not in found.uplinks[0].gateways
    assert len(found.problems) == 4
    assert all(str(each).startswith("status.eni.enis.eni-") for each in found.problems)


@pytest.mark.parametrize("mode", sorted(FORMS))
@pytest.mark.parametrize("part", [{"enis": 3, "interfaces": 3}, {"enis": {"a": []}, "interfaces": [[]]}])
def test_what_is_no_object_is_a_problem(mode: str, part: dict[str, Any]) -> None:
    found = read(mode, part)
    assert found.uplinks == ()
    assert len(found.problems) == 1


def test_whose_an_address_is() -> None:
    single = Uplink("b", addresses=addresses("10.0.1.17"), prefixes=(parse("10.0.2.0/28"),))
    wide = Uplink("a", prefixes=(parse("10.0.1.16/28"), parse("fd00::/80")))
    uplinks = Uplinks([single, wide])
    assert uplinks.of(parse_address("10.0.1.17")) is single
    assert uplinks.of(parse_address("10.0.1.18")) is wide
    assert uplinks.of(parse_address("10.0.2.15")) is single
    assert uplinks.of(parse_address("10.0.2.16")) is None
    assert uplinks.of(parse_address("fd00::1:2")) is wide
    assert uplinks.get("b") is single
    assert uplinks.get("c") is None
