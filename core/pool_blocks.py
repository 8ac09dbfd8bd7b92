"""One node's blocks of one pool and family: taken on, given up, and kept while in use though they were taken away. Pure.

Source: Cilium's pod CIDR pool of the multi-pool manager (`updatePool`, `releaseExcessCIDRsMultiPool`), with its quirks mended:
a block that comes back is used again, the order of blocks never changes, and a block is taken back only while nobody has been
told that it was given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .addresses import Addresses
from .cidr import Cidr
from .values import Block


class PoolBlocks:
    """The blocks in the order in which the node's object lists them.

    gateway: whether each block keeps its first usable address for the pods' gateway; that one counts as in use.
    """

    def __init__(self, *, gateway: bool) -> None:
        self._gateway = gateway
        self._ranges: dict[Cidr, Addresses] = {}
        self._removed: set[Cidr] = set()  # in use, and no longer in the node's object
        self._released: dict[Cidr, Block] = {}  # given up, and still in the node's object as far as we know
        self._told: set[Cidr] = set()  # of those: the ones that somebody may have learned of

    # -- what there is

    @property
    def ranges(self) -> tuple[Addresses, ...]:
        """Every block in service, those that were taken away included."""
        return tuple(self._ranges.values())

    @property
    def usable(self) -> tuple[Addresses, ...]:
        """Those that addresses are given from."""
        return tuple(each for cidr, each in self._ranges.items() if cidr not in self._removed)

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
        return tuple(sorted(self._ranges))

    @property
    def in_use(self) -> int:
        """Addresses in use, gateways included; cooling ones are not."""
        return sum(
            each.used + each.parked + (each.gateway is not None and cidr not in self._removed)
            for cidr, each in self._ranges.items()
        )

    @property
    def free(self) -> int:
        """Addresses that could be given out; cooling ones are not among them."""
        return sum(each.free for each in self.usable)

    @property
    def cooling(self) -> int:
        return sum(each.cooling for each in self.usable)

    @property
    def total(self) -> int:
        return sum(each.total for each in self.usable)

    def get(self, cidr: Cidr) -> Addresses | None:
        """The block of that CIDR, if it is in service or was taken away while in use."""
        return self._ranges.get(cidr)

    def find(self, address: int) -> Addresses | None:
        """The block that holds it; one that is in service rather than one that was taken away."""
        removed = None
        for cidr, each in self._ranges.items():
            if each.contains(address):
                if cidr not in self._removed:
                    return each
                removed = each
        return removed

    def is_removed(self, each: Addresses) -> bool:
        return each.block.cidr in self._removed

    def choose(self, now: float) -> tuple[Addresses, int] | None:
        """The next address: free in the first block that has one, else the one that has cooled longest, else one parked."""
        oldest: tuple[float, int] | None = None
        cooled: Addresses | None = None
        parked: Addresses | None = None
        for cidr, each in self._ranges.items():
            if cidr in self._removed:
                continue
            address = each.choose(now)
            if address is not None:
                return each, address
            candidate = each.oldest_cooling()
            if candidate is not None and (oldest is None or candidate < oldest):
                oldest, cooled = candidate, each
            if parked is None and each.parked:
                parked = each
        if oldest is not None and cooled is not None:
            return cooled, oldest[1]
        if parked is not None and (address := parked.oldest_parked()) is not None:
            return parked, address
        return None

    # -- what changes

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
                self._removed.discard(cidr)
            elif self._ranges[cidr].used:
                self._removed.add(cidr)
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
                del self._ranges[cidr]
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

    def _add(self, block: Block) -> Addresses:
        made = self._ranges[block.cidr] = Addresses(block, gateway=self._gateway)
        return made

    def _drop(self, cidr: Cidr) -> None:
        del self._ranges[cidr]
        self._removed.discard(cidr)
