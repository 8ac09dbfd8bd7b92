"""A run without network namespaces says so loudly, and fails in CI. (Without an API server: tests/kube/test_apiserver.py.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("ci", ["", "true"])
@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_without_namespaces_tests_are_skipped_loudly_and_in_ci_they_fail(
    tmp_path: Path, ci: str, workers: tuple[str, ...]
) -> None:
    kept = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *workers, "tests/node/test_netns.py"],
        cwd=ROOT,
        env=kept | {"PATH": str(tmp_path), "CI": ci},  # neither `ip` nor `ping` there
        capture_output=True,
        text=True,
        check=False,
    )
    said = run.stdout + run.stderr
    assert "no network namespaces to test in: " in said
    assert run.returncode == (1 if ci else 0), said
    assert (re.search("[1-9][0-9]* NODE TESTS DID NOT RUN", said) is not None) == (not ci), said
