"""For the whole suite: a run without a Kubernetes API server must not look like a full one.

It is said here because with pytest-xdist the process that prints the summary loads no conftest further down.
"""

from __future__ import annotations

import pytest

NO_SERVER = "Skipped: no Kubernetes API server to test on: "
"""How the reason of every such skip begins (tests/kube/conftest.py)."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("skipped")
    texts = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    reasons = [text.removeprefix(NO_SERVER) for text in texts if text.startswith(NO_SERVER)]
    if reasons:
        terminalreporter.section(f"{len(reasons)} KUBERNETES TESTS DID NOT RUN", sep="!", red=True, bold=True)
        for reason in sorted(set(reasons)):
            terminalreporter.line(reason, red=True)
