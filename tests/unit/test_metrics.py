"""What the metrics page shows: the series of Cilium's k8s-sync under their names, and ours."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from omnipam.core.values import Capacity, Finding, PoolCapacity
from omnipam.runtime.metrics import BUCKETS, Histogram, Metrics, Sync

POOL = PoolCapacity("default", "ipv4", total=256, used=3, quarantined=2, free=250, outside=1)


def samples(metrics: Metrics) -> dict[str, float]:
    answer = metrics.page()
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def made(capacity: Capacity | None = None, findings: Iterable[Finding] = ()) -> Metrics:
    return Metrics(lambda: capacity, lambda: findings)


def test_an_operator_that_does_not_lead_shows_no_pools() -> None:
    found = samples(made())
    assert found["omnipam_leading"] == 0
    assert found["omnipam_store_away"] == 0
    assert found["cilium_operator_ipam_k8s_sync_queued_total"] == 0
    assert not [name for name in found if name.startswith(("omnipam_pool", "omnipam_nodes_unserved"))]


def test_pools_nodes_and_findings() -> None:
    two = [Finding("Overlap", ("a",), "x"), Finding("Overlap", ("b",), "y"), Finding("Other", (), "z")]
    found = samples(made(Capacity((POOL,), nodes=6, unserved=4), two))
    assert found["omnipam_nodes"] == 6
    assert found["omnipam_nodes_unserved"] == 4
    states = {
        state: found[f"omnipam_pool_blocks{{family=ipv4,pool=default,state={state}}}"]
        for state in ("total", "used", "quarantined", "free", "outside")
    }
    assert states == {"total": 256, "used": 3, "quarantined": 2, "free": 250, "outside": 1}
    assert found["omnipam_findings{reason=Overlap}"] == 2
    assert found["omnipam_findings{reason=Other}"] == 1


def test_counters() -> None:
    metrics = made()
    metrics.publishes["Version"] += 3
    metrics.problems["PoolExhausted"] += 2
    metrics.reloads["refused"] += 1
    metrics.collected = 5
    metrics.leading = metrics.away = True
    found = samples(metrics)
    assert found["omnipam_publishes_total{outcome=Version}"] == 3
    assert found["omnipam_problems_total{reason=PoolExhausted}"] == 2
    assert found["omnipam_reloads_total{result=refused}"] == 1
    assert found["omnipam_nodes_collected_total"] == 5
    assert found["omnipam_leading"] == found["omnipam_store_away"] == 1


def test_a_pass_serves_all_that_asked_before_it_ended() -> None:
    metrics = made()
    sync = metrics.sync
    sync.request(10.0, 2)
    sync.begin(10.5)
    sync.begin(11.0)  # the same pass
    sync.request(11.0)
    sync.end(12.5)
    sync.end(13.0)  # nothing ran
    found = samples(metrics)
    name = "cilium_operator_ipam_k8s_sync"
    assert found[f"{name}_queued_total"] == 3
    assert found[f"{name}_folds"] == 3
    assert found[f"{name}_latency_seconds_sum"] == 0.5
    assert found[f"{name}_duration_seconds_sum"] == 2.0
    assert found[f"{name}_duration_seconds_count"] == found[f"{name}_latency_seconds_count"] == 1
    assert found[f"{name}_latency_seconds_bucket{{le=0.4}}"] == 0
    assert found[f"{name}_latency_seconds_bucket{{le=0.6}}"] == 1
    assert found[f"{name}_duration_seconds_bucket{{le=+Inf}}"] == 1


def test_a_pass_that_nobody_asked_for_waited_for_nothing() -> None:
    sync = Sync()
    sync.begin(5.0)
    sync.end(5.0)
    assert sync.latency.total == sync.duration.total == 0
    assert sync.folds == 0


CILIUMS = {
    "cilium_operator_ipam_k8s_sync_queued_total": "counter",
    "cilium_operator_ipam_k8s_sync_folds": "gauge",
    "cilium_operator_ipam_k8s_sync_duration_seconds": "histogram",
    "cilium_operator_ipam_k8s_sync_latency_seconds": "histogram",
}
"""What Cilium's operator has in cluster-pool mode, as a running one's /metrics declares it. No series has a label of its own."""
CILIUMS_BOUNDS = (
    *(
        "0.005",
        "0.025",
        "0.05",
        "0.1",
        "0.2",
        "0.4",
        "0.6",
        "0.8",
        "1",
        "1.25",
        "1.5",
        "2",
        "3",
        "4",
        "5",
        "6",
    ),
    *("8", "10", "15", "20", "30", "45", "60", "+Inf"),
)


@pytest.mark.parametrize("mode", ["cluster-pool", "kubernetes", "multi-pool"])
def test_the_series_of_k8s_sync_are_ciliums_by_name_type_and_labels(mode: str) -> None:
    metrics = Metrics(lambda: Capacity((POOL,), nodes=1, unserved=0), lambda: (), mode)
    lines = metrics.page().body.decode().splitlines()
    ours = [line for line in lines if "cilium_operator_ipam_k8s_sync" in line]
    types = dict(line.split()[2:4] for line in ours if line.startswith("# TYPE"))
    assert types == CILIUMS
    expected = set()
    for name, kind in CILIUMS.items():
        if kind == "histogram":
            expected |= {f'{name}_bucket{{le="{bound}"}}' for bound in CILIUMS_BOUNDS}
            expected |= {f"{name}_sum", f"{name}_count"}
        else:
            expected.add(name)
    series = [line.rpartition(" ")[0] for line in ours if not line.startswith("#")]
    assert len(series) == len(set(series))
    assert set(series) == expected


def test_the_series_of_multi_pool_are_that_mode_s_alone() -> None:
    name = "cilium_operator_ipam_multipool_total_blocks"
    capacity = Capacity((POOL,), nodes=1, unserved=0)
    for mode, shown in (("multi-pool", True), ("cluster-pool", False)):
        found = samples(Metrics(lambda: capacity, lambda: (), mode))
        assert (f"{name}{{family=ipv4,pool=default}}" in found) == shown


@given(st.lists(st.floats(0, 100)))
def test_buckets_are_cumulative_and_hold_all(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    buckets = histogram.buckets()
    assert [bound for bound, _ in buckets] == [*(f"{bound:g}" for bound in BUCKETS), "+Inf"]
    for bound, count in buckets:
        assert count == sum(value <= float(bound) for value in values)
