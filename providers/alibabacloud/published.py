"""`status.alibaba-cloud` of a CiliumNode: the interfaces of an ECS instance. Pure; no SDK.

Source: Cilium's `pkg/alibabacloud/eni/types` (shape) and its agent's allocation result.
"""

from __future__ import annotations

import msgspec

from omnipam.core.cidr import Cidr, Family
from omnipam.core.uplink import Uplink

from ..published import Form, Read, Reading

FIELD = "alibaba-cloud"
INDEX_TAG = "cilium-eni-index"


class VSwitch(msgspec.Struct, frozen=True, gc=False, rename="kebab"):
    cidr: str = ""
    ipv6_cidr: str = ""


class PrivateIp(msgspec.Struct, frozen=True, gc=False, rename="kebab"):
    private_ip_address: str = ""


class Eni(msgspec.Struct, frozen=True, gc=False, rename="kebab"):
    """One of `status.alibaba-cloud.enis`. private_ipsets: the primary address too, which serves pods like the others."""

    mac_address: str = ""
    type: str = ""
    vswitch: VSwitch = VSwitch()
    private_ipsets: list[PrivateIp] | None = None
    tags: dict[str, str] | None = None


class Status(msgspec.Struct, frozen=True):
    enis: dict[str, object] | None = None


def read(spec: bytes, status: bytes) -> Read:
    """Every interface; the instance's own first one serves no pods."""
    del spec  # it says nothing that concerns an agent
    reading = Reading()
    shown = reading.document(status, Status, f"status.{FIELD}") or Status()
    found = []
    for name, part in sorted((shown.enis or {}).items()):
        where = f"status.{FIELD}.enis.{name}"
        eni = reading.struct(part, Eni, where)
        if eni is not None:
            found.append(_uplink(name, eni, reading, where))
    return Read(tuple(found), tuple(reading.problems))


def _uplink(name: str, eni: Eni, reading: Reading, where: str) -> Uplink:
    gateways: dict[Family, Cidr] = {}
    native = []
    for text, field in ((eni.vswitch.cidr, "cidr"), (eni.vswitch.ipv6_cidr, "ipv6-cidr")):
        cidr = reading.cidr(text, f"{where}.vswitch.{field}")
        if cidr is not None:
            native.append(cidr)
            if cidr.family == "ipv4" and cidr.size > 2:
                gateways["ipv4"] = Cidr(32, cidr.last - 2, 32)  # a vSwitch's third address from the end
    texts = [each.private_ip_address for each in eni.private_ipsets or ()]
    return Uplink(
        id=name,
        number=_index(eni.tags or {}),
        mac=eni.mac_address,
        gateways=gateways,
        native=tuple(native),
        addresses=reading.addresses(texts, f"{where}.private-ipsets"),
        excluded=eni.type == "Primary",
    )


def _index(tags: dict[str, str]) -> int:
    """Which routing table it has, as the operator noted it when it made the interface."""
    text = tags.get(INDEX_TAG, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else 0


FORM = Form(FIELD, read, pools=False)
