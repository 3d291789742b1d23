"""Counts: sums over counters, and over changes for the past."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from jobtrail.core.asof import Cut
from jobtrail.core.states import STATES
from projections.ports.read import Filters
from projections.postgres.connection import Connection
from projections.postgres.layout import DAY, EVERYBODY, HIGHEST, LOWEST, NONE
from projections.postgres.listing import types_of

#: Days that a column holds.
_FIRST_DAY: Final = -(2**31)
_LAST_DAY: Final = 2**31 - 1
_MINE: Final = (
    "audience = ANY(%(audiences)s) "
    "AND (%(types)s::integer[] IS NULL OR type = ANY(%(types)s::integer[]))"
)
_SUMS: Final = ", ".join(f"sum({state})::bigint" for state in STATES)
_ALL_DAYS: Final = f"SELECT type, {_SUMS} FROM totals WHERE {_MINE} GROUP BY type"  # noqa: S608
_SOME_DAYS: Final = (
    f"SELECT type, {_SUMS} FROM counters WHERE {_MINE} "  # noqa: S608
    "AND day BETWEEN %(first_day)s AND %(last_day)s GROUP BY type"
)
_EDGE: Final = (
    "SELECT type, state, count(*) FROM jobs "
    "WHERE (%(types)s::integer[] IS NULL OR type = ANY(%(types)s::integer[])) "
    "AND -created_at BETWEEN %(first)s::bigint AND %(last)s::bigint {mine}GROUP BY type, state"
)
_CHANGED: Final = (
    "SELECT type, before, after, count(*) FROM changes {ends}WHERE {mine}"
    "(%(types)s::integer[] IS NULL OR type = ANY(%(types)s::integer[])) "
    "AND created_at BETWEEN %(first)s AND %(last)s {before}GROUP BY type, before, after"
)

#: By number of the type, jobs by state.
_Counts = dict[int, list[int]]


def count(
    connection: Connection, audiences: list[int] | None, filters: Filters
) -> dict[str | None, list[int]]:
    """Count jobs by type and state; see `projections.ports.read.Snapshot.summary`.

    Args:
        connection: In the transaction of the snapshot.
        audiences: Whose jobs are counted; None for all.
        filters: What is counted.
    """
    first, last = filters.created_from, filters.created_to
    counts: _Counts = {}
    types = types_of(connection, filters.job_types)
    values: dict[str, Any] = {
        "audiences": [EVERYBODY] if audiences is None else audiences,
        "types": types,
    }
    if first is None and last is None:
        _add_rows(counts, connection.execute(_ALL_DAYS.encode(), values))
        return _named(connection, counts)
    days, edges = _split(first, last)
    if days is not None:
        values |= {"first_day": days[0], "last_day": days[1]}
        _add_rows(counts, connection.execute(_SOME_DAYS.encode(), values))
    mine = "" if audiences is None else "AND audience = ANY(%(audiences)s) "
    for low, high in edges:
        values |= {"first": -high, "last": -low}
        for job_type, state, found in connection.execute(_EDGE.format(mine=mine).encode(), values):
            counts.setdefault(job_type, [0] * NONE)[state] += found
    return _named(connection, counts)


def count_at(
    connection: Connection, audiences: list[int] | None, filters: Filters, cut: Cut
) -> dict[str | None, list[int]]:
    """Count jobs by type and state as they were at a cut; as `count` otherwise."""
    values: dict[str, Any] = {
        "audiences": audiences,
        "types": types_of(connection, filters.job_types),
        "first": LOWEST if filters.created_from is None else filters.created_from,
        "last": HIGHEST if filters.created_to is None else filters.created_to,
        "instant": cut.instant,
        "partitions": list(cut.position),
        "ends": list(cut.position.values()),
    }
    ends, before = "", "AND effective <= %(instant)s "
    if cut.instant is None:
        ends = (
            "JOIN unnest(%(partitions)s::integer[], %(ends)s::bigint[]) cut(partition, stop) "
            "USING (partition) "
        )
        before = "AND at_offset < stop "
    mine = "" if audiences is None else "audience = ANY(%(audiences)s) AND "
    counts: _Counts = {}
    statement = _CHANGED.format(ends=ends, mine=mine, before=before)
    for job_type, out_of, into, found in connection.execute(statement.encode(), values):
        by_state = counts.setdefault(job_type, [0] * (NONE + 1))
        by_state[out_of] -= found
        by_state[into] += found
    return _named(connection, {kind: by_state[:NONE] for kind, by_state in counts.items()})


def _split(
    first: int | None, last: int | None
) -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
    """Split an inclusive range of instants into whole days and what is left at its edges.

    Args:
        first: Microseconds since the epoch; None for no bound.
        last: The same.

    Returns:
        The first and the last whole day, None where there is none; and ranges of instants.
    """
    if first is not None and last is not None and first > last:
        return None, []
    first_day = _FIRST_DAY if first is None else -(-first // DAY)
    last_day = _LAST_DAY if last is None else (last + 1) // DAY - 1
    if first is not None and last is not None and first_day > last_day:
        return None, [(first, last)]
    edges = []
    if first is not None and first < first_day * DAY:
        edges.append((first, first_day * DAY - 1))
    if last is not None and last >= (last_day + 1) * DAY:
        edges.append(((last_day + 1) * DAY, last))
    return (first_day, last_day), edges


def _add_rows(counts: _Counts, rows: Iterable[tuple[Any, ...]]) -> None:
    for job_type, *sums in rows:
        counts[job_type] = sums


def _named(connection: Connection, counts: _Counts) -> dict[str | None, list[int]]:
    """Return the types of which there are jobs, by name; those without one come last."""
    there = {number: by_state for number, by_state in counts.items() if any(by_state)}
    if not there:
        return {}
    names: dict[int, str | None] = dict(
        connection.execute(
            "SELECT type, name FROM types WHERE type = ANY(%s)", (list(there),)
        ).fetchall()
    )
    named = {names[number]: by_state for number, by_state in there.items()}
    return {
        name: named[name] for name in sorted(named, key=lambda name: (name is None, name or ""))
    }
