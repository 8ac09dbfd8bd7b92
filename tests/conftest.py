"""For the whole suite: a run without an API server or network namespaces must not look like a full one; one server serves all.

It is here because with pytest-xdist the process that hands out tests and prints the summary loads no conftest further down.
"""

from __future__ import annotations

from typing import Any

import pytest

KUBE = "tests/kube/"
LOUD = {
    "Skipped: no Kubernetes API server to test on: ": "KUBERNETES TESTS",
    "Skipped: no network namespaces to test in: ": "NODE TESTS",
}
"""How the reason of every such skip begins (tests/kube/external.py, tests/node/conftest.py), and what did not run then."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """All tests of tests/kube go to one worker, so that they share one server; the others go where there is room.

    `--dist loadgroup` would do, but pytest-xdist 3.8 marks the group in a private field that pytest 9.2 has no more.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return KUBE if nodeid.startswith(KUBE) else nodeid

    return OneServer(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("skipped")
    texts = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    for beginning, tests in LOUD.items():
        reasons = [text.removeprefix(beginning) for text in texts if text.startswith(beginning)]
        if reasons:
            terminalreporter.section(f"{len(reasons)} {tests} DID NOT RUN", sep="!", red=True, bold=True)
            for reason in sorted(set(reasons)):
                terminalreporter.line(reason, red=True)
