"""A host's namespace for each test; skipped where there can be none, but not on a machine that is to check everything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.netns import Host, obstacle

NO_NAMESPACES = "no network namespaces to test in: "


@pytest.fixture(scope="session")
def _namespaces() -> None:
    reason = obstacle()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(NO_NAMESPACES + reason)
    if reason:
        pytest.skip(NO_NAMESPACES + reason)


@pytest.fixture
def host(_namespaces: None, tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as running:
        yield running
