"""What commands print: a table, or a document as JSON or YAML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from .streams import clean, say, write

__all__ = ["NONE", "age", "clean", "count", "dump", "facts", "listed", "say", "show", "table", "write"]

NONE = "<none>"
"""An empty cell, as kubectl writes it."""

_AGES = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def show(format: str, document: object, table: Callable[[], str]) -> None:
    """Prints the document, or the table that stands for it."""
    write(table() if format == "table" else dump(format, document))


def dump(format: str, document: object) -> str:
    """The document as JSON or YAML, by the same names. Mappings keep their order."""
    if format == "json":
        return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"
    import yaml

    plain = msgspec.to_builtins(document)  # copies: nothing is shared, so that YAML needs no anchors
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(plain, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text


def listed(items: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Objects as kubectl lists them."""
    return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": list(items)}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their content, two spaces apart. Empty cells say so."""
    lines = [list(head), *([clean(str(cell)) or NONE for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """One object: a name and its value a line."""
    lines = [(f"{name}:", clean(str(value)) or NONE) for name, value in pairs]
    width = max((len(name) for name, _ in lines), default=0)
    return "".join(f"{name:{width}}  {value}\n" for name, value in lines)


def age(seconds: float) -> str:
    """A duration as kubectl's AGE: its largest unit."""
    for size, unit in _AGES:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def count(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
