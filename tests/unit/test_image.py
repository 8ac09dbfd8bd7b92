"""The image's text fits the tree, the package and the manifests. (Docker is not at hand: nothing here builds it.)"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STEPS = [
    line.split()
    for line in (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


def steps(word: str) -> list[list[str]]:
    return [step[1:] for step in STEPS if step[0] == word]


def copied() -> list[str]:
    """What it takes from the tree."""
    return [source for step in steps("COPY") if not step[0].startswith("--from") for source in step[:-1]]


def container(name: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / name).read_text())
    (found,) = (each for each in documents if each["kind"] in ("Deployment", "DaemonSet"))
    (only,) = found["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_what_it_copies_is_there_and_let_through_and_nothing_else_is() -> None:
    assert all((ROOT / name).exists() for name in copied())
    let_through = re.findall("^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(let_through) == sorted(copied())


def test_every_room_and_every_file_that_the_build_reads_is_copied() -> None:
    rooms = {link.readlink().name for link in (ROOT / "src" / "omnipam").iterdir() if link.is_symlink()}
    read = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "src", "requirements.lock"}
    assert rooms | read == set(copied())


def test_it_installs_only_what_the_lock_file_holds() -> None:
    commands = [part for step in steps("RUN") for part in " ".join(step).split(" && ")]
    for command in commands:
        if "pip install" in command or "pip wheel" in command:
            assert "--no-index" in command, command
        if "pip download" in command:
            assert {"--require-hashes", "requirements.lock"} <= set(command.split()), command


def test_its_python_is_one_that_we_support() -> None:
    minors = {match for step in steps("FROM") for match in re.findall(r"^python:(3\.\d+)-slim$", step[0])}
    assert len(minors) == 1
    assert f"Programming Language :: Python :: {minors.pop()}" in PROJECT["classifiers"]


@pytest.mark.parametrize("name", ["operator.yaml", "agent.yaml"])
def test_the_manifests_run_it(name: str) -> None:
    one = container(name)
    assert one["image"] == f"omnipam:{PROJECT['version']}"
    assert steps("ENTRYPOINT") == [['["omnipam"]']]
    assert one["command"] == ["omnipam", name.removesuffix(".yaml")]
    assert "omnipam" in PROJECT["scripts"]


def test_it_runs_as_nobody_and_so_does_the_operator() -> None:
    ((user,),) = steps("USER")
    assert user == "65532:65532"
    assert container("operator.yaml")["securityContext"]["runAsUser"] == 65532


def test_the_readme_s_command_sets_the_image() -> None:
    (pattern, becomes), *more = re.findall(r"sed 's\|(.+?)\|(.+?)\|'", (ROOT / "README.md").read_text())
    assert not more
    text = (ROOT / "deploy" / "kubernetes" / "operator.yaml").read_text()
    assert text.count(pattern) == 1
    assert f"{becomes}:{PROJECT['version']}" in text.replace(pattern, becomes)
