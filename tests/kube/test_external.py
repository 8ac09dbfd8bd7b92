"""A cluster that somebody else runs: what needs to read the line to it is skipped, and what needs only to cut it works."""

from __future__ import annotations

import pytest
from tests.kube.cluster import Cluster
from tests.kube.external import ExternalCluster


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
@pytest.mark.parametrize("fault", ["lose_answer", "lose_request"])
def test_a_fault_that_picks_its_request_is_skipped_and_in_ci_fails(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, fault: str, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with ExternalCluster(cluster.kubeconfig()) as foreign, foreign.proxy() as proxy:
        with pytest.raises(outcome, match="no Kubernetes API server to test on"):
            getattr(proxy, fault)(rb"PATCH /apis/cilium.io/")
        getattr(proxy, fault)()
        client = foreign.client("admin", server=proxy.url)
        with pytest.raises(OSError):
            client.post("/api/v1/nodes", {"metadata": {"name": "lost"}})
        client.close()
