"""A listing in SQL: one statement, whatever its filters and however many audiences it merges.

Each of a caller's audiences is a stream: a part of an index that lies in the answer's order. SQLite
merges them and reads of each no more than the page needs; only then the page's rows are looked up.
A statement's text depends on a listing's shape alone, so that it stays prepared: values have names,
and the numbers of streams are rounded up, those beyond standing for an audience that there is not.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import orjson

from jobtrail.job import STATE_CODES
from projections.reading import Cursor, Filters
from projections.sqlite.rows import COLUMNS

#: SELECTs of a statement at most, those within conditions included; SQLite's own bound is 500.
_MOST_SELECTS: Final = 480
#: Numbers of values that a statement may have for one thing.
_SIZES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
#: By how many values there are, for how many there is room.
_ROOMS: Final = [next(size for size in _SIZES if size >= n) for n in range(_SIZES[-1] + 1)]
#: Up to so many values each has a mark; more go in as JSON, which costs a statement in itself.
_MARKS: Final = 32

#: Up to so many tags each has a condition of its own: 0.2 µs a job in place of 0.5 and more.
_TAGS: Final = 4
_ALL_TAGS: Final = (
    "(SELECT count(*) FROM json_each(:tags) a JOIN json_each(tags) t "
    "ON t.key = a.value ->> 0 AND t.value = a.value ->> 1) = :count"
)

#: None stands for all jobs.
Audiences = tuple[int, ...] | None


class Source(NamedTuple):
    """What is listed of one shard."""

    #: The shard's name in its connection.
    shard: str
    audiences: Audiences
    #: The numbers of the types that are asked for; empty for all.
    types: tuple[int, ...]
    #: The audiences that have totals; looked at by who counts.
    totalled: Set[int]
    #: What is listed: jobs, or what jobs have been.
    table: str = "jobs"


class _Part(NamedTuple):
    """The shape of a source."""

    #: Its place among all sources, also where a statement has only some of them.
    number: int
    shard: str
    table: str
    #: How many audiences there is room for; None for all jobs.
    audiences: int | None
    #: How many types there is room for.
    types: int


class _Shape(NamedTuple):
    """What the text of a statement depends on."""

    parts: tuple[_Part, ...]
    bulk: bool
    behind: bool
    bounds: tuple[str, ...]
    #: How many; `_TAGS` and one for any number beyond.
    tags: int


class Listing(NamedTuple):
    """A statement that gives places (`created_at`, id, row, number of the source), in order."""

    text: str
    #: The same, then the whole rows in `COLUMNS` and the number of the source; in no order.
    rows: str
    values: dict[str, Any]


def listings(sources: Sequence[Source], filters: Filters, after: Cursor | None) -> list[Listing]:
    """Return statements that together give what is asked for, one unless there are very many.

    Each has two values more, `limit` and `offset`.

    Args:
        sources: Shards of one connection, those without audiences left out.
        filters: What is asked of a job beside its type.
        after: Where to begin; None for the beginning.
    """
    values, bounds = _asked(filters)
    if after is not None:
        values = {**values, "after": after.created_at, "after_id": after.id}
        if "created_to" in bounds:
            # One bound is enough, and it has to be the nearer one that is sought in the index.
            if after.created_at <= values["created_to"]:
                bounds = tuple(name for name in bounds if name != "created_to")
            else:
                after = None
    found = []
    bulk = filters.bulk_id is not None
    tags = min(len(filters.tags), _TAGS + 1)
    # Each tag has one within each stream, and so have types that go in as JSON.
    selects = 1 + tags + (len(filters.job_types) > _MARKS)
    for some in _split(sources, bulk=bulk, selects=selects if after is None else 2 * selects):
        parts, mine = [], values.copy()
        for number, source in some:
            audiences = source.audiences
            parts.append(
                _Part(
                    number,
                    source.shard,
                    source.table,
                    None
                    if audiences is None
                    else put(mine, f"audience{number}", audiences, json=bulk),
                    put(mine, f"type{number}", source.types) if source.types else 0,
                )
            )
        shape = _Shape(tuple(parts), bulk, after is not None, bounds, tags)
        found.append(Listing(*_texts(shape), mine))
    return found


@lru_cache(maxsize=512)
def _asked(filters: Filters) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the values of filters, to be read only, and the names of those that are bounds."""
    values: dict[str, Any] = {
        "bulk": filters.bulk_id,
        "states": sum(1 << STATE_CODES[state] for state in set(filters.states)) or None,
        "created_from": filters.created_from,
        "created_to": filters.created_to,
        "updated_since": filters.updated_since,
    }
    if len(filters.tags) <= _TAGS:
        for number, (key, value) in enumerate(filters.tags):
            values[f"key{number}"], values[f"value{number}"] = key, value
    else:
        tags = set(filters.tags)
        values["tags"], values["count"] = orjson.dumps(list(tags)).decode(), len(tags)
    return values, tuple(name for name in _BOUNDS if values[name] is not None)


def put(
    values: dict[str, Any], name: str, some: Sequence[int] | Sequence[str], *, json: bool = True
) -> int:
    """Add numbers or texts to the values of a statement; return for how many it has to have room.

    Args:
        values: Of the statement.
        name: What the values' names begin with.
        some: One or more.
        json: Whether many of them may go in as one value, see `among`.
    """
    count = len(some)
    if json and count > _MARKS:
        values[name] = orjson.dumps(some).decode()
        return _MARKS + 1
    room = _ROOMS[count]
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


def _split(
    sources: Sequence[Source], *, bulk: bool, selects: int
) -> list[list[tuple[int, Source]]]:
    """Split sources, each with its number, so that no statement has too many SELECTs.

    Args:
        sources: What is listed.
        bulk: Audiences are no streams.
        selects: How many SELECTs each audience takes.
    """
    numbered = list(enumerate(sources))
    most = _most(selects * max(len(sources), 1))
    longest = max((len(source.audiences or ()) for source in sources), default=0)
    if bulk or longest <= most:
        return [numbered] if numbered else []
    return [
        [
            (number, source._replace(audiences=some))
            for number, source in numbered
            if (some := (source.audiences or ())[at : at + most])
        ]
        for at in range(0, longest, most)
    ]


@lru_cache(maxsize=64)
def _most(selects: int) -> int:
    return max(size for size in _SIZES if size <= _MOST_SELECTS // selects)


@lru_cache(maxsize=512)
def _texts(shape: _Shape) -> tuple[str, str]:
    places = " UNION ALL ".join(term for part in shape.parts for term in _terms(shape, part))
    places = f"{places} ORDER BY created_at DESC, id LIMIT :limit OFFSET :offset"
    columns = ", ".join(f"j.{column}" for column in COLUMNS.split(", "))
    rows = " UNION ALL ".join(
        f"SELECT {columns}, {part.number} FROM place CROSS JOIN {part.shard}.jobs j "  # noqa: S608
        f"ON j.row = place.row WHERE place.source = {part.number}"
        for part in shape.parts
    )
    return places, f"WITH place AS MATERIALIZED ({places}) {rows}"


def _terms(shape: _Shape, part: _Part) -> list[str]:
    """Return one SELECT for each range of an index; two exact ones lead behind a cursor."""
    number, table = part.number, part.table
    asked = [_BOUNDS[name] for name in shape.bounds]
    if part.types:
        asked.append(among("type", f"type{number}", part.types))
    if shape.tags <= _TAGS:
        asked += [
            f"EXISTS(SELECT 1 FROM json_each(tags) WHERE key=:key{tag} AND value=:value{tag})"  # noqa: S608
            for tag in range(shape.tags)
        ]
    else:
        asked.append(_ALL_TAGS)
    if shape.bulk:
        index, streams = "by_bulk", ["bulk_id=:bulk"]
        if part.audiences is not None:
            asked.append(among("audience", f"audience{number}", part.audiences))
    elif part.audiences is None:
        index, streams = "by_creation", ["1"]
    else:
        index = "by_audience"
        streams = [f"audience=:audience{number}_{at}" for at in range(part.audiences)]
    ranges = ("created_at=:after AND id>:after_id", "created_at<:after") if shape.behind else ("1",)
    return [
        f"SELECT created_at, id, row, {number} AS source FROM {part.shard}.{table} "  # noqa: S608
        f"INDEXED BY {table}_{index} WHERE {' AND '.join((stream, behind, *asked))}"
        for stream in streams
        for behind in ranges
    ]


_BOUNDS: Final = {
    "states": "(1 << state) & :states",
    "created_from": "created_at>=:created_from",
    "created_to": "created_at<=:created_to",
    "updated_since": "updated_at>=:updated_since",
}
