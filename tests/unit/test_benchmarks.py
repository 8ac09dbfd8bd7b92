"""Benchmarks as far as they run without a server: the table, the results' file, exit codes, and how a moment is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from benchmarks import __main__ as program
from benchmarks import table
from benchmarks.operator_start import crossed
from benchmarks.runs import RunFailed
from benchmarks.table import Row

GOOD = Row.over("one thing", 3.0, 2.0, 1.5)
BAD = Row.over("another", 3.1, 2.0, 1.5)


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing here writes where real results lie."""
    write = table.write
    monkeypatch.setattr(table, "write", lambda name, rows: write(name, rows, tmp_path))
    return tmp_path


def test_a_ratio_is_judged_against_its_target() -> None:
    assert (GOOD.ratio, GOOD.ok, BAD.ok) == (1.5, True, False)
    assert not Row.over("medians", 3.0, 2.0, 1.5, ratio=1.6).ok


def test_without_a_floor_what_was_measured_is_judged() -> None:
    assert Row.most("writes", 1, 1).ok
    assert not Row.most("writes", 1.001, 1).ok
    assert Row.most("writes", 1, 1).ratio is None


def test_the_file_has_the_contract_s_shape(results: Path) -> None:
    path = table.write("fake", [GOOD, Row.most("memory, MB", 51.5, 80.0)])
    assert path == results / "fake.json"
    assert json.loads(path.read_text()) == {
        "version": 1,
        "rows": [
            {"name": "one thing", "measured": 3.0, "floor": 2.0, "ratio": 1.5, "target": 1.5, "ok": True},
            {
                "name": "memory, MB",
                "measured": 51.5,
                "floor": None,
                "ratio": None,
                "target": 80.0,
                "ok": True,
            },
        ],
    }
    assert [each.name for each in results.iterdir()] == ["fake.json"]


def test_the_table_has_a_line_a_row_with_aligned_columns() -> None:
    text = table.render([GOOD, BAD, Row.most("writes a node", 1.0, 1.0), Row.over("tiny", 4e-8, 2e-8, 60.0)])
    assert text.splitlines() == [
        "name           measured  floor   ratio   target  ok",
        "one thing             3      2  1.50 ×  ≤ 1.5 ×  ok",
        "another             3.1      2  1.55 ×  ≤ 1.5 ×  MISSED",
        "writes a node         1                     ≤ 1  ok",
        "tiny               40 n   20 n  2.00 ×   ≤ 60 ×  ok",
    ]


@pytest.mark.parametrize("made", [[{"name": "x", "measured": "fast"}], [{"name": "x"}], None, 3])
def test_rows_of_another_shape_are_refused(made: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        table.rows_of(made)


def test_rows_may_be_plain_dictionaries() -> None:
    row = {"name": "x", "measured": 2, "floor": 1, "ratio": 2, "target": 60, "ok": True}
    assert table.rows_of([row]) == (Row(name="x", measured=2, floor=1, ratio=2, target=60, ok=True),)


def _fails() -> object:
    raise RunFailed("the operator ended with 2: no kubeconfig")


@pytest.mark.parametrize(
    ("made", "code"),
    [(lambda: [GOOD], 0), (lambda: [GOOD, BAD], 1), (_fails, 1)],
    ids=["met", "missed", "failed"],
)
def test_the_exit_code_says_whether_all_targets_were_met(
    made: Callable[[], object], code: int, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([], {"fake": made, "other": lambda: [GOOD]}) == code
    out, err = capsys.readouterr()
    assert "cores" in err
    assert (results / "fake.json").exists() == (made is not _fails)
    assert (results / "other.json").exists(), "one that fails does not keep the rest from running"
    assert ("MISSED" in out) == (code == 1 and made is not _fails)
    assert ("did not run: the operator ended with 2" in err) == (made is _fails)


def test_only_what_is_named_runs(results: Path) -> None:
    assert program.main(["other"], {"fake": _fails, "other": lambda: [GOOD]}) == 0
    assert [each.name for each in results.iterdir()] == ["other.json"]


def test_an_unknown_name_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["ledgre"]) == 2
    assert "'ledgre' is none; use ledger, operator_start" in capsys.readouterr().err


def test_a_revision_was_reached_halfway_between_two_looks() -> None:
    looks = [(10.0, 100), (10.02, 150), (10.04, 180), (10.06, 200), (10.08, 200)]
    assert crossed(looks, 180) == pytest.approx(10.03)
    assert crossed(looks, 181) == pytest.approx(10.05)
    with pytest.raises(RunFailed):
        crossed(looks, 201)
