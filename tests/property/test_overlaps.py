"""The index of CIDRs against a plain set that is searched through."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from omnipam.core.cidr import Cidr
from omnipam.core.overlaps import Overlaps

OWNERS = st.sampled_from(["a", "b", "c"])


@st.composite
def cidrs(draw: st.DrawFn) -> Cidr:
    """Short and long ones in a corner of the address space, so that they nest; some of another family, and everything."""
    bits = draw(st.sampled_from([32, 32, 32, 128]))
    length = draw(st.sampled_from([0, 8, 24, 25, 26, bits - 2, bits]))
    address = draw(st.integers(0, 9)) << draw(st.sampled_from([0, 4, 6, 7, bits - 26, bits - 24]))
    return Cidr(bits, address >> (bits - length) << (bits - length), length)


class OverlapsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = Overlaps()
        self.model: set[tuple[str, Cidr]] = set()

    @rule(owner=OWNERS, several=st.lists(cidrs(), min_size=1, max_size=20))
    def add(self, owner: str, several: list[Cidr]) -> None:
        for cidr in several:
            assert self.index.add(owner, cidr) == ((owner, cidr) not in self.model)
            self.model.add((owner, cidr))

    @rule(owner=OWNERS, cidr=cidrs())
    def add_a_row(self, owner: str, cidr: Cidr) -> None:
        """So many side by side that they are found through the sorted list."""
        for step in range(100):
            host = Cidr(cidr.bits, cidr.first + step & (1 << cidr.bits) - 1, cidr.bits)
            self.index.add(owner, host)
            self.model.add((owner, host))

    @rule(owner=OWNERS, cidr=cidrs())
    def remove(self, owner: str, cidr: Cidr) -> None:
        assert self.index.remove(owner, cidr) == ((owner, cidr) in self.model)
        self.model.discard((owner, cidr))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove_one_held(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(sorted(self.model)))
        assert self.index.remove(*entry)
        assert not self.index.remove(*entry)
        self.model.discard(entry)

    @rule(cidr=cidrs(), but=st.one_of(st.none(), OWNERS))
    def overlapping(self, cidr: Cidr, but: str | None) -> None:
        expected = [(owner, other) for owner, other in self.model if other.overlaps(cidr) and owner != but]
        assert self.index.overlapping(cidr, but) == sorted(expected, key=lambda entry: (entry[1], entry[0]))

    @invariant()
    def holds_the_same(self) -> None:
        assert list(self.index) == sorted(self.model, key=lambda entry: (entry[1], entry[0]))
        assert len(self.index) == len(self.model)
        assert bool(self.index) == bool(self.model)

    def teardown(self) -> None:
        for entry in self.model:
            assert self.index.remove(*entry)
        for ranges in self.index._families.values():
            assert not ranges.tables
            assert not ranges.sorted
            assert ranges.lengths == ()


TestOverlaps = OverlapsMachine.TestCase
TestOverlaps.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
