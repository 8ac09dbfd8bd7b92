"""What is unmet, said once where a person looks: log, metric, and the store's events."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from omnipam.core.errors import OmnipamError, Retryable
from omnipam.core.values import Grant, Node, Problem

from ..election import LostLease
from ..metrics import Metrics
from ..store import Store


class Telling:
    """Remembers what was said of each node that has problems, so that each is said once until it is over.

    What the store could not show just now (it limits their rate) is owed, and shown later if it still stands.
    """

    def __init__(self, store: Store, metrics: Metrics, log: structlog.typing.FilteringBoundLogger) -> None:
        self._store, self._metrics, self._log = store, metrics, log
        self._told: dict[str, Grant] = {}
        self._owed: dict[str, dict[str, tuple[Node, Problem]]] = {}  # by name and reason

    @property
    def owes(self) -> bool:
        """Whether `make_up` has something to do."""
        return bool(self._owed)

    def concerns(self, node: Node, grant: Grant) -> bool:
        """Whether there may be anything to say; cheap, for the nodes that want for nothing."""
        return bool(grant.problems or grant.notices or node.holds.error or node.name in self._told)

    def news(self, node: Node, grant: Grant) -> list[Problem]:
        """Logs and counts what is new about a node, or that it is over. Answers what is to be reported: the first of each
        reason, for one object can have hundreds of one kind."""
        told = self._told.get(node.name)
        before = () if told is None else (*told.problems, *told.notices)
        problems = (*grant.problems, *grant.notices)
        if told is None:
            if grant.error == node.holds.error and not grant.notices:
                return []  # whoever wrote it has said so
        elif before == problems:
            return []
        else:
            for reason in {problem.reason for problem in told.problems}:
                if all(problem.reason != reason for problem in problems):
                    self.over(node.name, reason)
        if not problems:
            self._told.pop(node.name, None)
            was = node.holds.error or "; ".join(map(str, before))
            self._log.info("recovered", node=node.name, was=was)
            return []
        self._told[node.name] = Grant(problems=grant.problems, notices=grant.notices)
        new: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem not in before:
                new.setdefault(problem.reason, []).append(problem)
        for reason, alike in new.items():
            self._metrics.problems[reason] += len(alike)
            more = {"more": len(alike) - 1} if len(alike) > 1 else {}
            self._log.warning("unmet demand", node=node.name, reason=reason, text=str(alike[0]), **more)
        return [alike[0] for alike in new.values()]

    async def report(self, node: Node, problems: Sequence[Problem]) -> None:
        """Shows them in the store, or owes them. Raises LostLease; all else is logged."""
        for problem in problems:
            if not await self._shown(node, problem):
                self._owed.setdefault(node.name, {})[problem.reason] = (node, problem)

    async def make_up(self) -> None:
        """Shows what is owed, the oldest first, for as long as the store takes it. Raises LostLease."""
        for name, reasons in list(self._owed.items()):
            for reason, owed in list(reasons.items()):
                if self._owed.get(name, {}).get(reason) is not owed:
                    continue  # over, or there is a newer one
                if not await self._shown(*owed):
                    return
                if self._owed.get(name, {}).get(reason) is owed:
                    self.over(name, reason)

    def over(self, name: str, reason: str) -> None:
        """This does not stand any more: it need not be shown."""
        reasons = self._owed.get(name, {})
        reasons.pop(reason, None)
        if not reasons:
            self._owed.pop(name, None)

    def forget(self, name: str) -> None:
        """The node is no more."""
        self._told.pop(name, None)
        self._owed.pop(name, None)

    async def _shown(self, node: Node, problem: Problem) -> bool:
        """False: another try makes sense."""
        try:
            await self._store.report(node, problem)
        except LostLease:
            raise
        except OmnipamError as error:
            self._log.debug("not reported", node=node.name, why=str(error))
            return not isinstance(error, Retryable)
        return True
