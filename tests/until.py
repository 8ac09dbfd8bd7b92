"""Waiting for what a process under test does: ended early if it ends, told with the end of its log."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.kube.admin import wait_until


def until(
    child: subprocess.Popen[bytes],
    name: str,
    text: Callable[[], str],
    condition: Callable[[], object],
    what: str,
    timeout_s: float,
) -> None:
    """Polls until the condition is true. text: all that the process has printed.

    Raises TimeoutError, and AssertionError if it ends before; both with the end of its log.
    """

    def met() -> object:
        return condition() or child.poll() is not None

    try:
        wait_until(met, what, timeout_s)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; {tail(text)}") from None
    assert condition(), f"{name} ended with {child.returncode} before: {what}; {tail(text)}"


def tail(text: Callable[[], str]) -> str:
    return f"its log ends with:\n{text()[-4000:]}"
