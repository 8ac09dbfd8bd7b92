"""One node's blocks of one pool and family: taken on, given up, and kept while in use though they were taken away. Pure.

Source: Cilium's pod CIDR pool of the multi-pool manager (`updatePool`, `releaseExcessCIDRsMultiPool`), with its quirks mended:
a block that comes back is used again, the order of blocks never changes, and a block is taken back only while nobody has been
told that it was given up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from .addresses import Addresses
from .block_index import BlockIndex
from .cidr import Cidr
from .values import Block


class PoolBlocks:
    """The blocks in the order in which the node's object lists them.

    gateway: whether each block keeps its first usable address for the pods' gateway; that one counts as in use.
    """

    def __init__(self, *, gateway: bool) -> None:
        self._gateway = gateway
        self._ranges: dict[Cidr, Addresses] = {}
        self._index = BlockIndex()
        self._listed: tuple[Cidr, ...] | None = None  # until a block comes or goes
        self._removed: set[Cidr] = set()  # in use, and no longer in the node's object
        self._released: dict[Cidr, Block] = {}  # given up, and still in the node's object as far as we know
        self._withheld: frozenset[Cidr] = frozenset()
        self._told: set[Cidr] = set()  # of those: the ones that somebody may have learned of

    # -- what there is

    @property
    def ranges(self) -> tuple[Addresses, ...]:
        """Every block in service, those that were taken away included."""
        return tuple(self._ranges.values())

    @property
    def usable(self) -> tuple[Addresses, ...]:
        """Those that addresses are given from."""
        return tuple(each for cidr, each in self._ranges.items() if self._gives(cidr))

    @property
    def is_empty(self) -> bool:
        """Whether the node's object shows none, but what we have given up."""
        return len(self._removed) == len(self._ranges)

    @property
    def removed(self) -> frozenset[Cidr]:
        return frozenset(self._removed)

    @property
    def released(self) -> tuple[Cidr, ...]:
        """What we have given up and the node's object still shows."""
        return tuple(self._released)

    @property
    def listed(self) -> tuple[Cidr, ...]:
        """What the node says that it holds."""
        if self._listed is None:
            self._listed = tuple(sorted(self._ranges))
        return self._listed

    @property
    def held(self) -> int:
        """Addresses used or parked, those in blocks that were taken away included."""
        return self._index.held

    @property
    def in_use(self) -> int:
        """Addresses in use, gateways included; cooling ones are not, nor those kept for an owner who is away."""
        return self._index.held - self._index.kept + self._index.gateways

    @property
    def free(self) -> int:
        """Addresses that could be given out; cooling ones are not among them."""
        return self._index.free

    @property
    def cooling(self) -> int:
        return self._index.cooling

    @property
    def total(self) -> int:
        return self._index.total

    def get(self, cidr: Cidr) -> Addresses | None:
        """The block of that CIDR, if it is in service or was taken away while in use."""
        return self._ranges.get(cidr)

    def find(self, address: int) -> Addresses | None:
        """The block that holds it; one that is in service rather than one that was taken away, then the smaller one."""
        removed = None
        for each in self._index.holding(address):
            if each.block.cidr not in self._removed:
                return each
            removed = removed or each
        return removed

    def holding(self, address: int) -> tuple[Addresses, ...]:
        """Every block that holds it."""
        return tuple(self._index.holding(address))

    def is_removed(self, each: Addresses) -> bool:
        return each.block.cidr in self._removed

    def is_withheld(self, each: Addresses) -> bool:
        return each.block.cidr in self._withheld

    def choose(self, now: float) -> tuple[Addresses, int] | None:
        """The next address: free in the first block that has one, else the one that has cooled longest, else one parked.

        Of blocks of one address, one just given back comes last.
        """
        self._index.thaw(now)
        each = self._index.first_free()
        address = each.choose(now) if each is not None else None
        if each is not None and address is not None:
            return each, address
        if (cooled := self._index.oldest_cooling()) is not None:
            return cooled
        each = self._index.oldest_parked()
        address = each.oldest_parked() if each is not None else None
        return None if each is None or address is None else (each, address)

    # -- what changes

    def withhold(self, cidrs: Collection[Cidr]) -> None:
        """Of exactly these, whether they are here already or come later, nothing is given from now on; of all others it is."""
        before, self._withheld = self._withheld, frozenset(cidrs)
        for cidr in before ^ self._withheld:
            self._see(cidr)

    def thaw(self, now: float) -> None:
        """What has cooled for long enough is free again."""
        self._index.thaw(now)

    def update(self, advertised: Iterable[Block]) -> tuple[Addresses, ...]:
        """Takes on what the node's object shows now. Answers the blocks that are new: what is in use there is to be marked.

        Blocks that are missing and in use are served until they are not; a block that was given up and is shown still is not
        taken on again, unless `forget_told` has said that it is ours anew.
        """
        shown = {block.cidr: block for block in advertised}  # of one listed twice, one
        for cidr in [cidr for cidr in self._released if cidr not in shown]:
            del self._released[cidr]
            self._told.discard(cidr)
        for cidr in list(self._ranges):
            if cidr in shown:
                if cidr in self._removed:
                    self._removed.discard(cidr)
                    self._see(cidr)
            elif self._ranges[cidr].used:
                if cidr not in self._removed:
                    self._removed.add(cidr)
                    self._see(cidr)
            else:
                self._drop(cidr)
        new = []
        for cidr, block in shown.items():
            if cidr in self._released or cidr in self._ranges:
                continue
            new.append(self._add(block))
        return tuple(new)

    def keep(self, block: Block) -> Addresses:
        """A block that the node's object does not show, because addresses of it are in use."""
        given_up, told = self._released.pop(block.cidr, None), block.cidr in self._told
        self._told.discard(block.cidr)
        if given_up is None or told:
            self._removed.add(block.cidr)
        return self._add(block)

    def prune(self) -> bool:
        """Drops what was taken away and is in use no more. Answers whether there was any."""
        empty = [cidr for cidr in self._removed if not self._ranges[cidr].used]
        for cidr in empty:
            self._drop(cidr)
        return bool(empty)

    def give_up(self, spare: Callable[[int], int]) -> tuple[Cidr, ...]:
        """Gives up what is not needed, the last block first; before, takes back what is. Answers what was given up now.

        spare: how many free addresses there must be with that many in use.
        """
        for cidr in sorted(self._released):
            if self.free >= spare(self.in_use):
                break
            if cidr not in self._told:
                self._add(self._released.pop(cidr))
        given = []
        for cidr, each in reversed(list(self._ranges.items())):
            if cidr in self._removed or not each.unused:
                continue
            left = self.in_use - (each.gateway is not None)
            if self.free - each.free >= max(0, spare(left)):
                self._released[cidr] = each.block
                self._drop(cidr)
                given.append(cidr)
        return tuple(given)

    def told(self, cidrs: Iterable[Cidr]) -> None:
        """A write has begun that says these are given up: from here on they are not ours to take back."""
        self._told.update(cidr for cidr in cidrs if cidr in self._released)

    def untold(self, cidrs: Iterable[Cidr]) -> None:
        """That write surely did nothing."""
        self._told.difference_update(cidrs)

    def forget_told(self, cidrs: Iterable[Cidr]) -> None:
        """The node's object, read after that write, shows these: they are ours again, and `update` takes them on."""
        for cidr in cidrs:
            if cidr in self._told:
                self._told.discard(cidr)
                self._released.pop(cidr, None)

    def resume(self, block: Block) -> None:
        """An earlier life has said that this is given up, and it is shown still: so it stays, unless it is in use."""
        each = self._ranges.get(block.cidr)
        if each is None or not each.used:
            if each is not None:
                self._drop(block.cidr)
            self._released[block.cidr] = block
            self._told.add(block.cidr)

    def _gives(self, cidr: Cidr) -> bool:
        return cidr not in self._removed and cidr not in self._withheld

    def _see(self, cidr: Cidr) -> None:
        """Whether this block, if there is one, gives addresses may be otherwise than before."""
        each = self._ranges.get(cidr)
        if each is not None:
            self._index.give(each, self._gives(cidr))

    def _add(self, block: Block) -> Addresses:
        made = self._ranges[block.cidr] = Addresses(block, gateway=self._gateway)
        self._index.add(made)
        self._see(block.cidr)
        self._listed = None
        return made

    def _drop(self, cidr: Cidr) -> None:
        self._index.drop(self._ranges.pop(cidr))
        self._removed.discard(cidr)
        self._listed = None
