"""All pools with their address spaces, and what nodes hold that is in none of them: one ground for all claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from omnipam.core.cidr import FAMILIES, Cidr, Family
from omnipam.core.overlaps import Overlaps
from omnipam.core.space import Claim, Space
from omnipam.core.values import PoolSpec


class Pools:
    """A `contest.Ground` over every pool. Pools do not overlap.

    A range that lies in a pool is recorded there, under whatever pool's name a node holds it; any other range is recorded
    apart, and in every pool that it touches: nothing that anybody holds is ever given to another.
    """

    def __init__(self) -> None:
        self.specs: dict[str, PoolSpec] = {}
        self._spaces: dict[str, Space] = {}
        self._elsewhere = Space(PoolSpec())
        self._where = Overlaps()  # each range, owned by its pool
        self._barren: set[tuple[str, Family]] = set()

    def __contains__(self, pool: str) -> bool:
        return pool in self._spaces

    def __iter__(self) -> Iterator[Space]:
        return iter(self._spaces.values())

    def space(self, pool: str) -> Space:
        """The space of a pool that is served."""
        return self._spaces[pool]

    def inside(self, pool: str, cidr: Cidr) -> bool:
        """Whether it lies in a range of this very pool."""
        space = self._spaces.get(pool)
        return space is not None and space.inside(cidr)

    def free_blocks(self, pool: str, family: Family) -> int:
        space = self._spaces.get(pool)
        return space.free_blocks(family) if space is not None else 0

    def is_barren(self, pool: str, family: Family) -> bool:
        """Whether the pool has ranges of the family, and what it reserves leaves no block of them, whoever holds what."""
        return (pool, family) in self._barren

    def barren(self) -> list[tuple[str, Family]]:
        """All such pools and families, sorted."""
        return sorted(self._barren)

    def strays(self) -> Iterator[Claim]:
        """What is held in no range of any pool."""
        return self._elsewhere.claims()

    def adopt(self, specs: Mapping[str, PoolSpec], held_back: Iterable[Cidr]) -> set[str]:
        """From now on there are these. Answers the names of those that changed, came or went.

        held_back: all that is in quarantine. The cost grows with what is held of the pools that changed.
        """
        names = {*specs, *self.specs}
        changed = {name for name in names if specs.get(name) != self.specs.get(name)}
        if not changed:
            return changed
        claims = set(self._elsewhere.claims())
        self._elsewhere = Space(PoolSpec())
        for name in changed:
            old = self._spaces.pop(name, None)
            if old is not None:
                claims.update(old.claims())
                for each in old.spec.ranges:
                    self._where.remove(name, each.cidr)
            self._barren -= {(name, family) for family in FAMILIES}
            if name in specs:
                space = self._spaces[name] = Space(specs[name])
                self._barren |= {
                    (name, family)
                    for family in FAMILIES
                    if space.has_ranges(family) and not space.free_blocks(family)
                }
                if old is not None:
                    space.resume_cursors(old)
                for each in specs[name].ranges:
                    self._where.add(name, each.cidr)
        self._spaces = dict(sorted(self._spaces.items()))
        self.specs = dict(specs)
        for owner, cidr in sorted(claims, key=lambda claim: (claim[1], claim[0])):
            self.force(owner, cidr)
        for cidr in held_back:
            self.hold_back(cidr)
        return changed

    # -- the ground

    def claim(self, owner: str, cidr: Cidr) -> list[Claim]:
        places = self._places(cidr)
        if len(places) == 1:
            return places[0].claim(owner, cidr)
        if conflicts := self.others(owner, cidr):
            return conflicts
        for space in places:
            space.force(owner, cidr)
        return []

    def force(self, owner: str, cidr: Cidr) -> None:
        for space in self._places(cidr):
            space.force(owner, cidr)

    def free(self, owner: str, cidr: Cidr) -> None:
        for space in self._places(cidr):
            space.free(owner, cidr)

    def others(self, owner: str, cidr: Cidr) -> list[Claim]:
        found = {claim for space in self._places(cidr) for claim in space.others(owner, cidr)}
        return sorted(found, key=lambda claim: (claim[1], claim[0]))

    def excess(self, cidr: Cidr) -> int:
        return min(space.excess(cidr) for space in self._places(cidr))

    # -- quarantine

    def hold_back(self, cidr: Cidr) -> None:
        for pool in self._touched(cidr):
            self._spaces[pool].hold_back(cidr)

    def let_go(self, cidr: Cidr) -> None:
        for pool in self._touched(cidr):
            self._spaces[pool].let_go(cidr)

    def _touched(self, cidr: Cidr) -> list[str]:
        return sorted({pool for pool, _ in self._where.overlapping(cidr)})

    def _places(self, cidr: Cidr) -> list[Space]:
        touched = [self._spaces[pool] for pool in self._touched(cidr)]
        if len(touched) == 1 and touched[0].inside(cidr):
            return touched
        return [self._elsewhere, *touched]
