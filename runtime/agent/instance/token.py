"""A session with a metadata service that wants a token: AWS's IMDSv2, and Alibaba Cloud's security hardening mode."""

from __future__ import annotations

import re
from dataclasses import dataclass

from omnipam.core.errors import Unavailable

from .cloud import Asks

TTL_S = 300
"""Of a token: it outlives the few requests that follow."""
ABSENT = (403, 404, 405)
"""Answers of a service that has no tokens. Anything else is trouble, in which going on without one would be a downgrade."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,2048}")


@dataclass(frozen=True, slots=True)
class TokenForm:
    """How a cloud's tokens are asked for, and shown."""

    path: str
    ttl_header: str
    header: str


async def session(metadata: Asks, form: TokenForm, *, tokenless: bool) -> dict[str, str]:
    """Return the headers of the requests that follow.

    tokenless: a service without tokens is asked without one. Raises Unavailable. The token is a secret and in no text.
    """
    status, body = await metadata.put(form.path, {form.ttl_header: str(TTL_S)})
    if status in ABSENT and tokenless:
        return {}
    if status != 200:
        raise Unavailable(f"the instance metadata gives no token: PUT {form.path} was answered {status}")
    token = body.strip()
    if not _TOKEN.fullmatch(token):
        raise Unavailable(f"the instance metadata gives no token: the answer to PUT {form.path} is none")
    return {form.header: token}
