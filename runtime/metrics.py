"""The numbers that an operator shows. Counting is plain arithmetic; Prometheus is imported when somebody first asks.

The series of k8s-sync and of multi-pool have Cilium's names and buckets (`cilium_operator_ipam_*`); the others are ours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from omnipam.core.values import Capacity, Finding

from .web import Answer

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# Cilium's buckets for triggers, seconds.
BUCKETS = (
    *(0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0),
    *(4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
)


class Histogram:
    """Counts observations by bucket."""

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus has them; bounds are written as Cilium's are, `1` and not `1.0`."""
        found, running = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            running += count
            found.append(("+Inf" if bound == float("inf") else f"{bound:g}", float(running)))
        return found


class Sync:
    """Writing to the store as a folding trigger: requests that arrive while a pass runs are served by the same pass."""

    def __init__(self) -> None:
        self.queued = 0
        self.folds = 0
        self.duration = Histogram()
        self.latency = Histogram()
        self._asked: float | None = None
        self._began: float | None = None
        self._requests = 0

    def request(self, now: float, count: int = 1) -> None:
        """So many nodes want to be written."""
        self.queued += count
        self._requests += count
        if self._asked is None:
            self._asked = now

    def begin(self, now: float) -> None:
        """A pass begins, unless one is under way."""
        if self._began is None:
            self._began = now
            self.latency.observe(max(0.0, now - (self._asked if self._asked is not None else now)))
            self._asked = None

    def end(self, now: float) -> None:
        """Nothing is under way any more."""
        if self._began is not None:
            self.duration.observe(max(0.0, now - self._began))
            self.folds, self._requests = self._requests, 0
            self._began = None


class Metrics:
    """One operator's numbers. `capacity` and `findings` are asked when scraped. mode: some series are one mode's."""

    def __init__(
        self,
        capacity: Callable[[], Capacity | None],
        findings: Callable[[], Iterable[Finding]],
        mode: str = "",
    ) -> None:
        self._mode = mode
        self.sync = Sync()
        self.publishes: Counter[str] = Counter()
        self.reloads: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self.collected = 0
        self.leading = False
        self.away = False
        self._capacity = capacity
        self._findings = findings

    def page(self) -> Answer:
        """The exposition in Prometheus' text format."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return Answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)

    def collect(self) -> Iterator[Metric]:
        """What `prometheus_client` asks of a collector."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        sync, prefix = self.sync, "cilium_operator_ipam_k8s_sync"
        yield CounterMetricFamily(
            f"{prefix}_queued", "Requests to write nodes to the store", value=sync.queued
        )
        yield GaugeMetricFamily(f"{prefix}_folds", "Requests served by the last pass", value=sync.folds)
        for name, words, histogram in (
            ("duration", "How long a pass took", sync.duration),
            ("latency", "How long the first request of a pass waited", sync.latency),
        ):
            yield HistogramMetricFamily(
                f"{prefix}_{name}_seconds", words, buckets=histogram.buckets(), sum_value=histogram.total
            )
        yield GaugeMetricFamily("omnipam_leading", "Whether this replica leads", value=float(self.leading))
        yield GaugeMetricFamily(
            "omnipam_store_away", "Whether the store cannot be reached", value=float(self.away)
        )
        yield _counter("omnipam_publishes", "Grants written, by outcome", "outcome", self.publishes)
        yield _counter("omnipam_reloads", "Configuration reloads, by result", "result", self.reloads)
        yield _counter("omnipam_problems", "Unmet demands that appeared, by reason", "reason", self.problems)
        yield CounterMetricFamily(
            "omnipam_nodes_collected", "Node objects deleted, whose machine was gone", value=self.collected
        )
        capacity = self._capacity()
        if capacity is None:
            return
        blocks = GaugeMetricFamily(
            "omnipam_pool_blocks", "Blocks of a pool, by state", labels=("pool", "family", "state")
        )
        for pool in capacity.pools:
            for state in ("total", "used", "quarantined", "free", "outside"):
                blocks.add_metric((pool.pool, pool.family, state), float(getattr(pool, state)))
        yield blocks
        if self._mode == "multi-pool":
            total = GaugeMetricFamily(
                "cilium_operator_ipam_multipool_total_blocks", "Blocks of a pool", labels=("pool", "family")
            )
            for pool in capacity.pools:
                if pool.total:
                    total.add_metric((pool.pool, pool.family), float(pool.total))
            yield total
        yield GaugeMetricFamily("omnipam_nodes", "Nodes known", value=capacity.nodes)
        yield GaugeMetricFamily(
            "omnipam_nodes_unserved",
            "Nodes that lack what they should have: no space, an object that cannot be read, or a grant that cannot be written",
            value=capacity.unserved,
        )
        findings = Counter(finding.reason for finding in self._findings())
        family = GaugeMetricFamily("omnipam_findings", "Findings that stand, by reason", labels=("reason",))
        for reason, count in sorted(findings.items()):
            family.add_metric((reason,), float(count))
        yield family


def _counter(name: str, words: str, label: str, counts: Counter[str]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, words, labels=(label,))
    for value, count in sorted(counts.items()):
        family.add_metric((value,), float(count))
    return family
