"""No interface loses an address that a container holds, whatever operator and agent do, miss, repeat or forget: both forms, as machines.

The agent is the real one but for its disk; the API server is one object in memory; the operator does as Cilium's, and it is late.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.unit.agent.house import SILENT

from omnipam.core.attachment import Request, Stored, Want
from omnipam.core.cidr import format_address, parse, parse_address
from omnipam.core.errors import Conflict, OmnipamError, OutcomeUnknown, Unavailable
from omnipam.core.handshake import KEPT, MARKED, READY, RELEASED
from omnipam.core.node_agent import NodeAgent
from omnipam.providers.aws.published import FORM
from omnipam.runtime.agent.cloud_side import CloudSide
from omnipam.runtime.agent.instance import Instance
from omnipam.runtime.agent.interfaces import Interfaces, Wanted
from omnipam.runtime.agent.kube_object import Machine
from omnipam.runtime.agent.publisher import Publisher
from omnipam.runtime.kube import interfacenode
from omnipam.runtime.kube.rest import Api

NAMES = st.sampled_from([f"c{number}" for number in range(6)])
SINGLE = [f"10.0.1.{number}" for number in range(1, 3)]
PREFIXES = ["10.0.2.0/30", "10.0.2.4/30"]
FAULTS = st.sampled_from(["none", "none", "none", "before", "after", "late", "conflict"])
ENI = "eni-1"
LATE_S = 15.0
"""How long after a version of the object came to be an operator may not know of it, when it takes something."""


def within(prefix: str) -> list[str]:
    cidr = parse(prefix)
    return [format_address(cidr.first + offset, 32) for offset in range(cidr.size)]


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Server:
    """One CiliumNode. faults: what befalls the writes to come. between: happens while a write is on its way."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.times: list[float] = []
        """When each version was made."""
        self.version = 1
        self.tree: dict[str, Any] = {"metadata": {"name": "a", "uid": "u"}, "spec": {"instance-id": "i"}}
        self.history: list[bytes] = []
        self.faults: list[str] = []
        self.between: list[Callable[[], None]] = []
        self.late: list[tuple[str, dict[str, Any]]] = []
        self._keep()

    def _keep(self) -> None:
        self.tree["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(json.dumps(self.tree).encode())
        self.times.append(self._clock())

    def change(self, patch: Mapping[str, object]) -> None:
        after = merged(self.tree, patch)
        if after != self.tree:
            self.tree = after
            self.version += 1
            self._keep()

    async def get(self, path: str) -> bytes:
        return self.history[-1]

    async def merge_patch(self, path: str, body: bytes) -> bytes:
        patch = json.loads(body)
        while self.between:
            self.between.pop(0)()
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "before":
            raise Unavailable("nobody there")
        if fault == "conflict" or patch["metadata"]["resourceVersion"] != str(self.version):
            raise Conflict("it moved on")
        if fault == "late":
            self.late.append((path, patch))
            raise OutcomeUnknown("no answer")
        self._land(path, patch)
        if fault == "after":
            raise OutcomeUnknown("no answer")
        return self.history[-1]

    def lands(self) -> None:
        """Writes whose answer was lost arrive only now, if their version still is the object's."""
        while self.late:
            path, patch = self.late.pop(0)
            if patch["metadata"]["resourceVersion"] == str(self.version):
                self._land(path, patch)

    def _land(self, path: str, patch: dict[str, Any]) -> None:
        part = "status" if path.endswith("/status") else "spec"
        self.change({part: patch[part]})


class Living(RuleBasedStateMachine):
    """What both forms have in common: containers, the agent's lives, and its sight of the object."""

    wanted: Wanted

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1000.0
        self.server = Server(lambda: self.now)
        self.single, self.prefixes = list(SINGLE), list(PREFIXES)
        self.held: dict[str, str] = {}  # what containers were told that they have
        self.rows: tuple[Stored, ...] = ()
        self.operator_at = 0  # which version of the object the operator has seen
        self.start(lost=False)
        self.publish_cloud()

    def teardown(self) -> None:
        self.loop.close()

    # -- the agent

    def start(self, *, lost: bool) -> None:
        self.lost = lost
        self.agent = NodeAgent(
            families=("ipv4",), pooled=False, gateway=False, rounded=False, cool_down_s=5.0, pre_allocate={"default": 2}
        )  # fmt: skip
        self.agent.load(() if lost else self.rows, self.now)
        self.agent.drain()

        async def instance(machine: Machine) -> Instance:
            return Instance("i", {})

        self.half = Interfaces(
            self.agent, wanted=self.wanted, clock=lambda: self.now, knows=lambda: not self.lost, log=SILENT
        )
        side = CloudSide(cast(Api, self.server), "a", form=FORM, instance=instance, log=SILENT)
        self.publisher = Publisher(self.half, side, changed=lambda: None, log=SILENT)
        self.form = interfacenode.InterfaceForm(FORM)
        self.seen_at = (
            len(self.server.history) - 1
        )  # the first sight in a life is a list, and that is never old

    def show(self, at: int) -> None:
        self.seen_at = at
        source = msgspec.json.decode(self.server.history[at], type=interfacenode.InterfaceNode)
        self.publisher._told(self.form.node(source, own_addresses=True))

    @rule(lag=st.integers(0, 2))
    def watch(self, lag: int) -> None:
        at = max(self.seen_at, len(self.server.history) - 1 - lag)
        self.show(at)

    @rule(fault=FAULTS, second=FAULTS, meanwhile=NAMES | st.none())
    def publish(self, fault: str, second: str, meanwhile: str | None) -> None:
        self.server.faults = [fault, second]
        if meanwhile is not None:
            self.server.between = [lambda: self.allocate(meanwhile)]
        try:
            self.loop.run_until_complete(self.publisher._publish())
        except OmnipamError:
            pass
        self.server.faults, self.server.between = [], []

    @rule()
    def agent_catches_up(self) -> None:
        self.watch(0)
        self.publish("none", "none", None)

    @rule()
    def operator_catches_up(self) -> None:
        self.look_at(len(self.server.history) - 1)

    @precondition(lambda self: self.server.late)
    @rule()
    def a_late_write_lands(self) -> None:
        self.server.lands()

    @rule(name=NAMES)
    def allocate(self, name: str) -> None:
        if self.lost or name in self.held:
            return
        try:
            allocation, new = self.agent.allocate(self.request(name), self.now)
        except OmnipamError:
            return
        assert new
        address = str(allocation.given[0])
        assert address not in self.held.values()
        self.keep(name, address)

    @rule(name=NAMES, where=st.integers(0, 20))
    def allocate_exactly(self, name: str, where: int) -> None:
        everything = self.attached()
        if self.lost or name in self.held or not everything:
            return
        address = everything[where % len(everything)]
        try:
            allocation, _ = self.agent.allocate(self.request(name, address), self.now)
        except OmnipamError:
            return
        assert address not in self.held.values()
        self.keep(name, str(allocation.given[0]))

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        if self.lost or name not in self.held:
            return
        self.agent.release(("n", name, "i"), self.now)
        del self.held[name]
        self.rows = self.agent.stored()

    def keep(self, name: str, address: str) -> None:
        self.held[name] = address
        self.rows = self.agent.stored()

    def request(self, name: str, address: str | None = None) -> Request:
        number = parse_address(address).first if address else None
        return Request(("n", name, "i"), name, (Want("ipv4", "default", number),))

    @rule()
    def restart(self) -> None:
        if not self.lost:
            self.start(lost=False)

    @rule()
    def restart_without_state(self) -> None:
        self.start(lost=True)

    @precondition(lambda self: self.lost)
    @rule()
    def recover(self) -> None:
        """From what live containers show, as the agent does it."""
        self.show(len(self.server.history) - 1)
        for name, address in sorted(self.held.items()):
            place = parse_address(address)
            if any(block.cidr.contains(place) for block in self.agent.listed()):
                self.agent.allocate(self.request(name, address), self.now)
        self.lost = False
        self.half.matured()
        self.rows = self.agent.stored()

    @rule(names=st.lists(NAMES, min_size=3, max_size=6, unique=True))
    def many_come(self, names: list[str]) -> None:
        for name in names:
            self.allocate(name)

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.agent.tidy(self.now)
        self.half.matured()

    # -- the cloud

    def attached(self) -> list[str]:
        return self.single + [address for prefix in self.prefixes for address in within(prefix)]

    def publish_cloud(self) -> None:
        """Interfaces first, then addresses, as Cilium's operator does it."""
        addresses = self.attached()
        eni = {
            "id": ENI,
            "addresses": addresses,
            "prefixes": self.prefixes,
            "mac": "02:00:00:00:00:01",
            "subnet": {"cidr": "10.0.0.0/16"},
        }
        self.server.change({"status": {"eni": {"enis": {ENI: eni}}}})
        before = self.server.tree["spec"].get("ipam", {}).get("pool", {})
        pool: dict[str, Any] = dict.fromkeys(before)
        self.server.change(
            {"spec": {"ipam": {"pool": pool | {each: {"resource": ENI} for each in addresses}}}}
        )
        self.look_at(len(self.server.history) - 1)

    def look_at(self, at: int) -> None:
        """The operator sees that version of the object."""
        self.operator_at = at

    def taken(self, addresses: list[str]) -> None:
        """The cloud takes them from the interface: this is what must never happen to what is held."""
        assert not set(addresses) & set(self.held.values())

    @invariant()
    def none_is_held_twice(self) -> None:
        assert len(set(self.held.values())) == len(self.held)


class Handshake(Living):
    """The form addresses."""

    wanted = "addresses"

    def words(self, at: int | None = None) -> dict[str, str]:
        tree = json.loads(self.server.history[self.operator_at if at is None else at])
        return dict(tree.get("status", {}).get("ipam", {}).get("release-ips", {}))

    @rule(lag=st.integers(0, 2))
    def operator_looks(self, lag: int) -> None:
        self.operator_at = max(self.operator_at, len(self.server.history) - 1 - lag)

    def operator_writes(self, words: Mapping[str, str | None]) -> bool:
        """With the version that it has seen as precondition."""
        if self.operator_at != len(self.server.history) - 1:
            return False
        self.server.change({"status": {"ipam": {"release-ips": dict(words)}}})
        self.operator_at = len(self.server.history) - 1
        return True

    @rule(which=st.integers(0, 20), whole=st.booleans())
    def operator_marks(self, which: int, whole: bool) -> None:
        units = [[each] for each in self.single] + [within(each) for each in self.prefixes]
        if units:
            unit = units[which % len(units)]
            words = self.words()
            wanted = unit if whole else unit[:1]
            self.operator_writes({each: MARKED for each in wanted if each not in words})

    @rule(which=st.integers(0, 20))
    def operator_changes_its_mind(self, which: int) -> None:
        words = sorted(self.words())
        if words:
            self.operator_writes({words[which % len(words)]: None})

    @rule()
    def operator_drops_what_is_kept(self) -> None:
        self.operator_writes(dict.fromkeys([each for each, word in self.words().items() if word == KEPT]))

    @rule(which=st.integers(0, 20))
    def operator_releases(self, which: int) -> None:
        """By what it has seen, be it old; of a prefix it takes all, if one address of it is ready."""
        ready = sorted(each for each, word in self.words().items() if word == READY)
        if not ready:
            return
        address = ready[which % len(ready)]
        gone = [address]
        for prefix in self.prefixes:
            if address in within(prefix):
                gone = within(prefix)
                self.taken(gone)
                self.prefixes.remove(prefix)
                break
        else:
            if address not in self.single:
                return
            self.taken(gone)
            self.single.remove(address)
        # Its writes that follow are retried until they are done.
        self.server.change({"status": {"ipam": {"release-ips": dict.fromkeys(gone, RELEASED)}}})
        self.publish_cloud()

    @rule(which=st.integers(0, 20))
    def operator_assigns(self, which: int) -> None:
        missing = [each for each in SINGLE if each not in self.single]
        if missing:
            address = missing[which % len(missing)]
            self.single.append(address)
            # The word of its former release goes first.
            self.server.change({"status": {"ipam": {"release-ips": {address: None}}}})
            self.publish_cloud()

    @invariant()
    def nothing_that_is_held_is_ready(self) -> None:
        words = self.words(len(self.server.history) - 1)
        assert not any(words.get(address) == READY for address in self.held.values())


class Cidrs(Living):
    """The form cidrs."""

    wanted = "cidrs"

    def __init__(self) -> None:
        self.dropped: set[str] = set()
        super().__init__()

    def listed(self) -> set[str]:
        tree = json.loads(self.server.history[self.operator_at])
        pools = tree["spec"].get("ipam", {}).get("pools", {})
        return {cidr for entry in pools.get("allocated", []) for cidr in entry.get("cidrs", [])}

    @rule(lag=st.integers(0, 2))
    def operator_looks(self, lag: int) -> None:
        self.look_at(max(self.operator_at, len(self.server.history) - 1 - lag))

    def look_at(self, at: int) -> None:
        before = self.listed()
        self.operator_at = at
        after = self.listed()
        self.dropped = (self.dropped | (before - after)) - after

    @precondition(lambda self: self.dropped)
    @rule(which=st.integers(0, 20))
    def operator_releases(self, which: int) -> None:
        """What was left out for long, by a look that is less old than what the agent waits for."""
        while len(self.server.history) > self.operator_at + 1 and (
            self.now - self.server.times[self.operator_at + 1] >= LATE_S
        ):
            self.look_at(self.operator_at + 1)
        due = sorted(self.dropped)  # its delay is no protection
        if not due:
            return
        cidr = due[which % len(due)]
        self.dropped.remove(cidr)
        address = cidr.partition("/")[0]
        if cidr in self.prefixes:
            self.taken(within(cidr))
            self.prefixes.remove(cidr)
        elif cidr.endswith("/32") and address in self.single:
            self.taken([address])
            self.single.remove(address)
        else:
            return
        self.publish_cloud()

    @rule()
    def operator_starts_anew(self) -> None:
        """It marks all that is attached and not listed."""
        self.look_at(len(self.server.history) - 1)
        attached = {f"{each}/32" for each in self.single} | set(self.prefixes)
        if json.loads(self.server.history[-1])["spec"].get("ipam", {}).get("pools", {}).get("requested"):
            self.dropped = attached - self.listed()

    @rule(which=st.integers(0, 20))
    def operator_assigns(self, which: int) -> None:
        missing = [each for each in SINGLE if each not in self.single]
        if missing:
            self.single.append(missing[which % len(missing)])
            self.publish_cloud()


Handshake.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
Cidrs.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestHandshake = Handshake.TestCase
TestCidrs = Cidrs.TestCase


ALL = [f"c{number}" for number in range(6)]


def given_up() -> Cidrs:
    """An agent that has given up what it does not need, and an operator that is about to take it."""
    machine = Cidrs()
    machine.agent_catches_up()
    machine.operator_starts_anew()
    assert machine.dropped == set(PREFIXES)
    return machine


def test_what_is_taken_back_is_given_once_no_operator_can_have_missed_it() -> None:
    machine = given_up()
    machine.many_come(ALL)
    assert sorted(machine.held.values()) == SINGLE
    machine.agent_catches_up()  # it is listed again
    machine.wait(1.0)
    machine.many_come(ALL)
    assert sorted(machine.held.values()) == SINGLE
    machine.operator_catches_up()
    assert machine.dropped != set(PREFIXES)
    machine.wait(LATE_S)
    machine.many_come(ALL)
    assert len(machine.held) == 6
    machine.teardown()


def test_a_next_life_waits_where_an_earlier_one_may_have_given_up_or_taken_back() -> None:
    machine = given_up()
    machine.allocate("c0")
    machine.restart()
    machine.watch(0)
    machine.many_come(ALL)
    assert list(machine.held) == ["c0"]
    machine.wait(LATE_S)
    machine.many_come(ALL)
    assert sorted(machine.held.values()) == SINGLE, (
        "what was listed when it began; the rest is to be listed first"
    )
    machine.agent_catches_up()
    machine.wait(LATE_S)
    machine.many_come(ALL)
    assert len(machine.held) == 6
    machine.teardown()


@pytest.mark.parametrize("fault", ["after", "late"])
def test_a_giving_up_whose_answer_was_lost_may_be_known(fault: str) -> None:
    machine = Cidrs()
    machine.watch(0)
    machine.publish(fault, "none", None)
    machine.many_come(ALL)
    assert sorted(machine.held.values()) == SINGLE
    machine.teardown()


def test_a_giving_up_of_which_only_half_was_written_may_be_known() -> None:
    machine = Cidrs()
    machine.server.change({"status": {"ipam": {"used": {"10.0.1.1": {"owner": "of/old"}}}}})
    machine.watch(0)
    machine.publish("none", "before", None)
    machine.many_come(ALL)
    assert sorted(machine.held.values()) == SINGLE
    machine.teardown()


def test_a_giving_up_that_surely_was_not_written_is_ours_to_take_back() -> None:
    machine = Cidrs()
    machine.watch(0)
    machine.publish("before", "none", None)
    machine.many_come(ALL)
    machine.publish("none", "none", None)
    machine.many_come(ALL)
    assert len(machine.held) == 6
    machine.teardown()
