"""What a store pours in, and where it goes: nowhere while another leads, into the restore, then into the turns."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import structlog

from omnipam.core.drive import Drive
from omnipam.core.values import Finding, Node, PoolSpec

from ..metrics import Metrics


class Phase(enum.Enum):
    """STANDBY: another leads. ASKED: we lead, and a list begun after that was asked for. LISTING: it comes. LIVE: restored."""

    STANDBY = enum.auto()
    ASKED = enum.auto()
    LISTING = enum.auto()
    LIVE = enum.auto()


class Feed:
    """The operator's `Sink`.

    restored: called with all nodes once the first list after `lead` is complete. changed: something may now be due.
    gone: so is a node, by its name.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
        changed: Callable[[], None],
        gone: Callable[[str], None],
    ) -> None:
        self.phase = Phase.STANDBY
        self.ready = False
        self._clock, self._metrics, self._log = clock, metrics, log
        self._changed, self._gone = changed, gone
        self._drive: Drive | None = None
        self._restored: Callable[[list[Node]], None] = lambda nodes: None
        self._nodes: dict[str, Node] = {}
        self.specs: tuple[PoolSpec, ...] = ()
        """The store's pools, as last said."""
        self.findings: set[Finding] = set()
        """What the store has found of itself."""

    def lead(self, drive: Drive, restored: Callable[[list[Node]], None]) -> None:
        """From now on we lead. Ask the store for a new list right after."""
        self._drive, self._restored = drive, restored
        self.phase = Phase.ASKED
        self.ready = False

    def listed(self) -> None:
        if self.phase in (Phase.ASKED, Phase.LISTING):
            self.phase = Phase.LISTING
            self._nodes = {}
        elif self._drive is not None:
            self._drive.listed()

    def seen(self, node: Node) -> None:
        if self.phase is Phase.LIVE and self._drive is not None:
            self._drive.seen(node, self._clock())
            self._changed()
        elif self.phase is Phase.LISTING:
            self._nodes[node.name] = node

    def gone(self, name: str, uid: str) -> None:
        if self.phase is Phase.LIVE and self._drive is not None:
            self._drive.gone(name, uid, self._clock())
            self._gone(name)
        elif self.phase is Phase.LISTING:
            self._nodes.pop(name, None)

    def pools(self, specs: Sequence[PoolSpec]) -> None:
        self.specs = tuple(specs)
        if self.phase is Phase.LIVE and self._drive is not None:
            self._drive.allocator.pools(self.specs, self._clock())
            self._changed()

    def synced(self) -> None:
        if self.phase is Phase.LISTING:
            nodes, self._nodes = self._nodes, {}
            self._restored(list(nodes.values()))
            self.phase = Phase.LIVE
            self._changed()
        if self.phase is not Phase.ASKED:
            self.ready = True

    def expects(self, name: str, version: str) -> bool:
        return self.phase is Phase.LIVE and self._drive is not None and self._drive.expects(name, version)

    def away(self, reason: str) -> None:
        if self._metrics.away:
            return
        self._metrics.away = True
        self._log.warning("the store cannot be reached; trying on", reason=reason)

    def back(self) -> None:
        if not self._metrics.away:
            return
        self._metrics.away = False
        self._log.info("the store can be reached again")

    def finding(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings.add(finding)
            self._log.warning(str(finding), reason=finding.reason, objects=list(finding.objects))
