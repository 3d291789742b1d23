"""Real traffic at any instant: the fold of the log equals what SQL says of the rows of the CSV.

The SQL knows no event and no rule of the fold: a job is what its rows up to the instant say, and a
row that submits a job again says nothing: it stands with what was before it. `TRACE_EVENTS=1007362`
takes the whole file (minutes); the default is a part of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pytest

from jobtrail.core.events import decode
from jobtrail.core.job import Place
from jobtrail.core.partitions import partition_of
from jobtrail.importing.google_2011 import Trace
from jobtrail.replay.folding.jobs import fold_tables
from tests.e2e.oracle import START, Oracle
from tests.replay_rows import Logged, batch_of

EVENTS: Final = int(os.environ.get("TRACE_EVENTS", "60000"))
PARTITIONS: Final = 8
# The tables of the CSV, up to an instant in microseconds of the trace's own clock.
_NAMES = """CASE event_type WHEN 0 THEN 'created' WHEN 1 THEN 'active' WHEN 2 THEN 'retry'
  WHEN 3 THEN 'failed' WHEN 4 THEN 'completed' WHEN 5 THEN 'cancelled' WHEN 6 THEN 'expired' END"""
_TOLD = f"""
WITH numbered AS (
  SELECT *, count(*) FILTER (event_type = 0) OVER job AS submits FROM events
  WINDOW job AS (PARTITION BY job_id ORDER BY line)),
weighed AS (SELECT *, event_type <> 0 OR submits = 1 AS counts FROM numbered),
effective AS (
  SELECT *, max(time_us) FILTER (counts) OVER (PARTITION BY job_id ORDER BY line) AS since
  FROM weighed),
told AS (
  SELECT *, {_NAMES} AS name, 'scheduling-class-' || scheduling_class AS job_type,
    make_timestamp(1304290200000000 + time_us) AS moment
  FROM effective WHERE since <= $1)"""
_JOBS = f"""
{_TOLD},
jobs AS (
  SELECT job_id, arg_max(name, line) FILTER (counts AND event_type < 7) AS state,
    arg_min(job_type, line), arg_min(user, line), arg_min(logical_job_name, line),
    min(moment), min(moment) FILTER (event_type = 1), max(moment) FILTER (counts),
    max(moment) FILTER (event_type BETWEEN 3 AND 6) AS ended,
    max(submits) FILTER (counts) - 1, count(*), count(*) FILTER (NOT counts)
  FROM told GROUP BY job_id)
SELECT * REPLACE (
  CASE WHEN state IN ('completed', 'failed', 'cancelled', 'expired') THEN ended END AS ended)
FROM jobs"""
_MOVES = f"""
{_TOLD}
SELECT job_id, moment, lag(name) OVER job, name, submits - 1,
  (epoch_us(moment) - lag(epoch_us(moment)) OVER job) / 1e6
FROM told WHERE event_type < 7 AND counts
WINDOW job AS (PARTITION BY job_id ORDER BY line)"""
_FOUND_JOBS = """
SELECT id, state, job_type, owner, bulk_id, {created_at}, {started_at}, {updated_at}, {ended_at},
  attempt, events, ignored FROM found_jobs""".format(
    **{
        name: f"make_timestamp(epoch_us({name}))"
        for name in ("created_at", "started_at", "updated_at", "ended_at")
    }
)
_FOUND_MOVES = """
SELECT job_id, make_timestamp(epoch_us("time")), from_state, to_state, attempt, seconds
FROM found_moves"""


@pytest.fixture(scope="module")
def oracle(trace: Path) -> Oracle:
    return Oracle(trace, EVENTS)


@pytest.fixture(scope="module")
def batches(trace: Path) -> list[pa.RecordBatch]:
    """The trace's first events as they lie in a log."""
    return list(_batches(trace))


def _batches(trace: Path) -> Iterator[pa.RecordBatch]:
    offsets = [0] * PARTITIONS
    rows = islice(Trace().read(trace), EVENTS)
    while part := list(islice(rows, 4096)):
        log = []
        for row in part:
            (made,) = row.events
            partition = partition_of(made.job, PARTITIONS)
            place = Place(partition, offsets[partition], 0)
            offsets[partition] += 1
            log.append(Logged(place, decode(made.value)))
        yield batch_of(log)


def instants(oracle: Oracle) -> list[int]:
    """Return twenty instants, in the trace's microseconds: exact and about those of events."""
    times = [t for (t,) in oracle.db.execute("SELECT time_us FROM events ORDER BY line").fetchall()]
    chosen = [times[len(times) * part // 18] for part in range(18)]
    return [at - 1 if number % 3 == 2 else at for number, at in enumerate(chosen)] + [
        times[-1],
        times[-1] + 10**12,
    ]


def differing(db: duckdb.DuckDBPyConnection, expected: str, found: str, at: int) -> list[object]:
    """Return the rows that only one of two queries gives."""
    rows = []
    for one, other in ((expected, found), (found, expected)):
        rows += db.execute(f"({one}) EXCEPT ALL ({other}) LIMIT 3", [at]).fetchall()
    return rows


def test_jobs_and_transitions_at_twenty_instants(
    oracle: Oracle, batches: list[pa.RecordBatch]
) -> None:
    seen = set()
    for at in instants(oracle):
        when: datetime = START + timedelta(microseconds=at)
        with fold_tables(batches, when) as folded:
            folded.jobs.to_duckdb(oracle.db, "found_jobs")
            folded.transitions.to_duckdb(oracle.db, "found_moves")
            seen.add((len(folded.jobs), len(folded.transitions)))
        # `$1` has to be in both: the instant bounds what is expected alone.
        assert differing(oracle.db, _JOBS, f"{_FOUND_JOBS} WHERE $1 IS NOT NULL", at) == []
        assert differing(oracle.db, _MOVES, f"{_FOUND_MOVES} WHERE $1 IS NOT NULL", at) == []
    assert len(seen) >= 15
    assert max(moves for _, moves in seen) > EVENTS * 0.99
