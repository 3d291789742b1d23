"""Figures over time: arrivals and ends, the flow through the states, rates and their trend."""

from __future__ import annotations

from typing import Final

from jobtrail.core.states import STATES
from jobtrail.replay.report.changes import ALL_TYPES, Changes
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

#: Half the width of the window, in steps of time, that a trend is the rate of.
TREND_REACH: Final = 3


def _bin(changes: Changes) -> str:
    """Return the expression of the step of time that `t` lies in."""
    assert changes.bins is not None
    first, _end, step = changes.bins
    # A position may begin the range behind what happened earlier: it is counted where it begins.
    return f"{first} + (greatest(t, {first}) - {first}) // {step} * {step}"


def _bins(changes: Changes) -> str:
    assert changes.bins is not None
    first, end, step = changes.bins
    return f"SELECT range AS bin FROM range({first}, {end}, {step})"  # noqa: S608


def arrivals(changes: Changes) -> Figure:
    """Count arrivals and ends per step of time."""
    columns = (
        Column("begin", "From", "instant"),
        Column("arrived", "Arrived"),
        *END_COLUMNS,
    )
    if changes.bins is None:
        return Figure("arrivals", columns, [])
    found = ", ".join(f"coalesce({name}, 0)" for name in ("arrived", *ENDS))
    sql = f"""
      WITH bins AS ({_bins(changes)}), counted AS (
        SELECT {_bin(changes)} AS bin, count(*) FILTER (from_state IS NULL) AS arrived,
          {ENDS_COUNTED}
        FROM report_changes WHERE inside GROUP BY 1)
      SELECT bin, {found} FROM bins LEFT JOIN counted USING (bin) ORDER BY bin"""  # noqa: S608
    return Figure("arrivals", columns, ask(changes, sql))


def flow(changes: Changes) -> Figure:
    """Count the jobs in each state at the end of every step of time, and at the beginning."""
    columns = (Column("at", "At", "instant"), *(Column(str(s), s.capitalize()) for s in STATES))
    if changes.bins is None:
        return Figure("flow", columns, [])
    first, _end, step = changes.bins
    at = f"CASE WHEN inside THEN {_bin(changes)} + {step} ELSE {first} END"
    sums = ", ".join(f"coalesce(sum(n) FILTER (state = '{s}'), 0)::BIGINT AS {s}" for s in STATES)
    running = ", ".join(
        f"(sum(coalesce({s}, 0)) OVER (ORDER BY point))::BIGINT AS {s}" for s in STATES
    )
    sql = f"""
      WITH moved AS (
        SELECT {at} AS point, to_state AS state, count(*) AS n FROM report_changes GROUP BY 1, 2
        UNION ALL
        SELECT {at} AS point, from_state, -count(*) FROM report_changes
        WHERE from_state IS NOT NULL GROUP BY 1, 2),
      summed AS (SELECT point, {sums} FROM moved GROUP BY 1),
      points AS (SELECT {first} AS point UNION ALL SELECT bin + {step} FROM ({_bins(changes)}))
      SELECT least(greatest(point, {changes.begin}), {changes.end}), {running}
      FROM points LEFT JOIN summed USING (point) ORDER BY point"""  # noqa: S608
    return Figure("flow", columns, ask(changes, sql))


def rates(changes: Changes) -> Figure:
    """Compute failure and retry rates per step of time, with their trend."""
    columns = (
        Column("begin", "From", "instant"),
        Column("ended", "Ended"),
        Column("failed", "of these failed"),
        Column("failure_rate", "Failure rate", "share"),
        Column("failure_trend", "Trend", "share"),
        Column("runs", "Runs that ended"),
        Column("retried", "of these for a retry"),
        Column("retry_rate", "Retry rate", "share"),
        Column("retry_trend", "Trend", "share"),
    )
    if changes.bins is None:
        return Figure("rates", columns, [])
    rows = f"ROWS BETWEEN {TREND_REACH} PRECEDING AND {TREND_REACH} FOLLOWING"
    window = f"OVER (ORDER BY bin {rows})"
    sql = f"""
      WITH bins AS ({_bins(changes)}), counted AS (
        SELECT {_bin(changes)} AS bin, {_RATED} FROM report_changes WHERE inside GROUP BY 1),
      filled AS (
        SELECT bin, coalesce(ended, 0) AS ended, coalesce(failed, 0) AS failed,
          coalesce(runs, 0) AS runs, coalesce(retried, 0) AS retried
        FROM bins LEFT JOIN counted USING (bin))
      SELECT bin, ended, failed, failed / nullif(ended, 0),
        sum(failed) {window} / nullif(sum(ended) {window}, 0),
        runs, retried, retried / nullif(runs, 0),
        sum(retried) {window} / nullif(sum(runs) {window}, 0)
      FROM filled ORDER BY bin"""  # noqa: S608
    return Figure("rates", columns, ask(changes, sql))


_RATED: Final = f"""count(*) FILTER (to_state IN {ENDED}) AS ended,
  count(*) FILTER (to_state = 'failed') AS failed,
  count(*) FILTER ({RAN}) AS runs,
  count(*) FILTER ({RAN} AND to_state = 'retry') AS retried"""


def rates_by_type(changes: Changes) -> Figure:
    """Compute failure and retry rates per job type, of the range and of each of its halves."""
    columns = (
        TYPE,
        Column("ended", "Ended"),
        Column("failed", "of these failed"),
        Column("failure_rate", "Failure rate", "share"),
        Column("failure_rate_first_half", "in the first half", "share"),
        Column("failure_rate_second_half", "in the second half", "share"),
        Column("runs", "Runs that ended"),
        Column("retried", "of these for a retry"),
        Column("retry_rate", "Retry rate", "share"),
        Column("retry_rate_first_half", "in the first half", "share"),
        Column("retry_rate_second_half", "in the second half", "share"),
    )
    if changes.begin is None or changes.end is None:
        return Figure("rates_by_type", columns, [])
    middle = (changes.begin + changes.end) // 2
    sql = f"""
      WITH halves AS (
        SELECT label, rank, t > {middle} AS second, {_RATED} FROM report_changes
        WHERE inside GROUP BY ALL),
      every AS (
        SELECT * FROM halves UNION ALL
        SELECT '{ALL_TYPES}', 0, second, ended, failed, runs, retried FROM halves)
      SELECT label, {_rate_columns("failed", "ended")}, {_rate_columns("retried", "runs")}
      FROM every GROUP BY label, rank ORDER BY rank"""  # noqa: S608
    return Figure("rates_by_type", columns, ask(changes, sql))


def _rate_columns(some: str, of: str) -> str:
    halves = ", ".join(
        f"sum({some}) FILTER ({half}) / nullif(sum({of}) FILTER ({half}), 0)"
        for half in ("NOT second", "second")
    )
    return f"sum({of})::BIGINT, sum({some})::BIGINT, sum({some}) / nullif(sum({of}), 0), {halves}"
