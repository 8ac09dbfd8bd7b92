"""How many addresses a node is to get, and how many it may give back: Cilium's watermarks, the VPC CNI's warm targets, Azure's scaler. Pure.

Sources: Cilium's `calculateNeededIPs` and `calculateExcessIPs`; ipamd's targets; Azure CNS's pool monitor. Three things are decided
otherwise than in Cilium: the cap is a cap on the total, whatever is added; pods that wait count as if they had their addresses,
so that one round serves them and leaves the watermark; nothing is added beyond what the node can use (its allocatable pods).
"""

from __future__ import annotations

import msgspec

PREFIX_SIZE = 16
"""Addresses of an IPv4 prefix (/28)."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """One node and family, in addresses.

    available: those it holds for pods, used ones included. waiting: pods without one. most: what it may hold; None: no limit.
    per_interface: what one interface carries. free_prefixes: prefixes of which no address is used.
    exhausted: whether its subnet is, so that nothing is to be hoarded.
    """

    available: int
    used: int
    waiting: int = 0
    most: int | None = None
    per_interface: int = 0
    free_prefixes: int = 0
    exhausted: bool = False

    @property
    def wanted(self) -> int:
        """What is in use once nobody waits."""
        return self.used + self.waiting

    def capped(self, add: int) -> int:
        """No more than the node may hold, and never less than nothing."""
        if self.most is not None:
            add = min(add, self.most - self.available)
        return max(0, add)


class Watermarks(msgspec.Struct, frozen=True, gc=False):
    """Cilium's numbers. max_allocate 0: no cap of its own."""

    pre_allocate: int = 8
    min_allocate: int = 0
    max_allocate: int = 0
    max_above_watermark: int = 0

    def to_add(self, usage: Usage) -> int:
        """How many addresses are missing, `max_above_watermark` more once any is."""
        available = usage.available
        needed = max(self.pre_allocate + usage.wanted - available, self.min_allocate - available)
        if needed <= 0:
            return 0
        room = usage.capped(needed + self.max_above_watermark)
        return min(room, max(0, self.max_allocate - available)) if self.max_allocate > 0 else room

    def spare(self, usage: Usage) -> int:
        """How many could be given back."""
        available, used = usage.available, usage.wanted
        floor = self.min_allocate + self.max_above_watermark
        if used <= floor:
            if available <= floor:
                return 0
            if used + self.pre_allocate <= floor:
                return available - floor
        return max(0, available - used - self.pre_allocate - self.max_above_watermark)


class WarmTargets(msgspec.Struct, frozen=True, gc=False):
    """ipamd's numbers. Addresses come before prefixes, prefixes before interfaces; None: not set. max_eni caps interfaces elsewhere."""

    warm_ip: int | None = None
    minimum_ip: int | None = None
    warm_prefix: int | None = None
    warm_eni: int = 1
    max_eni: int | None = None

    def to_add(self, usage: Usage) -> int:
        available, wanted = usage.available, usage.wanted
        if self.warm_ip is not None or self.minimum_ip is not None:
            free = available - wanted
            return usage.capped(
                max((self.warm_ip or 0) - free, (self.minimum_ip or 0) - available, wanted - available)
            )
        if self.warm_prefix is not None:
            short = self.warm_prefix - _left_whole(usage)
            return usage.capped(max(short * PREFIX_SIZE, wanted - available))
        whole = usage.per_interface
        if whole <= 0:
            return usage.capped(wanted - available)
        goal = wanted + (whole * self.warm_eni or 1)
        return 0 if available >= goal else usage.capped(-(-goal // whole) * whole - available)

    def spare(self, usage: Usage) -> int:
        available, wanted = usage.available, usage.wanted
        if self.warm_ip is not None or self.minimum_ip is not None:
            return max(
                0,
                min(available - wanted - (self.warm_ip or 0), available - max(self.minimum_ip or 0, wanted)),
            )
        if self.warm_prefix is not None:
            whole_ones = min(_left_whole(usage) - self.warm_prefix, (available - wanted) // PREFIX_SIZE)
            return max(0, whole_ones) * PREFIX_SIZE
        whole = usage.per_interface
        if whole <= 0:
            return 0
        # With a target of 0 the node keeps one free address, else it would grow and shrink in turn.
        free = available - wanted - (0 if self.warm_eni else 1)
        return max(0, free // whole - self.warm_eni) * whole


def _left_whole(usage: Usage) -> int:
    """The prefixes without any use once the pods that wait have broken into them; below zero: so many are missing for those."""
    return usage.free_prefixes - -(-usage.waiting // PREFIX_SIZE)


class Scaler(msgspec.Struct, frozen=True, gc=False):
    """Azure CNS's numbers: whole batches, requested below one share of a batch, released above another. Percent."""

    batch: int = 16
    request: int = 50
    release: int = 150
    most: int = 250

    def to_add(self, usage: Usage) -> int:
        batch, least, _ = self._thresholds(usage)
        total = usage.available
        while total - usage.wanted < least and total < self.most:
            total = min(self.most, total + batch - total % batch)
        return usage.capped(total - usage.available)

    def spare(self, usage: Usage) -> int:
        batch, _, most = self._thresholds(usage)
        total = usage.available
        while total > 0 and total - usage.wanted >= most:
            total -= total % batch or batch
        return usage.available - max(0, total)

    def _thresholds(self, usage: Usage) -> tuple[int, int, int]:
        if usage.exhausted:
            return 1, 1, 2
        return (
            self.batch,
            int(self.batch * self.request / 100 + 0.5),
            int(self.batch * self.release / 100 + 0.5),
        )


Targets = Watermarks | WarmTargets | Scaler
