"""Figures of how long jobs waited and ran: percentiles and distributions per job type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from jobtrail.replay.report.changes import ALL_TYPES, Changes
from jobtrail.replay.report.figure import TYPE, Column, Figure, ask

# 1, 1.5, 2, 3, 5, 7 and ten times as much, from a millisecond to three hundred years.
_EDGES: Final = [
    round(digit * 10**power, 6) for power in range(-3, 10) for digit in (1, 1.5, 2, 3, 5, 7)
]


def percentiles(name: str, which: str) -> Callable[[Changes], Figure]:
    """Return what computes a percentile table of stays, by the nearest rank.

    The p-th percentile is the smallest of the values that at least p % of them don't exceed: a
    value that was really there, and one sort finds it, however many there are.
    """
    columns = (
        TYPE,
        Column("stays", "Times"),
        Column("total", "Together", "seconds"),
        Column("p50", "p50", "seconds"),
        Column("p90", "p90", "seconds"),
        Column("p99", "p99", "seconds"),
        Column("max", "Longest", "seconds"),
    )
    ranks = ", ".join(
        f"max(seconds) FILTER (place = (stays * {p} + 99) // 100)" for p in (50, 90, 99)
    )

    def figure(changes: Changes) -> Figure:
        """Compute the percentiles of these stays, per job type and of all."""
        sql = f"""
          WITH stays AS (
            SELECT label, rank, us, seconds FROM report_changes WHERE inside AND {which}
            UNION ALL
            SELECT '{ALL_TYPES}', 0, us, seconds FROM report_changes WHERE inside AND {which}),
          placed AS (
            SELECT *, row_number() OVER (PARTITION BY rank ORDER BY seconds) AS place,
              count(*) OVER (PARTITION BY rank) AS stays FROM stays)
          SELECT label, max(stays), sum(us) / 1e6, {ranks}, max(seconds) FROM placed
          GROUP BY label, rank ORDER BY rank"""  # noqa: S608
        return Figure(name, columns, ask(changes, sql))

    return figure


def distribution(name: str, which: str) -> Callable[[Changes], Figure]:
    """Return what counts stays by how long they were, per job type."""
    columns = (
        TYPE,
        Column("seconds_from", "From", "seconds"),
        Column("seconds_to", "To", "seconds"),
        Column("stays", "Times"),
    )
    low = [0.0, *_EDGES]
    high = [*_EDGES, None]
    spans = ", ".join(
        f"({a}::DOUBLE, {'NULL' if b is None else f'{b}::DOUBLE'})"
        for a, b in zip(low, high, strict=True)
    )

    def figure(changes: Changes) -> Figure:
        """Count these stays by their length."""
        sql = f"""
          WITH spans(low, high) AS (VALUES {spans}),
          stays AS (
            SELECT label, rank, seconds, count(*) AS n FROM report_changes
            WHERE inside AND {which} GROUP BY ALL),
          every AS (
            SELECT * FROM stays UNION ALL SELECT '{ALL_TYPES}', 0, seconds, n FROM stays)
          SELECT label, low, high, sum(n)::BIGINT FROM every
          JOIN spans ON seconds >= low AND seconds < coalesce(high, 'inf')
          GROUP BY label, rank, low, high ORDER BY rank, low"""  # noqa: S608
        return Figure(name, columns, ask(changes, sql))

    return figure
