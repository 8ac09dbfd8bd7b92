"""The operator's half of giving addresses back: marked, answered, removed, acknowledged; each step has its time-out. Pure; the clock is passed in.

Two generations of agents. Those that are told single addresses answer a mark in the node's object (Cilium's `release-ips`):

    spare for `delay` → marked-for-release → ready-for-release → (removed from the cloud) → released → the agent deletes the entry
                                           ↘ do-not-release, or no answer for `timeout` → withdrawn; it starts anew if still spare

Those that list their own CIDRs ask by leaving one out. In both an address that the agent says it uses, or that it never spoke of,
stays. Source: Cilium's `handleIPRelease` and its CIDR release; there an unanswered mark stays for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .cidr import Cidr
from .handshake import KEPT, MARKED, READY, RELEASED


class Handshake:
    """One node. Addresses are /32 or /128. delay_s: how long one must be spare before it is marked. timeout_s: how long each step may take."""

    def __init__(self, *, delay_s: float, timeout_s: float) -> None:
        self._delay_s, self._timeout_s = delay_s, timeout_s
        self._spare_since: dict[Cidr, float] = {}
        self._marked: dict[Cidr, float] = {}  # since when; answered or not
        self._withdrawn: set[Cidr] = (
            set()
        )  # not asked for again before the object is seen without the old question
        self._removing: set[Cidr] = (
            set()
        )  # the cloud is at it: whatever else happens, the agent must not give these
        self._released: dict[Cidr, float] = {}  # removed from the cloud, and not acknowledged yet
        self._told: set[Cidr] = set()  # of those: the ones that the object was seen to show
        self._adopted = False

    def look(
        self, spare: Collection[Cidr], shown: Mapping[Cidr, str], held: Collection[Cidr], now: float
    ) -> frozenset[Cidr]:
        """Where it stands. Answers what may be removed from the cloud now.

        spare: what could go, if the agent agrees. shown: the states in the node's object. held: what the node has.
        """
        if not self._adopted:
            self._adopted = True
            self._adopt(shown, held, now)
        self._withdrawn.intersection_update(shown)
        for address in [each for each in self._spare_since if each not in spare]:
            del self._spare_since[address]
        for address in [each for each in self._marked if each not in spare and each not in self._removing]:
            self._withdraw(address)
        ready = set()
        for address in sorted(spare):
            since = self._spare_since.setdefault(address, now)
            if address in self._removing or address in self._released:
                continue
            if address not in self._marked:
                if now >= since + self._delay_s and address not in self._withdrawn:
                    self._marked[address] = now
                continue
            late = now >= self._marked[address] + self._timeout_s
            answer = shown.get(address)
            if answer == KEPT or (late and answer != READY):
                self._withdraw(address)
                self._spare_since[address] = now
            elif answer == READY:
                ready.add(address)
        for address, at in list(self._released.items()):
            if shown.get(address) == RELEASED:
                self._told.add(address)
            acknowledged = address not in shown and address in self._told
            if acknowledged or address in held or now >= at + self._timeout_s:
                del self._released[address]
                self._told.discard(address)
        return frozenset(ready)

    def removing(self, addresses: Iterable[Cidr]) -> None:
        """The cloud is asked to take these from the node."""
        self._removing.update(addresses)

    def kept(self, addresses: Iterable[Cidr]) -> None:
        """It has surely not done so."""
        self._removing.difference_update(addresses)

    def removed(self, addresses: Iterable[Cidr], now: float) -> None:
        """It has."""
        for address in addresses:
            self._removing.discard(address)
            self._spare_since.pop(address, None)
            if self._marked.pop(address, None) is not None:
                self._released[address] = now

    def states(self, shown: Mapping[Cidr, str]) -> dict[Cidr, str]:
        """What the node's object is to say, by address: the agent's answers stay where ours would only repeat the question."""
        found: dict[Cidr, str] = {}
        for address in sorted({*self._marked, *self._released}):
            if address in self._released:
                found[address] = RELEASED
            else:
                answered = shown.get(address)
                found[address] = answered if answered in (READY, KEPT) else MARKED
        return found

    def wake(self) -> float | None:
        """When the next step is due without an event."""
        marks = [
            since + self._delay_s for each, since in self._spare_since.items() if each not in self._marked
        ]
        ends = [since + self._timeout_s for since in (*self._marked.values(), *self._released.values())]
        return min((*marks, *ends), default=None)

    # -- within

    def _adopt(self, shown: Mapping[Cidr, str], held: Collection[Cidr], now: float) -> None:
        """What an earlier life of ours began."""
        for address, state in shown.items():
            if state == RELEASED and address not in held:
                self._released[address] = now
            elif state in (MARKED, READY) and address in held:
                self._marked[address] = now
                self._spare_since[address] = now

    def _withdraw(self, address: Cidr) -> None:
        del self._marked[address]
        self._withdrawn.add(address)


class Dropped:
    """One node whose agent lists its own CIDRs: what it has left out for long enough to be taken at its word."""

    def __init__(self, *, delay_s: float) -> None:
        self._delay_s = delay_s
        self._since: dict[Cidr, float] = {}

    def look(self, attached: Collection[Cidr], listed: Collection[Cidr], now: float) -> frozenset[Cidr]:
        """attached: what the node has in the cloud. listed: what its agent says that it has. Answers what may go."""
        missing = set(attached) - set(listed)
        for cidr in [each for each in self._since if each not in missing]:
            del self._since[cidr]
        for cidr in missing:
            self._since.setdefault(cidr, now)
        return frozenset(cidr for cidr, since in self._since.items() if now >= since + self._delay_s)

    def wake(self) -> float | None:
        """When the next one may go."""
        return min((since + self._delay_s for since in self._since.values()), default=None)
