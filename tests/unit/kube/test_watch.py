"""The watch session: bytes in, events out; what it makes of nonsense; where it goes on."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.errors import Unavailable
from omnipam.runtime.kube import watch
from omnipam.runtime.kube.errors import Expired
from omnipam.runtime.kube.meta import ObjectMeta
from omnipam.runtime.kube.watch import (
    TRANSITIONS,
    Bookmark,
    Broken,
    Changed,
    Deleted,
    Input,
    Phase,
    Relist,
    Resume,
    ServerViolation,
    Unreadable,
    WatchSession,
)


class Thing(msgspec.Struct):
    metadata: ObjectMeta = ObjectMeta()
    size: int = 0


def thing(name: str, version: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"u-{name}", "resourceVersion": version}, **fields}


def line(kind: str, obj: object) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def session() -> WatchSession[Thing]:
    new = WatchSession(msgspec.json.Decoder(Thing), what="things")
    new.listed("100")
    return new


def test_each_type_of_event() -> None:
    watching = session()
    events = watching.receive_data(
        line("ADDED", thing("a", "101", size=1))
        + line("MODIFIED", thing("a", "102", size=2))
        + line("BOOKMARK", thing("", "110"))
        + line("DELETED", thing("a", "111"))
    )
    match events:
        case [Changed(object=one), Changed(object=two), Bookmark(version="110"), Deleted("", "a", "u-a")]:
            assert (one.size, two.size) == (1, 2)
        case _:
            pytest.fail(f"{events}")
    assert watching.ended() == Resume("111")


def test_a_bookmark_moves_the_version() -> None:
    watching = session()
    watching.receive_data(line("BOOKMARK", thing("", "170")))
    assert watching.ended() == Resume("170")


def test_versions_are_opaque_and_the_last_one_seen_counts() -> None:
    watching = session()
    watching.receive_data(line("ADDED", thing("a", "zz")) + line("ADDED", thing("b", "aa")))
    assert watching.ended() == Resume("aa")


def test_410_inside_the_stream_means_relist_and_ends_the_chunk() -> None:
    watching = session()
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    events = watching.receive_data(
        line("ADDED", thing("a", "101")) + line("ERROR", status) + line("ADDED", thing("b", "102"))
    )
    assert [type(event) for event in events] == [Changed, Broken]
    assert isinstance(events[1], Broken)
    assert isinstance(events[1].error, Expired)
    assert watching.ended() == Relist()


def test_another_error_keeps_the_version() -> None:
    watching = session()
    (event,) = watching.receive_data(line("ERROR", {"kind": "Status", "code": 500, "message": "etcd\nwoe"}))
    assert isinstance(event, Broken)
    assert isinstance(event.error, Unavailable)
    assert str(event.error) == "watch of things: 500: etcd woe"
    assert watching.ended() == Resume("100")


def test_an_undecodable_object_is_named_and_the_stream_goes_on() -> None:
    watching = session()
    bad = thing("bad", "101", size="large")
    events = watching.receive_data(line("MODIFIED", bad) + line("ADDED", thing("good", "102")))
    match events:
        case [Unreadable(namespace="", name="bad", uid="u-bad", version="101", why=why, raw=raw), Changed()]:
            assert "$.size" in why
            assert json.loads(raw) == bad
        case _:
            pytest.fail(f"{events}")


def test_a_deleted_object_need_not_be_decodable() -> None:
    assert session().receive_data(line("DELETED", thing("bad", "101", size="large"))) == [
        Deleted("", "bad", "u-bad")
    ]


def test_an_object_with_bad_metadata_is_reported_without_a_name() -> None:
    watching = session()
    (event,) = watching.receive_data(line("ADDED", {"metadata": 7}))
    assert isinstance(event, Unreadable)
    assert event.name == ""
    assert watching.ended() == Resume("100")


@pytest.mark.parametrize("nonsense", [b"<html>\n", b"[]\n", b"{}\n", line("CHANGED", {}), b"\xff\xfe\n"])
def test_what_is_no_event_is_the_servers_fault_and_what_came_before_counts(nonsense: bytes) -> None:
    """Nothing after it is looked at: the version must not run ahead of what was told."""
    watching = session()
    before, broken = watching.receive_data(
        line("ADDED", thing("a", "101")) + nonsense + line("ADDED", thing("b", "102"))
    )
    assert isinstance(before, Changed)
    assert isinstance(broken, Broken)
    assert isinstance(broken.error, ServerViolation)
    assert str(broken.error).startswith("things: ")
    assert watching.ended() == Resume("101")
    assert len(watching.receive_data(line("ADDED", thing("b", "102")))) == 1


def test_a_line_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LONGEST_LINE", 1000)
    watching = session()
    assert watching.receive_data(b"x" * 900) == []
    (event,) = watching.receive_data(b"x" * 900)
    assert isinstance(event, Broken)
    assert watching.ended() == Resume("100")


def test_half_a_line_at_the_end_is_forgotten() -> None:
    watching = session()
    whole = line("ADDED", thing("a", "101"))
    assert watching.receive_data(whole[:-10]) == []
    assert watching.ended() == Resume("100")
    assert len(watching.receive_data(whole)) == 1


def test_a_list_without_a_version_is_refused() -> None:
    with pytest.raises(ServerViolation):
        WatchSession(msgspec.json.Decoder(Thing), what="things").listed("")


def test_the_table_is_the_law() -> None:
    """Events in LISTING, and a list while WATCHING, are our own mistakes and say so."""
    fresh = WatchSession(msgspec.json.Decoder(Thing), what="things")
    with pytest.raises(KeyError):
        fresh.receive_data(line("ADDED", thing("a", "1")))
    with pytest.raises(KeyError):
        session().listed("5")
    assert {phase for phase, _ in TRANSITIONS} == set(Phase)
    assert {what for _, what in TRANSITIONS} == set(Input)


EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda kind, name, v, size: line(kind, thing(name, str(v), size=size)),
            st.sampled_from(["ADDED", "MODIFIED", "DELETED"]),
            st.text(max_size=5),
            st.integers(1),
            st.one_of(st.integers(0, 9), st.text(max_size=3)),
        ),
        st.builds(lambda v: line("BOOKMARK", thing("", str(v))), st.integers(1)),
    ),
    max_size=12,
)


@given(EVENTS, st.lists(st.integers(0, 2000), max_size=20))
def test_where_the_chunks_are_cut_does_not_matter(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(lines)
    whole, cut = session(), session()
    expected = whole.receive_data(stream)
    got = []
    edges = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    for start, end in pairwise(edges):
        got += cut.receive_data(stream[start:end])
    assert got == expected
    assert len(got) == len(lines)
    assert cut.ended() == whole.ended()


@given(st.lists(st.binary(max_size=100)))
def test_no_bytes_at_all_raise_anything(chunks: list[bytes]) -> None:
    watching = session()
    for chunk in chunks:
        events = watching.receive_data(chunk + b"\n")
        assert all(isinstance(event, Broken) and "\n" not in str(event.error) for event in events)
        assert watching.ended() == Resume("100")
