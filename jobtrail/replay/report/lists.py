"""Figures that count or list jobs: all of them, by type, the slowest, the oldest, by user."""

from __future__ import annotations

from typing import Final

from jobtrail.core.states import STATES
from jobtrail.replay.report.changes import Changes
from jobtrail.replay.report.figure import (
    END_COLUMNS,
    ENDED,
    ENDS,
    ENDS_COUNTED,
    RAN,
    TYPE,
    Column,
    Figure,
    ask,
)

#: How many jobs and users are listed.
LISTED: Final = 20


def totals(changes: Changes) -> Figure:
    """Count what the whole report stands on."""
    columns = (
        Column("jobs", "Jobs"),
        Column("events", "Their events"),
        Column("ignored", "Events that were ignored"),
        Column("arrived", "Jobs that arrived in the range"),
        Column("changes", "Changes of state in the range"),
        *(Column(str(end), f"Ends as {end} in the range") for end in ENDS),
        Column("open", "Jobs that have not ended"),
        Column("backwards", "Stays whose times go backwards"),
    )
    ends = ", ".join(f"count(*) FILTER (inside AND to_state = '{end}')" for end in ENDS)
    sql = f"""
      WITH counted AS (
        SELECT count(*) FILTER (inside AND from_state IS NULL), count(*) FILTER (inside), {ends}
        FROM report_changes),
      known AS (
        SELECT count(*) AS jobs, coalesce(sum(events), 0)::BIGINT AS events,
          coalesce(sum(ignored), 0)::BIGINT AS ignored,
          count(*) FILTER (state NOT IN {ENDED}) AS open FROM jobs)
      SELECT jobs, events, ignored, counted.*, open,
        (SELECT count(*) FROM transitions WHERE seconds < 0) FROM known, counted"""  # noqa: S608
    return Figure("totals", columns, ask(changes, sql))


def types(changes: Changes) -> Figure:
    """Count jobs by type and state, as they are at the end of the range."""
    columns = (TYPE, Column("jobs", "Jobs"), *(Column(str(s), s.capitalize()) for s in STATES))
    states = ", ".join(f"count(*) FILTER (state = '{s}')" for s in STATES)
    sql = f"""
      SELECT label, count(*), {states} FROM (
        SELECT coalesce(job_type, '') AS job_type, state FROM jobs)
      JOIN report_types USING (job_type) GROUP BY label, rank ORDER BY rank"""  # noqa: S608
    return Figure("types", columns, ask(changes, sql))


_PHASES: Final = f"""
  coalesce(sum(us) FILTER (from_state = 'created'), 0) / 1e6 AS waiting,
  coalesce(sum(us) FILTER (from_state = 'retry'), 0) / 1e6 AS in_retry,
  coalesce(sum(us) FILTER ({RAN}), 0) / 1e6 AS running,
  coalesce(sum(us) FILTER (from_state IN {ENDED}), 0) / 1e6 AS ended_between"""
_WHOSE: Final = (
    Column("id", "Job", "text"),
    TYPE,
    Column("owner", "Owner", "text"),
    Column("state", "State", "text"),
    Column("attempt", "Attempt"),
    Column("arrived", "Arrived", "instant"),
)


def slowest(changes: Changes) -> Figure:
    """List the jobs that took longest, of those whose last change ended them in the range."""
    columns = (
        *_WHOSE,
        Column("ended", "Ended", "instant"),
        Column("waiting", "Waiting", "seconds"),
        Column("in_retry", "In retry", "seconds"),
        Column("running", "Running", "seconds"),
        Column("ended_between", "Ended, then taken up again", "seconds"),
        Column("total", "Total", "seconds"),
    )
    sql = f"""
      WITH lives AS (
        SELECT job_id, any_value(label), any_value(owner), arg_max(to_state, place) AS state,
          arg_max(attempt, place), min(t), max(t), {_PHASES},
          coalesce(sum(us), 0) / 1e6 AS total, arg_max(inside, place) AS inside
        FROM report_changes GROUP BY job_id)
      SELECT * EXCLUDE (inside) FROM lives WHERE inside AND state IN {ENDED}
      ORDER BY total DESC, job_id LIMIT {LISTED}"""  # noqa: S608
    return Figure("slowest", columns, ask(changes, sql))


def oldest(changes: Changes) -> Figure:
    """List the jobs that have not ended, those that arrived first before the others."""
    columns = (
        *_WHOSE,
        Column("since", "In this state since", "instant"),
        Column("age", "Age at the end of the range", "seconds"),
    )
    if changes.end is None:
        return Figure("oldest", columns, [])
    sql = f"""
      WITH lives AS (
        SELECT job_id, any_value(label), any_value(owner), arg_max(to_state, place) AS state,
          arg_max(attempt, place), min(t) AS arrived, max(t),
          ({changes.end} - min(t)) / 1e6 AS age
        FROM report_changes GROUP BY job_id)
      SELECT * FROM lives WHERE state NOT IN {ENDED}
      ORDER BY arrived, job_id LIMIT {LISTED}"""  # noqa: S608
    return Figure("oldest", columns, ask(changes, sql))


def users(changes: Changes) -> Figure:
    """List the users whose jobs ran longest, and the others together."""
    columns = (
        Column("owner", "Owner", "text"),
        Column("arrived", "Jobs that arrived"),
        *END_COLUMNS,
        Column("running", "Running", "seconds"),
        Column("running_share", "Share of all running", "share"),
    )
    sums = ", ".join(f"sum({name})::BIGINT" for name in ("arrived", *ENDS))
    sql = f"""
      WITH each AS (
        SELECT owner, count(*) FILTER (from_state IS NULL) AS arrived, {ENDS_COUNTED},
          coalesce(sum(us) FILTER ({RAN}), 0) AS running
        FROM report_changes WHERE inside GROUP BY owner),
      ranked AS (
        SELECT *, row_number() OVER (ORDER BY running DESC, arrived DESC, owner) AS rank,
          count(*) OVER () AS users FROM each),
      grouped AS (
        SELECT *, CASE WHEN rank <= {LISTED} THEN rank ELSE {LISTED} + 1 END AS place FROM ranked)
      SELECT CASE WHEN place > {LISTED} THEN '(' || count(*) || ' others)'
          ELSE any_value(owner) END, {sums}, sum(running) / 1e6,
        sum(running) / nullif((SELECT sum(running) FROM each), 0)
      FROM grouped GROUP BY place ORDER BY place"""  # noqa: S608
    return Figure("users", columns, ask(changes, sql))
