"""Looking into decoded JSON of unknown shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def branch(tree: Any, *path: str) -> Mapping[str, Any]:
    """What is at the path; empty where the shape is another."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}
