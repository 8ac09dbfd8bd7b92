"""What the clouds' metadata services have in common: facts that are checked before anybody sees them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from omnipam.core.errors import Invalid, Unavailable

from ...config.values import shown

INSTANCE_TYPE, ZONE = "instance-type", "availability-zone"
LABELS = {INSTANCE_TYPE: "node.kubernetes.io/instance-type", ZONE: "topology.kubernetes.io/zone"}
"""The Node's well-known labels, which the clouds' controllers fill."""


class Asks(Protocol):
    """The metadata service. Both methods raise Unavailable if there is no answer."""

    async def get(self, path: str, headers: Mapping[str, str]) -> str:
        """The body of a 200 answer; any other is Unavailable, too."""
        ...

    async def put(self, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Status and body of any answer."""
        ...


class Warns(Protocol):
    """A logger, as far as it is needed here."""

    def warning(self, event: str, **words: Any) -> object: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """instance_id: of the form that `spec.instance-id` has. fields: of the cloud's section of the spec."""

    instance_id: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cloud:
    """One cloud.

    section: its name in a CiliumNode's spec. known: the section's fields that the metadata tells. defaults: what its fields are
    where nobody wishes anything. endpoint: where its metadata is asked, empty if it shall not be; Invalid for what is no URL.
    ask: raises Unavailable. of_node: facts out of the Node's providerID and labels; None where the id is another cloud's.
    """

    section: str
    known: tuple[str, ...]
    defaults: Mapping[str, object]
    endpoint: Callable[[Mapping[str, str]], str]
    ask: Callable[[Asks, Mapping[str, str]], Awaitable[Facts]]
    of_node: Callable[[str, Mapping[str, str]], Facts | None]


def checked(name: str, text: str, form: re.Pattern[str]) -> str:
    """Return the text, which must have the form. Another service may answer at the address, or a proxy in its place."""
    if not form.fullmatch(text):
        raise Unavailable(f"the instance metadata's {name} is {shown(text)}, which is none")
    return text


def labelled(labels: Mapping[str, str], forms: Mapping[str, re.Pattern[str]]) -> dict[str, str]:
    """Instance type and zone as the Node's labels have them, those that are of the form."""
    found = {name: labels.get(LABELS[name], "") for name in forms if name in LABELS}
    return {name: text for name, text in found.items() if forms[name].fullmatch(text)}


def is_true(environ: Mapping[str, str], variable: str) -> bool:
    """Whether a variable of an SDK is set to `true`."""
    return environ.get(variable, "").strip().lower() == "true"


def endpoint_in(environ: Mapping[str, str], variable: str, otherwise: str) -> str:
    """Return the variable's URL without a slash at its end. Raises Invalid for what is no plain http URL."""
    text = environ.get(variable, "").strip()
    if not text:
        return otherwise
    try:
        url = urlsplit(text)
        fits = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        fits = False
    if not fits or url.username is not None or url.query or url.fragment or not text.isprintable():
        raise Invalid(
            f"environment {variable}: {shown(text)} is no URL of a host; write it as in http://169.254.169.254"
        )
    return text.rstrip("/")
