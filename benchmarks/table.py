"""The rows of a benchmark: how they are judged, printed, and written to `results/NAME.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

RESULTS = Path(__file__).with_name("results")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table.

    measured, floor: in the unit that the name says, seconds if it says none. ratio: measured over floor.
    target: the most that the ratio may be, or where there is no floor, that may be measured.
    """

    name: str
    measured: float
    floor: float | None = None
    ratio: float | None = None
    target: float
    ok: bool

    @classmethod
    def over(
        cls, name: str, measured: float, floor: float, target: float, *, ratio: float | None = None
    ) -> Self:
        """Judged by its ratio, which is measured over floor unless given (as the median of several rounds' ratios is)."""
        if ratio is None:
            ratio = measured / floor
        return cls(name=name, measured=measured, floor=floor, ratio=ratio, target=target, ok=ratio <= target)

    @classmethod
    def most(cls, name: str, measured: float, target: float) -> Self:
        """Judged by itself."""
        return cls(name=name, measured=measured, target=target, ok=measured <= target)


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """The file's shape."""

    version: int = 1
    rows: tuple[Row, ...]


def rows_of(made: object) -> tuple[Row, ...]:
    """What a benchmark's `rows()` returned, as rows. Raises msgspec.ValidationError if it has another shape."""
    return msgspec.convert(made, tuple[Row, ...], from_attributes=True)


def write(name: str, rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Write a benchmark's results and return the file. Whoever reads it meanwhile sees the old ones or the new."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(Results(rows=tuple(rows))), indent=1) + b"\n")
    return partial.replace(path)


def render(rows: Sequence[Row]) -> str:
    """The table as text, a line a row."""
    heads = ("name", "measured", "floor", "ratio", "target", "ok")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    lines = []
    for line in cells:
        first, *middle, last = (
            text.ljust(width) if column in (0, len(heads) - 1) else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join((first, *middle, last)).rstrip())
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} ×"
    target = f"{row.target:g}" if row.ratio is None else f"{row.target:g} ×"
    return (
        row.name,
        _number(row.measured),
        _number(row.floor),
        ratio,
        f"≤ {target}",
        "ok" if row.ok else "MISSED",
    )


def _number(value: float | None) -> str:
    """With four digits that count, and a prefix where a time needs one: figures here reach from nanoseconds to minutes."""
    if value is None:
        return ""
    if 0 < abs(value) < 1e-3:
        scale, unit = (1e9, "n") if abs(value) < 1e-6 else (1e6, "µ")
        return f"{value * scale:.4g} {unit}"
    return f"{value:.4g}"
