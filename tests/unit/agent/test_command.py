"""`omnipam agent`: what is wrong with its flags or its directory is one line, and nothing starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from omnipam.core.errors import Invalid
from omnipam.runtime.cli import main
from omnipam.runtime.config.values import read_counts


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """The command sets up the process's logs, on this test's stderr."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ipam=eni"], "store: mode eni needs its CiliumNode so far: use --store kubernetes"),
        (["--ipam=crd"], "the agent serves cluster-pool, kubernetes, multi-pool, alibabacloud, azure, eni"),
        (["--cloud-form=cidrs"], "--cloud-form: mode cluster-pool is of no cloud"),
        (["--cloud-form=other"], "see omnipam agent --help"),
        (["--cool-down=soon"], "--cool-down: "),
        (["--ipam=multi-pool", "--ipam-multi-pool-pre-allocation=default"], "is not of the form name=N"),
        (["--socket-group=no-such-group"], "there is no group 'no-such-group'"),
        (["--ipam=kubernetes"], "use --store kubernetes"),
        (["--boot-id=/nowhere"], "boot id /nowhere cannot be read"),
        (
            ["--node-ip=10.0.0.1", "--node-ip=foo"],
            "--node-ip: 'foo' is not an address; write it as in 192.0.2.1",
        ),
        (["--node-ip=10.0.0.1/24"], "--node-ip: '10.0.0.1/24' is not an address"),
        (["--no-such-flag"], "see omnipam agent --help"),
    ],
)
def test_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str) -> None:
    where = [
        f"--store=sqlite:///{tmp_path / 'omnipam.db'}",
        f"--socket={tmp_path / 'agent.sock'}",
        f"--state-dir={tmp_path / 'state'}",
    ]
    assert main(["agent", *where, *flags]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "agent.sock").exists()


def test_pre_allocation() -> None:
    assert read_counts("default=8, blue = 3,") == {"default": 8, "blue": 3}
    assert read_counts("") == {}
    for text in ("blue=-1", "=3", "blue=x"):
        with pytest.raises(Invalid):
            read_counts(text)
