"""`status.azure` of a CiliumNode: the network interfaces of a virtual machine. Pure; no SDK.

Source: Cilium's `pkg/azure/types` (shape) and `pkg/azure/agent` (what an agent makes of it).
"""

from __future__ import annotations

import msgspec

from omnipam.core.cidr import Cidr, Family
from omnipam.core.uplink import Uplink

from ..published import Form, Read, Reading, outside

FIELD = "azure"
USABLE = "succeeded"


class Address(msgspec.Struct, frozen=True, gc=False):
    """One IP configuration. An object without a state is of a time before there were any."""

    ip: str = ""
    state: str = USABLE


class Interface(msgspec.Struct, frozen=True, gc=False):
    """One of `status.azure.interfaces`. `GatewayIP` is the older name of `gateway`."""

    id: str = ""
    name: str = ""
    mac: str = ""
    addresses: list[Address] | None = None
    gateway: str = ""
    gateway_of_old: str = msgspec.field(name="GatewayIP", default="")
    cidr: str = ""


class Status(msgspec.Struct, frozen=True):
    interfaces: list[object] | None = None


class Spec(msgspec.Struct, frozen=True, rename="kebab"):
    """`spec.azure`. interface_name: the only interface that serves pods; empty: all do."""

    interface_name: str = ""


def read(spec: bytes, status: bytes) -> Read:
    """Every interface, excluded ones too."""
    reading = Reading()
    wishes = reading.document(spec, Spec, f"spec.{FIELD}")
    shown = reading.document(status, Status, f"status.{FIELD}") or Status()
    found: dict[str, Uplink] = {}
    for at, part in enumerate(shown.interfaces or ()):
        where = f"status.{FIELD}.interfaces[{at}]"
        interface = reading.struct(part, Interface, where)
        if interface is not None and interface.id:
            found[interface.id] = _uplink(interface, wishes, reading, where)
    return Read(tuple(found[name] for name in sorted(found)), tuple(reading.problems))


def _uplink(interface: Interface, wishes: Spec | None, reading: Reading, where: str) -> Uplink:
    texts = [each.ip for each in interface.addresses or () if each.state.lower() == USABLE]
    prefixes = reading.cidrs([text for text in texts if "/" in text], f"{where}.addresses")
    single = reading.addresses([text for text in texts if "/" not in text], f"{where}.addresses")
    gateways: dict[Family, Cidr] = {}
    gateway = reading.address(interface.gateway or interface.gateway_of_old, f"{where}.gateway")
    cidr = reading.cidr(interface.cidr, f"{where}.cidr")
    if gateway is None and cidr is not None and cidr.family == "ipv4":
        gateway = Cidr(32, cidr.first + 1, 32)
    if gateway is not None:
        gateways[gateway.family] = gateway
    return Uplink(
        id=interface.id,
        mac=interface.mac,
        gateways=gateways,
        native=(cidr,) if cidr is not None else (),
        addresses=outside(single, prefixes),
        prefixes=prefixes,
        excluded=wishes is None or wishes.interface_name not in ("", interface.name),
    )


FORM = Form(FIELD, read, pools=True)
