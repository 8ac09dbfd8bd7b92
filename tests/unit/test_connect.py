"""Where the Lease lies, and who we say that we are."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from omnipam.runtime.config import add_arguments, load
from omnipam.runtime.connect import identity, namespace_of, user_agent
from omnipam.runtime.kube.config import Auth, Cluster


def in_pod(namespace: str) -> Cluster:
    return Cluster(server="https://10.96.0.1", source="pod", namespace=namespace, in_pod=True)


def kubeconfig(namespace: str) -> Cluster:
    auth = Auth(token_file=Path("/some/token"))
    return Cluster(server="https://cluster.example", source="kubeconfig", namespace=namespace, auth=auth)


@pytest.mark.parametrize(
    ("key", "cluster", "namespace"),
    [
        ("", in_pod("networking"), "networking"),
        ("", in_pod("default"), "default"),  # a pod's own, whatever its name
        ("", kubeconfig("work"), "kube-system"),  # a person's is where they work, not where we live
        ("", None, "kube-system"),
        ("given", in_pod("networking"), "given"),
        ("given", kubeconfig("work"), "given"),
    ],
)
def test_the_namespace(tmp_path: Path, key: str, cluster: Cluster | None, namespace: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([f"--k8s-namespace={key}"] if key else [])
    config = load(args, {"XDG_STATE_HOME": str(tmp_path)}).config
    assert namespace_of(config, cluster) == namespace


def test_an_identity_is_nobody_elses() -> None:
    assert re.fullmatch(r".+-[A-Za-z]{10}", identity())
    assert len({identity() for _ in range(100)}) == 100


def test_the_user_agent_names_the_command() -> None:
    assert re.fullmatch(r"omnipam/\S+ \(operator\)", user_agent("operator"))
