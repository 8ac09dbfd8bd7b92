"""Files and directories: their forms, their damage, and reading while they are written."""

from __future__ import annotations

import argparse
import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnipam.runtime.config import InvalidConfig, Loaded, load, sources

HOME = {"HOME": "/home/u"}
POOL = "cluster-pool-ipv4-cidr"


def load_file(path: Path | str) -> Loaded:
    return load(argparse.Namespace(config=str(path)), HOME)


def load_directory(path: Path | str) -> Loaded:
    return load(argparse.Namespace(config_dir=str(path)), HOME)


def problems_of(path: Path) -> tuple[str, ...]:
    try:
        load_file(path)
    except InvalidConfig as error:
        return error.problems
    return ()


def mount(path: Path, version: str, **files: str) -> None:
    """Writes a ConfigMap volume's new version as kubelet does: a new directory, then one rename."""
    (path / version).mkdir(parents=True)
    for name, text in files.items():
        (path / version / name.replace("_", "-")).write_text(text)
    os.symlink(version, path / "..tmp")
    os.rename(path / "..tmp", path / "..data")
    for name in files:
        link = path / name.replace("_", "-")
        if not link.is_symlink():
            link.symlink_to(f"..data/{link.name}")


@pytest.mark.parametrize(
    "text",
    [
        "cluster-pool-ipv4-cidr: 10.1.0.0/16\ncluster-pool-ipv4-mask-size: +25\nenable-metrics: F\n",
        '{"cluster-pool-ipv4-cidr": "10.1.0.0/16", "cluster-pool-ipv4-mask-size": 25, "enable-metrics": false}',
        "cluster-pool-ipv4-cidr: [10.1.0.0/16]\ncluster-pool-ipv4-mask-size: '25 '\nenable-metrics: |\n  false\n",
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cilium-config}\ndata:\n  cluster-pool-ipv4-cidr: 10.1.0.0/16\n"
            "  cluster-pool-ipv4-mask-size: '25'\n  enable-metrics: 'false'\n"
        ),
    ],
)
def test_forms_of_a_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    result = load_file(path)
    assert result.path == str(path)
    assert list(map(str, result.config.pool_cidrs("ipv4"))) == ["10.1.0.0/16"]
    assert result.config.pool_mask("ipv4") == 25
    assert result.config.enable_metrics is False
    assert result.warnings == ()


def test_a_problem_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# pools\nenable-ipv4: true\ncluster-pool-ipv4-mask-size: 4\n")
    with pytest.raises(InvalidConfig, match=rf"\({path} line 3\); use 8 to 32$"):
        load_file(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no keys; write {} if none are meant"),
        (b"# nothing\n", "holds no keys; write {} if none are meant"),
        (b"enable-ipv4: true\ncluster-pool-ipv4-ci", "is not YAML at line 2: could not find expected ':'; mend it"),
        (b"cluster-pool-ipv4-ci", "is no mapping of keys to values; write one KEY: VALUE a line"),
        (b"- a\n", "is no mapping of keys to values; write one KEY: VALUE a line"),
        (b'{"enable-ipv4": "tr', "is not YAML at line 1: found unexpected end of stream; mend it"),
        (b"kind: Secret\ndata: {}\n", "is a Kubernetes object, but no ConfigMap; give a ConfigMap or a flat mapping"),
        (b"kind: ConfigMap\n", "is a ConfigMap without data; put the keys there"),
        (b"kind: ConfigMap\ndata:\n", "holds no keys; write {} if none are meant"),
        (b"a: \xff\n", "byte 3 is not UTF-8; save it as UTF-8"),
        (b"a: \x01\n", "is not YAML: it has characters that YAML forbids; mend it"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        load_file(path)
    assert caught.value.problems == (f"config: {path}: {reason}",)


def test_keys_cut_off_within_a_value_are_refused_or_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("cluster-pool-ipv4-cidr:")
    with pytest.raises(InvalidConfig, match="set but empty"):
        load_file(path)
    path.write_text("cluster-pool-ipv4-cidr: 10.0.")
    with pytest.raises(InvalidConfig, match="is not a CIDR"):
        load_file(path)


def test_a_key_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("enable-ipv4: true\nx: 1\nx: 2\nenable-ipv4: false\n")
    with pytest.raises(InvalidConfig) as caught:
        load_file(path)
    assert caught.value.problems == (
        f"enable-ipv4: is written twice ({path} line 1, and line 4); keep one of them",
    )


def test_an_empty_mapping_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("{}\n")
    assert load_file(path).config.ipam == "cluster-pool"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.binary(), st.text(alphabet="-:{}[]&*!|>'\"%@`,?# \n\tab0~").map(str.encode)))
def test_garbage_in_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert all(line.isprintable() for line in problems_of(path))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 100_000, "&a [*a]", "enable-ipv4: &a [*a]", "a: !!python/name:os.system x"]
)
def test_hostile_yaml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert len(problems_of(path)) <= 1


def test_huge_files_are_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(InvalidConfig, match="larger than 4 MiB"):
        load_file(path)


@pytest.mark.parametrize("linked", [False, True])
def test_only_regular_files_are_read(tmp_path: Path, linked: bool) -> None:
    """Of a pipe nobody knows whether it ends; what is at the end of links counts, as a ConfigMap's mount has them."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    directory = tmp_path / "dir"
    directory.mkdir()
    (directory / "ipam").symlink_to(fifo)
    path = tmp_path / "link" if linked else fifo
    if linked:
        path.symlink_to(fifo)
    step = "is not a regular file; copy what it gives into one, and name that"
    assert problems_of(path) == (f"config: {path}: {step}",)
    with pytest.raises(InvalidConfig) as caught:
        load(argparse.Namespace(config_dir=str(directory)), HOME)
    assert caught.value.problems == (f"config-dir: {directory / 'ipam'}: {step}",)
    for device in ("/dev/null", "/dev/zero"):
        assert problems_of(Path(device)) == (f"config: {device}: {step}",)


@pytest.mark.parametrize("name", ["config", "config_dir"])
@pytest.mark.parametrize("path", ["/no/such", "", "a\0b", "\ud800"])
def test_what_is_not_there(name: str, path: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(argparse.Namespace(**{name: path}), HOME)
    assert caught.value.problems[0].startswith(f"{name.replace('_', '-')}: ")
    assert "cannot be read" in str(caught.value)
    assert str(caught.value).isprintable()


def test_each_is_told_from_the_other(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("{}")
    with pytest.raises(InvalidConfig, match="is a directory; name it with --config-dir"):
        load_file(tmp_path)
    with pytest.raises(InvalidConfig, match="is not a directory; name it with --config"):
        load_directory(file)
    with pytest.raises(InvalidConfig, match="are both given"):
        load(argparse.Namespace(config="a", config_dir="b"), HOME)


def test_unreadable_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InvalidConfig, match="cannot be read: Too many levels of symbolic links"):
        load_directory(loop)

    def denied(path: Path) -> list[str]:  # the tests may run as root, who may read everything
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(InvalidConfig) as caught:
        load_directory(tmp_path)
    assert caught.value.problems == (
        f"config-dir: {tmp_path}: cannot be read: Permission denied; check the path and its permissions",
    )


def test_strange_paths_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb"
    path.write_text("enable-ipv4: maybe\n")
    assert [line.isprintable() for line in problems_of(path)] == [True]
    path.unlink()
    path.mkdir()
    (path / "enable-ipv4").write_text("maybe")
    (path / "other").write_text("")
    with pytest.raises(InvalidConfig) as caught:
        load_directory(path)
    assert [line.isprintable() for line in caught.value.problems] == [True]


def test_location_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "enable-ipv6").write_text("true\n")
    for name in ("CILIUM_CONFIG_DIR", "OMNIPAM_CONFIG_DIR"):
        result = load(argparse.Namespace(), HOME | {name: str(tmp_path)})
        assert result.config.enable_ipv6
        assert result.warnings == ()
    file = tmp_path / ".c.yaml"
    file.write_text("{}")
    both = HOME | {"CILIUM_CONFIG_DIR": str(tmp_path), "OMNIPAM_CONFIG": str(file)}
    assert load(argparse.Namespace(), both).path == str(file)
    assert load(argparse.Namespace(config_dir=str(tmp_path)), both).config.enable_ipv6


def test_a_plain_directory(tmp_path: Path) -> None:
    (tmp_path / POOL).write_text("10.1.0.0/16\n")
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "sub").mkdir()
    secret = tmp_path / "not-ours"
    secret.symlink_to("nowhere")  # values of other keys are not read at all
    result = load_directory(tmp_path)
    assert list(map(str, result.config.pool_cidrs("ipv4"))) == ["10.1.0.0/16"]
    assert result.config.sources[POOL] == f"file {tmp_path / POOL}"
    assert result.warnings == (f"ignored 1 key that is not omnipam's: not-ours (1 in directory {tmp_path})",)


def test_damaged_directories(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="holds no keys"):
        load_directory(tmp_path)
    (tmp_path / POOL).write_text("")
    with pytest.raises(InvalidConfig, match="set but empty"):
        load_directory(tmp_path)
    (tmp_path / POOL).unlink()
    (tmp_path / POOL).symlink_to("..data/nowhere")
    with pytest.raises(InvalidConfig, match="cannot be read: No such file"):
        load_directory(tmp_path)
    (tmp_path / "..data").symlink_to("..gone")
    with pytest.raises(InvalidConfig, match="cannot be read: No such file"):
        load_directory(tmp_path)


def test_a_mounted_configmap(tmp_path: Path) -> None:
    mount(tmp_path, "..1", cluster_pool_ipv4_cidr="10.1.0.0/16", debug="x")
    assert list(map(str, load_directory(tmp_path).config.pool_cidrs("ipv4"))) == ["10.1.0.0/16"]
    mount(tmp_path, "..2", cluster_pool_ipv4_cidr="10.2.0.0/16", debug="x")
    assert list(map(str, load_directory(tmp_path).config.pool_cidrs("ipv4"))) == ["10.2.0.0/16"]


def test_a_swap_in_the_middle_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"cluster_pool_ipv4_cidr": "10.1.0.0/16", "cluster_pool_ipv4_mask_size": "25"}
    new = {"cluster_pool_ipv4_cidr": "10.2.0.0/16", "cluster_pool_ipv4_mask_size": "26"}
    mount(tmp_path, "..1", **old)
    read = sources._read_text

    def swapping(path: str) -> str:
        monkeypatch.setattr(sources, "_read_text", read)
        text = read(path)
        mount(tmp_path, "..2", **new)
        for file in (tmp_path / "..1").iterdir():  # kubelet removes the old version at once
            file.unlink()
        return text

    monkeypatch.setattr(sources, "_read_text", swapping)
    config = load_directory(tmp_path).config
    assert (str(config.pool_cidrs("ipv4")[0]), config.pool_mask("ipv4")) == ("10.2.0.0/16", 26)


def test_what_never_stands_still_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("enable-ipv6: true\n")
    read = sources._read_text

    def growing(name: str) -> str:
        with open(name, "a") as file:
            file.write("#\n")
        return read(name)

    monkeypatch.setattr(sources, "_read_text", growing)
    with pytest.raises(InvalidConfig, match="changes while it is read"):
        load_file(path)


def test_readers_never_see_two_versions_at_once(tmp_path: Path) -> None:
    """Pool and mask change together while another thread swaps versions as fast as it can."""
    versions = 150

    def files(number: int) -> dict[str, str]:
        return {
            "cluster_pool_ipv4_cidr": f"10.{number}.0.0/16",
            "cluster_pool_ipv4_mask_size": str(17 + number % 10),
        }

    mount(tmp_path, "..0", **files(0))
    writer = threading.Thread(
        target=lambda: [mount(tmp_path, f"..{n}", **files(n)) for n in range(1, versions)]
    )
    writer.start()
    seen = 0
    while writer.is_alive() or not seen:
        try:
            config = load_directory(tmp_path).config
        except InvalidConfig as error:
            assert "changes while it is read" in str(error)  # noqa: PT017
            continue
        seen += 1
        number = config.pool_cidrs("ipv4")[0].first >> 16 & 255
        assert config.pool_mask("ipv4") == 17 + number % 10
    writer.join()
