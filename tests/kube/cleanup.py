"""Putting a cluster back to what it held before: only what came since is deleted, so a borrowed cluster keeps its own."""

from __future__ import annotations

from collections import defaultdict

from tests.kube.admin import Admin, ApiError

COLLECTIONS = {
    "ciliumnodes": "/apis/cilium.io/v2",
    "ciliumpodippools": "/apis/cilium.io/v2alpha1",
    "nodes": "/api/v1",
    "leases": "/apis/coordination.k8s.io/v1",
    "configmaps": "/api/v1",
    "events": "/api/v1",
}

Content = dict[str, dict[str, set[str]]]
"""Names, by resource and namespace ("" for none)."""


def content(admin: Admin) -> Content:
    """What the cluster holds of the kinds that tests write."""
    return {resource: _names(admin, f"{base}/{resource}") for resource, base in COLLECTIONS.items()}


def restore(admin: Admin, before: Content) -> None:
    """Delete what came since `before`, a whole collection at a time where it was empty."""
    for resource, base in COLLECTIONS.items():
        for namespace, names in _names(admin, f"{base}/{resource}").items():
            path = f"{base}/namespaces/{namespace}/{resource}" if namespace else f"{base}/{resource}"
            kept = before[resource].get(namespace)
            if not kept:
                admin.delete(path)
                continue
            for name in sorted(names - kept):
                try:
                    admin.delete(f"{path}/{name}")
                except ApiError as error:
                    if error.status != 404:
                        raise


def _names(admin: Admin, path: str) -> dict[str, set[str]]:
    names: dict[str, set[str]] = defaultdict(set)
    try:
        items = admin.get(path)["items"]
    except ApiError as error:
        if error.status != 404:  # the definition is not installed
            raise
        items = []
    for item in items:
        metadata = item["metadata"]
        names[metadata.get("namespace", "")].add(metadata["name"])
    return names
