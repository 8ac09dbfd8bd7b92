"""The election's record in a `coordination.k8s.io/v1` Lease.

Writes are merge patches of the fields we know, with the version as precondition; what others keep in the Lease stays.
All requests are urgent: no pacing, no queue, and not gated by the leadership that they are about.
"""

from __future__ import annotations

from typing import Any

import msgspec

from omnipam.core.errors import NotFound

from ..election import Held, Record
from .errors import one_line
from .meta import Lease, LeaseSpec
from .rest import JSON, MERGE_PATCH, Api
from .watch import ServerViolation

_LEASE = msgspec.json.Decoder(Lease)


class KubeLease:
    """A `LeaseLock` on the Lease `namespace`/`name`. timeout_s: at most lease duration − renew deadline."""

    def __init__(self, api: Api, namespace: str, name: str, *, timeout_s: float) -> None:
        self._api, self._name, self._timeout_s = api, name, timeout_s
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    async def get(self) -> Held | None:
        """Return the record; None if there is no Lease."""
        try:
            body = await self._api.request(
                "GET", f"{self._collection}/{self._name}", timeout_s=self._timeout_s, urgent=True
            )
        except NotFound:
            return None
        return self._held(body)

    async def create(self, record: Record) -> Held:
        """Create the Lease. Raises Conflict if it is there, NotFound if the namespace is not."""
        body = msgspec.json.encode(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": _spec(record),
            }
        )
        answer = await self._api.request(
            "POST", self._collection, body=body, content_type=JSON, timeout_s=self._timeout_s, urgent=True
        )
        return self._held(answer)

    async def update(self, record: Record, version: str) -> Held:
        """Patch exactly this version. Raises Conflict if there is another by now."""
        body = msgspec.json.encode({"metadata": {"resourceVersion": version}, "spec": _spec(record)})
        answer = await self._api.request(
            "PATCH",
            f"{self._collection}/{self._name}",
            body=body,
            content_type=MERGE_PATCH,
            timeout_s=self._timeout_s,
            urgent=True,
        )
        return self._held(answer)

    def _held(self, body: bytes) -> Held:
        try:
            lease = _LEASE.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ServerViolation(one_line(f"Lease {self._name}: the answer is no Lease ({exc})")) from exc
        spec = lease.spec or LeaseSpec()
        record = Record(
            holder=spec.holder_identity or "",
            duration_s=spec.lease_duration_seconds or 0,
            acquired=spec.acquire_time or "",
            renewed=spec.renew_time or "",
            transitions=spec.lease_transitions or 0,
        )
        return Held(record, lease.metadata.resource_version)


def _spec(record: Record) -> dict[str, Any]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.duration_s,
        "acquireTime": record.acquired,
        "renewTime": record.renewed,
        "leaseTransitions": record.transitions,
    }
