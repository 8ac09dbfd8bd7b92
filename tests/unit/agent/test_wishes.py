"""What is wished for a node in a cloud: flags, and the CNI configuration that Cilium's agent reads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnipam.core.errors import Invalid
from omnipam.runtime.agent.instance import add_arguments, texts_of, wishes_in, wishes_of

from .test_instance import Log

MODES = ("eni", "azure", "alibabacloud")
# As in Cilium's documentation of its ENI mode, with the sections of the other clouds beside.
CILIUM = {
    "type": "cilium-cni",
    "ipam": {"min-allocate": 10, "pre-allocate": 0, "type": "cilium", "routes": [{"dst": "0.0.0.0/0"}]},
    "eni": {"subnet-tags": {"foo": "true"}, "first-interface-index": 1, "use-primary-address": False},
    "azure": {"interface-name": "eth1"},
    "alibaba-cloud": {"vswitches": ["vsw-1"], "security-groups": []},
}


def written(folder: Path, content: object) -> Path:
    path = folder / "05-cilium.conflist"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_sections_of_the_mode(tmp_path: Path, wrapped: bool) -> None:
    conf = (
        {"cniVersion": "0.3.1", "name": "cilium", "plugins": [{"type": "portmap"}, CILIUM]}
        if wrapped
        else CILIUM
    )
    path, log = written(tmp_path, conf), Log()
    assert wishes_in(path, "eni", log) == {
        "ipam": {"min-allocate": 10},
        "eni": {"subnet-tags": {"foo": "true"}, "first-interface-index": 1, "use-primary-address": False},
    }
    assert wishes_in(path, "azure", log) == {
        "ipam": {"min-allocate": 10},
        "azure": {"interface-name": "eth1"},
    }
    assert wishes_in(path, "alibabacloud", log) == {
        "ipam": {"min-allocate": 10},
        "alibaba-cloud": {"vswitches": ["vsw-1"]},
    }
    assert log.lines == []


def test_our_plugin_beneath_another(tmp_path: Path) -> None:
    bridge = {"type": "ptp", "ipam": {"type": "omnipam-cni", "pool": "blue", "max-allocate": 20}}
    path = written(tmp_path, {"name": "n", "plugins": ["odd", {"type": "tuning"}, bridge]})
    assert wishes_in(path, "eni", Log()) == {"ipam": {"max-allocate": 20}}


@pytest.mark.parametrize(
    "conf", [{}, {"plugins": []}, {"plugins": None, "eni": None}, {"eni": {"subnet-ids": None}}]
)
def test_nothing_is_wished(tmp_path: Path, conf: object) -> None:
    assert wishes_in(written(tmp_path, conf), "eni", Log()) == {}


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    log = Log()
    path = written(tmp_path, {"eni": {"securty-groups": ["sg-1"], "min-allocate": 4}})
    assert wishes_in(path, "eni", log) == {}
    assert log.lines == [
        (
            "the CNI configuration has fields that are ignored",
            {"path": str(path), "section": "eni", "fields": "min-allocate, securty-groups"},
        )
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no object"),
        ({"eni": []}, "eni: '\\[\\]' is no object|eni: \\[\\] is no object"),
        ({"eni": {"first-interface-index": "1"}}, "eni.first-interface-index: .* is not a whole number"),
        ({"eni": {"first-interface-index": True}}, "eni.first-interface-index: True is not a whole number"),
        ({"eni": {"first-interface-index": -1}}, "eni.first-interface-index: -1 is not a whole number"),
        ({"ipam": {"min-allocate": 1 << 40}}, "ipam.min-allocate"),
        ({"ipam": {"min-allocate": 1.5}}, "ipam.min-allocate"),
        ({"eni": {"security-groups": "sg-1"}}, "eni.security-groups: .* is not a list of texts"),
        ({"eni": {"security-groups": ["sg-1", 2]}}, "eni.security-groups"),
        ({"eni": {"subnet-tags": {"a": 1}}}, "eni.subnet-tags: .* is not an object of texts"),
        ({"eni": {"subnet-tags": {"a\n": "b"}}}, "eni.subnet-tags: .* cannot be printed"),
        ({"eni": {"use-primary-address": "yes"}}, "eni.use-primary-address"),
        ({"eni": {"vpc-id": 7}}, "eni.vpc-id: 7 is not a text"),
        ("x" * (2 << 20), "is larger than"),
    ],
)
def test_one_line(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        wishes_in(written(tmp_path, content), "eni", Log())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(Invalid, match=r"read-cni-conf: .*cannot be read"):
            wishes_in(path, "eni", Log())


def given_flags(*flags: str) -> dict[str, str]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return texts_of(parser.parse_args(flags))


def test_flags_are_weaker_than_the_file(tmp_path: Path) -> None:
    texts = given_flags(
        "--ipam-min-allocate=3", "--ipam-pre-allocate=5", "--ipam-max-allocate", "0", "--eni-subnet-ids=subnet-1,subnet-2",
        "--eni-security-group-tags=a=b,c=d", "--eni-delete-on-termination=false", "--eni-first-interface-index=2",
        "--azure-interface-name=eth9",
    )  # fmt: skip
    log = Log()
    assert wishes_of("eni", texts, written(tmp_path, CILIUM), log) == {
        "ipam": {"min-allocate": 10, "pre-allocate": 5},
        "eni": {
            "subnet-ids": ["subnet-1", "subnet-2"],
            "security-group-tags": {"a": "b", "c": "d"},
            "delete-on-termination": False,
            "first-interface-index": 1,
            "subnet-tags": {"foo": "true"},
            "use-primary-address": False,
        },
    }
    assert log.lines == [
        ("settings for another cloud are ignored", {"mode": "eni", "settings": "azure-interface-name"})
    ]


def test_empty_settings_wish_for_nothing() -> None:
    texts = dict.fromkeys(
        given_flags("--ipam-min-allocate=", "--eni-subnet-tags=", "--azure-interface-name="), ""
    )
    assert wishes_of("eni", texts, None, Log()) == {}
    assert given_flags() == {}


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("ipam-min-allocate", "many"),
        ("ipam-min-allocate", "-1"),
        ("eni-first-interface-index", "007"),
        ("eni-subnet-tags", "tag"),
        ("eni-delete-on-termination", "maybe"),
        ("eni-subnet-ids", "subnet\x1b"),
    ],
)
def test_a_bad_flag(flag: str, text: str) -> None:
    with pytest.raises(Invalid, match=f"^{flag}: .*; write it as") as caught:
        wishes_of("eni", {flag: text}, None, Log())
    assert str(caught.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "plugins", "type", "ipam", "eni", "azure", "alibaba-cloud", "min-allocate", "subnet-tags", "interface-name",
        "security-groups", "first-interface-index", "cilium-cni"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.sampled_from(MODES))
def test_any_file(tmp_path_factory: pytest.TempPathFactory, content: object, mode: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conflist"
    path.write_text(json.dumps(content))
    try:
        found, said = wishes_in(path, mode, Log()), ""
    except Invalid as error:
        found, said = {}, str(error)
    assert said.isprintable()
    assert all(found.values())
    assert json.loads(json.dumps(found)) == found
