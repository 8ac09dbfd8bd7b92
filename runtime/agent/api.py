"""What is served on the agent's socket: reservations by key, as the CNI plugin and people use them. Cilium's endpoints: `ipam`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from omnipam.core.attachment import Allocation, Given, Key, UnknownPool, Want
from omnipam.core.attachment import Request as Asked
from omnipam.core.cidr import Family, parse_address
from omnipam.core.errors import Invalid, NotFound, OmnipamError
from omnipam.core.node_blocks import PoolState
from omnipam.core.uplink import Uplink

from . import answers
from .answers import NotReady, refused
from .http import Answer, Request, problem
from .ipam import Ipam
from .later import Later, of_task
from .placing import Placement, Pods
from .routing import Served, read_address, read_target, then
from .service import Service

LONGEST_PART = 512


class _Body(msgspec.Struct, frozen=True, gc=False):
    """Of a PUT. What is not declared here is ignored."""

    owner: str = ""
    families: list[Family] | None = None
    pool: str | dict[Family, str] | None = None
    address: dict[Family, str] = {}
    sticky: bool | None = None
    avoid: list[str] = []
    wait_s: float = 0.0
    pod_uid: str = ""


class _Gc(msgspec.Struct, frozen=True):
    network: str
    keep: list[tuple[str, str]] | None


_body = msgspec.json.Decoder(_Body)
_gc = msgspec.json.Decoder(_Gc)


class Api:
    """wait_s: the longest that an allocation waits for an address. ready: why the agent cannot serve yet, None if it can.
    impaired: why running pods may suffer, None if they do not. only_masqueraded: the one pool whose addresses are; empty: all."""

    def __init__(
        self,
        service: Service,
        pods: Pods,
        *,
        mode: str,
        wait_s: float,
        clock: Callable[[], float],
        ready: Callable[[], str | None] = lambda: None,
        impaired: Callable[[], str | None] = lambda: None,
        only_masqueraded: str = "",
    ) -> None:
        self.service, self.pods, self.mode = service, pods, mode
        self.ready, self.impaired, self.clock = ready, impaired, clock
        self._wait_s, self._only_masqueraded = wait_s, only_masqueraded
        self._ipam = Ipam(self)

    def serve(self, request: Request) -> Served:
        """Answers one request, now or later. Raises nothing."""
        try:
            return self._route(request)
        except OmnipamError as error:
            return refused(error)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # the last: nested too deeply
            return problem(400, "Invalid", f"the body cannot be read: {error}")
        except Exception as error:  # noqa: BLE001 — whoever asked must see it, and the next may ask
            return problem(500, "Error", f"{type(error).__name__}: {error}")

    def _route(self, request: Request) -> Served:
        query = read_target(request.target)
        match request.method, query.parts:
            case "PUT", ["allocations", network, container, interface]:
                return self._put((network, container, interface), request.body)
            case "DELETE", ["allocations", network, container, interface]:
                key = network, container, interface
                return then(
                    self.service.release(key, query.values.get("owner")), lambda _: Answer(204), refused
                )
            case "GET", ["allocations", network, container, interface]:
                held = self.service.agent.get((network, container, interface))
                if held is None:
                    raise NotFound(f"{network}/{container}/{interface} has no address")
                return Answer(200, answers.encode(answers.listed(held, self)))
            case "GET", ["allocations"]:
                every = [answers.listed(each, self) for each in self.service.agent.allocations]
                return Answer(200, answers.encode({"version": 1, "allocations": every}))
            case "POST", ["gc"]:
                asked = _gc.decode(request.body)
                keep = {(container, interface) for container, interface in asked.keep or ()}
                return then(self.service.collect(asked.network, keep), self._collected, refused)
            case "GET", ["status"]:
                return self._status()
            case "GET", ["state"]:
                return self._state()
            case _, ["ipam", *_] | ["healthz"] | ["config"]:
                return self._ipam.serve(request, query)
        return problem(404, "NotFound", f"there is no {request.method} {request.target.partition('?')[0]}")

    # -- an allocation

    def _put(self, key: Key, raw: bytes) -> Served:
        for part in key:
            if not part or not _is_short_text(part):
                raise Invalid(
                    f"a key's parts are printable text of 1 to {LONGEST_PART} characters, and {part!r} is not"
                )
        body = _body.decode(raw or b"{}")
        if not _is_short_text(body.owner):
            raise Invalid(f"an owner is printable text of at most {LONGEST_PART} characters")
        families = self.families(body.families)
        unasked = [family for family in body.address if family not in families]
        if unasked:
            raise Invalid(f"an address is asked for in {unasked[0]}, which is not among the families")
        addresses = {family: read_address(text, family) for family, text in body.address.items()}
        avoid = frozenset((each.bits, each.first) for each in map(parse_address, body.avoid))
        named = body.pool if isinstance(body.pool, dict) else dict.fromkeys(families, body.pool or "")
        pools: dict[Family, str] = {family: name for family, name in named.items() if name}

        def decided(placement: Placement) -> Asked:
            wants = tuple(
                Want(family, pools.get(family) or placement.pools[family], addresses.get(family))
                for family in families
            )
            sticky = placement.sticky if body.sticky is None else body.sticky
            return Asked(key, body.owner or key[1], wants, frozenset(pools), sticky, avoid=avoid)

        wait_s = min(max(body.wait_s, 0.0), self._wait_s)
        return then(
            self.decide(key, body.owner, families, pools, body.pod_uid, decided, wait_s), self._given, refused
        )

    def families(self, asked: list[Family] | None) -> tuple[Family, ...]:
        """Those asked for, IPv4 first; all enabled ones if none is named. Raises Invalid."""
        enabled = self.service.agent.families
        if asked is None:
            return enabled
        off = [family for family in asked if family not in enabled]
        if off or not asked:
            raise Invalid(
                f"{off[0]} allocation disabled: enable-{off[0]} is off" if off else "no family is asked for"
            )
        return tuple(family for family in enabled if family in asked)

    def decide(
        self,
        key: Key,
        owner: str,
        families: tuple[Family, ...],
        pools: dict[Family, str],
        uid: str,
        decided: Callable[[Placement], Asked],
        wait_s: float,
    ) -> Later:
        """A future of (Allocation, new), once it is known which pools are meant. Raises OmnipamError."""
        agent = self.service.agent
        held = agent.get(key)
        if held is not None:  # whatever would be chosen now, it has its addresses
            had = {given.family: given.pool for given in held.given}
            return self.service.allocate(
                decided(Placement({f: had.get(f, "") for f in families}, held.sticky)), wait_s
            )
        if (why := self.ready()) is not None:
            raise NotReady(why)
        if not agent.pooled:
            for family, name in pools.items():
                if name != agent.default_pool:
                    raise UnknownPool(
                        f"there is no pool {name}: in mode {self.mode} all is one pool, {agent.default_pool}",
                        name,
                        family,
                    )
        placement = self.pods.place(owner, families, uid) if set(families) - set(pools) else Placement({})
        if placement is not None:
            return self.service.allocate(decided(self._single(placement)), wait_s)
        later = of_task(asyncio.ensure_future(self._asked(owner, families, uid, decided, wait_s)))
        self.service.deciding(key, owner, later)
        return later

    async def _asked(
        self,
        owner: str,
        families: tuple[Family, ...],
        uid: str,
        decided: Callable[[Placement], Asked],
        wait_s: float,
    ) -> object:
        begun = self.clock()
        placement = self._single(await self.pods.ask(owner, families, uid))
        return await self.service.allocate(
            decided(placement), max(0.0, wait_s - (self.clock() - begun)) if wait_s else 0.0
        )

    def _single(self, placement: Placement) -> Placement:
        agent = self.service.agent
        if agent.pooled:
            return placement
        return Placement(dict.fromkeys(placement.pools, agent.default_pool), placement.sticky)

    def skips(self, pool: str) -> bool:
        """Whether addresses of the pool are not masqueraded."""
        only = self._only_masqueraded
        return self.service.agent.pooled and (bool(only and pool != only) or self.pods.skips_masquerade(pool))

    def uplink(self, given: Given) -> Uplink | None:
        """The interface that an address belongs to, where addresses do."""
        return self.service.agent.uplink(given)

    def _given(self, result: tuple[Allocation, bool]) -> Answer:
        allocation, new = result
        return Answer(201 if new else 200, answers.allocated(allocation, self))

    def _collected(self, released: list[Allocation]) -> Answer:
        return Answer(200, answers.encode({"released": [answers.listed(each, self) for each in released]}))

    # -- how it stands

    def _status(self) -> Answer:
        if (why := self.impaired()) is not None:
            return problem(503, "Impaired", why)
        if (why := self.ready()) is not None:
            return problem(503, "NotReady", why)
        if self.service.commits.failure is not None:
            return refused(self.service.commits.failure)
        states = self.service.agent.states(self.clock())
        if (lacking := self._lacking(states)) is not None:
            if not any(each.total for each in states if each.family == lacking):
                return problem(503, "Exhausted", f"the node has no {lacking} block yet")
            said = ", ".join(
                f"{each.pool} {each.family} {each.used} of {each.total} in use" for each in states
            )
            why = f"no pool has an {lacking} address left, and the operator gave none in time"
            return problem(503, "Exhausted", f"{why}: {said}")
        body = {"ready": True, "mode": self.mode, "pools": answers.pools(states)}
        return Answer(200, answers.encode(body))

    def _lacking(self, states: tuple[PoolState, ...]) -> Family | None:
        """A family of which no address can be given now, and none came when it was waited for.

        Where the node's first block comes without being asked for, nobody need have waited; elsewhere somebody must, or none comes.
        """
        agent = self.service.agent
        for family in agent.families:
            of_it = [each for each in states if each.family == family]
            if any(each.free or each.cooling for each in of_it):
                continue
            if self.service.failing or not (agent.pooled or any(each.total for each in of_it)):
                return family
        return None

    def _state(self) -> Answer:
        agent, now = self.service.agent, self.clock()
        body = {
            "version": 1,
            "mode": self.mode,
            "not_ready": self.ready(),
            "waiting": self.service.waiting,
            "pools": answers.pools(agent.states(now)),
            "requested": [
                {"pool": each.pool, "family": each.family, "needed": each.needed}
                for each in agent.demand(now)
            ],
            "given_up": [str(block.cidr) for block in agent.released()],
            "allocations": [answers.listed(each, self) for each in agent.allocations],
            "parked": [answers.listed(each, self) for each in agent.parked],
        }
        return Answer(200, msgspec.json.format(answers.encode(body), indent=1) + b"\n")


def _is_short_text(text: str) -> bool:
    return len(text) <= LONGEST_PART and text.isprintable()
