"""Streams that are closed or that nobody reads, and what must never become a traceback: whole processes, as a shell starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.console import Console

from omnipam.core.errors import Invalid
from omnipam.runtime.cli import streams

OMNIPAM = f"{sys.executable} -m omnipam.runtime.cli"
CLOSED = "omnipam: the output cannot be written: stdout is closed; look at where it goes\n"


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, env=os.environ | env, timeout=60
    )


@pytest.mark.parametrize("words", ["node list", "plan -o json", "check", "--version", "--help"])
def test_a_closed_stdout_is_one_line(console: Console, words: str) -> None:
    assert console("node", "add", "a").code == 0
    store = "" if words.startswith("--") else f"--store {console.url}"
    done = shell(f"{OMNIPAM} {words} {store} >&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", CLOSED)


@pytest.mark.parametrize("closing", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_nothing_is_written_into_a_file_in_place_of_a_closed_stream(console: Console, closing: str) -> None:
    """A database that were opened as number 2 would get what is said."""
    assert console("node", "add", "a").code == 0
    done = shell(f"{OMNIPAM} node delete nope --store {console.url} {closing}")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    assert [row[0] for row in console("node", "list").cells[1:]] == ["a"], "it can be read"


@pytest.mark.parametrize(
    "words", ["node list -o json", "--help", "--version", "plan --help", "operator --help"]
)
def test_a_reader_that_goes_away_is_quiet(console: Console, words: str) -> None:
    assert console("node", "add", "a").code == 0
    store = ["--store", console.url] if "list" in words else []
    reads, writes = os.pipe()
    os.close(reads)  # gone before a word is written
    try:
        done = subprocess.run(
            [*OMNIPAM.split(), *words.split(), *store],
            stdout=writes,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_line_without_end_is_cut_in_its_middle(capsys: pytest.CaptureFixture[str]) -> None:
    streams.trouble(Invalid(f"value {'x' * 100_000}: it is wrong; correct it\nsecond line"))
    first, second = capsys.readouterr().err.splitlines()
    assert len(first) < 800
    assert first.startswith("omnipam: value xxx")
    assert first.endswith("xxx: it is wrong; correct it")
    assert second == "omnipam: second line"


@pytest.mark.parametrize(
    "words",
    [["node", "list"], ["node", "show", "a"], ["plan"], ["check"], ["pool", "list"], ["pool", "show", "a"], ["operator"]],
)  # fmt: skip
def test_without_the_clusters_client_the_extra_is_named(words: list[str], tmp_path: Path) -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from omnipam.runtime.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--store", "kubernetes"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KUBECONFIG": str(tmp_path / "none")},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("omnipam: ")
    assert "aiohttp" in done.stderr
    assert done.stderr.endswith("install omnipam[kubernetes]\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["node", "list"], ["plan"], ["check"], ["pool", "list"], ["node", "add", "a"]]
)
def test_a_store_that_cannot_be_looked_at(console: Console, words: list[str]) -> None:
    url = f"sqlite:///{console.path.parent}/{'x' * 300}/a.db"
    answer = console(*words, store=url)
    assert (answer.code, answer.out) == (2, "")
    assert "File name too long" in answer.err
    assert "pass --store with another path" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_directory_that_may_not_be_entered(tmp_path: Path) -> None:
    """As somebody else, in a process that has imported all before it gave up its rights."""
    tmp_path.chmod(0o700)
    args = ["node", "list", "--store", f"sqlite:///{tmp_path}/a.db"]
    code = (
        "import contextlib, io, os, sys; from omnipam.runtime.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(['node', 'list', '--store', sys.argv.pop()])\n"
        "os.setgid(65534); os.setuid(65534); sys.exit(main())"
    )
    other = tmp_path / "other.db"
    assert (
        subprocess.run(
            [*OMNIPAM.split(), "node", "add", "a", "--store", f"sqlite:///{other}"], check=False
        ).returncode
        == 0
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args, f"sqlite:///{other}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be looked at (Permission denied)" in done.stderr
    assert done.stderr.count("\n") == 1
