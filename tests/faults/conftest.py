"""A SQLite store in the test's directory, and the test's own hand on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omnipam.runtime.sqlite.store import SqliteStore


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/omnipam.db"


@pytest.fixture
def store(url: str) -> Iterator[SqliteStore]:
    with SqliteStore(url, author="test") as opened:
        yield opened
