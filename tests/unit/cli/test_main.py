"""`main`: which command, what it costs to start, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.console import Console

from omnipam.runtime import cli
from omnipam.runtime.cli import COMMANDS, main

HEAVY = ("aiohttp", "structlog", "yaml", "sqlite3", "prometheus_client", "asyncio", "msgspec", "argparse")

PROBE = f"""
import sys
from omnipam.runtime.cli import main
code = main(sys.argv[1:])
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print("imported:", *heavy, file=sys.stderr)
sys.exit(code)
"""


def start(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        capture_output=True,
        text=True,
        env=os.environ | env,
        check=False,
    )


def test_version_imports_nothing_that_it_does_not_need() -> None:
    done = start("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("omnipam ")
    assert done.stderr == "imported:\n"


def test_help_imports_no_command() -> None:
    done = start("--help")
    assert done.returncode == 0
    assert done.stderr == "imported:\n"
    for name, does in COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert does in done.stdout


def test_a_node_command_leaves_the_clusters_client_alone(tmp_path: Path) -> None:
    done = start("node", "list", "--store", f"sqlite:///{tmp_path}/none.db")
    assert done.returncode == 0
    imported = done.stderr.splitlines()[-1].split()
    assert not {"aiohttp", "structlog", "yaml", "prometheus_client"} & set(imported)


def test_every_command_there_is_has_a_module() -> None:
    folder = Path(cli.__file__).parent
    assert all((folder / f"{name}.py").exists() for name in COMMANDS)


def test_module_and_script_are_the_same(tmp_path: Path) -> None:
    words = ["node", "list", "-o", "json", "--store", f"sqlite:///{tmp_path}/none.db"]
    module = subprocess.run(
        [sys.executable, "-m", "omnipam.runtime.cli", *words], capture_output=True, text=True, check=False
    )
    script = subprocess.run(
        [Path(sys.executable).parent / "omnipam", *words], capture_output=True, text=True, check=False
    )
    assert module.returncode == script.returncode == 0
    assert module.stdout == script.stdout


@pytest.mark.parametrize(
    "words", [["nonsense"], ["-x"], ["node"], ["node", "frobnicate"], ["node", "add"], ["plan", "a", "b"]]
)
def test_usage_is_one_line_and_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("omnipam: ")
    assert err.count("\n") == 1
    assert "--help" in err


def test_nothing_typed_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_help_of_a_command_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "add", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--instance-id" in out
    assert "--cluster-pool-quarantine" not in out  # a flag, but not what one looks for here


def test_an_unknown_format_is_usage(console: Console) -> None:
    assert "xml" in console.refused("node", "list", "-o", "xml")


def test_every_problem_of_a_configuration_is_a_line(console: Console) -> None:
    answer = console("plan", "--cluster-pool-ipv4-cidr=10.0.0.0/33", "--cluster-pool-quarantine=3")
    assert answer.code == 2
    assert [line.partition(": ")[0] for line in answer.err.splitlines()] == ["omnipam", "omnipam"]


def test_a_reader_that_goes_away_is_no_traceback(console: Console) -> None:
    for number in range(40):
        assert console("node", "add", f"node-{number}").code == 0
    listing = subprocess.Popen(
        [sys.executable, "-m", "omnipam.runtime.cli", "node", "list", "-o", "json", "--store", console.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(console: Console) -> None:
    console("node", "add", "a")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "omnipam.runtime.cli", "node", "list", "--store", console.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert (
        done.stderr
        == "omnipam: the output cannot be written: No space left on device; look at where it goes\n"
    )


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert main(["plan"]) == 130
    assert capsys.readouterr() == ("", "")
