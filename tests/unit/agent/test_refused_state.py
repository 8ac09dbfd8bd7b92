"""A start that the state's file system refuses: one line names the cause, and nothing is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.agent.test_state_files import killed, reopened

from omnipam.core.errors import Invalid
from omnipam.runtime.agent.journal import FILE, Journal

ON_A_SMALL_DISK = """
import os, shutil, subprocess, sys
from pathlib import Path
from omnipam.core.errors import OmnipamError
from omnipam.runtime.agent.journal import Journal

before, place, what = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "state", place], check=True)
shutil.copytree(before, place, dirs_exist_ok=True)


def fill():
    with open(f"{place}/ballast", "wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass


def start():
    try:
        print(Journal(Path(place)).open("1"))
    except OmnipamError as error:
        print(f"{type(error).__name__}: {error}")
"""
REFUSED = """
if what == "full":
    fill()
else:
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
names = set(os.listdir(place))
start()
assert set(os.listdir(place)) <= names | {"agent.db.part", "agent.db-shm", "agent.db-wal"}
"""
STOPPED = """
journal = Journal(Path(place))
journal.open("1")
fill()
journal.close()
os.remove(f"{place}/ballast")
start()
"""
UNSHARE = ["unshare", "--mount", "--map-root-user"]


def _may_mount() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_mounts = pytest.mark.skipif(not _may_mount(), reason="needs a mount namespace")


@needs_mounts
@pytest.mark.parametrize("state", ["new", "closed", "killed", "damaged"])
@pytest.mark.parametrize(
    ("refusal", "why"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_a_refusing_file_system_is_named(tmp_path: Path, state: str, refusal: str, why: str) -> None:
    before, place = tmp_path / "before", tmp_path / "place"
    place.mkdir()
    match state:
        case "new":
            before.mkdir()
        case "killed":
            before = killed(tmp_path)
        case _:
            before = killed(tmp_path)
            reopened(before)
            if state == "damaged":
                (before / FILE).write_bytes(b"this is no database\n" * 500)
    said = _on_a_small_disk(REFUSED, before, place, refusal)
    assert said.startswith("Invalid: state "), said
    assert f"({why})" in said
    assert said.count("\n") == 1


@needs_mounts
def test_an_agent_that_stops_on_a_full_disk_leaves_no_damage(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    said = _on_a_small_disk(STOPPED, killed(tmp_path), tmp_path / "place", "")
    assert said.startswith("Opened(rows=(Stored("), said
    assert "lost='', aside=None" in said


def _on_a_small_disk(script: str, before: Path, place: Path, what: str) -> str:
    run = subprocess.run(
        [*UNSHARE, sys.executable, "-c", ON_A_SMALL_DISK + script, str(before), str(place), what],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Invalid, match="is not a file"):
        Journal(tmp_path).open("1")
