"""What the Google trace says, computed from the CSV by SQL alone: no event, no fold, no store.

It relies on what the trace is: per job, one SUBMIT and one SCHEDULE, then at most one end, but
for one job that fails and is submitted anew. `check_assumptions` holds it to that.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

START = datetime(2011, 5, 1, 22, 50, tzinfo=UTC)
STATES = ("created", "active", "retry", "completed", "failed", "cancelled", "expired")

_EVENTS = """
CREATE TABLE events AS SELECT row_number() OVER () AS line, * FROM (
  SELECT * FROM read_csv(?, header=true, parallel=false, columns={
    'time_us': 'BIGINT', 'job_id': 'VARCHAR', 'event_type': 'INTEGER', 'user': 'VARCHAR',
    'scheduling_class': 'VARCHAR', 'logical_job_name': 'VARCHAR'}) LIMIT ?)
"""
# A later SUBMIT is of a job that failed: it changes nothing until it is scheduled.
_JOBS = """
CREATE TEMP TABLE jobs AS
SELECT job_id AS id,
  arg_max(CASE event_type WHEN 0 THEN 'created' WHEN 1 THEN 'active' WHEN 2 THEN 'retry'
    WHEN 3 THEN 'failed' WHEN 4 THEN 'completed' WHEN 5 THEN 'cancelled' WHEN 6 THEN 'expired'
    END, line) FILTER (event_type < 7 AND (event_type > 0 OR line = first)) AS state,
  min(time_us) AS created_us,
  max(time_us) AS updated_us,
  min(time_us) FILTER (event_type = 1) AS started_us,
  max(time_us) FILTER (event_type BETWEEN 3 AND 6) AS ended_us,
  arg_min(user, line) AS owner,
  'scheduling-class-' || arg_min(scheduling_class, line) AS job_type,
  arg_min(logical_job_name, line) AS bulk_id,
  count(*) FILTER (event_type = 0) - 1 AS attempt,
  count(*) AS events
FROM (SELECT *, min(line) OVER (PARTITION BY job_id) AS first FROM events WHERE time_us <= ?)
GROUP BY job_id
"""
_EVER = 2**62


class Oracle:
    """The trace's first `events` rows, to be asked.

    A job fails and is submitted anew: `job.created` after a failure is no transition, the
    `job.active` behind it is one of a higher attempt. So its last type decides here too.
    """

    def __init__(self, trace: Path, events: int) -> None:
        self.db = duckdb.connect()
        self.db.execute(_EVENTS, [str(trace), events])
        self.db.execute(_JOBS, [_EVER])
        self.check_assumptions()

    def at(self, time_us: int) -> Oracle:
        """Return one that knows the rows up to an instant, in microseconds of the trace."""
        past = object.__new__(Oracle)
        # A connection of its own, with jobs of its own.
        past.db = self.db.cursor()
        past.db.execute(_JOBS, [time_us])
        return past

    def check_assumptions(self) -> None:
        """Fail where the rows are not of the shape that the SQL takes for granted."""
        (unordered,) = self._one(
            "SELECT count(*) FROM (SELECT time_us < lag(time_us) OVER (ORDER BY line) AS back "
            "FROM events) WHERE back"
        )
        (not_submitted,) = self._one(
            "SELECT count(*) FROM (SELECT arg_min(event_type, line) AS first FROM events "
            "GROUP BY job_id) WHERE first <> 0"
        )
        (submitted_last,) = self._one(
            "SELECT count(*) FROM (SELECT arg_max(event_type, line) AS last, count(*) AS n "
            "FROM events GROUP BY job_id) WHERE last = 0 AND n > 1"
        )
        (resumed,) = self._one(
            "SELECT count(*) FROM (SELECT event_type, lag(event_type) OVER (PARTITION BY job_id "
            "ORDER BY line) AS before FROM events WHERE event_type < 7) "
            "WHERE event_type = 0 AND before NOT IN (3)"
        )
        assert (unordered, not_submitted, submitted_last, resumed) == (0, 0, 0, 0)

    def _one(self, sql: str, *values: Any) -> Any:
        return self.db.execute(sql, list(values)).fetchone()

    @property
    def events(self) -> int:
        """How many events there are."""
        return int(self._one("SELECT count(*) FROM events")[0])

    def users(self, count: int) -> list[str]:
        """Some users: those with the most jobs, and every so many-th of the others."""
        names = [
            name
            for (name,) in self.db.execute(
                "SELECT owner FROM jobs GROUP BY owner ORDER BY count(*) DESC, owner"
            ).fetchall()
        ]
        half = count // 2
        step = max((len(names) - half) // (count - half), 1)
        return names[:half] + names[half::step][: count - half]

    def summary(
        self,
        owner: str | None = None,
        job_types: tuple[str, ...] = (),
        first: datetime | None = None,
        last: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """The answer of GET /jobs/summary; `first` and `last` are inclusive instants."""
        counts = ", ".join(f"count(*) FILTER (state = '{s}')" for s in STATES)
        rows = self.db.execute(
            f"SELECT job_type, {counts} FROM jobs WHERE ($1 IS NULL OR owner = $1) "
            "AND (len($2) = 0 OR list_contains($2, job_type)) "
            "AND ($3 IS NULL OR created_us >= $3) AND ($4 IS NULL OR created_us <= $4) "
            "GROUP BY job_type ORDER BY job_type",
            [owner, list(job_types), _us(first), _us(last)],
        ).fetchall()
        return [
            {"jobType": row[0], "total": sum(row[1:]), **dict(zip(STATES, row[1:], strict=True))}
            for row in rows
        ]

    def largest_bulk(self) -> str:
        """The bulk with the most jobs."""
        return str(self._one("SELECT bulk_id FROM jobs GROUP BY 1 ORDER BY count(*) DESC, 1")[0])

    def bulk(self, bulk_id: str) -> dict[str, dict[str, Any]]:
        """The answer of GET /jobs?bulkId=."""
        rows = self.db.execute("SELECT id, state FROM jobs WHERE bulk_id = ?", [bulk_id])
        return {
            job_id: {"id": job_id, "state": state, "output": None}
            for job_id, state in rows.fetchall()
        }

    def listing(self, owner: str) -> list[dict[str, Any]]:
        """Every job of GET /jobs/search, over all pages, newest first."""
        rows = self.db.execute(
            "SELECT id, state, job_type, bulk_id, created_us, started_us, updated_us, "
            "CASE WHEN state IN ('completed', 'failed', 'cancelled', 'expired') THEN ended_us END,"
            " attempt FROM jobs WHERE owner = ? ORDER BY created_us DESC, id",
            [owner],
        ).fetchall()
        return [
            {
                "id": row[0],
                "state": row[1],
                "output": None,
                "jobType": row[2],
                "owner": owner,
                "bulkId": row[3],
                "createdAt": _iso(row[4]),
                "startedAt": _iso(row[5]),
                "updatedAt": _iso(row[6]),
                "endedAt": _iso(row[7]),
                "attempt": row[8],
                "progress": None,
                "error": None,
                "tags": {"logicalName": row[3]},
                "viewers": [],
            }
            for row in rows
        ]


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - START) // timedelta(microseconds=1)


def _iso(us: int | None) -> str | None:
    if us is None:
        return None
    instant = START + timedelta(microseconds=us)
    digits = "milliseconds" if instant.microsecond % 1000 == 0 else "microseconds"
    return instant.isoformat(timespec=digits).replace("+00:00", "Z")
