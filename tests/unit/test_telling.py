"""What is said of a node: each problem once while it stands, each notice with the write that mends it."""

from __future__ import annotations

from typing import cast

import pytest
import structlog

from omnipam.core.errors import Denied, OmnipamError, Throttled, Unavailable
from omnipam.core.values import Grant, Held, Node, Problem
from omnipam.runtime.metrics import Metrics
from omnipam.runtime.operator.telling import Telling
from omnipam.runtime.store import Store

FULL = Problem("PoolExhausted", "allocator full", "add a range")
MOVED = Problem("AlreadyAllocated", "requested CIDR (10.0.0.0/24) is already allocated", "node old has it")


class Bucket:
    """The half of a store that shows failures, a limited number of them."""

    def __init__(self) -> None:
        self.tokens = 0
        self.error: OmnipamError = Throttled("later", 1.0)
        self.shown: list[tuple[str, str]] = []

    async def report(self, node: Node, problem: Problem) -> None:
        if not self.tokens:
            raise self.error
        self.tokens -= 1
        self.shown.append((node.name, str(problem)))


def telling(bucket: Bucket | None = None) -> Telling:
    store = cast("Store", bucket)
    return Telling(store, Metrics(None, None, "cluster-pool"), structlog.get_logger())  # type: ignore[arg-type]  # no scrape here


def test_a_notice_is_said_once_and_is_no_part_of_the_status() -> None:
    said = telling()
    grant = Grant(notices=(MOVED,))
    assert grant.error == ""
    assert said.concerns(Node("a"), grant)
    assert said.news(Node("a"), grant) == [MOVED]
    assert said.news(Node("a"), grant) == []
    assert said.news(Node("a"), Grant()) == []
    assert said.news(Node("a"), grant) == [MOVED], "it happened again"


def test_a_problem_that_its_object_says_already_is_not_said_again_but_a_notice_is() -> None:
    grant = Grant(problems=(FULL,))
    written = Node("a", holds=Held(error=grant.error))
    assert telling().news(written, grant) == []
    assert telling().news(written, Grant(problems=(FULL,), notices=(MOVED,))) == [FULL, MOVED]


async def tell(said: Telling, name: str, grant: Grant) -> None:
    node = Node(name)
    await said.report(node, said.news(node, grant))


async def test_what_found_the_bucket_empty_is_shown_later_the_oldest_first() -> None:
    bucket = Bucket()
    said = telling(bucket)
    for name in "abc":
        await tell(said, name, Grant(problems=(FULL,)))
    assert said.owes
    for tokens in (1, 0, 1):
        bucket.tokens = tokens
        await said.make_up()
    assert bucket.shown == [("a", str(FULL)), ("b", str(FULL))]
    bucket.tokens = 5
    await said.make_up()
    assert bucket.shown[2:] == [("c", str(FULL))]
    assert not said.owes
    assert bucket.tokens == 4


async def test_what_does_not_stand_any_more_is_not_shown_but_what_happened_is() -> None:
    bucket = Bucket()
    said = telling(bucket)
    await tell(said, "mended", Grant(problems=(FULL,)))
    await tell(said, "mended", Grant())
    await tell(said, "gone", Grant(problems=(FULL,)))
    said.forget("gone")
    await tell(said, "moved", Grant(notices=(MOVED,)))
    await tell(said, "moved", Grant())
    await tell(said, "other", Grant(problems=(FULL,)))
    later = Problem(FULL.reason, FULL.text, "add two ranges")
    await tell(said, "other", Grant(problems=(later,)))
    bucket.tokens = 9
    await said.make_up()
    assert bucket.shown == [("moved", str(MOVED)), ("other", str(later))]
    assert not said.owes


@pytest.mark.parametrize(("error", "owes"), [(Unavailable("away"), True), (Denied("no events"), False)])
async def test_only_what_another_try_may_mend_is_owed(error: OmnipamError, owes: bool) -> None:
    bucket = Bucket()
    bucket.error = error
    said = telling(bucket)
    await tell(said, "a", Grant(problems=(FULL,)))
    assert said.owes == owes
    await said.make_up()
    assert said.owes == owes
