"""Counts in SQL: sums over counters, and the edges of a range of dates from an index.

As in a listing, the text of a statement depends on nothing but the shape of what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from jobtrail.states import STATES
from projections.reading import Filters
from projections.sqlite.days import split_days
from projections.sqlite.listing import Source, among, put
from projections.sqlite.schema import DAY, EVERYBODY

#: The audience of the counters that count all jobs.
_ALL: Final = (EVERYBODY,)
_SUMS: Final = ", ".join(f"sum({state})" for state in STATES)
_BETWEEN: Final = "day BETWEEN :first_day AND :last_day"

#: A statement and its values.
Statement = tuple[str, dict[str, Any]]
#: Per source its shard's name, how many audiences there is room for, and how many types.
_Parts = tuple[tuple[str, int, int], ...]


def whole_days(sources: Sequence[Source], filters: Filters) -> Statement | None:
    """Return what gives (number of the source, type, jobs by state) of whole days.

    Args:
        sources: Shards of one connection.
        filters: Whose bounds of the creation time count; None comes back where they hold no day.
    """
    days, _edges = split_days(filters.created_from, filters.created_to)
    if days is None or not sources:
        return None
    values: dict[str, Any] = {"first_day": days[0], "last_day": days[1]}
    parts = _put(values, sources)
    # The common question, for all days, is spared a comparison for each row.
    dated = filters.created_from is not None or filters.created_to is not None
    return _whole_days(parts, dated=dated), values


def edges(sources: Sequence[Source], filters: Filters) -> Statement | None:
    """Return what gives (number of the source, type, state, jobs) of parts of days.

    Args:
        sources: As above.
        filters: As above; None comes back where there is no part of a day.
    """
    _days, ranges = split_days(filters.created_from, filters.created_to)
    if not ranges or not sources:
        return None
    values: dict[str, Any] = {}
    for number, (first, last) in enumerate(ranges):
        values[f"first{number}"], values[f"last{number}"] = first, last
    everything = sources[0].audiences is None
    parts = _put(values, sources)
    return _edges(parts, len(ranges), everything=everything), values


def any_counted(sources: Sequence[Source], filters: Filters) -> Statement:
    """Return what gives 1 where the counters know of a job of these types and states."""
    values: dict[str, Any] = {
        "first_day": -(2**62) if filters.created_from is None else filters.created_from // DAY,
        "last_day": 2**62 if filters.created_to is None else filters.created_to // DAY,
    }
    return _any_counted(_put(values, sources), filters.states or STATES), values


def _put(values: dict[str, Any], sources: Sequence[Source]) -> _Parts:
    return tuple(
        (
            source.shard,
            put(
                values, f"audience{number}", _ALL if source.audiences is None else source.audiences
            ),
            put(values, f"type{number}", source.types) if source.types else 0,
        )
        for number, source in enumerate(sources)
    )


@lru_cache(maxsize=256)
def _whole_days(parts: _Parts, *, dated: bool) -> str:
    return " UNION ALL ".join(
        f"SELECT {number}, type, {_SUMS} FROM {shard}.counters "  # noqa: S608
        f"WHERE {_mine(number, audiences, types)}{f' AND {_BETWEEN}' if dated else ''} "
        "GROUP BY type"
        for number, (shard, audiences, types) in enumerate(parts)
    )


@lru_cache(maxsize=256)
def _edges(parts: _Parts, ranges: int, *, everything: bool) -> str:
    index = "jobs_by_creation" if everything else "jobs_by_audience"
    return " UNION ALL ".join(
        f"SELECT {number}, type, state, count(*) FROM {shard}.jobs INDEXED BY {index} "  # noqa: S608
        f"WHERE {'1' if everything else _mine(number, audiences, types)} "
        f"AND created_at BETWEEN :first{edge} AND :last{edge} GROUP BY type, state"
        for number, (shard, audiences, types) in enumerate(parts)
        for edge in range(ranges)
    )


@lru_cache(maxsize=256)
def _any_counted(parts: _Parts, states: tuple[str, ...]) -> str:
    found = " OR ".join(
        f"EXISTS(SELECT 1 FROM {shard}.counters WHERE {_mine(number, audiences, types)} "  # noqa: S608
        f"AND {_BETWEEN} AND ({' OR '.join(f'{state}>0' for state in states)}))"
        for number, (shard, audiences, types) in enumerate(parts)
    )
    return f"SELECT {found}"


def _mine(number: int, audiences: int, types: int) -> str:
    mine = among("audience", f"audience{number}", audiences)
    return f"{mine} AND {among('type', f'type{number}', types)}" if types else mine
