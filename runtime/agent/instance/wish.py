"""The fields of a CiliumNode's spec that a person may wish for, each with its form, and the agent flag of Cilium's for it.

Fields and flags are those of Cilium's agent; `max-above-watermark` has no flag there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from omnipam.core.errors import Invalid

from ...config.values import LARGEST, read_bool, read_int, read_map, read_text, shown, split_list


@dataclass(frozen=True, slots=True)
class Form:
    """metavar: how it is written. read: a flag's text; take: a value of JSON. Both raise Invalid with the reason alone."""

    metavar: str
    read: Callable[[str], object]
    take: Callable[[object], object]


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise Invalid(f"{shown(repr(value))} is not a whole number from 0 to {LARGEST}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"{shown(repr(value))} is neither true nor false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{shown(repr(value))} is not a text")
    return read_text(value)


def _list(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise Invalid(f"{shown(repr(value))} is not a list of texts")
    return [read_text(each) for each in value]


def _map(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise Invalid(f"{shown(repr(value))} is not an object of texts")
    return {read_text(str(name)): read_text(each) for name, each in sorted(value.items())}


INT = Form("N", lambda text: _whole(read_int(text)), _whole)
BOOL = Form("BOOL", read_bool, _flag)
TEXT = Form("TEXT", read_text, _text)
LIST = Form("TEXT,…", lambda text: _list(split_list(text)), _list)
MAP = Form("KEY=VALUE,…", lambda text: _map(read_map(text)), _map)


@dataclass(frozen=True, slots=True)
class Wish:
    """One field. flag: without the dashes, empty for none. modes: in which it is heard."""

    section: str
    name: str
    form: Form
    flag: str
    meaning: str
    modes: tuple[str, ...]

    @property
    def keeps_zero(self) -> bool:
        """Whether 0 and an empty text wish for something, and not for nothing: an index or a switch does."""
        return self.form is BOOL or self.name == "first-interface-index"


ALL = ("eni", "azure", "alibabacloud")
_GROUP_TAGS = "tags of the security groups of new interfaces"

WISHES: tuple[Wish, ...] = (
    Wish("ipam", "min-allocate", INT, "ipam-min-allocate", "addresses that the node has at least", ALL),
    Wish("ipam", "pre-allocate", INT, "ipam-pre-allocate", "addresses that are kept free", ALL),
    Wish("ipam", "max-allocate", INT, "ipam-max-allocate", "addresses that the node has at most", ALL),
    Wish("ipam", "max-above-watermark", INT, "", "addresses taken beyond what is needed", ALL),
    Wish("ipam", "static-ip-tags", MAP, "ipam-static-ip-tags", "tags of the node's public address", ALL[:2]),
    Wish("eni", "first-interface-index", INT, "eni-first-interface-index", "first interface for pods", ALL[:1]),
    Wish("eni", "security-groups", LIST, "eni-security-groups", "security groups of new interfaces", ALL[:1]),
    Wish("eni", "security-group-tags", MAP, "eni-security-group-tags", _GROUP_TAGS, ALL[:1]),
    Wish("eni", "subnet-ids", LIST, "eni-subnet-ids", "subnets of new interfaces", ALL[:1]),
    Wish("eni", "subnet-tags", MAP, "eni-subnet-tags", "tags of the subnets of new interfaces", ALL[:1]),
    Wish(
        "eni", "exclude-interface-tags", MAP, "eni-exclude-interface-tags",
        "tags of interfaces that are not for pods", ALL[:1],
    ),
    Wish(
        "eni", "use-primary-address", BOOL, "eni-use-primary-address",
        "whether pods get interfaces' primary addresses", ALL[:1],
    ),
    Wish(
        "eni", "disable-prefix-delegation", BOOL, "eni-disable-prefix-delegation",
        "whether this node takes single addresses, not prefixes", ALL[:1],
    ),
    Wish(
        "eni", "delete-on-termination", BOOL, "eni-delete-on-termination",
        "whether new interfaces end with the instance", ALL[:1],
    ),
    Wish("azure", "interface-name", TEXT, "azure-interface-name", "the interface that is for pods", ALL[1:2]),
    Wish("alibaba-cloud", "vswitches", LIST, "alibabacloud-vswitches", "vSwitches of new interfaces", ALL[2:]),
    Wish(
        "alibaba-cloud", "vswitch-tags", MAP, "alibabacloud-vswitch-tags",
        "tags of the vSwitches of new interfaces", ALL[2:],
    ),
    Wish(
        "alibaba-cloud", "security-groups", LIST, "alibabacloud-security-groups",
        "security groups of new interfaces", ALL[2:],
    ),
    Wish(
        "alibaba-cloud", "security-group-tags", MAP, "alibabacloud-security-group-tags", _GROUP_TAGS, ALL[2:]
    ),
    # What the instance decides. Wished for, it is compared, and taken only where the metadata does not answer.
    *(
        Wish("eni", name, TEXT, "", "", ALL[:1])
        for name in ("vpc-id", "instance-type", "availability-zone", "node-subnet-id")
    ),
    *(
        Wish("alibaba-cloud", name, TEXT, "", "", ALL[2:])
        for name in ("vpc-id", "instance-type", "availability-zone", "cidr-block")
    ),
)  # fmt: skip
