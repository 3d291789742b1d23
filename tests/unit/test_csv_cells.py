"""Cells that a spreadsheet would compute are plain text; figures and all else stay as they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobtrail.replay.export.csv_cells import guarded, guarded_column
from jobtrail.replay.export.export import csv_lines, to_csv

FORMULAS = ("=1+1", "+1", "-1+2", "@SUM(A1)", "\tx", "\rx", "\n=x", '=HYPERLINK("http://x")', "＝1")
PLAIN = ("a=b", "job-1", "", "'=1", " =1", "é", "1")
SCHEMA = pa.schema([("id", pa.string()), ("error", pa.string()), ("seconds", pa.float64())])


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_both_ways_guard_the_same(text: str) -> None:
    expected = text if text in PLAIN else f"'{text}"
    assert guarded(text) == expected
    assert guarded_column("id", pa.array([text, None])).to_pylist() == [expected, None]


@pytest.mark.parametrize("value", [None, -1, -1.5])
def test_figures_stay_figures(value: object) -> None:
    assert guarded(value) is value


def test_json_that_is_a_negative_number_stays_json() -> None:
    texts = pa.array(["-5", "-1.5e3", "-5+cmd", "=1"])
    assert guarded_column("output", texts).to_pylist() == ["-5", "-1.5e3", "'-5+cmd", "'=1"]


@pytest.mark.parametrize("raw", [False, True])
def test_files_and_growing_files_hold_the_same_cells(tmp_path: Path, raw: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"id": text, "error": None, "seconds": -1.5} for text in FORMULAS + PLAIN
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    assert to_csv(SCHEMA, [batch], tmp_path / "x.csv", raw=raw) == len(rows)
    content = (tmp_path / "x.csv").read_bytes()
    assert content.partition(b"\n")[2] == csv_lines(batch, raw=raw)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["id"] for row in found] == [
        row["id"] if raw else guarded(row["id"]) for row in rows
    ]
    assert {row["seconds"] for row in found} == {"-1.5"}
