"""What a report counts: the changes of state of a range, with what each needs to be counted by.

Everything is aggregated by DuckDB from `jobs` and `transitions`; a report never holds more than
its own figures.

Instants are microseconds since 1970. A change counts from its own time, but never from before the
job's change before it: times come from the events, and clocks disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

import duckdb

from jobtrail.core.events import microseconds

#: The job types that are named, those with the most jobs; the others are put together.
NAMED_TYPES: Final = 20
#: The most steps that time is cut into.
MAX_BINS: Final = 200
ALL_TYPES: Final = "(all types)"
NO_TYPE: Final = "(no type)"

_SECOND: Final = 1_000_000
#: What can be written as a date.
_FIRST_DAY: Final = microseconds(datetime.min.replace(tzinfo=UTC))
_HOUR: Final = 3_600 * _SECOND
_DAY: Final = 24 * _HOUR
_STEPS: Final = (
    _SECOND, 10 * _SECOND, 60 * _SECOND, 600 * _SECOND, _HOUR, 6 * _HOUR, _DAY, 7 * _DAY,
)  # fmt: skip


@dataclass(frozen=True)
class Range:
    """Which changes are counted. The tables end where the range does.

    Args:
        since: The first instant, or the position in the log that it begins at; None for all.
        until: The last instant, where it is one.
    """

    since: datetime | Mapping[int, int] | None = None
    until: datetime | None = None


class Bins(NamedTuple):
    """How time is cut: from `first` to before `end`, in steps; microseconds."""

    first: int
    end: int
    step: int


@dataclass(frozen=True)
class Changes:
    """The table `report_changes` of a connection, and the range that it covers.

    Its columns: `job_id`, `place` (the offset), `t`, `from_state`, `to_state`, `attempt`,
    `us` and `seconds` (of the stay in `from_state`, at least 0), `label` (of the job type) with
    `rank`, `owner`, `inside` (whether it lies in the range; else it is before).
    """

    connection: duckdb.DuckDBPyConnection = field(repr=False)
    #: The first and the last instant; None where nothing changed.
    begin: int | None
    end: int | None
    bins: Bins | None


def _where(since: datetime | Mapping[int, int] | None) -> str:
    """Return the condition that a change is in the range."""
    if since is None:
        return "true"
    if isinstance(since, datetime):
        return f"t >= {microseconds(since)}"
    # Of a partition that a position does not name everything is behind it.
    cases = " ".join(f"WHEN {int(p)} THEN place >= {int(o)}" for p, o in sorted(since.items()))
    return f"CASE partition {cases} ELSE true END" if cases else "true"


_TYPES: Final = f"""
CREATE OR REPLACE TEMP TABLE report_types AS
WITH counted AS (
  SELECT coalesce(job_type, '') AS job_type, count(*) AS jobs FROM jobs GROUP BY 1),
ranked AS (
  SELECT job_type, row_number() OVER (ORDER BY jobs DESC, job_type) AS rank,
    count(*) OVER () AS types FROM counted)
SELECT job_type,
  CASE WHEN rank > {NAMED_TYPES} AND types > {NAMED_TYPES + 1}
    THEN '(' || (types - {NAMED_TYPES}) || ' other types)'
    WHEN job_type = '' THEN '{NO_TYPE}' ELSE job_type END AS label,
  CASE WHEN types > {NAMED_TYPES + 1} THEN least(rank, {NAMED_TYPES + 1}) ELSE rank END AS rank
FROM ranked
"""  # noqa: S608

_CHANGES: Final = """
CREATE OR REPLACE TEMP TABLE report_changes AS
SELECT job_id, place, t, from_state, to_state, attempt, us, us / 1e6 AS seconds, label, rank, owner,
  {inside} AS inside
FROM (
  SELECT job_id, partition, "offset" AS place, from_state, to_state, attempt,
    max(epoch_us("time")) OVER (PARTITION BY job_id ORDER BY "offset") AS t,
    greatest(round(seconds * 1e6), 0)::BIGINT AS us, coalesce(job_type, '') AS job_type,
    coalesce(owner, '(no owner)') AS owner
  FROM transitions)
JOIN report_types USING (job_type)
"""


@contextmanager
def changes(connection: duckdb.DuckDBPyConnection, range_: Range) -> Iterator[Changes]:
    """Make the tables that a report's figures are computed from, and drop them afterwards.

    Args:
        connection: With `jobs` and `transitions` of jobtrail/replay/schemas.py.
        range_: Which changes are counted.
    """
    try:
        connection.execute(_TYPES)
        connection.execute(_CHANGES.format(inside=_where(range_.since)))
        found = connection.execute(
            "SELECT min(t), max(t) FROM report_changes WHERE inside"
        ).fetchone()
        assert found is not None
        begin, end = found
        if begin is not None:
            if isinstance(range_.since, datetime):
                begin = microseconds(range_.since)
            if range_.until is not None:
                end = microseconds(range_.until)
        bins = None if begin is None else cut(begin, end)
        yield Changes(connection, begin, end, bins)
    finally:
        connection.execute("DROP TABLE IF EXISTS report_changes")
        connection.execute("DROP TABLE IF EXISTS report_types")


def cut(begin: int, end: int) -> Bins:
    """Cut a range of time into at most `MAX_BINS` steps that begin at round instants.

    Args:
        begin: The first instant, microseconds.
        end: The last one.
    """
    days = -(-(end - begin + 1) // (_DAY * (MAX_BINS - 1)))
    for step in (*_STEPS, days * _DAY):
        # Never before the calendar's first day, which steps of many years may reach behind.
        first = max(begin // step * step, _FIRST_DAY)
        if (end - first) // step < MAX_BINS:
            break
    return Bins(first, first + ((end - first) // step + 1) * step, step)
