"""The table of keys as Markdown. `python -m omnipam.runtime.config.table [PAGE…]` prints it, or renews it in pages."""

from __future__ import annotations

import sys
from pathlib import Path

from .keys import KEYS, Key

BEGIN, END = "<!-- configuration -->", "<!-- /configuration -->"


def table() -> str:
    """The table, without markers; ends with a line break."""
    rows = [
        "| Key | Default | Unit or values | Reload | Meaning |",
        "| --- | --- | --- | --- | --- |",
        *map(_row, KEYS),
    ]
    return "\n".join(rows) + "\n"


def _row(key: Key) -> str:
    default = key.unset or key.default
    meaning = f"{key.meaning}. *Ours: {key.ours}*" if key.ours else key.meaning
    cells = (f"`{key.name}`", _code(default), key.unit, "live" if key.live else "restart", meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(default: str | None) -> str:
    if not default:
        return "empty"
    return default if " " in default else f"`{default}`"


def renewed(page: str) -> str:
    """The page with the table put between its markers. Raises ValueError where it has none."""
    head, rest = page.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n{table()}{END}{tail}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
    if not sys.argv[1:]:
        sys.stdout.write(table())
