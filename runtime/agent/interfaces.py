"""The agent's half where addresses belong to the node's interfaces: usage, demand, and the giving back of what is not used.

Two forms, Cilium's, one of which a node has for all of an agent's life:

addresses: the operator gives single ones (`spec.ipam.pool`), sees which are used, and asks for others by marks that are answered.
cidrs: all that the interfaces have is the agent's; it lists what it keeps (`spec.ipam.pools.allocated`), and what it needs. Left
out is given up, and taken by the operator when it pleases. To take something back it is listed again, and used only after a while:
an operator that looked before would be taking it meanwhile.

Until the agent knows what is in use, nothing is said of it, no mark is answered and nothing given up: unknown is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import structlog

from omnipam.core import handshake
from omnipam.core.cidr import Cidr
from omnipam.core.node_agent import NodeAgent
from omnipam.core.uplink import Uplink
from omnipam.core.values import DEFAULT_POOL, Block, Node

from ..kube.interfacenode import Shown
from .side import Report

Wanted = Literal["auto", "addresses", "cidrs"]
SETTLE_S = 15.0
"""How long something that was given up, and is listed again, is not used yet."""


class InterfacesReport(Report, frozen=True):
    """What the object should say; where all is None or empty, it stays as it is. pooled: whether the form is cidrs.

    used: owner and interface, by address. listed: what `pools.allocated` lists. answers: words of the handshake, by address.
    clears: what only agents of the other form say is to be cleared.
    """

    used: tuple[tuple[Cidr, str, str], ...] | None = None
    listed: tuple[Block, ...] | None = None
    answers: tuple[tuple[Cidr, str], ...] = ()
    clears: bool = False

    def shown_by(self, node: Node) -> bool:
        if not isinstance(node, Shown):
            return True  # what cannot be read is not written either
        said = dict(node.releases)
        answered = all(said.get(address, "") == word for address, word in self.answers)
        return answered and self.usage_shown_by(node) and self.pools_shown_by(node)

    def is_lost_in(self, written: Node) -> bool:
        return not self.shown_by(written)

    def usage_shown_by(self, node: Shown) -> bool:
        """Whether it says what it should of what is used."""
        if self.used is None:
            return not (self.clears and self.pooled and node.used)
        return node.used is not None and node.owners == tuple(each[:2] for each in self.used)

    def pools_shown_by(self, node: Shown) -> bool:
        """Whether it says what it should of demand and blocks."""
        if not self.pooled:
            return not (self.clears and node.demand)
        return self.demand == node.demand and (
            self.listed is None or _cidrs(self.listed) == _cidrs(node.allocated)
        )


class Interfaces:
    """wanted: the form; auto: what the object shows of an earlier agent. clock: seconds since the epoch that do not jump.

    knows: whether it is known what is in use.
    """

    def __init__(
        self,
        agent: NodeAgent,
        *,
        wanted: Wanted,
        clock: Callable[[], float],
        knows: Callable[[], bool],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._agent, self._clock, self._knows, self._log = agent, clock, knows, log
        self.form: Literal["addresses", "cidrs"] | None = None if wanted == "auto" else wanted
        """None until the object was seen, or is made."""
        self._node: Node | None = None
        self._unseen = True
        self._knew = False
        self._giving: frozenset[Cidr] = frozenset()
        self._retaken: dict[Cidr, float | None] = {}  # listed again, or to be; since when the object shows it
        self._told: set[Block] = set()  # given up, as somebody may have learned
        self._telling: set[Block] = set()  # by the write under way
        self._said_none = (
            False  # that nothing is used, once: who writes the object as Go does leaves that out
        )
        self._odd: set[str] = set()

    @property
    def is_waited_for(self) -> bool:
        """Whether a mark is to be answered."""
        return bool(self._answers(self._node))

    def seen(self, node: Node) -> bool:
        self._node = node
        if isinstance(node, Shown):
            first, self._unseen = self._unseen, False
            self._tell(node)
            self._decide("cidrs" if node.pools_agent else "addresses")
            self._agent.pre_allocates(DEFAULT_POOL, node.pre_allocate)
            self._agent.uplinks_seen(node.uplinks)
            blocks = self._blocks(node)
            listed = {block.cidr for block in node.allocated}
            if first and self.form == "cidrs" and (listed or node.demand):
                # An earlier life may have given up what is not listed, or listed it again a moment ago: where nothing is held,
                # somebody may be taking it.
                units = handshake.Units(block.cidr for block in blocks)
                settled = {units.of(address) for address in self._busy()}
                self._retaken = {block.cidr: None for block in blocks if block.cidr not in settled}
            now, attached = self._clock(), {block.cidr for block in blocks}
            for cidr, since in list(self._retaken.items()):
                if cidr not in attached:
                    del self._retaken[cidr]
                elif since is None and cidr in listed:
                    self._retaken[cidr] = now
        return self._takes(node)

    def reread(self, node: Node) -> None:
        """Nothing: what was given up comes back by being listed again, however a write of it ended."""

    def report(self, node: Node | None) -> InterfacesReport:
        agent, now = self._agent, self._clock()
        if node is None:
            self._decide("addresses")
            self._said_none = False
            if self.form == "addresses" or not self._knows():
                return InterfacesReport(self.form == "cidrs")
            return InterfacesReport(True, agent.demand(now), agent.listed(), listed=agent.listed())
        if not isinstance(node, Shown) or not self._knows():
            demand = node.demand if self.form == "cidrs" else ()
            return InterfacesReport(self.form == "cidrs", demand)
        answers = self._answers(node)
        if self.form == "addresses":
            used: tuple[tuple[Cidr, str, str], ...] | None = self._used()
            if not used and node.used is None and self._said_none:
                used = None
            return InterfacesReport(False, used=used, answers=answers, clears=True)
        agent.give_up(now)
        self._retake(node)
        listed = tuple(sorted(agent.listed(), key=lambda block: block.cidr)) if node.uplinks else None
        return InterfacesReport(True, agent.demand(now), listed=listed, answers=answers, clears=True)

    def begins(self, report: Report) -> None:
        if report.pooled:
            self._telling = set(self._agent.released()) - self._told
            self._agent.told(self._telling)
            self._told |= self._telling

    def undone(self, report: Report) -> None:
        self._agent.untold(self._telling)
        self._told -= self._telling
        self._telling = set()

    def written(self, report: Report, before: Node | None) -> None:
        self._telling = set()
        if isinstance(report, InterfacesReport) and report.used == ():
            self._said_none = True

    def matured(self) -> bool:
        if self._node is None or (not self._retaken and self._knew == self._knows()):
            return False
        now = self._clock()
        for cidr, since in list(self._retaken.items()):
            if since is not None and now - since >= SETTLE_S:
                del self._retaken[cidr]
        return self._takes(self._node)

    # -- within

    def _decide(self, form: Literal["addresses", "cidrs"]) -> None:
        if self.form is None:
            self.form = form
            self._log.info("the form in which this node's addresses are dealt with", form=form)

    def _blocks(self, node: Shown) -> tuple[Block, ...]:
        return node.holds.blocks if self.form == "addresses" else capacity(node.uplinks)

    def _takes(self, node: Node) -> bool:
        """What addresses are given from. Answers whether that is more than before."""
        blocks = self._blocks(node) if isinstance(node, Shown) else self._agent.listed()
        self._knew = self._knows()
        withheld = self._withheld(node, blocks)
        self._agent.withhold(withheld)
        grown = isinstance(node, Shown) and self._agent.blocks_seen(blocks)
        self._told &= set(self._agent.released())
        before, self._giving = self._giving, frozenset(block.cidr for block in blocks) - withheld
        return grown or bool(self._giving - before)

    def _withheld(self, node: Node, blocks: tuple[Block, ...]) -> frozenset[Cidr]:
        """Blocks of which nothing may be given. While it is not known what is in use, nobody asks but for what is: that is given."""
        if not self._knows():
            return frozenset()
        cidrs = frozenset(block.cidr for block in blocks)
        if not isinstance(node, Shown):
            return cidrs
        unknown = frozenset[Cidr]()
        if self.form == "addresses":
            unknown = frozenset(cidr for cidr in cidrs if self._agent.uplinks.of(cidr) is None)
        going = handshake.withheld(node.releases, cidrs, handshake.Units(_prefixes(node.uplinks)))
        return unknown | going | self._retaken.keys()

    def _answers(self, node: Node | None) -> tuple[tuple[Cidr, str], ...]:
        if not isinstance(node, Shown) or not node.releases or not self._knows():
            return ()
        return handshake.answers(
            node.releases,
            pool={block.cidr for block in node.holds.blocks},
            busy=self._busy(),
            units=handshake.Units(_prefixes(node.uplinks)),
        )

    def _busy(self) -> set[Cidr]:
        """What is held, kept for somebody or cooling, on disk or not yet."""
        return {
            Cidr(given.bits, given.address, given.bits)
            for row in self._agent.stored()
            for given in row.allocation.given
        }

    def _used(self) -> tuple[tuple[Cidr, str, str], ...]:
        """What is held or kept for somebody; cooling addresses are not used, and not given back either."""
        found = []
        for allocation in (*self._agent.allocations, *self._agent.parked):
            for given in allocation.given:
                uplink = self._agent.uplink(given)
                address = Cidr(given.bits, given.address, given.bits)
                found.append((address, allocation.owner, uplink.id if uplink is not None else ""))
        return tuple(sorted(found))

    def _retake(self, node: Shown) -> None:
        """Lists again what was given up and is needed, as far as the interfaces have it still."""
        needed = {(each.pool, each.family): each.needed for each in self._agent.demand(self._clock())}
        back = []
        for state in self._agent.states(self._clock()):
            short = needed.get((state.pool, state.family), 0) - state.used - state.free
            short -= sum(cidr.size for cidr in self._retaken if cidr.family == state.family)
            for block in sorted(self._told & set(self._agent.released()), key=lambda each: each.cidr):
                if short > 0 and (block.pool, block.cidr.family) == (state.pool, state.family):
                    back.append(block)
                    short -= block.cidr.size
        if back:
            self._told -= set(back)
            self._retaken |= dict.fromkeys((block.cidr for block in back), None)
            self._agent.forget_told(back)
            self._takes(node)

    def _tell(self, node: Shown) -> None:
        odd = {str(problem) for problem in node.odd}
        for text in sorted(odd - self._odd):
            self._log.warning("part of the node's object cannot be read", why=text)
        self._odd = odd


def capacity(uplinks: Iterable[Uplink]) -> tuple[Block, ...]:
    """All that interfaces have for containers: prefixes, and the addresses in none. Every address of a prefix is usable."""
    cidrs = {cidr for each in uplinks if not each.excluded for cidr in (*each.prefixes, *each.addresses)}
    return tuple(Block(DEFAULT_POOL, cidr, True, True) for cidr in sorted(cidrs))


def _prefixes(uplinks: Iterable[Uplink]) -> list[Cidr]:
    return [prefix for each in uplinks for prefix in each.prefixes]


def _cidrs(blocks: Iterable[Block]) -> list[tuple[str, Cidr]]:
    return sorted((block.pool, block.cidr) for block in blocks)
