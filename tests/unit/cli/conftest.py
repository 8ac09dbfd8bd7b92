"""One console a test, whose environment holds nothing of this machine's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.cli.console import Console


@pytest.fixture
def console(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in list(os.environ):
        if name.startswith(("OMNIPAM_", "CILIUM_", "KUBE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Console(tmp_path / "store.db", capsys)
