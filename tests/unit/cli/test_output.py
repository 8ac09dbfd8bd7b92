"""Tables and documents."""

from __future__ import annotations

import json

import pytest
import yaml

from omnipam.runtime.cli.output import age, clean, count, dump, facts, listed, table


def test_columns_are_as_wide_as_their_content() -> None:
    assert table(("A", "LONG-HEAD"), [("wide-cell", 1), ("x", "")]) == (
        "A          LONG-HEAD\nwide-cell  1\nx          <none>\n"
    )


def test_an_empty_table_has_its_head() -> None:
    assert table(("A", "B"), []) == "A  B\n"


def test_what_others_wrote_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b[31mred\nline") == "a\\x1b[31mred line"
    assert "\x1b" not in table(("A",), [("\x1b[2J",)]) + facts([("A", "\x1b[2J")])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.4, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86400 * 400, "400d")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_json_and_yaml_say_the_same() -> None:
    document = listed(
        [{"name": "10.0.0.0/8", "on": "yes", "big": 2**80, "empty": {}}, {"same": []}, {"same": []}]
    )
    assert yaml.safe_load(dump("yaml", document)) == json.loads(dump("json", document)) == document


def test_yaml_keeps_order_and_writes_no_anchors() -> None:
    shared = ["x"]
    text = dump("yaml", {"b": shared, "a": shared})
    assert text.index("b:") < text.index("a:")
    assert "&" not in text


def test_count() -> None:
    assert [count(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
