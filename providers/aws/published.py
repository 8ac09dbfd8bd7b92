"""`status.eni` of a CiliumNode: the interfaces of an EC2 instance. Pure; no SDK.

Source: Cilium's `pkg/aws/types` (shape) and `pkg/aws/agent` (what an agent makes of it).
"""

from __future__ import annotations

import msgspec

from omnipam.core.cidr import Cidr, Family, parse_address
from omnipam.core.uplink import Uplink

from ..published import Form, Read, Reading, outside

FIELD = "eni"
IPV6_GATEWAY = parse_address("fe80:ec2::1")
"""The router of every subnet, on its link."""


class Subnet(msgspec.Struct, frozen=True, gc=False):
    cidr: str = ""


class Vpc(msgspec.Struct, frozen=True, gc=False, rename="kebab"):
    primary_cidr: str = ""
    cidrs: list[str] | None = None


class Eni(msgspec.Struct, frozen=True, gc=False, rename="kebab"):
    """One of `status.eni.enis`. addresses: those of prefixes too; without the primary one unless that serves pods."""

    mac: str = ""
    number: int = 0
    subnet: Subnet = Subnet()
    vpc: Vpc = Vpc()
    addresses: list[str] | None = None
    prefixes: list[str] | None = None
    ipv6_prefixes: list[str] | None = None
    tags: dict[str, str] | None = None


class Status(msgspec.Struct, frozen=True):
    enis: dict[str, object] | None = None


class Spec(msgspec.Struct, frozen=True, rename="kebab"):
    """`spec.eni`, as far as it excludes interfaces."""

    first_interface_index: int | None = None
    exclude_interface_tags: dict[str, str] | None = None

    def excludes(self, eni: Eni) -> bool:
        """Whether the interface serves no pods."""
        if self.first_interface_index is not None and eni.number < self.first_interface_index:
            return True
        wanted = (self.exclude_interface_tags or {}).items()
        return bool(wanted) and wanted <= (eni.tags or {}).items()


def read(spec: bytes, status: bytes) -> Read:
    """Every interface, excluded ones too."""
    reading = Reading()
    wishes = reading.document(spec, Spec, f"spec.{FIELD}")
    shown = reading.document(status, Status, f"status.{FIELD}") or Status()
    found = []
    for name, part in sorted((shown.enis or {}).items()):
        where = f"status.{FIELD}.enis.{name}"
        eni = reading.struct(part, Eni, where)
        if eni is not None:
            found.append(_uplink(name, eni, wishes, reading, where))
    return Read(tuple(found), tuple(reading.problems))


def _uplink(name: str, eni: Eni, wishes: Spec | None, reading: Reading, where: str) -> Uplink:
    prefixes = (
        *reading.cidrs(eni.prefixes, f"{where}.prefixes"),
        *reading.cidrs(eni.ipv6_prefixes, f"{where}.ipv6-prefixes"),
    )
    gateways: dict[Family, Cidr] = {"ipv6": IPV6_GATEWAY}
    subnet = reading.cidr(eni.subnet.cidr, f"{where}.subnet.cidr")
    if subnet is not None and subnet.family == "ipv4":
        gateways["ipv4"] = Cidr(32, subnet.first + 1, 32)
    primary = [eni.vpc.primary_cidr] if eni.vpc.primary_cidr else []
    return Uplink(
        id=name,
        number=eni.number,
        mac=eni.mac,
        gateways=gateways,
        native=reading.cidrs([*primary, *(eni.vpc.cidrs or ())], f"{where}.vpc"),
        addresses=outside(reading.addresses(eni.addresses, f"{where}.addresses"), prefixes),
        prefixes=prefixes,
        excluded=wishes is None or wishes.excludes(eni),  # none may be used that is not known to be wanted
    )


FORM = Form(FIELD, read, pools=True)
