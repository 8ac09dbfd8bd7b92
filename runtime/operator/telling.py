"""What is unmet, said once where a person looks: log, metric, and the store's events."""

from __future__ import annotations

import structlog

from omnipam.core.errors import OmnipamError
from omnipam.core.values import Grant, Node, Problem

from ..election import LostLease
from ..metrics import Metrics
from ..store import Store


class Telling:
    """Remembers what was said of each node that has problems, so that each is said once until it is over."""

    def __init__(self, store: Store, metrics: Metrics, log: structlog.typing.FilteringBoundLogger) -> None:
        self._store, self._metrics, self._log = store, metrics, log
        self._told: dict[str, tuple[Problem, ...]] = {}

    def concerns(self, node: Node, grant: Grant) -> bool:
        """Whether there may be anything to say; cheap, for the nodes that want for nothing."""
        return bool(grant.problems or grant.notices or node.holds.error or node.name in self._told)

    def news(self, node: Node, grant: Grant) -> list[Problem]:
        """Logs and counts what is new about a node, or that it is over. Answers what is to be reported: the first of each
        reason, for one object can have hundreds of one kind."""
        before = self._told.get(node.name)
        problems = (*grant.problems, *grant.notices)
        if before is None:
            if grant.error == node.holds.error and not grant.notices:
                return []  # whoever wrote it has said so
            before = ()
        elif before == problems:
            return []
        if not problems:
            self.forget(node.name)
            was = node.holds.error or "; ".join(map(str, before))
            self._log.info("recovered", node=node.name, was=was)
            return []
        self._told[node.name] = problems
        new: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem not in before:
                new.setdefault(problem.reason, []).append(problem)
        for reason, alike in new.items():
            self._metrics.problems[reason] += len(alike)
            more = {"more": len(alike) - 1} if len(alike) > 1 else {}
            self._log.warning("unmet demand", node=node.name, reason=reason, text=str(alike[0]), **more)
        return [alike[0] for alike in new.values()]

    async def report(self, node: Node, problems: list[Problem]) -> None:
        """Shows them in the store. Raises LostLease; all else is logged."""
        for problem in problems:
            try:
                await self._store.report(node, problem)
            except LostLease:
                raise
            except OmnipamError as error:
                self._log.debug("not reported", node=node.name, why=str(error))

    def forget(self, name: str) -> None:
        """The node is no more."""
        self._told.pop(name, None)
