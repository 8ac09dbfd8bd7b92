"""The house's own rules, where no linter has them: how files import, begin, and are named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "providers", "runtime", "fixtures")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
VAGUE = {"utils", "helpers", "common", "data", "info", "handler", "process", "misc", "manager"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_its_subject_first_and_imports_by_the_rule(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the first line says what the file is about"
    assert path.stem not in VAGUE, "name it after its subject"
    mine = path.relative_to(ROOT).parts[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported = [node.module or ""]
        else:
            continue
        for module in imported:
            assert module.split(".")[0] not in PACKAGES, f"import {module} as omnipam.{module}"
            assert not module.startswith(f"omnipam.{mine}"), f"{module}: relative within a package"


def test_the_links_are_links() -> None:
    for package in PACKAGES:
        link = ROOT / "src" / "omnipam" / package
        assert link.is_symlink()
        assert link.resolve() == ROOT / package


def test_nothing_names_a_place_outside() -> None:
    """No registry's host and no machine's path: the lock file and all else must work anywhere."""
    hosts = re.compile(r"https?://(?:[\w.-]*(?:pypi|pythonhosted|proxy\.golang|npmjs)[\w.]*)")
    for path in (ROOT / "requirements.lock", ROOT / "Makefile", ROOT / "pyproject.toml", *FILES):
        assert not hosts.search(path.read_text()), name(path)
