"""A sparse set of numbers that answers "which is free next" at the same cost whether it is empty or nearly full.

A radix tree of integers used as bit fields: a bit of a page at level 0 is a number, a bit of a page at level n is a whole
page at level n - 1. Bits say *free*, so the lowest free one is `page & -page`. An absent page is all free, or full where
a bit above says so. So memory grows with what is set, not with what exists, and setting an aligned range of 2^k numbers
writes one page, however long the range is.

A page at level 0 whose last number is taken does not tell the levels above: the next search that comes by does. So taking
and returning the same number over and over stays within one page.
"""

from __future__ import annotations

# Bits of a number that one level decides. Wide pages at the bottom make the levels above small and seldom touched: that is
# what keeps the cost flat. (See benchmarks/ledger.py.)
_LEAF = 12
_MASK = (1 << _LEAF) - 1
_STEP = 8
_LOW = (1 << _STEP) - 1
_BIT = tuple(1 << bit for bit in range(1 << _STEP))


class Bitmap:
    """Which of the numbers 0 to 2^width - 1 are set.

    count: how many are set.
    size: how many there are.
    """

    __slots__ = (
        "_above",
        "_all",
        "_free",
        "_leaf",
        "_leaves",
        "_second",
        "_shift",
        "_some",
        "_spare",
        "_top",
        "count",
        "size",
    )

    def __init__(self, width: int) -> None:
        self.size = 1 << width
        self.count = 0
        self._top = max(0, width - _LEAF + _STEP - 1) // _STEP
        levels = range(self._top + 1)
        # Per level: how many bits of a number lie below one bit of a page, and what a page looks like that is all free.
        self._shift = [0, *(_LEAF + _STEP * level for level in range(self._top))]
        self._all = [
            (1 << (1 << min(_STEP if level else _LEAF, width - self._shift[level]))) - 1 for level in levels
        ]
        # Two halves of every page. `free`, stored unless all bits are set: numbers that are not set, pages that are not
        # full. `some`, stored unless it is zero: bits that have a page below. A page exists if either half is stored.
        self._free: list[dict[int, int]] = [{} for _ in levels]
        self._some: list[dict[int, int]] = [{} for _ in levels]
        # For each level: the halves of the levels above it, and what a page is there that is all free.
        stack = tuple(zip(self._free, self._some, self._all, strict=True))
        self._above = [stack[level + 1 :] for level in range(self._top + 2)]
        self._leaves = self._free[0]
        self._leaf = self._all[0]
        self._second = self._free[1] if self._top else {}
        # One empty page is kept: setting and clearing one number over and over must not build and drop a path each time.
        self._spare = -1

    @property
    def pages(self) -> int:
        """How many half pages are stored: what the memory grows with. Of an empty bitmap: at most one path."""
        return sum(map(len, self._free)) + sum(map(len, self._some))

    def __contains__(self, number: int) -> bool:
        page = self._leaves.get(number >> _LEAF)
        return self._full_above(0, number >> _LEAF) if page is None else not page >> (number & _MASK) & 1

    def next_clear(self, start: int) -> int:
        """The first number from `start` on, wrapping, that is not set; -1 if all are."""
        found = self._clear_from(start)
        return self._clear_from(0) if found < 0 and start else found

    def set_next(self, start: int) -> int:
        """Sets what `next_clear` answers, and answers it."""
        key = start >> _LEAF
        page = self._leaves.get(key)
        if page is None:
            number = self._climb(key) if self._full_above(0, key) else start
        else:
            rest = page >> (start & _MASK)
            number = start + (rest & -rest).bit_length() - 1 if rest else self._climb(key)
        if number < 0:
            number = self._clear_from(0)
            if number < 0:
                return -1
        if number >> _LEAF != key:
            key = number >> _LEAF
            page = self._leaves.get(key)
        self.count += 1
        if page is None:
            page = self._leaf
            self._appeared(0, key)
        self._leaves[key] = page ^ 1 << (number & _MASK)
        return number

    def clear(self, number: int) -> None:
        """Clears one number that is set (the caller knows that it is)."""
        key = number >> _LEAF
        page = self._leaves.get(key)
        self.count -= 1
        if page is None:
            self._write_out(0, key)
            page = 0
        if not page and not self._second.get(key >> _STEP, -1) & _BIT[key & _LOW]:
            self._unfilled(0, key)
        page |= 1 << (number & _MASK)
        self._leaves[key] = page
        if page == self._leaf and key != self._spare:
            self._emptied(key)

    def fill(self, start: int, order: int) -> None:
        """Sets the 2^order numbers from `start`, a multiple of 2^order."""
        level, key, mask = self._place(start, order)
        free = self._free[level].get(key, self._all[level])
        some = self._some[level].get(key, 0)
        new = free == self._all[level] and not some
        if new and self._full_above(level, key):
            return
        self.count += (1 << order) - self._drop_below(level, key, free, some, mask)
        left = free & ~mask
        self._store(level, key, left, some & ~mask)
        if new:
            self._appeared(level, key)
        if free and not left:
            self._filled(level, key)

    def wipe(self, start: int, order: int) -> None:
        """Clears the 2^order numbers from `start`, a multiple of 2^order."""
        level, key, mask = self._place(start, order)
        free = self._free[level].get(key, self._all[level])
        some = self._some[level].get(key, 0)
        if free == self._all[level] and not some:
            if not self._full_above(level, key):
                return
            self._write_out(level, key)
            free = 0
        self.count -= self._drop_below(level, key, free, some, mask)
        if not free:
            self._unfilled(level, key)
        free |= mask
        some &= ~mask
        self._store(level, key, free, some)
        if free == self._all[level] and not some:
            self._vanished(level, key)

    def is_clear(self, start: int, order: int) -> bool:
        """Whether none of the 2^order numbers from `start`, a multiple of 2^order, is set."""
        return self._is_clear(*self._place(start, order))

    def _is_clear(self, level: int, key: int, mask: int) -> bool:
        free = self._free[level].get(key)
        some = self._some[level].get(key, 0)
        if free is None:
            if not some and self._full_above(level, key):
                return False
        elif free & mask != mask:
            return False
        below = some & mask
        while below:  # mostly there is nothing below what is free: only the one empty page that is kept
            low = below & -below
            below ^= low
            if not self._is_clear(level - 1, key << _STEP | low.bit_length() - 1, self._all[level - 1]):
                return False
        return True

    def _clear_from(self, start: int) -> int:
        """The first clear number from `start` to the end, or -1."""
        key = start >> _LEAF
        page = self._leaves.get(key)
        if page is None:
            return self._climb(key) if self._full_above(0, key) else start
        rest = page >> (start & _MASK)
        return start + (rest & -rest).bit_length() - 1 if rest else self._climb(key)

    def _climb(self, key: int) -> int:
        """The first clear number behind the page `key` of level 0, or -1."""
        while True:
            key += 1
            page = self._second.get(key >> _STEP)
            rest = 0 if page is None else page >> (key & _LOW)
            if rest:  # mostly it lies below the same page of level 1
                key += (rest & -rest).bit_length() - 1
            else:
                key = self._next_leaf(key - 1)
                if key < 0:
                    return -1
            page = self._leaves.get(key)
            if page is None:
                return key << _LEAF
            if page:
                return (key << _LEAF) + (page & -page).bit_length() - 1
            self._filled(0, key)

    def _next_leaf(self, key: int) -> int:
        """The first page of level 0 behind the page `key` that the levels above do not call full, or -1."""
        # Up, to the first page with a free bit behind where we stand. Behind the end all pages are absent.
        level = 0
        for pages, _, _ in self._above[0]:
            level += 1
            key += 1
            page = pages.get(key >> _STEP)
            if page is None:
                if not self._full_above(level, key >> _STEP):
                    break
            else:
                rest = page >> (key & _LOW)
                if rest:
                    key += (rest & -rest).bit_length() - 1
                    break
            key >>= _STEP
        else:
            return -1
        if key << self._shift[level] >= self.size:
            return -1
        # And down, to the lowest free bit of each page.
        while level > 1:
            level -= 1
            page = self._free[level].get(key)
            key <<= _STEP
            if page is not None:
                key += (page & -page).bit_length() - 1
        return key

    def _emptied(self, key: int) -> None:
        """Keeps the page `key` of level 0 as the one empty page that is not dropped, and drops the one before."""
        before, self._spare = self._spare, key
        if self._leaves.get(before) == self._leaf:
            del self._leaves[before]
            self._vanished(0, before)

    def _place(self, start: int, order: int) -> tuple[int, int, int]:
        """The level and key of the one page that holds an aligned range, and its bits there."""
        level = 0
        while level < self._top and order >= self._shift[level + 1]:
            level += 1
        shift = self._shift[level]
        bit = start >> shift
        step = _STEP if level else _LEAF
        return level, bit >> step, ((1 << (1 << (order - shift))) - 1) << (bit & ((1 << step) - 1))

    def _store(self, level: int, key: int, free: int, some: int) -> None:
        if free != self._all[level]:
            self._free[level][key] = free
        else:
            self._free[level].pop(key, None)
        if some:
            self._some[level][key] = some
        else:
            self._some[level].pop(key, None)

    def _full_above(self, level: int, key: int) -> bool:
        """Whether a bit above says that the absent page `key` is full."""
        for free, some, _ in self._above[level]:
            bit = _BIT[key & _LOW]
            key >>= _STEP
            page = free.get(key)
            if page is not None:
                return not page & bit
            if key in some:
                return False
        return False

    # The next four tell the levels above `level` of what became of its page `key`.

    def _appeared(self, level: int, key: int) -> None:
        for free, some, _ in self._above[level]:
            bit = _BIT[key & _LOW]
            key >>= _STEP
            page = some.get(key)
            if page is not None:
                some[key] = page | bit
                return
            some[key] = bit
            if key in free:
                return

    def _vanished(self, level: int, key: int) -> None:
        for free, some, _ in self._above[level]:
            bit = _BIT[key & _LOW]
            key >>= _STEP
            page = some[key] ^ bit
            if page:
                some[key] = page
                return
            del some[key]
            if key in free:
                return

    def _filled(self, level: int, key: int) -> None:
        for free, _, whole in self._above[level]:
            bit = _BIT[key & _LOW]
            key >>= _STEP
            page = free[key] = free.get(key, whole) & ~bit
            if page:
                return

    def _unfilled(self, level: int, key: int) -> None:
        for free, _, whole in self._above[level]:
            bit = _BIT[key & _LOW]
            key >>= _STEP
            page = free.get(key, whole)
            if page & bit:
                return
            after = page | bit
            if after != whole:
                free[key] = after
            else:
                del free[key]
            if page:
                return

    def _write_out(self, level: int, key: int) -> None:
        """Makes the absent page `key`, of which a bit above says that it is full, and those between, real pages."""
        while True:
            self._free[level][key] = 0
            level += 1
            bit = _BIT[key & _LOW]
            key >>= _STEP
            some = self._some[level].get(key, 0)
            self._some[level][key] = some | bit
            if some or key in self._free[level]:
                return

    def _drop_below(self, level: int, key: int, free: int, some: int, mask: int) -> int:
        """Drops the pages below the bits `mask` of a page. Returns how many numbers were set under those bits."""
        count = (mask & ~free).bit_count() << self._shift[level]
        below = some & mask
        while below:
            low = below & -below
            below ^= low
            bit = low.bit_length() - 1
            dropped = self._drop(level - 1, key << _STEP | bit)
            if free & low:  # else it was full, and is counted
                count += dropped
        return count

    def _drop(self, level: int, key: int) -> int:
        full = self._all[level]
        free = self._free[level].pop(key, full)
        return self._drop_below(level, key, free, self._some[level].pop(key, 0), full)
