"""A request's body that asks the election's gate right before its first byte: a process may have been stopped while it connected."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from omnipam.core.errors import OmnipamError


class Gated(aiohttp.BytesPayload):
    """A body that asks the gate right before it is written.

    aiohttp writes the head together with the body's first bytes (before 3.12 ahead of them, which alone is no request), without
    an await between. What the gate raises closes the connection; it is kept here, since aiohttp raises an error of its own.
    """

    refused: OmnipamError | None = None

    def __init__(self, body: bytes, gate: Callable[[], None]) -> None:
        super().__init__(body)
        self._gate = gate

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._ask()
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._ask()
        await super().write_with_length(writer, content_length)

    def _ask(self) -> None:
        try:
            self._gate()
        except OmnipamError as error:
            self.refused = error
            raise
