"""The port to what is known of pods: which pools one gets its addresses of, and whether it keeps them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec

from omnipam.core.cidr import Family


class Placement(msgspec.Struct, frozen=True, gc=False):
    """pools: by family, those that were asked for. sticky: its addresses are kept for it."""

    pools: Mapping[Family, str]
    sticky: bool = False


class Pods(Protocol):
    """owner: `namespace/name`, or free text, which gets the default pool. uid: the pod's, empty if the caller does not know it.

    Both raise what selection raises: Invalid where a person must change something, Retryable else.
    """

    def place(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement | None:
        """None: it cannot be told without asking."""

    async def ask(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement:
        """The same, by asking where pods are kept."""

    def skips_masquerade(self, pool: str) -> bool:
        """Whether the pool says that what its pods send keeps their addresses."""


_OF_A_SET = re.compile(r"[^/]+/.+-[0-9]{1,9}")


class NoPods:
    """Nothing is known of pods: all get the default pool. sticky: those that are called as pods of a StatefulSet keep theirs."""

    def __init__(self, default_pool: str, *, sticky: bool = False) -> None:
        self._default_pool, self._sticky = default_pool, sticky

    def place(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement | None:
        return Placement(
            dict.fromkeys(families, self._default_pool),
            self._sticky and _OF_A_SET.fullmatch(owner) is not None,
        )

    async def ask(self, owner: str, families: tuple[Family, ...], uid: str) -> Placement:
        placement = self.place(owner, families, uid)
        assert placement is not None
        return placement

    def skips_masquerade(self, pool: str) -> bool:
        return False
