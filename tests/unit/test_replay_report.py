"""A report of the real trace: its figures against plain SQL over the CSV, and its files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import duckdb
import pytest

from jobtrail.errors import UsageError
from jobtrail.events import decode
from jobtrail.importing.google_2011 import Trace
from jobtrail.replay.folding import fold_tables
from jobtrail.replay.report import PLOTS, About, Range, Report
from tests.replay_rows import Logged, batch_of
from tests.replay_tables import placed

ROWS = 20_000
SQL = f"""
CREATE TABLE raw AS FROM (SELECT row_number() OVER () AS line, * FROM
  read_csv(?, header=true, parallel=false, all_varchar=true) LIMIT {ROWS});
CREATE TABLE steps AS
SELECT job_id, event_type::int AS kind, time_us::bigint AS t,
  lag(event_type::int) OVER job AS before, lag(time_us::bigint) OVER job AS t0
FROM raw WHERE event_type::int < 7 WINDOW job AS (PARTITION BY job_id ORDER BY line);
"""


@pytest.fixture(scope="module")
def plain(trace: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as database:
        database.execute(SQL.replace("?", f"'{trace}'"))
        yield database


@pytest.fixture(scope="module")
def report(trace: Path) -> Report:
    made = (row.events[0].value for row in islice(Trace().read(trace), ROWS))
    logged = [Logged(place, event) for place, event in placed(map(decode, made))]
    about = About("the trace", {0: 1}, "all of it", (), datetime(2026, 11, 24, tzinfo=UTC))
    with duckdb.connect() as database, fold_tables([batch_of(logged)]) as folded:
        folded.jobs.to_duckdb(database, "jobs")
        folded.transitions.to_duckdb(database, "transitions")
        return Report.of(database, Range(), about)


def read(folder: Path, name: str) -> list[Mapping[str, str]]:
    with (folder / f"{name}.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_figures_are_what_sql_finds_in_the_file(
    report: Report, plain: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    report.write_csv(tmp_path)
    (totals,) = read(tmp_path, "totals")
    wanted = plain.execute(
        "SELECT count(DISTINCT job_id), count(*) FILTER (event_type='4'), "
        "count(*) FILTER (event_type='3'), count(*) FILTER (event_type='5') FROM raw"
    ).fetchone()
    found = tuple(int(totals[name]) for name in ("jobs", "completed", "failed", "cancelled"))
    assert found == wanted
    arrivals = read(tmp_path, "arrivals")
    assert sum(int(row["arrived"]) for row in arrivals) == found[0]
    assert sum(int(row["completed"]) for row in arrivals) == found[1]
    for name, kinds, before in (
        ("waiting", "kind = 1", "before IN (0, 2)"),
        ("running", "kind IN (2, 3, 4, 5, 6)", "before = 1"),
    ):
        stays, longest, total = plain.execute(
            f"SELECT count(*), max(t - t0) / 1e6, sum(t - t0) / 1e6 FROM steps "
            f"WHERE {kinds} AND {before}"
        ).fetchall()[0]
        whole = read(tmp_path, name)[0]
        assert (whole["job_type"], int(whole["stays"])) == ("(all types)", stays)
        assert float(whole["max"]) == pytest.approx(longest)
        assert float(whole["total"]) == pytest.approx(total)
        ((median,),) = plain.execute(
            f"SELECT quantile_disc((t - t0) / 1e6, 0.5) FROM steps WHERE {kinds} AND {before}"
        ).fetchall()
        assert float(whole["p50"]) == pytest.approx(median)


def test_the_page_needs_no_other_and_plots_are_pictures(report: Report, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report.write_page(page)
    text = page.read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)|url\((?!#|data:)|@import|<script", text)
    assert text.count("<svg") >= len(PLOTS)
    for name in PLOTS:
        report.write_png(name, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no such plot"):
        report.write_png("pie", tmp_path / "pie.png")


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    about = About("a log", {}, "all of it", (), datetime(2026, 11, 24, tzinfo=UTC))
    with duckdb.connect() as database, fold_tables([]) as folded:
        folded.jobs.to_duckdb(database, "jobs")
        folded.transitions.to_duckdb(database, "transitions")
        report = Report.of(database, Range(), about)
    report.write_page(tmp_path / "empty.html")
    assert "No " in (tmp_path / "empty.html").read_text()
