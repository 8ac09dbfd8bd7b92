"""The pages show the table that the code has; what is cheap to import stays cheap."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from omnipam.runtime.config import KEYS
from omnipam.runtime.config.table import BEGIN, END, renewed, table

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "docs/configuration.md",
    *(page for page in [ROOT / "README.md"] if page.exists() and BEGIN in page.read_text()),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_the_table(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), f"run: python -m omnipam.runtime.config.table {page.relative_to(ROOT)}"
    assert text.count(BEGIN) == text.count(END) == 1


def test_every_key_has_a_row_with_unit_and_default() -> None:
    rows = {row.split("`")[1]: row for row in table().splitlines()[2:]}
    assert list(rows) == [key.name for key in KEYS]
    for key in KEYS:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", rows[key.name])[1:-1]]
        assert len(cells) == 5
        assert all(cells)
        assert cells[1].strip("`") == ((key.unset or key.default) or "empty")
        assert cells[2] == key.unit
        assert cells[3] == ("live" if key.live else "restart")
        assert key.meaning in cells[4].replace("\\|", "|")
        assert ("Ours" in cells[4]) == bool(key.ours)


def test_names_and_fields_are_unique() -> None:
    assert len({key.name for key in KEYS}) == len({key.variable for key in KEYS}) == len(KEYS)


def test_the_table_can_be_printed_and_put_into_a_page(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "omnipam.runtime.config.table"]
    assert subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout == table()
    page = tmp_path / "page.md"
    page.write_text(f"a\n{BEGIN}\nold\n{END}\nb\n")
    subprocess.run([*command, str(page)], check=True)
    assert page.read_text(encoding="utf-8") == f"a\n{BEGIN}\n{table()}{END}\nb\n"


def test_yaml_is_imported_only_for_a_yaml_file() -> None:
    code = (
        "import argparse, sys; from omnipam.runtime import config; config.load(argparse.Namespace(), {'HOME': '/'});"
        "sys.exit('yaml' in sys.modules or 'asyncio' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
