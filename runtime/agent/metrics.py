"""The numbers that an agent shows: Cilium's series of its agent's IPAM, and a few of ours. Prometheus is imported when first asked.

Source of names: Cilium's `cilium_ipam_*`; those of its newest version (`available`, `used`, `allocation_attempts`) included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from omnipam.core.cidr import Family
from omnipam.core.node_agent import NodeAgent

from ..web import Answer

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Outcome = Literal["success", "exhausted", "error"]


class Counts:
    """What has happened since the start, by family."""

    def __init__(self) -> None:
        self.events: Counter[tuple[str, Family]] = Counter()
        self.attempts: Counter[tuple[Family, Outcome]] = Counter()

    def tried(self, families: Iterable[Family], outcome: Outcome) -> None:
        """An attachment asked for an address of each."""
        for family in families:
            self.attempts[family, outcome] += 1
            if outcome == "success":
                self.events["allocate", family] += 1

    def released(self, families: Iterable[Family]) -> None:
        for family in families:
            self.events["release", family] += 1


class Metrics:
    """waiting: how many attachments wait now. failing: whether the disk refuses. All of it is asked when scraped."""

    def __init__(
        self,
        agent: NodeAgent,
        counts: Counts,
        *,
        waiting: Callable[[], int],
        failing: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._agent, self._counts, self._clock = agent, counts, clock
        self._waiting, self._failing = waiting, failing

    def page(self) -> Answer:
        """The exposition in Prometheus' text format."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return Answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)

    def collect(self) -> Iterator[Metric]:
        """What `prometheus_client` asks of a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        agent = self._agent
        states = agent.states(self._clock())
        capacity = GaugeMetricFamily(
            "cilium_ipam_capacity", "Addresses that the node has for pods", labels=("family", "cidr")
        )
        available = GaugeMetricFamily(
            "cilium_ipam_available", "Addresses that could be given out", labels=("family",)
        )
        used = GaugeMetricFamily("cilium_ipam_used", "Addresses in use", labels=("family",))
        for family in agent.families:
            mine = [each for each in states if each.family == family]
            cidrs = [] if agent.pooled else [str(cidr) for each in mine for cidr in each.blocks]
            # As Cilium, which has one CIDR a family where it fills the label.
            capacity.add_metric(
                (family, cidrs[0] if len(cidrs) == 1 else ""), float(sum(each.total for each in mine))
            )
            available.add_metric((family,), float(sum(each.free + each.cooling for each in mine)))
            used.add_metric((family,), float(sum(each.used for each in mine)))
        yield from (capacity, available, used)
        events = CounterMetricFamily(
            "cilium_ipam_events", "Addresses given and taken back", labels=("action", "family")
        )
        for (action, family), count in sorted(self._counts.events.items()):
            events.add_metric((action, family), float(count))
        attempts = CounterMetricFamily(
            "cilium_ipam_allocation_attempts", "Requests for an address", labels=("family", "outcome")
        )
        for (family, outcome), count in sorted(self._counts.attempts.items()):
            attempts.add_metric((family, outcome), float(count))
        yield from (events, attempts)
        pools = GaugeMetricFamily(
            "omnipam_agent_pool_addresses", "Addresses of a pool", labels=("pool", "family", "state")
        )
        for each in states:
            for state in ("total", "used", "cooling", "free"):
                pools.add_metric((each.pool, each.family, state), float(getattr(each, state)))
        yield pools
        yield GaugeMetricFamily(
            "omnipam_agent_waiting", "Attachments that wait for an address", value=float(self._waiting())
        )
        yield GaugeMetricFamily(
            "omnipam_agent_disk_refuses",
            "Whether reservations cannot be written now",
            value=float(self._failing()),
        )
