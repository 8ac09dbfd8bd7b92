"""How a node gets addresses it lacks, in one go: what is added to its interfaces, and which new ones it gets with their full contents. Pure.

Existing interfaces first, by index; then as many new ones as are needed. Each asks in one call for all that it is to have, so that
the number of calls is the least: one for an interface that is there, three for a new one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .cidr import Family
from .inventory import Interface, Limits
from .placement import Placement, Terrain, choose_groups, choose_subnet, why_no_groups, why_no_subnet
from .values import Problem
from .watermarks import PREFIX_SIZE


class Add(msgspec.Struct, frozen=True, gc=False):
    """What an interface is to get more of one family: single addresses, prefixes, or both."""

    family: Family = "ipv4"
    addresses: int = 0
    prefixes: int = 0


class Filled(msgspec.Struct, frozen=True):
    """An interface that is there, and what it gets."""

    interface: str
    add: tuple[Add, ...]


class Made(msgspec.Struct, frozen=True):
    """A new interface: where, at which index, with what."""

    subnet: str
    groups: tuple[str, ...]
    index: int
    add: tuple[Add, ...]


class Growth(msgspec.Struct, frozen=True):
    """What brings a node to its goal, and what stays unmet: `lacking` IPv4 addresses, and why."""

    filled: tuple[Filled, ...] = ()
    made: tuple[Made, ...] = ()
    lacking: int = 0
    problems: tuple[Problem, ...] = ()


class Want(msgspec.Struct, frozen=True, gc=False):
    """What is missing. ipv4: addresses. ipv6: prefixes of /80. prefixes: whether IPv4 comes in prefixes where it can."""

    ipv4: int = 0
    ipv6: int = 0
    prefixes: bool = False


def grow(
    want: Want, placement: Placement, interfaces: tuple[Interface, ...], limits: Limits, terrain: Terrain
) -> Growth:
    """interfaces: all of the instance, those that serve no pods too, for they take up places. Reserves in `terrain` what it uses.

    Prefixes come first, on new interfaces in other subnets too, and single addresses where no prefix can be had.
    """
    plan = _Plan(want, placement, interfaces, limits, terrain)
    if want.prefixes and limits.prefixes and placement.prefixes:
        plan.fill(prefixes=True)
    plan.fill(prefixes=False)
    return plan.growth()


class _Site:
    """One interface, there or to be made: its room, and what it gets."""

    def __init__(self, interface: Interface | None, subnet: str, index: int, room: int, room6: int) -> None:
        self.interface, self.subnet, self.index = interface, subnet, index
        self.room, self.room6 = room, room6
        self.prefixes = self.singles = self.ipv6 = 0

    def add(self) -> tuple[Add, ...]:
        parts = []
        if self.prefixes or self.singles:
            parts.append(Add("ipv4", self.singles, self.prefixes))
        if self.ipv6:
            parts.append(Add("ipv6", 0, self.ipv6))
        return tuple(parts)


class _Plan:
    def __init__(
        self,
        want: Want,
        placement: Placement,
        interfaces: tuple[Interface, ...],
        limits: Limits,
        terrain: Terrain,
    ) -> None:
        self._placement, self._interfaces = placement, interfaces
        self._limits, self._terrain = limits, terrain
        self._ipv4, self._ipv6 = want.ipv4, want.ipv6
        self._groups = choose_groups(placement, terrain, interfaces)
        self._taken = {each.index for each in interfaces}
        self._sites = [
            _Site(
                each,
                each.subnet,
                each.index,
                limits.addresses - 1 - len(each.addresses) - len(each.prefixes),
                self._room6 - len(each.ipv6_addresses) - len(each.ipv6_prefixes),
            )
            for each in _serving(placement, interfaces)
            if each.state == "attached"
        ]
        self._problem: Problem | None = None

    @property
    def _room6(self) -> int:
        return self._limits.ipv6_addresses if self._limits.prefixes else 0

    @property
    def _left(self) -> bool:
        return self._ipv4 > 0 or self._ipv6 > 0

    def fill(self, *, prefixes: bool) -> None:
        """What is there, and then what is made, as long as something is missing and can be had in this form."""
        self._problem = None
        for site in self._sites:
            self._give(site, prefixes)
        while self._left and (new := self._make(prefixes)) is not None:
            self._sites.append(new)
            self._taken.add(new.index)
            self._give(new, prefixes)

    def growth(self) -> Growth:
        filled = [
            Filled(site.interface.id, add) for site in self._sites if site.interface and (add := site.add())
        ]
        made = [
            Made(site.subnet, self._groups, site.index, site.add())
            for site in self._sites
            if site.interface is None
        ]
        problems = (self._problem,) if self._problem is not None and self._left else ()
        return Growth(tuple(filled), tuple(made), max(0, self._ipv4), problems)

    def _give(self, site: _Site, prefixes: bool) -> None:
        free = self._terrain.free(site.subnet, prefixes=prefixes)
        if prefixes:
            number = max(0, min(-(-self._ipv4 // PREFIX_SIZE), site.room, free // PREFIX_SIZE))
            site.prefixes += number
        else:
            number = max(0, min(self._ipv4, site.room, free))
            site.singles += number
        size = PREFIX_SIZE if prefixes else 1
        site.room -= number
        self._ipv4 -= number * size
        self._terrain.reserve(site.subnet, number * size)
        six = max(0, min(self._ipv6, site.room6))
        site.ipv6 += six
        site.room6 -= six
        self._ipv6 -= six

    def _make(self, prefixes: bool) -> _Site | None:
        """A new interface, still empty; None: there can be none that helps, and `_problem` says why."""
        placement, limits = self._placement, self._limits
        if len(self._interfaces) + self._new >= limits.interfaces:
            self._problem = _at_the_limit(placement, limits, self._interfaces)
        elif not self._groups:
            self._problem = why_no_groups(placement)
        elif self._ipv4 <= 0 and self._room6 <= 0:
            self._problem = Problem(
                "NoIPv6", f"instance type {placement.type or 'unknown'} takes no IPv6 prefixes", "use another"
            )
        else:
            counts = placement.use_primary  # whether the primary address is one of those wanted
            useful = 0 if counts or self._ipv4 <= 0 else 1
            wanted = 1 + max(useful, min(limits.addresses - 1, self._ipv4 - counts))
            subnet = choose_subnet(
                placement,
                self._terrain,
                least=1 + useful,
                wanted=wanted,
                prefixes=prefixes and self._ipv4 > 0,
            )
            if subnet is not None:
                self._terrain.reserve(subnet.id, 1)
                self._ipv4 -= counts
                index = _next_index(placement, self._taken)
                return _Site(None, subnet.id, index, limits.addresses - 1, self._room6)
            self._problem = why_no_subnet(placement, self._terrain)
        return None

    @property
    def _new(self) -> int:
        return sum(site.interface is None for site in self._sites)


def _serving(placement: Placement, interfaces: Iterable[Interface]) -> list[Interface]:
    found = [each for each in interfaces if not placement.excludes(each)]
    return sorted(found, key=lambda each: (each.index, each.id))


def _next_index(placement: Placement, taken: set[int]) -> int:
    index = placement.first_index
    while index in taken:
        index += 1
    return index


def _at_the_limit(placement: Placement, limits: Limits, interfaces: tuple[Interface, ...]) -> Problem:
    serving = len(_serving(placement, interfaces))
    text = (
        f"instance type {placement.type or 'unknown'} carries {limits.interfaces} interfaces"
        f" of {limits.addresses - 1} addresses for pods, and all are there"
    )
    if serving < len(interfaces):
        text += f", {len(interfaces) - serving} of them not for pods"
    return Problem("LimitReached", text, "use a larger type, prefixes, or fewer pods on this node")
