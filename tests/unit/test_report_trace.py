"""Every figure of a report on real jobs, as its CSV files have it, against a recomputation."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobtrail.core import events as ev
from jobtrail.core.events import microseconds
from jobtrail.importing.google_2011 import Trace
from jobtrail.replay.report import About, Range, Report
from jobtrail.replay.report.figures import FIGURES
from tests.replay_tables import PARTITIONS, tables_of
from tests.trace_part import first_rows
from tests.trace_report import START, Recomputed

ROWS = 50_000
NOWHERE = About("a test", {}, "", (), datetime(2026, 11, 23, tzinfo=UTC))
MIDDLE = datetime(2011, 5, 2, 14, 7, tzinfo=UTC)
POSITION = {0: 3_000, 1: 0, 3: 7_777}


@pytest.fixture(scope="module")
def part(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the trace's first rows."""
    return first_rows(trace, tmp_path_factory.mktemp("trace"), ROWS)


@pytest.fixture(scope="module")
def connection(part: Path) -> duckdb.DuckDBPyConnection:
    events = (ev.decode(made.value) for row in Trace().read(part) for made in row.events)
    return tables_of(events)


Inside = Callable[[int, int, int], bool]
RANGES: dict[str, tuple[Range, Inside]] = {
    "all": (Range(), lambda t, p, o: True),
    "since an instant": (Range(since=MIDDLE), lambda t, p, o: t >= microseconds(MIDDLE)),
    "since a position": (Range(since=POSITION), lambda t, p, o: o >= POSITION.get(p, 0)),
    "to a later instant": (
        Range(until=MIDDLE + timedelta(days=300)),
        lambda t, p, o: True,
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_every_figure_is_what_the_rows_say(
    name: str, part: Path, connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    range_, inside = RANGES[name]
    report = Report.of(connection, range_, NOWHERE)
    files = report.write_csv(tmp_path)
    assert {file.stem for file in files} == set(FIGURES)
    found = {file.stem: read(file) for file in files}
    right = Recomputed(part, PARTITIONS, inside)
    instants = [change.t for change in right.inside]
    begin = microseconds(MIDDLE) if name == "since an instant" else min(instants)
    end = max(instants) if range_.until is None else microseconds(range_.until)
    begins = [instant(row[0]) for row in found["arrivals"]]
    step = begins[1] - begins[0]
    assert begins == list(range(begins[0], begins[-1] + 1, step))
    assert begins[0] <= begin < begins[0] + step
    assert begins[-1] <= end < begins[-1] + step
    assert begins[0] % step == 0
    assert 20 <= len(begins) <= 200
    points = [begin, *(at for at in begins[1:]), end]
    expected = {
        "totals": right.totals(),
        "types": right.types_figure(),
        "arrivals": right.arrivals(begins, step),
        "flow": right.flow(points),
        "waiting": right.percentiles("waiting"),
        "running": right.percentiles("running"),
        "rates": right.rates(begins, step),
        "rates_by_type": right.rates_by_type((begin + end) // 2),
        "slowest": right.slowest(20),
        "oldest": right.oldest(20, end),
        "users": right.users(20),
    }
    for figure, rows in expected.items():
        kinds = [column.kind for column in report.figures[figure].columns]
        given = [list(map(typed, kinds, row)) for row in found[figure]]
        assert given == rows, figure
    for which in ("waiting", "running"):
        spans = [(r[0], float(r[1]), float(r[2])) for r in found[f"{which}_distribution"]]
        counts = [int(row[3]) for row in found[f"{which}_distribution"]]
        assert counts == right.distribution(which, spans)


def test_the_slice_has_what_makes_it_worth_while(part: Path) -> None:
    right = Recomputed(part, PARTITIONS, lambda t, p, o: True)
    assert right.rows == ROWS
    assert right.ignored >= 0
    assert len(right.order) == 4
    assert len(set(right.owners.values())) > 21
    assert {change.after for change in right.changes} >= {"completed", "failed", "cancelled"}


def read(file: Path) -> list[list[str]]:
    with file.open(newline="") as lines:
        return list(csv.reader(lines))[1:]


def typed(kind: str, text: str) -> Any:
    if kind == "text":
        return text
    if text == "":
        return None
    return instant(text) if kind == "instant" else float(text)


def instant(text: str) -> int:
    at = microseconds(datetime.fromisoformat(text))
    assert at > START - 10**12
    return at
