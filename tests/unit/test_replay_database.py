"""The DuckDB file: its tables against the pure fold, however often events are added; its views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from jobtrail.core.errors import LogGapError
from jobtrail.replay.export.database import Added, add_events, open_database, position_of
from jobtrail.replay.export.views import VIEWS
from jobtrail.replay.schemas import JOBS, TRANSITIONS
from tests.replay_rows import Logged, batch_of, expected
from tests.unit.test_replay_folding import made_up

LOG = made_up(300)
JOB_ROWS, MOVES = expected(LOG)


def rows(db: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    found = db.sql(query)
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def tables(db: duckdb.DuckDBPyConnection) -> tuple[Any, Any]:
    """Return jobs and transitions as the model tells them."""
    jobs = pa.RecordBatchReader.from_stream(db.sql("FROM jobs")).read_all().cast(JOBS)
    moves = pa.RecordBatchReader.from_stream(db.sql("FROM transitions")).read_all()
    by_job: dict[str, Any] = {row["id"]: [] for row in jobs.to_pylist()}
    for move in moves.cast(TRANSITIONS).to_pylist():
        by_job[move["job_id"]].append(move)
    return {row["id"]: row for row in jobs.to_pylist()}, by_job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A file with the whole log in it."""
    with open_database(tmp_path_factory.mktemp("duckdb") / "log.duckdb") as db:
        assert add_events(db, [batch_of(LOG)]) == Added(len(LOG), 300)
        yield db


def test_a_file_that_grows_is_at_any_time_what_one_made_at_once_is(tmp_path: Path) -> None:
    parts = (LOG[:400], LOG[400:401], [], LOG[401:])
    seen: list[Logged] = []
    for part in parts:
        with open_database(tmp_path / "log.duckdb") as db:
            seen += part
            ends = {place.partition: place.offset + 1 for place, _ in seen}
            touched = {event.subject for _, event in part}
            batches = [batch_of(part[at : at + 100]) for at in range(0, len(part), 100)]
            assert add_events(db, batches, ends) == Added(len(part), len(touched))
            assert tables(db) == expected(seen)
            assert position_of(db) == ends
            assert rows(db, "SELECT count(*) AS n FROM events") == [{"n": len(seen)}]


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def cut() -> Iterator[pa.RecordBatch]:
        yield batch_of(LOG[100:200])
        raise LogGapError("Offsets are missing.", where="partition 0")

    with open_database(tmp_path / "log.duckdb") as db:
        assert position_of(db) == {}
        add_events(db, [batch_of(LOG[:100])], {0: 34})
        with pytest.raises(LogGapError, match="partition 0"):
            add_events(db, cut(), {0: 67})
        assert tables(db) == expected(LOG[:100])
        assert position_of(db) == {0: 34}


def test_every_view_says_in_the_file_what_it_tells(whole: duckdb.DuckDBPyConnection) -> None:
    known = rows(whole, "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal")
    assert {row["view_name"]: row["comment"] for row in known} == {v.name: v.tells for v in VIEWS}


def test_summary_counts_jobs_by_type_and_state(whole: duckdb.DuckDBPyConnection) -> None:
    counts = Counter((job["job_type"], job["state"]) for job in JOB_ROWS.values())
    states = ("active", "cancelled", "completed", "created", "expired", "failed", "retry")
    assert rows(whole, "FROM summary") == [
        {
            "job_type": name,
            "total": sum(counts[name, state] for state in states),
            **{state: counts[name, state] for state in states},
        }
        for name in ("t", None)
    ]


def nearest_rank(values: list[float], percent: int) -> float | None:
    """The smallest value that at least so many percent of them don't exceed."""
    return sorted(values)[-(-len(values) * percent // 100) - 1] if values else None


def test_durations_are_of_stays_that_are_over(whole: duckdb.DuckDBPyConnection) -> None:
    for row in rows(whole, "FROM durations"):
        moves = [m for of in MOVES.values() for m in of if m["job_type"] == row["job_type"]]
        for name, states in (("waiting", ("created", "retry")), ("running", ("active",))):
            stays = [move["seconds"] for move in moves if move["from_state"] in states]
            assert stays
            assert row[name] == len(stays)
            assert row[f"{name}_max"] == max(stays)
            for percent in (50, 90, 99):
                assert row[f"{name}_p{percent}"] == nearest_rank(stays, percent)


def test_days_and_hours_are_those_of_utc(whole: duckdb.DuckDBPyConnection) -> None:
    whole.execute("SET TimeZone = 'Pacific/Auckland'")
    moves = [move for of in MOVES.values() for move in of]
    hours = Counter(
        (m["time"].replace(minute=0, second=0, microsecond=0, tzinfo=None), m["to_state"])
        for m in moves
    )
    found = rows(whole, "FROM throughput_by_hour")
    states = [name for name in found[0] if name != "hour"]
    assert {(row["hour"], s): row[s] for row in found for s in states if row[s]} == hours
    bad = Counter(
        (m["time"].date(), m["job_type"])
        for m in moves
        if m["to_state"] in ("retry", "failed", "expired")
    )
    assert bad == {
        (row["day"], row["job_type"]): row["retry"] + row["failed"] + row["expired"]
        for row in rows(whole, "FROM failures_by_day")
    }
    for row in rows(whole, "FROM failures_by_day"):
        assert row["share"] == round((row["failed"] + row["expired"]) / row["ended"], 4)


def test_longest_running_owners_and_ignored(whole: duckdb.DuckDBPyConnection) -> None:
    found = rows(whole, "FROM longest_running")
    active = {name: moves[-1]["time"] for name, moves in MOVES.items() if moves}
    active = {name: at for name, at in active.items() if JOB_ROWS[name]["state"] == "active"}
    assert {row["id"]: row["active_since"] for row in found} == active
    seconds = [row["seconds"] for row in found]
    assert seconds == sorted(seconds, reverse=True)
    owners = Counter(job["owner"] for job in JOB_ROWS.values())
    assert {row["owner"]: row["total"] for row in rows(whole, "FROM owners")} == owners
    ignored = {job["id"]: job["ignored"] for job in JOB_ROWS.values() if job["ignored"]}
    assert ignored
    assert {row["id"]: row["ignored"] for row in rows(whole, "FROM ignored_events")} == ignored
