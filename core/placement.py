"""Where a node's new interfaces go: its wishes, the subnets and groups that match them, and why none does. Pure; ties go by id."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .inventory import Group, Interface, Subnet
from .values import Problem
from .watermarks import PREFIX_SIZE

Tags = tuple[tuple[str, str], ...]


class Placement(msgspec.Struct, frozen=True):
    """A node's own wishes, and what its machine is.

    type, zone, network: of the instance. home: the subnet of its first interface.
    subnets, subnet_tags, groups, group_tags: what its interfaces are to be in; ids come before tags.
    first_index: interfaces before it serve no pods. exclude_tags: nor do those that carry all of these.
    survives: its interfaces outlive the instance. use_primary: so that primary addresses serve pods, too.
    prefixes: whether whole prefixes may be taken, where the mode takes them.
    """

    type: str = ""
    zone: str = ""
    network: str = ""
    home: str = ""
    subnets: tuple[str, ...] = ()
    subnet_tags: Tags = ()
    groups: tuple[str, ...] = ()
    group_tags: Tags = ()
    first_index: int = 0
    exclude_tags: Tags = ()
    survives: bool = False
    use_primary: bool = False
    prefixes: bool = True

    def excludes(self, interface: Interface) -> bool:
        """Whether the interface serves no pods of this node."""
        if not interface.serves or interface.index < self.first_index:
            return True
        return bool(self.exclude_tags) and _carries(interface.tags, self.exclude_tags)


class Terrain:
    """The subnets as plans see them: with what other plans have reserved, and what is not to be tried again yet.

    cooling: (subnet, whether prefixes) that have just refused.
    """

    def __init__(
        self,
        subnets: Mapping[str, Subnet],
        groups: Mapping[str, Group] | None = None,
        *,
        reserved: Mapping[str, int] | None = None,
        cooling: frozenset[tuple[str, bool]] = frozenset(),
    ) -> None:
        self.subnets, self.groups = subnets, groups or {}
        self._reserved = dict(reserved or {})
        self._cooling = cooling

    def free(self, subnet: str, *, prefixes: bool = False) -> int:
        """How many addresses a plan may count on there; of prefixes, of 16 each."""
        known = self.subnets.get(subnet)
        if known is None or (subnet, prefixes) in self._cooling:
            return 0
        left = max(0, known.free - self._reserved.get(subnet, 0))
        return left // PREFIX_SIZE * PREFIX_SIZE if prefixes else left

    def reserve(self, subnet: str, addresses: int) -> None:
        """This many more are spoken for."""
        self._reserved[subnet] = self._reserved.get(subnet, 0) + addresses


def candidates(placement: Placement, terrain: Terrain) -> list[Subnet]:
    """The subnets that a new interface may be in, whatever is free there; by id."""
    near = [
        subnet
        for _, subnet in sorted(terrain.subnets.items())
        if (not placement.zone or subnet.zone in ("", placement.zone))
        and (not placement.network or subnet.network == placement.network)
    ]
    if placement.subnets:
        return [each for each in near if each.id in placement.subnets]
    if placement.subnet_tags:
        return [each for each in near if _carries(each.tags, placement.subnet_tags)]
    return near


def choose_subnet(
    placement: Placement, terrain: Terrain, *, least: int, wanted: int, prefixes: bool = False
) -> Subnet | None:
    """The one for a new interface of that many addresses, and of at least `least`: the machine's own while it has room for all, else
    the emptiest. prefixes: only where there may be one beside the primary address."""
    found = [
        each
        for each in candidates(placement, terrain)
        if terrain.free(each.id) >= least and (not prefixes or terrain.free(each.id, prefixes=True) > 0)
    ]
    if not found:
        return None
    home = next((each for each in found if each.id == placement.home), None)
    if (
        home is not None
        and not placement.subnets
        and not placement.subnet_tags
        and terrain.free(home.id) >= wanted
    ):
        return home
    return min(found, key=lambda each: (-terrain.free(each.id), each.id))


def why_no_subnet(placement: Placement, terrain: Terrain) -> Problem:
    """Why `choose_subnet` found none, and what to do."""
    matching = candidates(placement, terrain)
    where = " ".join(
        part
        for part in (
            placement.network and f"network {placement.network}",
            placement.zone and f"zone {placement.zone}",
        )
        if part
    )
    if matching:
        full = ", ".join(each.id for each in matching)
        others = len(terrain.subnets) - len(matching)
        text = f"subnet{'s' if len(matching) > 1 else ''} {full} {'are' if len(matching) > 1 else 'is'} full"
        if others:
            text += f", {others} other{'s' if others > 1 else ''} {'do' if others > 1 else 'does'} not match"
        return Problem("SubnetFull", text, "add a subnet that matches, or free addresses there")
    wish = "ids " + ",".join(placement.subnets) if placement.subnets else ""
    if not wish and placement.subnet_tags:
        wish = "tags " + ",".join(f"{key}={value}" for key, value in placement.subnet_tags)
    text = f"no subnet of {where or 'the account'}" + (f" matches {wish}" if wish else "")
    return Problem("NoSubnet", text, "make one, or correct what the node asks for")


def choose_groups(
    placement: Placement, terrain: Terrain, interfaces: tuple[Interface, ...]
) -> tuple[str, ...]:
    """The groups of a new interface, sorted: those named, those that match, else those of the instance's first interface. Empty: none."""
    if placement.groups:
        return tuple(sorted(placement.groups))
    if placement.group_tags:
        return tuple(
            name
            for name, group in sorted(terrain.groups.items())
            if (not placement.network or group.network == placement.network)
            and _carries(group.tags, placement.group_tags)
        )
    first = next((each for each in interfaces if each.first), None)
    return tuple(sorted(first.groups)) if first is not None else ()


def why_no_groups(placement: Placement) -> Problem:
    """Why `choose_groups` found none, and what to do."""
    if placement.group_tags:
        wish = ",".join(f"{key}={value}" for key, value in placement.group_tags)
        return Problem(
            "NoGroup", f"no security group carries the tags {wish}", "tag one, or name groups by id"
        )
    return Problem("NoGroup", "the instance's first interface has no security group", "name groups by id")


def _carries(tags: Tags, wanted: Tags) -> bool:
    return set(wanted) <= set(tags)
