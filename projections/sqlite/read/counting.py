"""Counts in SQL: sums over counters, and the edges of a range of dates from an index.

As in a listing, the text of a statement depends only on the shape of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from jobtrail.core.states import STATES
from projections.ports.read import Filters
from projections.sqlite.files.schema import DAY, EVERYBODY
from projections.sqlite.read.listing import Source, among, put
from projections.sqlite.tables.days import split_days

#: The audience of the counters that count all jobs.
_ALL: Final = (EVERYBODY,)
_STATES: Final = ", ".join(STATES)
_SUMS: Final = ", ".join(f"sum({state})" for state in STATES)
_BETWEEN: Final = "day BETWEEN :first_day AND :last_day"

#: A statement and its values.
Statement = tuple[str, dict[str, Any]]
#: For so few audiences it is not worth summing the rows of their totals in SQL.
_FEW: Final = 4


class _Part(NamedTuple):
    """The shape of a count of one table of a source."""

    #: The source's number among all.
    number: int
    shard: str
    table: str
    #: The sizes of the lists of audiences and of types.
    audiences: int
    types: int


_Parts = tuple[_Part, ...]


def whole_days(sources: Sequence[Source], filters: Filters) -> Statement | None:
    """Return the statement for (number of the source, type, jobs by state) of full days.

    Args:
        sources: Shards of one connection.
        filters: Its bounds of the creation time are used; None is returned where they include no
            full day.
    """
    days, _edges = split_days(filters.created_from, filters.created_to)
    if days is None or not sources:
        return None
    if not _dated(filters):
        values: dict[str, Any] = {}
        return _whole_days(_put_all_days(values, sources), dated=False), values
    values = {"first_day": days[0], "last_day": days[1]}
    return _whole_days(_put(values, sources, "counters"), dated=True), values


def edges(sources: Sequence[Source], filters: Filters) -> Statement | None:
    """Return the statement for (number of the source, type, state, jobs) of parts of days.

    Args:
        sources: As above.
        filters: As above; None is returned where there is no part of a day.
    """
    _days, ranges = split_days(filters.created_from, filters.created_to)
    if not ranges or not sources:
        return None
    values: dict[str, Any] = {}
    for number, (first, last) in enumerate(ranges):
        values[f"first{number}"], values[f"last{number}"] = first, last
    everything = sources[0].audiences is None
    parts = _put(values, sources, "jobs")
    return _edges(parts, len(ranges), everything=everything), values


def any_counted(sources: Sequence[Source], filters: Filters) -> Statement:
    """Return what gives 1 where the counters know of a job of these types and states."""
    states = filters.states or STATES
    if not _dated(filters):
        values: dict[str, Any] = {}
        parts = _put_all_days(values, sources)
        return _any_counted(parts, states, dated=False), values
    values = {
        "first_day": -(2**62) if filters.created_from is None else filters.created_from // DAY,
        "last_day": 2**62 if filters.created_to is None else filters.created_to // DAY,
    }
    return _any_counted(_put(values, sources, "counters"), states, dated=True), values


def _dated(filters: Filters) -> bool:
    return filters.created_from is not None or filters.created_to is not None


def _put(values: dict[str, Any], sources: Sequence[Source], table: str) -> _Parts:
    return tuple(
        _put_part(values, number, source, table, _audiences(source))
        for number, source in enumerate(sources)
    )


def _put_all_days(values: dict[str, Any], sources: Sequence[Source]) -> _Parts:
    """Put in what counts all days: totals of those who have them, the counters of the others."""
    parts = []
    for number, source in enumerate(sources):
        audiences = _audiences(source)
        if source.totalled.isdisjoint(audiences):
            # As nearly always.
            parts.append(_put_part(values, number, source, "counters", audiences))
            continue
        large = [audience for audience in audiences if audience in source.totalled]
        parts.append(_put_part(values, number, source, "totals", large))
        if len(large) < len(audiences):
            small = [audience for audience in audiences if audience not in source.totalled]
            parts.append(_put_part(values, number, source, "counters", small))
    return tuple(parts)


def _audiences(source: Source) -> Sequence[int]:
    return _ALL if source.audiences is None else source.audiences


def _put_part(
    values: dict[str, Any], number: int, source: Source, table: str, audiences: Sequence[int]
) -> _Part:
    return _Part(
        number,
        source.shard,
        table,
        put(values, f"{table}{number}", audiences),
        put(values, f"type{number}", source.types) if source.types else 0,
    )


@lru_cache(maxsize=256)
def _whole_days(parts: _Parts, *, dated: bool) -> str:
    return " UNION ALL ".join(
        f"SELECT {part.number}, type, {_STATES} FROM {part.shard}.totals WHERE {_mine(part)}"  # noqa: S608
        if part.table == "totals" and part.audiences <= _FEW
        else f"SELECT {part.number}, type, {_SUMS} FROM {part.shard}.{part.table} "  # noqa: S608
        f"WHERE {_mine(part)}{f' AND {_BETWEEN}' if dated else ''} GROUP BY type"
        for part in parts
    )


@lru_cache(maxsize=256)
def _edges(parts: _Parts, ranges: int, *, everything: bool) -> str:
    index = "jobs_by_creation" if everything else "jobs_by_audience"
    return " UNION ALL ".join(
        f"SELECT {part.number}, type, state, count(*) FROM {part.shard}.jobs INDEXED BY {index} "  # noqa: S608
        f"WHERE {'1' if everything else _mine(part)} "
        f"AND created_at BETWEEN :first{edge} AND :last{edge} GROUP BY type, state"
        for part in parts
        for edge in range(ranges)
    )


@lru_cache(maxsize=256)
def _any_counted(parts: _Parts, states: tuple[str, ...], *, dated: bool) -> str:
    asked = f"({' OR '.join(f'{state}>0' for state in states)})"
    if dated:
        asked = f"{_BETWEEN} AND {asked}"
    found = " OR ".join(
        f"EXISTS(SELECT 1 FROM {part.shard}.{part.table} WHERE {_mine(part)} AND {asked})"  # noqa: S608
        for part in parts
    )
    return f"SELECT {found}"


def _mine(part: _Part) -> str:
    mine = among("audience", f"{part.table}{part.number}", part.audiences)
    return f"{mine} AND {among('type', f'type{part.number}', part.types)}" if part.types else mine
