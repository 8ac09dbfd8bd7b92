"""The ledger's rules one by one, with Cilium's traps by name; and that its cost follows what is recorded, not what exists."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from omnipam.core.cidr import Cidr, parse
from omnipam.core.errors import Invalid
from omnipam.core.ledger import Ledger

TEN = parse("10.0.0.0/8")


def ledger(cidr: str = "10.0.0.0/24", mask: int = 26, reserved: tuple[str, ...] = ()) -> Ledger:
    return Ledger(parse(cidr), mask, map(parse, reserved))


def taken(book: Ledger, owner: str = "a") -> str | None:
    block = book.take(owner)
    return None if block is None else str(block)


def test_next_fit_goes_on_behind_the_last_block_and_wraps() -> None:
    book = ledger()
    assert [taken(book) for _ in range(3)] == ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/26"]
    assert book.free("a", parse("10.0.0.0/26"))
    assert taken(book) == "10.0.0.192/26"
    assert taken(book) == "10.0.0.0/26"
    assert taken(book) is None
    assert book.would_take() is None
    assert book.free("a", parse("10.0.0.128/26"))  # space appears: served at once
    assert str(book.would_take()) == taken(book) == "10.0.0.128/26"


def test_claim_and_free_do_not_move_the_cursor() -> None:
    book = ledger()
    assert book.claim("a", parse("10.0.0.64/26")) == ()
    assert taken(book) == "10.0.0.0/26"
    assert taken(book) == "10.0.0.128/26"


def test_partial_overlap_is_seen_and_refused() -> None:
    """T4: Cilium reports a wide CIDR over one taken block as free, and occupies it."""
    book = ledger()
    one = book.take("a")
    assert book.claim("b", parse("10.0.0.0/25")) == (("a", one),)
    assert book.claim("b", parse("10.0.0.0/8")) == (("a", one),)
    assert (book.taken, book.free_units) == (1, 3)
    assert book.claim("b", parse("10.0.0.0/28")) == (("a", one),)
    assert book.claim("a", parse("10.0.0.0/25")) == ()  # its own may nest
    assert (book.taken, book.free_units) == (2, 2)


def test_two_short_blocks_of_an_older_mask_share_a_unit() -> None:
    book = ledger("10.0.0.0/16", 24)
    left, right = parse("10.0.0.0/26"), parse("10.0.0.64/26")
    assert book.claim("a", left) == book.claim("b", right) == ()
    assert book.taken == 1
    assert book.free("a", left)
    assert (book.owners(parse("10.0.0.0/24")), book.taken) == ([("b", right)], 1)
    assert taken(book) == "10.0.1.0/24"
    assert book.free("b", right)
    assert (book.taken, book.free_units) == (1, 255)


def test_forced_range_keeps_both_and_frees_one() -> None:
    book = ledger()
    one = book.take("a")
    assert one is not None
    book.force("ignored", one)
    book.force("ignored", TEN)
    assert book.owners(one) == [("ignored", TEN), ("a", one), ("ignored", one)]
    assert book.owner_of(one) == "a"
    assert book.free("a", one)
    assert not book.free("a", one)
    assert (book.taken, book.would_take()) == (4, None)
    assert book.free("ignored", TEN)
    assert (book.taken, book.owner_of(one)) == (1, "ignored")
    assert book.free("ignored", one)
    assert book.free_units == 4


def test_conflicts_are_ordered_by_cidr_then_owner() -> None:
    book = ledger()
    for owner, text in (
        ("z", "10.0.0.64/26"),
        ("b", "10.0.0.0/26"),
        ("a", "10.0.0.0/26"),
        ("c", "10.0.0.0/25"),
    ):
        book.force(owner, parse(text))
    found = [(owner, str(cidr)) for owner, cidr in book.claim("x", parse("10.0.0.0/24"))]
    assert found == [("c", "10.0.0.0/25"), ("a", "10.0.0.0/26"), ("b", "10.0.0.0/26"), ("z", "10.0.0.64/26")]


def test_reserved_is_never_taken_but_may_be_claimed() -> None:
    book = ledger(reserved=("10.0.0.1/32", "10.0.0.128/25", "192.0.2.0/24", "fd00::/64"))
    assert (book.total, book.reserved, book.free_units) == (4, 3, 1)
    assert taken(book) == "10.0.0.64/26"
    assert taken(book) is None
    assert book.claim("old", parse("10.0.0.0/26")) == ()
    assert (book.taken, book.reserved) == (2, 2)
    assert book.free("old", parse("10.0.0.0/26"))
    assert (book.taken, book.reserved, book.free_units) == (1, 3, 0)
    assert book.unreserve(parse("10.0.0.1/32"))
    assert not book.unreserve(parse("10.0.0.1/32"))
    assert taken(book) == "10.0.0.0/26"


def test_quarantine_ends_only_when_let_go() -> None:
    book = ledger("10.0.0.0/25", 26)
    one, two = book.take("a"), book.take("b")
    assert one is not None
    assert two is not None
    assert book.free("a", one)
    book.hold_back(one)
    assert (book.quarantined, book.free_units, taken(book)) == (1, 0, None)
    assert book.claim("c", one) == ()  # an object that shows it wins
    assert (book.quarantined, book.taken) == (0, 2)
    assert book.free("c", one)
    assert (book.quarantined, book.free_units) == (1, 0)
    assert book.let_go(one)
    assert not book.let_go(one)
    assert taken(book) == str(one)


def test_remasked_keeps_everything_but_the_size_of_new_blocks() -> None:
    book = ledger("10.0.0.0/16", 24, reserved=("10.0.255.0/28",))
    one = book.take("a")
    assert one is not None
    book.hold_back(parse("10.0.1.0/26"))
    finer = book.remasked(26)
    assert (finer.total, finer.taken, finer.quarantined, finer.reserved) == (1024, 4, 1, 1)
    assert taken(finer) == "10.0.1.64/26"
    assert finer.owner_of(one) == "a"
    assert (book.mask, book.taken) == (24, 1)  # the old one is as it was
    with pytest.raises(Invalid):
        book.remasked(15)


def test_outside_is_refused_by_name() -> None:
    book = ledger()
    for write in (book.claim, book.force):
        for text in ("10.0.1.0/26", "fd00::/64", "::/0"):
            with pytest.raises(Invalid, match=r"is out the range of cluster cidr 10\.0\.0\.0/24"):
                write("a", parse(text))
    assert not book.free("a", parse("10.0.1.0/26"))
    assert book.owners(parse("::/0")) == []
    assert book.owner_of(parse("::/0")) is None


def test_families_with_the_same_numbers_are_not_mixed_up() -> None:
    book = Ledger(parse("0.0.0.0/8"), 24)
    assert taken(book) == "0.0.0.0/24"
    assert not book.free("a", parse("::/24"))
    assert book.owner_of(parse("::/24")) is None
    assert book.taken == 1


@pytest.mark.parametrize(
    ("cidr", "mask", "words"),
    [
        (
            "10.0.0.0/8",
            33,
            "SubNetMask is invalid, should be lower or equal to 32 for IPv4 and to 128 for IPv6 — ",
        ),
        (
            "fd00::/104",
            129,
            "SubNetMask is invalid, should be lower or equal to 32 for IPv4 and to 128 for IPv6 — ",
        ),
        ("10.0.0.0/8", 7, "mask size 7 of 10.0.0.0/8 is wider than the CIDR itself — "),
        ("10.0.0.0/8", -1, "SubNetMask is invalid"),
    ],
)
def test_masks_that_do_not_fit(cidr: str, mask: int, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        Ledger(parse(cidr), mask)
    assert str(caught.value).startswith(words)
    assert f"from {parse(cidr).length} to {parse(cidr).bits}" in str(caught.value)


def test_text_form_is_ciliums() -> None:
    assert str(ledger("10.0.0.0/8", 24)) == "clusterCIDR: 10.0.0.0/8, nodeMask: 24"


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python `work` runs: a cost that no busy machine changes."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_wide_ranges_cost_what_they_overlap_and_not_their_units() -> None:
    small, large = ledger("10.0.0.0/24", 26), Ledger(parse("::/0"), 128)
    costs = []
    for book in (small, large):
        book.claim("a", book.cidr)
        book.free("a", book.cidr)  # warm
        costs.append(steps(partial(book.claim, "a", book.cidr)) + steps(partial(book.free, "a", book.cidr)))
    assert large.free_units == 2**128
    assert costs[1] < costs[0] + 400  # a few lines a level; never lines a unit


@pytest.mark.parametrize("fill", [0, 32768, 65530])
def test_take_and_return_cost_the_same_at_any_fill(fill: int) -> None:
    book = Ledger(TEN, 24)
    blocks = [book.take("a") for _ in range(65536)]
    order = sorted(range(65536), key=lambda number: number * 40503 % 65536)  # scattered, the same every time
    for number in order[fill:]:
        block = blocks[number]
        assert block is not None
        book.free("a", block)

    def work() -> None:
        for _ in range(100):
            block = book.take("b")
            assert block is not None
            book.free("b", block)

    work()
    assert steps(work) < 100 * 110
    assert book.taken == fill


def test_memory_grows_with_what_is_taken() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        deep = [Ledger(parse("fd00::/32"), 128), Ledger(parse("fd00::/40"), 64), Ledger(parse("::/0"), 128)]
        built, _ = tracemalloc.get_traced_memory()
        for book in deep:
            for _ in range(10_000):
                book.take("node")
        full, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert built - before < 60_000  # three ledgers, the deepest of 16 levels
    assert full - built < 30_000 * 200
    assert deep[1].total == 2**24
    assert all(sum(map(sys.getsizeof, book._blocked._leaves.values())) < 4_000 for book in deep)


def test_scattered_claims_in_a_deep_span() -> None:
    book = Ledger(parse("fd00::/32"), 128)
    cidrs = [
        Cidr(128, book.cidr.first + (number * 0x9E3779B97F4A7C15 % 2**96), 128) for number in range(2000)
    ]
    assert [book.claim("a", cidr) for cidr in cidrs] == [()] * 2000
    assert book.taken == 2000
    assert book._blocked.pages < 2000 * 22
    for cidr in cidrs:
        assert book.free("a", cidr)
    assert (book.taken, book.free_units) == (0, 2**96)
    assert book._blocked.pages <= book._blocked._top + 1


def test_the_empty_page_that_is_kept_is_dropped_only_while_it_is_empty() -> None:
    book = Ledger(parse("fd00::/64"), 80)  # 16 pages of 4096
    first = book.take("a")
    assert first is not None
    book.free("a", first)
    assert book.claim("b", first) == ()
    for page in range(1, 16):
        book.cursor = page * 4096
        block = book.take("a")
        assert block is not None
        assert book.free("a", block)
    book.cursor = 0
    assert book.would_take() == Cidr(128, first.first + (1 << 48), 80)
    assert book.free("b", first)
    assert book._blocked.pages <= 2
