"""A plan's actions as they are printed."""

from __future__ import annotations

import msgspec

from omnipam.core.allocator import Action, Allocator, Plan, TakeBlock
from omnipam.core.values import Problem

HEAD = ("NODE", "ACTION", "FAMILY", "CIDR", "REASON")


class PlannedAction(msgspec.Struct, frozen=True):
    """One action. cidr: for a block to be taken, the one that it would be as things are."""

    action: str
    pool: str
    family: str
    cidr: str
    reason: str


def actions_of(plan: Plan) -> tuple[PlannedAction, ...]:
    """The plan's actions, in order."""
    return tuple(_action(planned.action, planned.reason) for planned in plan.actions)


def unmet_of(plan: Plan, allocator: Allocator) -> tuple[Problem, ...]:
    """What stays unmet of a node whose plan was started, each once."""
    return tuple(dict.fromkeys((*plan.problems, *allocator.grant(plan.node or "").problems)))


def rows(
    node: str, actions: tuple[PlannedAction, ...], unmet: tuple[Problem, ...]
) -> list[tuple[str, str, str, str, str]]:
    """The lines of a table under HEAD."""
    lines = [(node, each.action, each.family, each.cidr, each.reason) for each in actions]
    return lines + [(node, "Unmet", "", "", str(problem)) for problem in unmet]


def _action(action: Action, reason: str) -> PlannedAction:
    if isinstance(action, TakeBlock):
        return PlannedAction("TakeBlock", action.pool, action.family, str(action.expected), reason)
    return PlannedAction("ReturnBlock", action.pool, action.cidr.family, str(action.cidr), reason)
