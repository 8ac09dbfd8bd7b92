"""How much a node asks for, and which blocks it gives up: Cilium's numbers, and its quirks mended."""

from __future__ import annotations

from omnipam.core.cidr import Cidr, parse
from omnipam.core.demand import PENDING_S, Pending, needed_ip_ceil
from omnipam.core.pool_blocks import PoolBlocks
from omnipam.core.values import Block


def test_cilium_s_own_vectors() -> None:
    assert [needed_ip_ceil(n, 16) for n in (0, 1, 15, 16, 17, 32)] == [16, 32, 32, 32, 48, 48]
    assert [needed_ip_ceil(n, 8) for n in (3, 8, 9)] == [16, 16, 24]
    assert [needed_ip_ceil(n, 0) for n in (0, 5)] == [0, 5]


def test_who_waits_counts_for_five_minutes_after_his_last_try() -> None:
    pending = Pending()
    assert pending.add("blue", "ipv4", "a", 0.0)
    assert pending.add("blue", "ipv4", "b", 100.0)
    assert not pending.add("blue", "ipv4", "a", 200.0)
    assert not pending.purge(399.0)
    assert pending.count("blue", "ipv4") == 2
    assert pending.purge(100.0 + PENDING_S)
    assert pending.count("blue", "ipv4") == 1
    assert pending.pools() == {("blue", "ipv4")}
    assert pending.done("a")
    assert not pending.done("a")
    assert not pending


def block(text: str) -> Block:
    return Block("default", parse(text))


ONE, TWO, THREE = (block(f"10.0.0.{n}/28") for n in (0, 16, 32))


def blocks(*shown: Block) -> PoolBlocks:
    made = PoolBlocks(gateway=False)
    made.update(shown)
    return made


def use(pool: PoolBlocks, of: Block, count: int = 1) -> list[int]:
    each = pool.get(of.cidr)
    assert each is not None
    found = []
    for _ in range(count):
        address = each.choose(0.0)
        assert address is not None
        each.take(address)
        found.append(address)
    return found


def cidrs(*those: Block) -> tuple[Cidr, ...]:
    return tuple(each.cidr for each in those)


def test_the_last_unused_block_goes_first_and_order_stays() -> None:
    pool = blocks(ONE, TWO, THREE)
    use(pool, TWO)
    assert pool.give_up(lambda _: 13) == cidrs(THREE, ONE)
    assert pool.listed == cidrs(TWO)
    pool = blocks(THREE, ONE, TWO)
    assert pool.give_up(lambda _: 28) == cidrs(TWO)
    assert [each.block for each in pool.ranges] == [THREE, ONE]


def test_a_cooling_address_keeps_its_block() -> None:
    pool = blocks(ONE, TWO)
    (address,) = use(pool, TWO)
    each = pool.get(TWO.cidr)
    assert each is not None
    each.release(address, 30.0)
    assert pool.in_use == 0, "it is not demand"
    assert pool.give_up(lambda _: 0) == cidrs(ONE)
    assert pool.listed == cidrs(TWO)


def test_what_nobody_was_told_of_is_taken_back_and_nothing_else() -> None:
    pool = blocks(ONE, TWO)
    pool.give_up(lambda _: 14)
    assert pool.released == cidrs(TWO)
    use(pool, ONE, 10)
    pool.give_up(lambda _: 14)
    assert (pool.listed, pool.released) == (cidrs(ONE, TWO), ())

    pool = blocks(ONE, TWO)
    pool.give_up(lambda _: 14)
    pool.told(pool.released)
    use(pool, ONE, 10)
    pool.give_up(lambda _: 14)
    assert (pool.listed, pool.released) == (cidrs(ONE), cidrs(TWO)), "the operator may act on it by now"
    pool.update([ONE, TWO])
    assert pool.listed == cidrs(ONE), "an older sight of it does not make it ours"
    pool.forget_told(cidrs(TWO))
    pool.update([ONE, TWO])
    assert pool.listed == cidrs(ONE, TWO)

    pool = blocks(ONE, TWO)
    pool.give_up(lambda _: 14)
    pool.told(pool.released)
    pool.untold(pool.released)
    use(pool, ONE, 10)
    pool.give_up(lambda _: 14)
    assert pool.listed == cidrs(ONE, TWO), "the write surely did nothing"


def test_acknowledged_is_forgotten_and_may_come_again() -> None:
    pool = blocks(ONE, TWO)
    pool.give_up(lambda _: 14)
    pool.told(pool.released)
    pool.update([ONE])
    assert pool.released == ()
    pool.update([ONE, TWO])
    assert pool.listed == cidrs(ONE, TWO)


def test_a_block_that_was_taken_away_is_served_until_it_is_unused() -> None:
    pool = blocks(ONE, TWO)
    (address,) = use(pool, ONE)
    pool.update([TWO])
    assert (pool.removed, pool.listed) == (frozenset(cidrs(ONE)), cidrs(ONE, TWO))
    found = pool.choose(0.0)
    assert found is not None
    assert found[0].block == TWO, "nothing new of it"
    assert pool.in_use == 1
    pool.update([ONE, TWO])
    assert pool.removed == frozenset(), "it is back, and so is its use"
    pool.update([TWO])
    each = pool.get(ONE.cidr)
    assert each is not None
    each.release(address)
    assert pool.prune()
    assert pool.listed == cidrs(TWO)


def test_a_gateway_counts_as_in_use_so_that_the_operator_s_sum_is_ours() -> None:
    """A /28 has 14 usable addresses for the operator and 13 for pods: the fourteenth pod must make a difference."""
    pool = PoolBlocks(gateway=True)
    pool.update([ONE])
    use(pool, ONE, 13)
    assert pool.choose(0.0) is None
    assert pool.in_use == 14
    assert needed_ip_ceil(pool.in_use + 1, 0) == 15


def test_giving_up_a_block_with_its_gateway_does_not_ask_for_it_again() -> None:
    for pre in (0, 3, 8, 16):
        for pods in range(27):
            pool = PoolBlocks(gateway=True)
            pool.update([ONE, TWO, THREE])
            use(pool, ONE, min(pods, 13))
            use(pool, TWO, max(pods - 13, 0))
            pool.give_up(lambda n, pre=pre: needed_ip_ceil(n, pre) - n)
            needed = needed_ip_ceil(pool.in_use, pre)
            given = 14 * len(pool.listed)
            full = len(pool.listed) == 3
            assert needed <= given or full, "what is left is enough for what is asked now"


def test_a_block_that_is_withheld_while_it_cools() -> None:
    """Whether anybody asked in between or not, whether it still cools or was taken."""
    for asked in (False, True):
        pool = blocks(block("10.0.0.1/32"))
        each = pool.usable[0]
        address = each.block.cidr.first
        each.take(address)
        each.release(address, 30.0)
        pool.withhold([each.block.cidr])
        assert not asked or pool.choose(1.0) is None
        pool.withhold([])
        assert pool.choose(1.0) == (each, address), "it cools as before"
        pool.withhold([each.block.cidr])
        assert not asked or pool.choose(1.0) is None
        each.take(address)
        pool.withhold([])
        assert pool.choose(1.0) is None, "it is used"
