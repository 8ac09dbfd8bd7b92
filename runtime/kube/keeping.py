"""What must outlive an operator beside the node objects: a ConfigMap, one key a pool, one JSON object a line.

A line that cannot be read (a newer release's, a slip of the hand) is reported and written back as it was, never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from omnipam.core.cidr import parse
from omnipam.core.errors import Conflict, Invalid, NotFound, Unavailable
from omnipam.core.values import Finding, Kept

from .errors import one_line
from .rest import Api

NAME = "omnipam-ipam-state"
TRIES = 3


class _Line(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Unknown fields make a line unreadable: half of what a newer release says may be the wrong half."""

    cidr: str
    owner: str = ""
    until: float | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _ConfigMap(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    data: dict[str, str] | None = None


_LINE = msgspec.json.Decoder(_Line)
_CONFIG_MAP = msgspec.json.Decoder(_ConfigMap)


def read_lines(
    data: dict[str, str], where: str
) -> tuple[tuple[Kept, ...], dict[str, list[str]], list[Finding]]:
    """Return what the ConfigMap keeps, the lines that could not be read (by pool), and a finding for each of those."""
    kept: list[Kept] = []
    strays: dict[str, list[str]] = {}
    findings: list[Finding] = []
    for pool, text in sorted(data.items()):
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = _LINE.decode(line)
                kept.append(Kept(pool, parse(entry.cidr), entry.owner, entry.until or 0.0))
            except (msgspec.MsgspecError, Invalid) as exc:
                strays.setdefault(pool, []).append(line)
                findings.append(
                    Finding(
                        "StateUnreadable",
                        (f"ConfigMap/{where}",),
                        one_line(
                            f"ConfigMap {where}, key {pool}, line {number} cannot be read ({exc}):"
                            " the range that it keeps from being granted is not known"
                        ),
                        "correct the line, or delete it if no pod uses that range",
                    )
                )
    return tuple(sorted(kept)), strays, findings


def write_lines(kept: Sequence[Kept], strays: dict[str, list[str]]) -> dict[str, str]:
    """Return the ConfigMap's data; the same for the same state, so that an unchanged one is not written."""
    lines: dict[str, list[str]] = {pool: list(texts) for pool, texts in strays.items()}
    for each in sorted(kept):
        line = msgspec.json.encode(_Line(str(each.cidr), each.owner, each.until or None)).decode()
        lines.setdefault(each.pool, []).append(line)
    return {pool: "".join(f"{line}\n" for line in texts) for pool, texts in sorted(lines.items())}


class Keeping:
    """The ConfigMap in one namespace, read and written with its version as precondition. Only the leader writes it."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._collection = f"/api/v1/namespaces/{namespace}/configmaps"
        self.where = f"{namespace}/{NAME}"
        self._there: _ConfigMap | None = None
        self._strays: dict[str, list[str]] = {}
        self._known = False

    async def read(self) -> tuple[tuple[Kept, ...], list[Finding]]:
        """Return what is kept. Absent is nothing. Raises what the client raises."""
        try:
            self._there = self._decode(await self._api.get(f"{self._collection}/{NAME}"))
        except NotFound:
            self._there = None
        data = (self._there.data if self._there else None) or {}
        kept, self._strays, findings = read_lines(data, self.where)
        self._known = True
        return kept, findings

    async def write(self, kept: Sequence[Kept]) -> None:
        """Replace what is kept; no request where it says so already. Raises Conflict if it changes as fast as we write."""
        if not self._known:
            await self.read()
        for _ in range(TRIES):
            data = write_lines(kept, self._strays)
            before = (self._there.data if self._there else None) or {}
            if data == before:
                return
            try:
                self._there = self._decode(await self._put(data, before))
            except (Conflict, NotFound):
                await self.read()
            else:
                return
        raise Conflict(
            f"ConfigMap {self.where} changes as fast as it is written: is another operator running?"
        )

    async def _put(self, data: dict[str, str], before: dict[str, str]) -> bytes:
        if self._there is None:
            labels = {"app.kubernetes.io/name": "omnipam"}
            created = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "labels": labels}}
            return await self._api.create(self._collection, msgspec.json.encode({**created, "data": data}))
        changed = {key: text for key, text in data.items() if before.get(key) != text}
        dropped = dict.fromkeys(before.keys() - data.keys())
        patch = {
            "metadata": {"resourceVersion": self._there.metadata.resource_version},
            "data": {**changed, **dropped},
        }
        return await self._api.merge_patch(f"{self._collection}/{NAME}", msgspec.json.encode(patch))

    def _decode(self, body: bytes) -> _ConfigMap:
        try:
            return _CONFIG_MAP.decode(body)
        except msgspec.MsgspecError as exc:
            raise Unavailable(f"ConfigMap {self.where}: the answer cannot be read ({exc})") from exc
