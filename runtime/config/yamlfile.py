"""Keys out of a YAML or JSON text: a flat mapping, or a whole ConfigMap object. Imported only when a file is read.

The document is composed, not constructed: values stay as written (`yes`, `010`, `1e3` are text), each knows its line,
and no tag can make an object.
"""

from __future__ import annotations

from typing import NamedTuple

import yaml

from omnipam.core.errors import Invalid

_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NULLS = ("", "~", "null", "Null", "NULL")


class Entry(NamedTuple):
    """A key, its value as one text, and the line it stands on, from 1."""

    name: str
    text: str
    line: int


def read(text: str) -> list[Entry]:
    """The entries in the order written, repetitions included. Raises Invalid with reason and next step."""
    pairs = _pairs(_compose(text))
    names = {_text(name): value for name, value in pairs}
    if "kind" in names or "apiVersion" in names:
        if "kind" not in names or _text(names["kind"]) != "ConfigMap":
            raise Invalid("is a Kubernetes object, but no ConfigMap; give a ConfigMap or a flat mapping")
        if "data" not in names:
            raise Invalid("is a ConfigMap without data; put the keys there")
        pairs = _pairs(names["data"])
    return [Entry(_text(name), _flat(value), name.start_mark.line + 1) for name, value in pairs]


def _compose(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (
            f" at line {min(mark.line, text.count(chr(10))) + 1}" if mark else ""
        )  # the end may count as one more
        reason = " ".join((error.problem or error.context or "it cannot be parsed").split())
        raise Invalid(f"is not YAML{where}: {reason}; mend it") from None
    except yaml.YAMLError:  # the reader's: control characters
        raise Invalid("is not YAML: it has characters that YAML forbids; mend it") from None
    except (RecursionError, ValueError):  # too deep, or a lone surrogate
        raise Invalid("is not YAML that can be read; mend it") from None


def _pairs(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.value in _NULLS):
        # An editor's or a copy's first half; nobody means it, and it would silently bring back every default.
        raise Invalid("holds no keys; write {} if none are meant")
    if not isinstance(node, yaml.MappingNode):
        raise Invalid("is no mapping of keys to values; write one KEY: VALUE a line")
    return list(node.value)


def _flat(node: yaml.Node) -> str:
    """A value as one text: lists joined by commas, mappings as k=v."""
    if isinstance(node, yaml.SequenceNode):
        return ",".join(map(_text, node.value))
    if isinstance(node, yaml.MappingNode):
        return ",".join(f"{_text(name)}={_text(value)}" for name, value in node.value)
    return _text(node)


def _text(node: yaml.Node) -> str:
    """A scalar as written, null as empty; anything deeper only as its kind."""
    if not isinstance(node, yaml.ScalarNode):
        return "<list>" if isinstance(node, yaml.SequenceNode) else "<mapping>"
    plain = not node.style
    return "" if plain and node.value in _NULLS else str(node.value)
