"""The wheel and the editable install hold the same packages, and both work in an environment of their own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "providers", "runtime", "fixtures")
EXAMPLE = """
from omnipam.core import allocator, blocking, cidr, values
from omnipam.fixtures.memory_store import MemoryStore
from omnipam.providers.registry import find

pool = values.PoolSpec(ranges=(values.PoolRange(cidr.parse("10.0.0.0/8"), 24),))
clock = blocking.VirtualClock()
store = MemoryStore(clock.now)
node = store.add("node-1")

mine = find("cluster-pool").build(allocator.Settings())
mine.restore([], [pool], kept=[], now=clock.now())
grant = blocking.settle(mine, node, store, clock)

print(grant.blocks[0].cidr)
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "omnipam"
    _copy(source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=source)
    return next(out.glob("*.whl"))


def _copy(target: Path) -> None:
    """The checkout as it is, links and all, without what is ignored."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        source, copy = ROOT / name, target / name
        if source.is_symlink() or source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                copy.symlink_to(source.readlink())
            else:
                copy.write_bytes(source.read_bytes())


def test_the_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".json", ".yaml") or path.name == "py.typed":
                name = f"omnipam/{path.relative_to(ROOT)}"
                assert name in held, f"{name} is missing from the wheel"
    assert not [name for name in held if name.startswith(PACKAGES)]
    assert "omnipam/__init__.py" not in held, "omnipam must stay a namespace"


def environment(folder: Path, *install: str | Path) -> Path:
    """A fresh virtual environment with what is named; answers its `bin`."""
    uv = Path(sys.executable).parent / "uv"
    run(uv, "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
    python = folder / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, *install, cwd=ROOT)
    return folder / "bin"


def test_the_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    bin_ = environment(tmp_path / "venv", wheel)
    assert run(bin_ / "omnipam", "--version", cwd=tmp_path).startswith("omnipam ")
    assert run(bin_ / "python", "-c", EXAMPLE, cwd=tmp_path).strip() == "10.0.0.0/24"


def test_the_editable_install_works_and_is_live(tmp_path: Path) -> None:
    source = tmp_path / "source"
    _copy(source)
    bin_ = environment(tmp_path / "venv", "--editable", source)
    assert run(bin_ / "omnipam", "--version", cwd=tmp_path).startswith("omnipam ")
    assert run(bin_ / "python", "-c", EXAMPLE, cwd=tmp_path).strip() == "10.0.0.0/24"
    (source / "core" / "fresh.py").write_text("WORD = 'live'\n")
    assert (
        run(bin_ / "python", "-c", "from omnipam.core.fresh import WORD; print(WORD)", cwd=tmp_path)
        == "live\n"
    )
