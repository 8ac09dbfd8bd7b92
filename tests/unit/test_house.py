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


# -- what a room may see. Lists of what is allowed, since what is forbidden has no end

PLAIN = frozenset(
    [
        "__future__",
        "bisect",
        "collections",
        "collections.abc",
        "enum",
        "heapq",
        "ipaddress",
        "itertools",
        "re",
        "struct",
        "typing",
        "msgspec",
    ]
)
"""Plainly pure modules."""
MAY_IMPORT = {"core": PLAIN, "providers": PLAIN}
ALSO = {"providers/registry.py": {"importlib", "importlib.metadata"}, "providers/published.py": {"importlib"}}
"""Who finds the modes that are installed, and loads only the one that is asked for."""
MAY_SEE = {"core": (), "providers": ("omnipam.core",)}
IMPURE = frozenset(
    [
        "open",
        "print",
        "input",
        "exec",
        "eval",
        "compile",
        "__import__",
        "breakpoint",
        "globals",
        "vars",
        "__builtins__",
        "__loader__",
        "__spec__",
    ]
)
"""Names that lead outside without an import."""
USES_FIXTURES = frozenset[str]()
"""Files of runtime that may import fixtures, within a function: the commands emulate, simulate, record."""


def breaches(source: str, path: str) -> list[str]:
    """What a file of core or providers imports or calls and may not. path: within the project, `core/space.py`."""
    room = path.split("/")[0]
    allowed = MAY_IMPORT[room] | ALSO.get(path, set())
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported = [node.module or ""]
        else:
            if isinstance(node, ast.ImportFrom) and node.level >= len(path.split("/")):
                found.append(f"{path}: reaches out of its room")
            if isinstance(node, ast.Name) and node.id in IMPURE:
                found.append(f"{path}: {node.id}")
            continue
        found += [
            f"{path}: import {module}"
            for module in imported
            if module not in allowed
            and not any(f"{module}.".startswith(f"{seen}.") for seen in MAY_SEE[room])
        ]
    return found


@pytest.mark.parametrize("path", [path for path in FILES if name(path).split("/")[0] in MAY_IMPORT], ids=name)
def test_core_and_providers_are_pure(path: Path) -> None:
    assert breaches(path.read_text(), name(path)) == []


@pytest.mark.parametrize("path", ["core/space.py", "providers/overlap.py", "providers/multi_pool/pools.py"])
@pytest.mark.parametrize(
    "source",
    [
        "import datetime",
        "import time",
        "from time import monotonic",
        "import http.client",
        "from pathlib import Path",
        "import multiprocessing",
        "def late():\n    import os",
        "import re, socket",
        "import requests",
        "import collections.deque",
        "from importlib import import_module",
        "from .... import runtime",
        "from omnipam import runtime",
        "from omnipam.runtime.clock import now",
        "import omnipam.fixtures",
        "import omnipam.corelike",
        "open('x')",
        "print()",
        "input()",
        "exec('')",
        "eval('1')",
        "__import__('os')",
        "__builtins__['open']",
        "do = open",
    ],
)
def test_what_is_not_pure_is_refused(source: str, path: str) -> None:
    assert breaches(source, path) != []


def test_what_is_pure_is_let_in() -> None:
    plain = (
        "from __future__ import annotations\nimport re\nimport msgspec\nfrom .cidr import Cidr\nself.open(1)"
    )
    assert breaches(plain, "core/space.py") == []
    assert (
        breaches("from ..contest import Contest\nimport omnipam.core.cidr", "providers/multi_pool/x.py") == []
    )
    assert breaches("import omnipam.core.cidr", "core/space.py") != [], "relative within a room"


def sees_fixtures(source: str, path: str) -> list[int]:
    """The lines on which a file of runtime or providers imports fixtures and may not: a named one may, within a function."""
    tree = ast.parse(source)
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(re.match(r"(omnipam)?\.?fixtures(\.|$)", module) for module in imported) and not (
            path in USES_FIXTURES and id(node) in late
        ):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "path", [path for path in FILES if name(path).split("/")[0] in ("providers", "runtime")], ids=name
)
def test_what_runs_needs_no_fixtures(path: Path) -> None:
    assert sees_fixtures(path.read_text(), name(path)) == []


def test_who_needs_fixtures_is_named_and_asks_late(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (
        "import omnipam.fixtures",
        "from omnipam import fixtures",
        "from omnipam.fixtures.contract import House",
        "from ... import fixtures",
        "def run():\n    from omnipam.fixtures import contract",
    ):
        assert sees_fixtures(source, "runtime/cli/plan.py") != [], source
    monkeypatch.setitem(globals(), "USES_FIXTURES", {"runtime/cli/emulate.py"})
    assert sees_fixtures("import omnipam.fixtures", "runtime/cli/emulate.py") == [1]
    assert sees_fixtures("def run():\n    import omnipam.fixtures", "runtime/cli/emulate.py") == []
    assert sees_fixtures("from omnipam.core import fixtures_of", "runtime/cli/plan.py") == []


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
