"""A watch as a protocol without I/O: bytes in, events out, and where to go on when the stream ends.

May live here: splitting, decoding, versions, phases. May not: sockets, clocks, sleeps, retries (those are `reflector`'s).
An object stays raw bytes until its event's type is known; one that cannot be decoded is reported and the stream goes on.
Source: Kubernetes API concepts, "Efficient detection of changes".
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

import msgspec

from omnipam.core.errors import OmnipamError, Unavailable

from .errors import event_error, one_line
from .meta import HasIdentity, Identity, Object, Status

T = TypeVar("T", bound=Object)

LONGEST_LINE = 16 * 1024 * 1024  # etcd holds objects of 1.5 MB; beyond this it is no watch
_IDENTITY = msgspec.json.Decoder(HasIdentity)


class ServerViolation(Unavailable):
    """The other end sent what no API server sends. Connect again; the session goes on from its last version."""

    reason = "ServerViolation"


class Changed(msgspec.Struct, Generic[T], frozen=True):
    """The object as it is now: created, or changed, or seen first."""

    object: T


class Deleted(msgspec.Struct, frozen=True):
    """The object is gone. `namespace` is empty for what lives in none; `uid` tells it from a namesake."""

    namespace: str
    name: str
    uid: str


class Unreadable(msgspec.Struct, frozen=True):
    """The object exists, and its type could not be read from it.

    why: one line, with the path of the field. raw: the object's JSON, for whoever can save a part of it.
    """

    namespace: str
    name: str
    uid: str
    version: str
    why: str
    raw: bytes


class Bookmark(msgspec.Struct, frozen=True):
    """Nothing changed up to `version`; opaque, good for resuming this watch only."""

    version: str


class Broken(msgspec.Struct, frozen=True):
    """The watch is over, by an error of the server's or because it sent nonsense; `WatchSession.ended` says how to go on."""

    error: OmnipamError


WatchEvent = Changed[T] | Deleted | Unreadable | Bookmark | Broken


class Phase(enum.Enum):
    """Where a session is. LISTING: it has no version to watch from. WATCHING: it has one."""

    LISTING = "listing"
    WATCHING = "watching"


class Input(enum.Enum):
    """What happens to a session."""

    LISTED = "listed"
    EVENT = "event"
    BOOKMARK = "bookmark"
    EXPIRED = "expired"
    ENDED = "ended"


TRANSITIONS: dict[tuple[Phase, Input], Phase] = {  # all that is legal
    (Phase.LISTING, Input.LISTED): Phase.WATCHING,
    (Phase.LISTING, Input.EXPIRED): Phase.LISTING,  # a continue token
    (Phase.LISTING, Input.ENDED): Phase.LISTING,
    (Phase.WATCHING, Input.EVENT): Phase.WATCHING,
    (Phase.WATCHING, Input.BOOKMARK): Phase.WATCHING,
    (Phase.WATCHING, Input.EXPIRED): Phase.LISTING,
    (Phase.WATCHING, Input.ENDED): Phase.WATCHING,
}


class Resume(msgspec.Struct, frozen=True):
    """Watch again from this version."""

    version: str


class Relist(msgspec.Struct, frozen=True):
    """The version is lost: list again, and compare."""


class _Envelope(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_STATUS = msgspec.json.Decoder(Status)


class WatchSession(Generic[T]):
    """One collection, followed over any number of connections.

    decoder: of one object. what: the collection, for messages.
    """

    def __init__(self, decoder: msgspec.json.Decoder[T], *, what: str) -> None:
        self._decoder = decoder
        self._what = what
        self._tail = b""
        self.phase = Phase.LISTING
        self.version = ""

    def listed(self, version: str) -> None:
        """A list has ended; watch from its version. Raises ServerViolation if the list had none."""
        if not version:
            raise ServerViolation(f"{self._what}: the list has no resourceVersion")
        self.phase = TRANSITIONS[self.phase, Input.LISTED]
        self.version = version
        self._tail = b""

    def expired(self) -> None:
        """The server has forgotten our version (410)."""
        self.phase = TRANSITIONS[self.phase, Input.EXPIRED]
        self.version = ""

    def receive_data(self, chunk: bytes) -> list[WatchEvent[T]]:
        """Return the events that the chunk completes, in order. After a `Broken`, always the last, comes only `ended`."""
        lines = (self._tail + chunk).split(b"\n") if self._tail else chunk.split(b"\n")
        self._tail = lines.pop()
        events: list[WatchEvent[T]] = []
        for line in lines:
            if not line.strip():
                continue
            event = self._event(line)
            events.append(event)
            if isinstance(event, Broken):
                return events
        if len(self._tail) > LONGEST_LINE:
            events.append(self._violation(f"an event of more than {LONGEST_LINE} bytes"))
        return events

    def ended(self) -> Resume | Relist:
        """The connection is over, however it ended. Half a line is forgotten: it comes again."""
        self.phase = TRANSITIONS[self.phase, Input.ENDED]
        self._tail = b""
        return Resume(self.version) if self.phase is Phase.WATCHING else Relist()

    def _event(self, line: bytes) -> WatchEvent[T]:
        try:
            envelope = _ENVELOPE.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            return self._violation(f"not a watch event ({exc})")
        match envelope.type:
            case "ADDED" | "MODIFIED":
                try:
                    obj = self._decoder.decode(envelope.object)
                except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
                    event = unreadable(envelope.object, exc)
                    self._moved(Input.EVENT, event.version)
                    return event
                self._moved(Input.EVENT, obj.metadata.resource_version)
                return Changed(obj)
            case "DELETED":
                meta = identity(envelope.object)
                self._moved(Input.EVENT, meta.resource_version)
                return Deleted(meta.namespace, meta.name, meta.uid)
            case "BOOKMARK":
                meta = identity(envelope.object)
                self._moved(Input.BOOKMARK, meta.resource_version)
                return Bookmark(meta.resource_version)
            case "ERROR":
                try:
                    status = _STATUS.decode(envelope.object)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    status = Status(message="an error that is no Status")
                if status.code == 410:
                    self.expired()
                return Broken(event_error(f"watch of {self._what}", status))
            case other:
                return self._violation(f"a watch event of type {other!r}")

    def _violation(self, what: str) -> Broken:
        return Broken(ServerViolation(one_line(f"{self._what}: {what}")))

    def _moved(self, what: Input, version: str) -> None:
        self.phase = TRANSITIONS[self.phase, what]
        if version:
            self.version = version


def identity(raw: msgspec.Raw | bytes) -> Identity:
    """Return what can be read of an object's metadata; empty where nothing can."""
    try:
        return _IDENTITY.decode(raw).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Identity()


def unreadable(raw: msgspec.Raw | bytes, exc: Exception) -> Unreadable:
    """Return the report on an object that did not decode."""
    meta = identity(raw)
    return Unreadable(
        meta.namespace, meta.name, meta.uid, meta.resource_version, one_line(str(exc)), bytes(raw)
    )
