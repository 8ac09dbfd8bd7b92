"""What a CiliumNode's status says of the node's interfaces, whatever the cloud: the agent reads it, and makes a machine's answer of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

import msgspec

from omnipam.core.cidr import Cidr, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.handshake import Units
from omnipam.core.uplink import Uplink
from omnipam.core.values import Problem

UNREADABLE = "UnreadableInterface"

S = TypeVar("S", bound=msgspec.Struct)


class Form(msgspec.Struct, frozen=True):
    """One cloud's. field: its part of `spec` and of `status`. read: both parts, as JSON objects, to interfaces.

    pools: whether its agents may derive `spec.ipam.pools` from it.
    """

    field: str
    read: Callable[[bytes, bytes], Read]
    pools: bool


class Read(msgspec.Struct, frozen=True):
    """Interfaces, by id, and what could not be read: that one has fewer addresses, the others are as they are."""

    uplinks: tuple[Uplink, ...] = ()
    problems: tuple[Problem, ...] = ()


FORMS = {
    "eni": "omnipam.providers.aws.published",
    "azure": "omnipam.providers.azure.published",
    "alibabacloud": "omnipam.providers.alibabacloud.published",
}


def form_of(mode: str) -> Form | None:
    """The form of a mode whose addresses belong to interfaces; None: it is no such mode."""
    if mode not in FORMS:
        return None
    form = import_module(FORMS[mode]).FORM
    if not isinstance(form, Form):  # pragma: no cover - a broken installation
        raise Invalid(f"{FORMS[mode]}.FORM is not a form")
    return form


class Reading:
    """Reads parts of one CiliumNode, and keeps what makes no sense as problems. `where` is a part's JSON path."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def cidr(self, text: str, where: str) -> Cidr | None:
        """A CIDR; None where there is none, or none that can be read."""
        return self._read(parse, text, where)

    def address(self, text: str, where: str) -> Cidr | None:
        """An address, as the CIDR that holds only it; None as above."""
        return self._read(parse_address, text, where)

    def cidrs(self, texts: list[str] | None, where: str) -> tuple[Cidr, ...]:
        """Those that can be read, sorted, each once."""
        return tuple(sorted({each for text in texts or () if (each := self.cidr(text, where)) is not None}))

    def addresses(self, texts: list[str] | None, where: str) -> tuple[Cidr, ...]:
        return tuple(
            sorted({each for text in texts or () if (each := self.address(text, where)) is not None})
        )

    def document(self, raw: bytes, type_: type[S], where: str) -> S | None:
        """A JSON document; None where it is not what it should be. Missing, null and empty are the same, as in Go."""
        try:
            return self.struct(msgspec.json.decode(raw), type_, where)
        except msgspec.MsgspecError as error:
            self._note(where, str(error))
            return None

    def struct(self, part: object, type_: type[S], where: str) -> S | None:
        """A part of a decoded document; as above."""
        try:
            return msgspec.convert({} if part is None else _without_nulls(part), type_)
        except msgspec.MsgspecError as error:
            self._note(where, str(error))
            return None

    def _read(self, reader: Callable[[str], Cidr], text: str, where: str) -> Cidr | None:
        if not text:
            return None
        try:
            return reader(text)
        except Invalid as error:
            self._note(where, str(error))
            return None

    def _note(self, where: str, why: str) -> None:
        self.problems.append(
            Problem(UNREADABLE, f"{where}: {why}", "mend it, or wait until it is written anew")
        )


def _without_nulls(part: object) -> object:
    """Without the members of objects that are null."""
    if isinstance(part, dict):
        return {name: _without_nulls(value) for name, value in part.items() if value is not None}
    if isinstance(part, list):
        return [_without_nulls(value) for value in part]
    return part


def outside(addresses: tuple[Cidr, ...], prefixes: tuple[Cidr, ...]) -> tuple[Cidr, ...]:
    """The addresses that lie in none of the prefixes."""
    units = Units(prefixes)
    return tuple(each for each in addresses if units.of(each) == each and each not in prefixes)
