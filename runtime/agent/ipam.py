"""Cilium's IPAM endpoints on the agent's socket: `/v1/ipam`, `/v1/healthz`, `/v1/config`. Errors are bare JSON strings.

Source: Cilium's OpenAPI description and its handlers. Reservations made here are released by address, so each has a key of its
own; one made with the header `expiration` lapses after ten minutes, unless `PUT /v1/ipam/{ip}` with its `uuid` keeps it.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from omnipam.core.attachment import Allocation, Want
from omnipam.core.attachment import Request as Asked
from omnipam.core.cidr import FAMILIES, Family, parse_address
from omnipam.core.errors import Invalid, OmnipamError
from omnipam.core.reservations import LONGEST_LAPSE_S

from . import answers
from .answers import bare
from .http import Answer, Request
from .placing import Placement
from .routing import Query, Served, then

if TYPE_CHECKING:
    from .api import Api

NETWORK = "cilium"


class Ipam:
    """Beside `Api`, on the same service."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def serve(self, request: Request, query: Query) -> Served:
        match request.method, query.parts:
            case "POST", ["ipam"]:
                return self._next(request, query.values)
            case "POST", ["ipam", address]:
                return self._exactly(address, query.values)
            case "PUT", ["ipam", address]:
                return self._keep(address, query.values)
            case "DELETE", ["ipam", address]:
                return self._release(address, query.values)
            case "GET", ["healthz"]:
                return self._health()
            case "GET", ["config"]:
                return self._config()
        return bare(405, f"there is no {request.method} here")

    def _next(self, request: Request, values: dict[str, str]) -> Served:
        api, owner, pool = self._api, values.get("owner", ""), values.get("pool", "")
        token = str(uuid.uuid4())
        lapses = request.headers.get("expiration", "").lower() in ("true", "1", "t")

        def decided(placement: Placement) -> Asked:
            wants = tuple(Want(family, pool or placement.pools[family]) for family in families)
            expires = api.clock() + LONGEST_LAPSE_S if lapses else None
            waits_as = f"{NETWORK}/{owner}" if owner else ""  # whoever tries again waits no second time
            return Asked((NETWORK, token, ""), owner, wants, expires=expires, waits_as=waits_as)

        try:
            families = api.families(_families(values.get("family", "")))
            pools: dict[Family, str] = (
                dict.fromkeys(families, pool) if pool and api.service.agent.pooled else {}
            )
            if not api.service.agent.pooled:
                pool = ""
            future = api.decide((NETWORK, token, ""), owner, families, pools, "", decided, 0.0)
        except OmnipamError as error:
            return bare(502, error)
        return then(future, lambda result: self._given(result[0], lapses), lambda error: bare(502, error))

    def _exactly(self, text: str, values: dict[str, str]) -> Served:
        agent, owner, pool = self._api.service.agent, values.get("owner", ""), values.get("pool", "")
        try:
            address = parse_address(text)
        except Invalid:
            return bare(500, f"Invalid IP address: {text}")
        if not pool:
            return bare(500, f'unable to restore IP {text} for "{owner}": pool name must be provided')
        if address.family not in agent.families:
            return bare(500, f"{'IPv4' if address.bits == 32 else 'IPv6'} allocation disabled")
        pool = pool if agent.pooled else agent.default_pool
        if agent.holder(address.bits, address.first) is not None:
            return bare(500, "provided IP is already allocated")
        request = Asked((NETWORK, str(uuid.uuid4()), ""), owner, (Want(address.family, pool, address.first),))
        try:
            future = self._api.service.allocate(request, 0.0)
        except OmnipamError as error:
            return bare(500, error)
        return then(future, lambda _: Answer(200, b"null"), lambda error: bare(500, error))

    def _keep(self, text: str, values: dict[str, str]) -> Served:
        try:
            address = parse_address(text)
        except Invalid:
            return bare(400, f"Invalid IP address: {text}")
        held = self._api.service.agent.holder(address.bits, address.first)
        token = values.get("uuid")
        if held is None or held.key[0] != NETWORK or (held.expires is None and held.key[1] != token):
            return bare(404, "no expiration timer registered")
        if held.key[1] != token:
            return bare(409, "UUID mismatch, not stopping expiration timer")
        return then(self._api.service.keep(held.key), lambda _: Answer(200, b"null"), _failed)

    def _release(self, text: str, values: dict[str, str]) -> Served:
        try:
            address = parse_address(text)
        except Invalid:
            return bare(400, f"Invalid IP address: {text}")
        agent, pool = self._api.service.agent, values.get("pool", "")
        held = agent.holder(address.bits, address.first)
        if held is not None and held.key[0] != NETWORK:
            return bare(500, f"IP is in use by endpoint {'/'.join(held.key)}")
        if not pool:
            return bare(500, f"no IPAM pool provided for IP release of {text}")
        if held is None or (
            agent.pooled and pool not in {g.pool for g in held.given if g.address == address.first}
        ):
            return Answer(200, b"null")
        # Of both families the first DELETE releases both, since their pod is gone; the second finds nothing to do.
        return then(self._api.service.release(held.key), lambda _: Answer(200, b"null"), _failed)

    def _given(self, allocation: Allocation, lapses: bool) -> Answer:
        token = allocation.key[1]
        pair: dict[str, object] = {}
        body: dict[str, object] = {"address": pair}
        for given in allocation.given:
            pair[given.family] = str(given)
            pair[f"{given.family}-pool-name"] = given.pool
            one: dict[str, object] = {"ip": str(given)}
            uplink = self._api.uplink(given)
            if uplink is not None:
                gateway = answers.gateway_of(given, uplink)
                one |= {} if gateway is None else {"gateway": gateway}
                one |= {
                    "cidrs": answers.native_of(given, uplink),
                    "master-mac": uplink.mac,
                    "interface-number": str(uplink.number),
                }
            if self._api.skips(given.pool):
                one["skip-masquerade"] = True
            if lapses:
                pair[f"{given.family}-expiration-uuid"] = one["expiration-uuid"] = token
            body[given.family] = one
        body["host-addressing"] = self._addressing()
        return Answer(201, answers.encode(body))

    def _addressing(self) -> dict[str, object]:
        """The node's own: of each family its first block, and that one's gateway."""
        found: dict[str, object] = {}
        for family in self._api.service.agent.families:
            first = next(
                (each for each in self._api.service.agent.gateways() if each.block.cidr.family == family),
                None,
            )
            found[family] = {
                "enabled": True,
                "ip": str(first) if first is not None else "",
                "alloc-range": str(first.block.cidr) if first is not None else "",
            }
        return found

    def _health(self) -> Answer:
        agent, default = self._api.service.agent, self._api.service.agent.default_pool
        allocations: dict[str, str] = {}
        families: dict[str, list[str]] = {family: [] for family in FAMILIES}
        for allocation in agent.allocations:
            for given in allocation.given:
                name = str(given) if given.pool == default else f"{given.pool}/{given}"
                allocations[name] = allocation.owner
                families[given.family].append(str(given))
        states = agent.states(self._api.clock())
        status = ", ".join(
            f"{'IPv4' if family == 'ipv4' else 'IPv6'}: {sum(s.used for s in states if s.family == family)}/"
            f"{sum(s.total for s in states if s.family == family)} allocated"
            for family in agent.families
        )
        why = self._api.ready()
        body = {
            "cilium": {"state": "Ok" if why is None else "Warning", "msg": why or ""},
            "ipam": {"status": status or "Not running", "allocations": allocations} | families,
        }
        return Answer(200, answers.encode(body))

    def _config(self) -> Answer:
        body = {"status": {"ipam-mode": self._api.mode, "addressing": self._addressing()}}
        return Answer(200, answers.encode(body))


def _families(text: str) -> list[Family] | None:
    if not text:
        return None
    for family in FAMILIES:
        if text == family:
            return [family]
    raise Invalid(f'unknown address "{text}" family requested')


def _failed(error: OmnipamError) -> Answer:
    return bare(500, error)
