"""Rows as core values and back. A node's row never fails to be read: what is wrong in it becomes a Problem of the node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from omnipam.core.cidr import Cidr, Family, format_address, parse, parse_address
from omnipam.core.errors import Invalid
from omnipam.core.selector import parse_selector, selector_text
from omnipam.core.values import (
    NO_AGENT,
    NO_FACTS,
    Agent,
    Block,
    Demand,
    Facts,
    Held,
    Kept,
    Node,
    PoolRange,
    PoolSpec,
    Problem,
)

from .blocks import Row as GrantRow
from .blocks import block_of

NODE_COLUMNS = "n.name, n.uid, n.created, n.version, n.present, n.ignored, n.instance, n.facts, n.agent, n.error, n.demand"
NodeRow = tuple[object, ...]
"""The values of NODE_COLUMNS; of any type, since SQLite enforces none and a person may have edited them."""

HINT = "correct the row, or delete the node and add it again"


class _FactsJson(msgspec.Struct, rename="camel", omit_defaults=True):
    addresses: list[str] = []
    pod_cidrs: list[str] = msgspec.field(name="podCIDRs", default_factory=list)
    labels: dict[str, str] = {}
    cordoned: bool = False
    terminating: bool = False


class _AgentJson(msgspec.Struct, omit_defaults=True):
    depleted: list[str] = []
    released: list[str] = []


class _DemandJson(msgspec.Struct, rename="camel", omit_defaults=True):
    needed: dict[str, dict[Family, int]] = {}
    default_pool: str = ""
    limits: dict[str, int] = {}


class _RangeJson(msgspec.Struct, omit_defaults=True):
    cidr: str
    mask: int
    wider: list[int] = []


class _PoolJson(msgspec.Struct, rename="camel", omit_defaults=True):
    ranges: list[_RangeJson] = []
    reserved: list[str] = []
    quarantine_seconds: float = 0.0
    max_blocks: int = 1
    created: float = 0.0
    first_usable: bool = False
    last_usable: bool = False
    selector: str = ""


_J = TypeVar("_J", _FactsJson, _AgentJson, _DemandJson)
_facts_decoder = msgspec.json.Decoder(_FactsJson)
_agent_decoder = msgspec.json.Decoder(_AgentJson)
_demand_decoder = msgspec.json.Decoder(_DemandJson)
_pool_decoder = msgspec.json.Decoder(_PoolJson)
_pools_decoder = msgspec.json.Decoder(dict[str, _PoolJson])


def facts_json(facts: Facts) -> str:
    return _text(
        _FactsJson(
            [format_address(each.first, each.bits) for each in facts.addresses],
            [str(each) for each in facts.pod_cidrs],
            dict(facts.labels),
            facts.cordoned,
            facts.terminating,
        )
    )


def agent_json(agent: Agent) -> str:
    return _text(_AgentJson([str(each) for each in agent.depleted], [str(each) for each in agent.released]))


def demand_json(node: Node) -> str:
    needed: dict[str, dict[Family, int]] = {}
    for one in node.demand:
        needed.setdefault(one.pool, {})[one.family] = one.needed
    return _text(_DemandJson(needed, node.default_pool, dict(node.limits)))


def node_of(row: NodeRow, grants: Iterable[GrantRow]) -> Node:
    """The node of a row and of its grants, in their order. Never raises: see the module."""
    name, uid, created, version, present, ignored, instance, facts_text, agent_text, error, demand_text = row
    problems: list[Problem] = []

    def unreadable(column: str, why: object) -> None:
        problems.append(
            Problem("Unreadable", f"node {name}: its row cannot be read: column {column}: {why}", HINT)
        )

    def cidrs(texts: Sequence[str], column: str, *, addresses: bool = False) -> tuple[Cidr, ...]:
        found = []
        for text in texts:
            try:
                found.append(parse_address(text) if addresses else parse(text))
            except Invalid as error:
                unreadable(column, error)
        return tuple(found)

    def decoded(decoder: msgspec.json.Decoder[_J], value: object, column: str) -> _J | None:
        if value == "{}":
            return None
        try:
            return decoder.decode(value if isinstance(value, str | bytes) else b"")
        except msgspec.MsgspecError as error:
            unreadable(column, error)
            return None

    facts, agent = NO_FACTS, NO_AGENT
    facts_found = decoded(_facts_decoder, facts_text, "facts")
    if facts_found is not None:
        facts = Facts(
            cidrs(facts_found.addresses, "facts.addresses", addresses=True),
            cidrs(facts_found.pod_cidrs, "facts.podCIDRs"),
            tuple(facts_found.labels.items()),
            facts_found.cordoned,
            facts_found.terminating,
        )
    agent_found = decoded(_agent_decoder, agent_text, "agent")
    if agent_found is not None:
        agent = Agent(
            cidrs(agent_found.depleted, "agent.depleted"), cidrs(agent_found.released, "agent.released")
        )
    asked = decoded(_demand_decoder, demand_text, "demand") or _DemandJson()
    demand = tuple(
        Demand(pool, family, needed)
        for pool, families in sorted(asked.needed.items())
        for family, needed in sorted(families.items())
        if needed > 0
    )
    blocks: list[Block] = []
    for grant in grants:
        block = block_of(grant)
        if block is None:
            unreadable("grants", f"{grant[2:5]!r} is no network")
        else:
            blocks.append(block)
    if not isinstance(created, float | int):
        unreadable("created", f"{created!r} is not a number of seconds")
        created = 0.0
    return Node(
        name=str(name),
        uid=str(uid),
        created=float(created),
        version=str(version),
        present=bool(present),
        ignored=bool(ignored),
        unreadable=tuple(problems),
        facts=facts,
        agent=agent,
        holds=Held(tuple(blocks), str(error)),
        instance=str(instance),
        demand=demand,
        default_pool=asked.default_pool,
        limits=tuple(sorted(asked.limits.items())),
    )


def pool_json(spec: PoolSpec) -> str:
    return _text(_pool_wire(spec))


def pools_json(specs: Iterable[PoolSpec]) -> str:
    return _text({spec.name: _pool_wire(spec) for spec in specs})


def pool_of(name: str, text: str) -> PoolSpec:
    """Raises Invalid where the text is no pool."""
    try:
        return _pool_spec(name, _pool_decoder.decode(text))
    except (
        msgspec.MsgspecError,
        Invalid,
        TypeError,
    ) as error:  # TypeError: SQLite keeps numbers in any column
        raise Invalid(
            f"pool {name}: its row cannot be read: {error}: delete the pool and add it again"
        ) from error


def pools_of(text: str) -> tuple[PoolSpec, ...]:
    """The pools in the order in which they were recorded. Raises Invalid where the text is none."""
    try:
        return tuple(_pool_spec(name, wire) for name, wire in _pools_decoder.decode(text).items())
    except (msgspec.MsgspecError, Invalid) as error:
        raise Invalid(
            f"setting pools cannot be read: {error}: start the operator, which records it anew"
        ) from error


def kept_of(row: tuple[object, ...]) -> Kept:
    """Of pool, cidr, owner, until. Raises Invalid where they are none."""
    pool, cidr, owner, until = row
    for value in (pool, cidr, owner):
        if not isinstance(value, str):
            raise Invalid(f"{value!r} is no text")
    if not isinstance(until, float | int):
        raise Invalid(f"{until!r} is not a number of seconds")
    return Kept(str(pool), parse(str(cidr)), str(owner), until)


def _pool_wire(spec: PoolSpec) -> _PoolJson:
    return _PoolJson(
        [_RangeJson(str(each.cidr), each.mask, list(each.wider)) for each in spec.ranges],
        [str(each) for each in spec.reserved],
        spec.quarantine_s,
        spec.max_blocks,
        spec.created,
        spec.first_usable,
        spec.last_usable,
        selector_text(spec.selector),
    )


def _pool_spec(name: str, wire: _PoolJson) -> PoolSpec:
    return PoolSpec(
        name,
        tuple(PoolRange(parse(each.cidr), each.mask, tuple(each.wider)) for each in wire.ranges),
        tuple(map(parse, wire.reserved)),
        wire.quarantine_seconds,
        wire.max_blocks,
        wire.created,
        wire.first_usable,
        wire.last_usable,
        parse_selector(wire.selector),
    )


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
