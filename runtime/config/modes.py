"""Which IPAM modes are served here: what is installed, with the store that it needs. Read only where a value is in question."""

from __future__ import annotations

from typing import Protocol

from omnipam.providers import registry

from .keys import MODES


class Modes(Protocol):
    """What `ipam` may be, with the store that is configured."""

    def has(self, mode: str, store: str) -> bool: ...

    def advice(self, store: str) -> str:
        """What to write instead of a mode that is not one of them."""
        ...


class Known:
    """Every mode that Cilium has, served or not: for who says of each what it thinks."""

    def has(self, mode: str, store: str) -> bool:
        return mode in MODES

    def advice(self, store: str) -> str:
        return f"use one of {', '.join(registry.OURS)}"


class Served:
    """The modes that this installation serves. strict: those of them that go with the store."""

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict

    def has(self, mode: str, store: str) -> bool:
        installed = mode in registry.OURS or mode in registry.modes()
        return installed and not (self._strict and _lacks_nodes(mode, store))

    def advice(self, store: str) -> str:
        here = [mode for mode in registry.modes() if not _lacks_nodes(mode, store)]
        there = [mode for mode in registry.modes() if mode not in here]
        more = f", or {', '.join(there)} with --store kubernetes" if there else ""
        return f"use one of {', '.join(here)}{more}"


def _lacks_nodes(mode: str, store: str) -> bool:
    """Whether it takes from Kubernetes Nodes what this store has not."""
    return store != "kubernetes" and registry.find(mode).reads_machines
