"""What is said of a node: each problem once while it stands, each notice with the write that mends it."""

from __future__ import annotations

from typing import cast

import structlog

from omnipam.core.values import Grant, Held, Node, Problem
from omnipam.runtime.metrics import Metrics
from omnipam.runtime.operator.telling import Telling
from omnipam.runtime.store import Store

FULL = Problem("PoolExhausted", "allocator full", "add a range")
MOVED = Problem("AlreadyAllocated", "requested CIDR (10.0.0.0/24) is already allocated", "node old has it")


def telling() -> Telling:
    store = cast("Store", None)  # nothing is reported here
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
