"""What a cloud account has: interfaces with their addresses, instances, subnets, groups. Pure; whose word counts is decided here.

Three rules. What a mutation answered outweighs every read begun within the cloud's grace after it; else the newest read wins; and
an address or an interface leaves only after two reads without it, or by our own removal. What could not be read is unknown, and
never taken for nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .cidr import Cidr

State = Literal["free", "attaching", "attached", "detaching", "deleting", "updating"]
"""free: attached to nothing. Anything but free and attached is a change under way: nothing else is planned on it."""


class Interface(msgspec.Struct, frozen=True, gc=False):
    """One interface. Addresses are integers, sorted; prefixes are their first addresses (/28, /80). 450,000 of them must fit.

    index: its place on its instance. first: the instance's own, which stays. serves: whether the cloud lets it serve pods at all.
    addresses: without the primary one, and without those of prefixes. created: seconds since the epoch; 0: not known.
    attachment: what detaching names. writer: what a change locks; empty: the interface. stamp: the version that a change must
    name; opaque: what the adapter needs to write it whole. Both are handed back unread.
    """

    id: str
    instance: str = ""
    index: int = 0
    subnet: str = ""
    mac: str = ""
    primary: int = 0
    addresses: tuple[int, ...] = ()
    prefixes: tuple[int, ...] = ()
    ipv6_addresses: tuple[int, ...] = ()
    ipv6_prefixes: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    state: State = "attached"
    first: bool = False
    serves: bool = True
    public: str = ""
    created: float = 0.0
    attachment: str = ""
    writer: str = ""
    stamp: str = ""
    opaque: bytes = b""

    @property
    def lock(self) -> str:
        """What a change of it excludes others from."""
        return self.writer or self.id

    def joined(self, before: Interface, last: Interface | None) -> Interface:
        """This read, with the addresses that were there before and of which it is the first read without them.

        last: what the read before this one showed; None: it did not show the interface at all.
        """
        if last is None:
            return self

        def kept(mine: tuple[int, ...], theirs: tuple[int, ...], shown: tuple[int, ...]) -> tuple[int, ...]:
            return mine if mine == theirs else tuple(sorted({*mine, *({*theirs} & {*shown})}))

        after = msgspec.structs.replace(
            self,
            addresses=kept(self.addresses, before.addresses, last.addresses),
            prefixes=kept(self.prefixes, before.prefixes, last.prefixes),
            ipv6_addresses=kept(self.ipv6_addresses, before.ipv6_addresses, last.ipv6_addresses),
            ipv6_prefixes=kept(self.ipv6_prefixes, before.ipv6_prefixes, last.ipv6_prefixes),
        )
        return self if after == self else after


class Instance(msgspec.Struct, frozen=True, gc=False):
    """One machine. type and zone: empty where the cloud was not asked."""

    id: str
    type: str = ""
    zone: str = ""
    network: str = ""
    running: bool = True


class Subnet(msgspec.Struct, frozen=True, gc=False):
    """free: addresses that the cloud says are left, without those that plans have reserved."""

    id: str
    network: str = ""
    zone: str = ""
    cidrs: tuple[Cidr, ...] = ()
    free: int = 0
    tags: tuple[tuple[str, str], ...] = ()


class Group(msgspec.Struct, frozen=True, gc=False):
    """A security group."""

    id: str
    network: str = ""
    tags: tuple[tuple[str, str], ...] = ()


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What an instance type carries. interfaces: on the card that we attach to. addresses: of an interface, the primary one included."""

    interfaces: int
    addresses: int
    ipv6_addresses: int = 0
    prefixes: bool = False


class Listing(msgspec.Struct, frozen=True):
    """One read. scope: the instances asked for; None: the whole account, with what is attached to nothing.

    unread: instances of which something could not be read: of them nothing is learned.
    """

    begun: float
    interfaces: tuple[Interface, ...]
    scope: frozenset[str] | None = None
    unread: frozenset[str] = frozenset()


class Inventory:
    """grace_s: how long after a mutation a read may not show it yet."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._interfaces: dict[str, Interface] = {}
        self._of: dict[str, set[str]] = {}
        self._begun: dict[str, float] = {}  # the read that an interface's state is of
        self._settles: dict[
            str, float
        ] = {}  # reads begun before do not count: a mutation was later, or too close
        self._last: dict[
            str, Interface | None
        ] = {}  # what the newest read that counted showed, where we keep more than that
        self._removed: dict[str, float] = {}  # by ourselves: until when a read may still show it
        self._seen: dict[str, float] = {}  # instances, with the newest read that covered them
        self.listed_at: float | None = None
        """When the newest read of the whole account began."""

    def of(self, instance: str) -> tuple[Interface, ...] | None:
        """An instance's interfaces, by index. None: it was never read, or the newest reads do not have it: unknown."""
        ids = self._of.get(instance)
        if not ids:
            return None
        return tuple(sorted((self._interfaces[each] for each in ids), key=lambda each: (each.index, each.id)))

    def covered(self, instance: str) -> float | None:
        """When the newest read began that should have shown the instance; None: there was none."""
        return self._seen.get(instance, self.listed_at)

    def get(self, interface: str) -> Interface | None:
        return self._interfaces.get(interface)

    def free(self) -> tuple[Interface, ...]:
        """What is attached to nothing, by id."""
        return tuple(self._interfaces[each] for each in sorted(self._of.get("", ())))

    def __len__(self) -> int:
        return len(self._interfaces)

    # -- reads

    def take(self, listing: Listing) -> frozenset[str]:
        """Takes in a read. Answers the instances of which something is now another."""
        changed: set[str] = set()
        begun, scope = listing.begun, listing.scope
        shown = {each.id for each in listing.interfaces}
        for each in listing.interfaces:
            if each.instance not in listing.unread:
                self._look(each, begun, changed)
        for name in self._covered_by(scope):
            if name not in shown and self._interfaces[name].instance not in listing.unread:
                self._miss(name, begun, changed)
        if scope is None:
            self.listed_at = max(begun, self.listed_at or begun)
            for instance in [each for each, at in self._seen.items() if at <= begun]:
                del self._seen[instance]
            for name in [each for each, until in self._removed.items() if until < begun]:
                del self._removed[name]
        else:
            for instance in scope - listing.unread:
                self._seen[instance] = max(begun, self.covered(instance) or begun)
        return frozenset(changed - {""})

    def _look(self, each: Interface, begun: float, changed: set[str]) -> None:
        name = each.id
        if begun < max(self._removed.get(name, 0.0), self._settles.get(name, 0.0)):
            return
        if begun <= self._begun.get(name, float("-inf")):
            return
        before = self._interfaces.get(name)
        kept = each
        if before is not None and before.instance == each.instance:
            kept = each.joined(before, self._last.get(name, before))
        if kept is each:
            self._last.pop(name, None)
        else:
            self._last[name] = each
        self._begun[name] = begun
        self._settles.pop(name, None)
        self._put(kept, changed)

    def _miss(self, name: str, begun: float, changed: set[str]) -> None:
        if begun < self._settles.get(name, 0.0) or begun <= self._begun.get(name, float("-inf")):
            return
        self._begun[name] = begun
        if name in self._last and self._last[name] is None:
            self._drop(name, changed)
        else:
            self._last[name] = None

    def _covered_by(self, scope: frozenset[str] | None) -> list[str]:
        if scope is None:
            return list(self._interfaces)
        return [name for instance in sorted(scope) for name in sorted(self._of.get(instance, ()))]

    # -- mutations

    def changed(self, after: Interface, at: float) -> None:
        """A mutation's answer: the interface is so now. at: when the answer came."""
        self._removed.pop(after.id, None)
        self._last.pop(after.id, None)
        self._begun[after.id] = max(at, self._begun.get(after.id, at))
        self._settles[after.id] = at + self._grace_s
        self._put(after, set())

    def removed(self, interface: str, at: float) -> None:
        """A mutation's answer: it is no more."""
        self._drop(interface, set())
        self._removed[interface] = at + self._grace_s

    # -- within

    def _put(self, each: Interface, changed: set[str]) -> None:
        before = self._interfaces.get(each.id)
        if before == each:
            return
        if before is not None and before.instance != each.instance:
            self._leave(before)
            changed.add(before.instance)
        self._interfaces[each.id] = each
        self._of.setdefault(each.instance, set()).add(each.id)
        changed.add(each.instance)

    def _drop(self, name: str, changed: set[str]) -> None:
        before = self._interfaces.pop(name, None)
        if before is None:
            return
        self._leave(before)
        changed.add(before.instance)
        self._begun.pop(name, None)
        self._settles.pop(name, None)
        self._last.pop(name, None)

    def _leave(self, each: Interface) -> None:
        ids = self._of[each.instance]
        ids.discard(each.id)
        if not ids:
            del self._of[each.instance]
