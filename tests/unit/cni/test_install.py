"""`omnipam cni install`, and the installed plugin as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cni.conftest import BASE, Runtime
from tests.unit.cni.standin import StandIn

from omnipam.core.errors import Invalid, Unavailable
from omnipam.runtime.cli import main
from omnipam.runtime.cni import install
from omnipam.runtime.cni.install import conflist, install_conflist, install_plugin, interpreter

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    install_plugin(folder, python=interpreter())
    return folder / "omnipam-cni"


def run(plugin: Path, stdin: bytes = b"", **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([plugin], input=stdin, env=environ, capture_output=True, check=False, timeout=60)


def test_the_launcher_has_an_absolute_interpreter_and_one_argument(installed: Path) -> None:
    first = installed.read_text().splitlines()[0]
    assert first == f"#!{interpreter()} -IS"
    assert Path(interpreter()).is_absolute()
    assert installed.stat().st_mode & 0o777 == 0o755
    assert sys.prefix == sys.base_prefix or not interpreter().startswith(sys.prefix), (
        "it outlives the environment"
    )


def test_everything_is_compiled_beforehand(installed: Path) -> None:
    (package,) = (installed.parent / "omnipam-cni.d").iterdir()
    sources = {path.stem for path in package.glob("*.py")}
    compiled = {path.name.split(".")[0] for path in (package / "__pycache__").iterdir()}
    assert sources == compiled == set(install.MODULES)
    here = {path.stem for path in Path(install.__file__).parent.glob("*.py")}
    assert here - sources == {"install"}, "a new module of the plugin is installed too"


def test_a_call_imports_the_standard_library_s_least(
    installed: Path, agent: StandIn, runtime: Runtime
) -> None:
    environ = BASE | {"CNI_COMMAND": "ADD"}
    listed = subprocess.run(
        [interpreter(), "-X", "importtime", "-IS", installed],
        input=json.dumps(runtime.conf()).encode(),
        env=environ,
        capture_output=True,
        check=True,
    )
    assert json.loads(listed.stdout)["ips"]
    floor = subprocess.run(
        [interpreter(), "-X", "importtime", "-IS", "-c", "import json, socket"],
        capture_output=True,
        check=True,
    )
    extra = _modules(listed.stderr) - _modules(floor.stderr)
    assert {name for name in extra if not name.startswith("omnipam_cni_")} <= {"__future__"}
    ours = [name for name in extra if name.startswith("omnipam_cni_")]
    assert {name.partition(".")[2] for name in ours} == {
        "",
        "agent",
        "exchange",
        "netconf",
        "plugin",
        "releases",
        "wishes",
    }


def _modules(importtime: bytes) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in importtime.decode().splitlines()}


def test_add_check_del_as_processes(installed: Path, agent: StandIn, runtime: Runtime) -> None:
    conf = runtime.conf()
    added = run(installed, json.dumps(conf).encode(), **BASE, CNI_COMMAND="ADD")
    assert (added.returncode, added.stderr) == (0, b"")
    result = json.loads(added.stdout)
    assert result["ips"] == [{"address": "10.0.7.2/24", "gateway": "10.0.7.1"}]
    checked = run(installed, json.dumps(conf | {"prevResult": result}).encode(), **BASE, CNI_COMMAND="CHECK")
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    agent.close()
    deleted = run(installed, json.dumps(conf).encode(), **BASE, CNI_COMMAND="DEL")
    assert (deleted.returncode, deleted.stdout, deleted.stderr) == (0, b"", b"")
    assert len(runtime.queued) == 1


def test_without_a_command_it_says_what_it_is(installed: Path) -> None:
    for environ in ({}, {"CNI_COMMAND": ""}):
        about = run(installed, **environ)
        assert (about.returncode, about.stdout) == (0, b"")
        assert about.stderr.decode().splitlines() == [
            "omnipam-cni: IPAM by omnipam's node agent",
            "CNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0, 1.1.0",
        ]


def test_bytes_that_are_no_text_are_no_traceback(installed: Path) -> None:
    environ = {os.fsencode(name): os.fsencode(value) for name, value in BASE.items()}
    for name in (b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_IFNAME"):
        done = subprocess.run(
            [installed],
            input=b'{"cniVersion": "1.0.0", "name": "\xff"}',
            env=environ | {b"CNI_COMMAND": b"ADD"} | {name: b"\xff\xfe"},
            capture_output=True,
            check=False,
        )
        assert Runtime.problem(done.returncode, done.stdout)[0] in (4, 6)
        assert done.stderr == b""


def test_a_closed_stdin_or_stdout_is_no_traceback(installed: Path) -> None:
    script = f"CNI_COMMAND=STATUS {installed} <&-; echo $?; CNI_COMMAND=VERSION {installed} >&- </dev/null; echo $?"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    error, first, second = done.stdout.splitlines()
    assert json.loads(error)["code"] == 5
    assert (first, second, done.stderr) == (b"1", b"1", b"")


def test_the_environment_s_python_settings_do_not_reach_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [installed],
        input=b"{}",
        cwd=tmp_path,
        env={"CNI_COMMAND": "VERSION", "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_works_under_another_path_and_through_a_link(installed: Path, tmp_path: Path) -> None:
    link = tmp_path / "linked-cni"
    link.symlink_to(installed)
    assert run(link, CNI_COMMAND="VERSION").returncode == 0
    moved = tmp_path / "host"
    subprocess.run(["cp", "-a", installed.parent, moved], check=True)
    assert run(moved / "omnipam-cni", CNI_COMMAND="VERSION").returncode == 0


def test_an_interpreter_that_compiled_nothing_still_runs_it(tmp_path: Path) -> None:
    """As after an upgrade of Python: the first call compiles for all that follow."""
    install_plugin(tmp_path, python=interpreter())
    caches = list(tmp_path.rglob("*.pyc"))
    for path in caches:
        path.unlink()
    assert run(tmp_path / "omnipam-cni", CNI_COMMAND="VERSION").returncode == 0
    assert {path for path in caches if path.exists()} >= {path for path in caches if "plugin" in path.name}


def test_installing_again_changes_nothing_and_a_new_version_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = tmp_path / "omnipam-cni"
    assert install_plugin(tmp_path, python=interpreter()) == f"{launcher} installed"
    first = launcher.stat().st_ino
    assert install_plugin(tmp_path, python=interpreter()) == f"{launcher} unchanged"
    assert launcher.stat().st_ino == first
    packages = []
    for word in ("two", "three"):
        monkeypatch.setattr(install, "_LAUNCHER", install._LAUNCHER + f"# {word}\n")
        (package,) = install._PACKAGE.findall(launcher.read_text())[-1:]
        packages.append(package)
        assert install_plugin(tmp_path, python=interpreter()) == f"{launcher} replaced"
    assert sorted(os.listdir(tmp_path)) == ["omnipam-cni", "omnipam-cni.d"]


def test_older_code_is_kept_for_calls_under_way_and_then_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "omnipam-cni.d"
    for name in ("omnipam_cni_000000000001", "omnipam_cni_000000000002", "something_else"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "omnipam-cni").write_text("#!/bin/false\nfrom omnipam_cni_000000000002.plugin import main\n")
    install_plugin(tmp_path, python=interpreter())
    left = {path.name for path in folder.iterdir()}
    assert "omnipam_cni_000000000001" not in left
    assert left > {"omnipam_cni_000000000002", "something_else"}


def test_damage_is_repaired(tmp_path: Path) -> None:
    install_plugin(tmp_path, python=interpreter())
    (source,) = tmp_path.rglob("exchange.py")
    source.write_text("half a fi")
    assert install_plugin(tmp_path, python=interpreter()).endswith("replaced")
    assert run(tmp_path / "omnipam-cni", CNI_COMMAND="VERSION").returncode == 0


def _is(word: str) -> Callable[[Path], None]:
    return lambda path: path.chmod(int(word, 8))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("which", "harm"),
    [
        ("omnipam-cni", _is("644")),
        ("omnipam-cni.d", _is("700")),
        ("omnipam-cni.d/*", _is("700")),
        ("omnipam-cni.d/*/__pycache__", _is("700")),
        ("omnipam-cni.d/*/agent.py", _is("600")),
        *((f"omnipam-cni.d/*/__pycache__/{name}.*.pyc", _cut) for name in ("plugin", "queue", "wishes")),
    ],
)
def test_unchanged_is_said_of_what_works_alone(
    tmp_path: Path, which: str, harm: Callable[[Path], None]
) -> None:
    install_plugin(tmp_path, python=interpreter())
    (path,) = tmp_path.glob(which)
    before = path.stat().st_mode, path.stat().st_size
    harm(path)
    assert install_plugin(tmp_path, python=interpreter()).endswith("replaced")
    assert (path.stat().st_mode, path.stat().st_size) == before
    assert run(tmp_path / "omnipam-cni", CNI_COMMAND="VERSION").returncode == 0
    assert install_plugin(tmp_path, python=interpreter()).endswith("unchanged")


def test_rights_do_not_depend_on_the_caller_s(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install_plugin(tmp_path / "new" / "bin", python=interpreter())
    finally:
        os.umask(before)
    made = [tmp_path / "new" / "bin", *(tmp_path / "new" / "bin").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o755}
    assert {path.stat().st_mode & 0o777 for path in made if path.suffix in (".py", ".pyc")} == {0o644}


def test_compiled_code_is_on_disk_before_the_launcher_names_it(tmp_path: Path) -> None:
    traced = install._COMPILE.replace(
        "os.fsync(file)", "os.fsync(file); print(os.readlink(f'/proc/self/fd/{file}'))"
    )
    source = tmp_path / "x.py"
    source.write_text("x = 1\n")
    said = subprocess.run(
        [interpreter(), "-IS", "-c", traced, source], capture_output=True, text=True, check=True
    ).stdout.split()
    assert said == [str(path) for path in tmp_path.rglob("*.pyc")]


@pytest.mark.parametrize("given", [".", "bin", "./bin/../bin"])
def test_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cni", "install", "--bin-dir", given]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}")
    assert run(tmp_path / given / "omnipam-cni", CNI_COMMAND="VERSION").returncode == 0


def test_a_plugin_that_does_not_run_replaces_nothing(tmp_path: Path) -> None:
    launcher = tmp_path / "omnipam-cni"
    launcher.write_text("the one before")
    with pytest.raises(
        Unavailable, match=r"the plugin does not run with /bin/false: .*name another with --python"
    ):
        install_plugin(tmp_path, python="/bin/false")
    assert launcher.read_text() == "the one before"
    assert sorted(os.listdir(tmp_path)) == ["omnipam-cni", "omnipam-cni.d"]


def test_an_interpreter_of_another_root_is_not_tried(tmp_path: Path) -> None:
    done = install_plugin(tmp_path, python="/host/only/python3")
    assert done.endswith("omnipam-cni installed; not tried, since /host/only/python3 is not there")
    assert (tmp_path / "omnipam-cni").read_text().startswith("#!/host/only/python3 -IS\n")


@pytest.mark.parametrize(
    ("python", "why"),
    [
        ("python3", "no absolute path"),
        ("/my python/python3", "a space"),
        ("/" + "x" * 123, "too long"),
        ("", "no absolute"),
    ],
)
def test_interpreters_that_a_script_cannot_name(tmp_path: Path, python: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        install_plugin(tmp_path, python=python)
    assert os.listdir(tmp_path) == []


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bin_dir, conf_dir = tmp_path / "bin", tmp_path / "conf"
    words = ["cni", "install", "--bin-dir", str(bin_dir), "--conf-dir", str(conf_dir)]
    assert main([*words, "--dry-run"]) == 0
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr().out.splitlines() == [
        f"{bin_dir}/omnipam-cni installed (dry run)",
        f"{conf_dir}/10-omnipam.conflist installed (dry run)",
    ]
    assert main(words) == 0
    assert main([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        f"{bin_dir}/omnipam-cni unchanged",
        f"{conf_dir} has 10-omnipam.conflist: left as it is",
    ]


def test_errors_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "omnipam-cni").mkdir()
    for words, code in (
        (["--bin-dir", str(tmp_path / "file")], 1),
        (["--bin-dir", str(tmp_path)], 2),
        (["--python", "python3"], 2),
        (["--bin-dir", ""], 2),
        (["--bin-dir", str(tmp_path / "b"), "--conf-dir", ""], 2),
        (["--bin-dir", str(tmp_path / "b"), "--socket", "agent.sock"], 2),
        (["--bin-dir", str(tmp_path / "b"), "--socket", ""], 2),
        (["--bin-dir", str(tmp_path / "b"), "--socket", "/" + "x" * 107], 2),
        (["--bin-dir", str(tmp_path / "b"), "--socket", "/a\nb"], 2),
        (["--bin-dir", str(tmp_path / "b"), "--state-dir", "/" + "x" * 256], 2),
        (["--bin-dir", str(tmp_path / "b"), "--conf-dir", str(tmp_path / "file" / "x")], 1),
    ):
        assert main(["cni", "install", *words]) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("omnipam: ")


def test_a_configuration_that_is_there_stays(tmp_path: Path) -> None:
    for name in ("10-flannel.conflist", "x.conf", "x.json"):
        path = tmp_path / name
        path.write_text("theirs")
        assert install_conflist(tmp_path, socket="/s", state_dir="/d").endswith(f"has {name}: left as it is")
        assert path.read_text() == "theirs"
        path.unlink()
    (tmp_path / "README").touch()
    assert install_conflist(tmp_path, socket="/s", state_dir="/d").endswith("10-omnipam.conflist installed")
    ipam = json.loads((tmp_path / "10-omnipam.conflist").read_text())["plugins"][0]["ipam"]
    assert (ipam["socket"], ipam["stateDir"]) == ("/s", "/d")


def test_the_example_is_what_is_installed() -> None:
    assert (ROOT / "deploy" / "cni" / "10-omnipam.conflist").read_text() == conflist()
