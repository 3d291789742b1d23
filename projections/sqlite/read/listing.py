"""A listing in SQL: one statement, whatever its filters and however many audiences it merges.

Each of a caller's audiences is a stream: a part of an index in the answer's order. SQLite merges
them and reads of each no more than the page needs. Where there are many streams, or places are
skipped, the page's places are read first and its rows after that.
A statement's text depends on a listing's shape alone, so that it stays prepared: values have names,
and the number of streams is rounded up; the extra ones stand for an audience that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from jobtrail.core.events import MAX_TAGS
from jobtrail.core.trail import STATE_CODES
from projections.ports.read import Cursor, Filters
from projections.sqlite.tables.rows import COLUMNS
from projections.sqlite.tables.statement_sizes import SIZES, room_for

#: SELECTs of a statement at most, including those within conditions; SQLite's own limit is 500.
_MOST_SELECTS: Final = 480
#: Up to so many values have a placeholder each; more are passed as JSON, which takes a SELECT.
_MARKS: Final = 32

#: None stands for all jobs.
Audiences = tuple[int, ...] | None


class Source(msgspec.Struct, frozen=True, gc=False):
    """What is listed of one shard."""

    #: The shard's name in its connection.
    shard: str
    audiences: Audiences
    #: The numbers of the types that are asked for; empty for all.
    types: tuple[int, ...]
    #: The audiences that have totals; used by counts.
    totalled: Set[int]
    #: What is listed: `jobs`, or their versions in `incarnations`.
    table: str = "jobs"


class _Part(NamedTuple):
    """The shape of a source."""

    #: Its number among all sources, also where a statement has only some of them.
    number: int
    shard: str
    table: str
    #: The size of the list of audiences; None for all jobs.
    audiences: int | None
    #: The size of the list of types.
    types: int


class _Shape(NamedTuple):
    """What the text of a statement depends on."""

    parts: tuple[_Part, ...]
    bulk: bool
    after_cursor: bool
    bounds: tuple[str, ...]
    #: How many tags are asked for.
    tags: int
    #: Whether the listing ends at a given place.
    ends: bool = False


class Listing(NamedTuple):
    """A statement that gives places (`created_at`, id, row, number of the source), in order."""

    text: str
    #: The same with complete rows in place of places: `COLUMNS` and the number of the source. It
    #: also reads the rows of each stream's next place, and of places that are skipped.
    rows: str
    values: dict[str, Any]
    #: How many streams are merged.
    streams: int
    #: Reads so many places (`:looked`), matching or not. It gives first how many there were and
    #: whether these are all, then the matching ones, then the last one that was read.
    looks: str


def listings(
    sources: Sequence[Source],
    filters: Filters,
    after: Cursor | None,
    until: Cursor | None = None,
) -> list[Listing]:
    """Return statements that together give a listing; one, unless there are very many audiences.

    Each takes two more values, `limit` and `offset`, or `looked`.

    Args:
        sources: Shards of one connection, without those that have no audiences.
        filters: The conditions beside the types.
        after: Where to begin; None for the beginning.
        until: The last place that counts; None for the end.
    """
    values, bounds, tags = _asked(filters)
    if after is not None:
        values = {**values, "after": after.created_at, "after_id": after.id}
        if "created_to" in bounds:
            # One bound is enough: the nearer one, which is the start in the index.
            if after.created_at <= values["created_to"]:
                bounds = tuple(name for name in bounds if name != "created_to")
            else:
                after = None
    if until is not None:
        values = {**values, "until": until.created_at, "until_id": until.id}
    found = []
    bulk = filters.bulk_id is not None
    selects = selects_of(filters, after_cursor=after is not None)
    for some in _split(sources, selects=selects):
        parts, mine = [], values.copy()
        for number, source in some:
            audiences = source.audiences
            parts.append(
                _Part(
                    number,
                    source.shard,
                    source.table,
                    None if audiences is None else put_streams(mine, number, audiences),
                    put(mine, f"type{number}", source.types) if source.types else 0,
                )
            )
        shape = _Shape(tuple(parts), bulk, after is not None, bounds, tags, until is not None)
        text, rows, looks, streams = _texts(shape)
        found.append(Listing(text, rows, mine, streams, looks))
    return found


def selects_of(filters: Filters, *, after_cursor: bool) -> int:
    """Return how many SELECTs each audience takes in a statement."""
    # Types that are passed as JSON take one SELECT more within each stream.
    selects = 1 + (len(filters.job_types) > _MARKS)
    return 2 * selects if after_cursor else selects


def bounds_of(names: Sequence[str]) -> list[str]:
    """Return the conditions of these bounds; their values have the same names."""
    return [_BOUNDS[name] for name in names]


def put_streams(values: dict[str, Any], number: int, audiences: Sequence[int]) -> int:
    """Add the audiences of a source, each a stream; return the size of their list."""
    return put(values, f"audience{number}", audiences, json=False)


@lru_cache(maxsize=512)
def _asked(filters: Filters) -> tuple[dict[str, Any], tuple[str, ...], int]:
    """Return the values of filters; not to be changed.

    Returns:
        The values, the names of those that are bounds, and how many tags there are.
    """
    values: dict[str, Any] = {
        "bulk": filters.bulk_id,
        "states": sum(1 << STATE_CODES[state] for state in set(filters.states)) or None,
        "created_from": filters.created_from,
        "created_to": filters.created_to,
        "updated_since": filters.updated_since,
    }
    # No job has more tags than that, so none has one more.
    tags = [*dict.fromkeys(filters.tags)][: MAX_TAGS + 1]
    for number, (key, value) in enumerate(tags):
        # As `pack_tags` writes it. A quote within a text has a backslash before it, so that this is
        # found at the beginning of a tag and nowhere else.
        values[f"tag{number}"] = "," + orjson.dumps({key: value}).decode()[1:-1]
    return values, tuple(name for name in _BOUNDS if values[name] is not None), len(tags)


def put(
    values: dict[str, Any], name: str, some: Sequence[int] | Sequence[str], *, json: bool = True
) -> int:
    """Add numbers or texts to the values of a statement; return the size of their list.

    Args:
        values: The values of the statement.
        name: The beginning of the values' names.
        some: One or more values.
        json: Whether many of them may be passed as one value, see `among`.
    """
    count = len(some)
    if count == 1:
        # The usual case: the general way takes 1 us more.
        values[f"{name}_0"] = some[0]
        return 1
    if json and count > _MARKS:
        values[name] = orjson.dumps(some).decode()
        return _MARKS + 1
    room = room_for(count)
    # NULL equals nothing.
    values.update(zip_longest(_marks(name, room), some))
    return room


@lru_cache(maxsize=512)
def _marks(name: str, room: int) -> tuple[str, ...]:
    return tuple(f"{name}_{at}" for at in range(room))


def among(column: str, name: str, room: int) -> str:
    """Return the condition that a column is one of what was `put` under a name."""
    if room > _MARKS:
        return f"{column} IN (SELECT value FROM json_each(:{name}))"  # noqa: S608
    return f"{column} IN ({','.join(f':{name}_{at}' for at in range(room))})"


def _split(sources: Sequence[Source], *, selects: int) -> list[list[tuple[int, Source]]]:
    """Split sources, each with its number, so that no statement has too many SELECTs.

    Args:
        sources: What is listed.
        selects: How many SELECTs each audience takes.
    """
    numbered = list(enumerate(sources))
    most = most_streams(selects * max(len(sources), 1))
    longest = max((len(source.audiences or ()) for source in sources), default=0)
    if longest <= most:
        return [numbered] if numbered else []
    return [
        [
            (number, msgspec.structs.replace(source, audiences=some))
            for number, source in numbered
            if (some := (source.audiences or ())[at : at + most])
        ]
        for at in range(0, longest, most)
    ]


@lru_cache(maxsize=64)
def most_streams(selects: int) -> int:
    """Return how many audiences a statement may list of each source.

    Args:
        selects: How many SELECTs an audience takes, of all sources together.
    """
    return max(size for size in SIZES if size <= _MOST_SELECTS // selects)


@lru_cache(maxsize=512)
def _texts(shape: _Shape) -> tuple[str, str, str, int]:
    order = "ORDER BY created_at DESC, id"
    terms = [term for part in shape.parts for term in _terms(shape, part)]
    page = f"{order} LIMIT :limit OFFSET :offset"
    places = " UNION ALL ".join(term for term, _row, _look in terms)
    rows = " UNION ALL ".join(row for _term, row, _look in terms)
    looked = " UNION ALL ".join(look for _term, _row, look in terms)
    looks = (
        f"WITH looked AS MATERIALIZED ({looked} {order} LIMIT :looked) "  # noqa: S608
        "SELECT count(*), '', count(*) < :looked, -1 FROM looked "
        "UNION ALL SELECT created_at, id, row, source FROM looked WHERE fits "
        "UNION ALL SELECT * FROM (SELECT created_at, id, row, -1 FROM looked "
        "LIMIT 1 OFFSET :looked - 1)"
    )
    return f"{places} {page}", f"{rows} {page}", looks, len(terms)


def _terms(shape: _Shape, part: _Part) -> list[tuple[str, str, str]]:
    """Return the SELECTs of each range of an index; after a cursor there are two ranges.

    Per range there are three: the places that match, the complete rows that match, and all places
    with whether they match.
    """
    number, table = part.number, part.table
    within = bounds_of([name for name in shape.bounds if name in _SOUGHT])
    if shape.ends:
        within.append("created_at>=:until AND (created_at>:until OR id<=:until_id)")
    fits = bounds_of([name for name in shape.bounds if name not in _SOUGHT])
    if part.types:
        fits.append(among("type", f"type{number}", part.types))
    fits += [f"instr(','||substr(tags,2),:tag{tag})" for tag in range(shape.tags)]
    index = "by_bulk" if shape.bulk else "by_audience"
    if part.audiences is None:
        index, streams = "by_creation", ["1"]
    else:
        streams = [f"audience=:audience{number}_{at}" for at in range(part.audiences)]
    if shape.bulk:
        streams = [f"bulk_id=:bulk AND {stream}" for stream in streams]
    ranges = (
        ("created_at=:after AND id>:after_id", "created_at<:after")
        if shape.after_cursor
        else ("1",)
    )
    found = []
    for stream in streams:
        for after_cursor in ranges:
            where = f"FROM {part.shard}.{table} INDEXED BY {table}_{index} WHERE " + " AND ".join(
                (stream, after_cursor, *within)
            )
            every = " AND ".join((where, *fits))
            found.append(
                (
                    f"SELECT created_at, id, row, {number} AS source {every}",
                    f"SELECT {COLUMNS}, {number} {every}",
                    f"SELECT created_at, id, row, {number} AS source, "
                    f"{_fits(fits)} AS fits {where}",
                )
            )
    return found


def _fits(conditions: Sequence[str]) -> str:
    """Return an expression that is 1 where all conditions hold, and stops at the first that fails.

    In an expression of a result, SQLite evaluates both sides of each AND.
    """
    if not conditions:
        return "1"
    steps = " ".join(f"WHEN ({condition}) IS NOT TRUE THEN 0" for condition in conditions)
    return f"CASE {steps} ELSE 1 END"


#: The bounds that are found by the index.
_SOUGHT: Final = ("created_from", "created_to")
_BOUNDS: Final = {
    "states": "(1 << state) & :states",
    "created_from": "created_at>=:created_from",
    "created_to": "created_at<=:created_to",
    "updated_since": "updated_at>=:updated_since",
}
