"""Listings: the next jobs of an order, a bounded number of them at a time.

A caller's audiences come first: nothing is read for them but what lies under one of these in an
index that is in the listing's order. A look brings the next places, whether each matches, and how
many bytes its row has, so that what is too much is never read. The text of a look depends on
nothing but which index it goes by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from jobtrail.core.asof import Cut
from jobtrail.core.events import MAX_TAGS
from jobtrail.core.trail import STATE_CODES
from projections.ports.meter import Meter, TooLong
from projections.ports.read import Caller, Cursor, Filters, Line
from projections.postgres.connection import Connection
from projections.postgres.layout import (
    HIGHEST,
    LINE_COLUMNS,
    LINES,
    LOWEST,
    PARTITION_OF_ROW,
    audience_of,
    storable,
)

#: Steps of a meter that a look at a job counts for: some 30 ns each.
_STEPS: Final = 20
#: Jobs that one statement looks at, at most: others of the process wait for it.
_MOST: Final = 2_000
#: Audiences of which one statement reads the next jobs; more of them are asked for fewer each.
_ROOM: Final = 20_000
_ORDER: Final = "ORDER BY -created_at, id"


class Place(NamedTuple):
    """Where a job lies in a listing."""

    at: Cursor
    row: int
    #: About what it takes in an answer.
    size: int


class Looked(NamedTuple):
    """What one look has found."""

    #: Of those that match.
    places: list[Place]
    #: How many were looked at, and the last of them; None where there are no more.
    total: int
    reached: Cursor | None


def audiences_of(
    connection: Connection, caller: Caller, filters: Filters, meter: Meter, table: str = "jobs"
) -> list[int] | None:
    """Return the audiences whose jobs may be listed; None for all.

    Args:
        connection: In the transaction of the snapshot.
        caller: Who asks.
        filters: Whose owner and bulk count.
        meter: Where it is active, it bounds how many there may be.
        table: What is listed: jobs, or their versions.

    Raises:
        TooLong: There are more.
    """
    most = meter.audiences if meter.active else HIGHEST
    found: list[int] | None = None
    if not caller.reads_all:
        found = _numbers(
            connection,
            "SELECT DISTINCT audience FROM audience_members WHERE principal = ANY(%s) LIMIT %s",
            ([name for name in caller.principals if storable(name)], most),
        )
    elif filters.bulk_id is not None:
        bulk = filters.bulk_id if storable(filters.bulk_id) else ""
        found = _numbers(connection, _OF_BULK[table], (bulk, bulk, most))
    if filters.owner is not None:
        owner = [filters.owner] if storable(filters.owner) else []
        owned = _numbers(
            connection,
            "SELECT audience FROM audiences WHERE owner = ANY(%s::text[]) LIMIT %s",
            (owner, most),
        )
        found = owned if found is None else sorted(set(owned) & set(found))
    return found


#: One step into the index for each audience, however many jobs the bulk has.
_OF_BULK: Final = {
    table: (
        "WITH RECURSIVE step(audience) AS (("  # noqa: S608
        f"SELECT audience FROM {table} WHERE bulk_id = %s ORDER BY audience LIMIT 1) UNION ALL "
        f"SELECT (SELECT audience FROM {table} WHERE bulk_id = %s AND audience > step.audience "
        "ORDER BY audience LIMIT 1) FROM step WHERE step.audience IS NOT NULL) "
        "SELECT audience FROM step WHERE audience IS NOT NULL LIMIT %s"
    )
    for table in ("jobs", "versions")
}


def _numbers(connection: Connection, statement: str, values: tuple[Any, ...]) -> list[int]:
    *others, most = values
    found = connection.execute(statement.encode(), (*others, min(most + 1, HIGHEST))).fetchall()
    if len(found) > most:
        raise TooLong
    return [number for (number,) in found]


def types_of(connection: Connection, names: Sequence[str]) -> list[int] | None:
    """Return the numbers of types; None where all are asked for."""
    if not names:
        return None
    found = connection.execute(
        "SELECT type FROM types WHERE name = ANY(%s)", ([name for name in names if storable(name)],)
    ).fetchall()
    return [number for (number,) in found]


class Listing:
    """One listing of a snapshot, from its beginning or from a place on.

    Args:
        connection: In the transaction of the snapshot.
        audiences: Whose jobs are listed; None for all.
        filters: What matches.
        cut: Where the past ends; None for what is so now. At a cut only what does not change of
            a job is looked at: its states and tags are another matter.
    """

    def __init__(
        self,
        connection: Connection,
        audiences: list[int] | None,
        filters: Filters,
        cut: Cut | None = None,
    ) -> None:
        self._connection = connection
        self._audiences = audiences
        tags = [*dict.fromkeys(filters.tags)][: MAX_TAGS + 1]
        bulk = filters.bulk_id
        self._nothing = audiences == [] or (bulk is not None and not storable(bulk))
        self._values: dict[str, Any] = {
            "audiences": audiences,
            "bulk": bulk,
            "types": types_of(connection, filters.job_types),
            "states": [STATE_CODES[state] for state in filters.states] or None,
            "since": filters.updated_since,
            # As `pack_tags` has it in a row. A quote within a text has a backslash before it there,
            # so that this is found at the beginning of a tag and nowhere else.
            "tags": ["," + orjson.dumps({key: value}).decode()[1:-1] for key, value in tags],
            "first": LOWEST if filters.created_to is None else -filters.created_to,
            "last": HIGHEST if filters.created_from is None else -filters.created_from,
        }
        self._text = _text(audiences is not None, bulk is not None, _kind(cut))
        if cut is not None:
            position = cut.position if cut.instant is None else {}
            ends = [position.get(p, 0) for p in range(max(position, default=-1) + 1)]
            # A job that has always been the same was created by the first event that counts.
            created = LOWEST if cut.instant is None else -cut.instant
            self._values |= {"instant": cut.instant, "ends": ends, "created": created}

    def look(self, after: Cursor | None, most: int) -> Looked:
        """Look at the next places.

        Args:
            after: After which one.
            most: How many, at most.
        """
        if self._nothing:
            return Looked([], 0, None)
        values = {
            **self._values,
            "after": LOWEST if after is None else -after.created_at,
            "after_id": "" if after is None else after.id,
            "most": most,
        }
        rows = self._connection.execute(self._text, values).fetchall()
        if not rows:
            return Looked([], 0, None)
        places = [Place(Cursor(r[0], r[1]), r[2], r[4]) for r in rows if r[3]]
        total: int = rows[-1][5]
        reached = None if total < most else Cursor(rows[-1][0], rows[-1][1])
        return Looked(places, total, reached)

    def looks(self, after: Cursor | None, wanted: int, most: int) -> Iterator[Looked]:
        """Yield looks until there is nothing more or enough was looked at.

        Args:
            after: Where to begin.
            wanted: How many jobs are wanted: the first look looks at no more of them.
            most: How many are looked at by all looks.
        """
        reached = after
        room = max(1, _ROOM // len(self._audiences or (0,)))
        next_ones = wanted
        while most > 0:
            looked = self.look(reached, min(next_ones, most, _MOST))
            yield looked
            reached = looked.reached
            if reached is None:
                return
            most -= looked.total
            next_ones = max(wanted, min(4 * next_ones, room))


def tick(meter: Meter, looked: int) -> None:
    """Let a meter count so many jobs that were looked at.

    Raises:
        TooLong: It ends the read.
    """
    if meter.active:
        for _ in range(-(-looked * _STEPS // meter.every)):
            if meter.tick():
                raise TooLong


def lines(connection: Connection, places: Sequence[Place]) -> list[Line]:
    """Return the lines of jobs, in the order of their places."""
    if not places:
        return []
    found = {
        row: (line, audience_of(owner, viewers), name)
        for row, *line, owner, viewers, name in connection.execute(
            _LINES, ([place.row for place in places],)
        ).fetchall()
    }
    return [found[place.row] for place in places]


_LINES: Final = f"SELECT row, {LINE_COLUMNS} FROM {LINES} WHERE row = ANY(%s)".encode()  # noqa: S608

#: How a cut is told: not at all, by an instant, by offsets.
_NOW, _INSTANT, _OFFSETS = range(3)


def _kind(cut: Cut | None) -> int:
    if cut is None:
        return _NOW
    return _OFFSETS if cut.instant is None else _INSTANT


_FITS_TYPE: Final = "(%(types)s::integer[] IS NULL OR type = ANY(%(types)s::integer[]))"
_FITS: Final = (
    f"{_FITS_TYPE} "  # noqa: S608
    "AND (%(states)s::smallint[] IS NULL OR state = ANY(%(states)s::smallint[])) "
    "AND (%(since)s::bigint IS NULL OR updated_at >= %(since)s::bigint) "
    "AND NOT EXISTS (SELECT 1 FROM unnest(%(tags)s::text[]) wanted(tag) "
    "WHERE strpos(',' || substr(coalesce(tags, '{'), 2), tag) = 0)"
)
#: The sizes of values are known without reading them.
_SIZE: Final = (
    "500 + coalesce(octet_length(tags), 0) + coalesce(octet_length(error), 0) "
    "+ coalesce(octet_length(output), 0)"
)
#: At which end of the log's partition the cut is.
_END: Final = f"coalesce((%(ends)s::bigint[])[{PARTITION_OF_ROW} + 1], 0)"
_IN_FORCE: Final = {
    _INSTANT: "since <= %(instant)s AND (until IS NULL OR until > %(instant)s)",
    _OFFSETS: f"since_offset < {_END} AND (until_offset IS NULL OR until_offset >= {_END})",
}


@lru_cache(maxsize=16)
def _text(by_audience: bool, by_bulk: bool, kind: int) -> bytes:
    where = [
        "-created_at BETWEEN %(first)s::bigint AND %(last)s::bigint",
        "(-created_at, id) > (%(after)s::bigint, %(after_id)s::text)",
    ]
    if by_bulk:
        where.insert(0, "bulk_id = %(bulk)s")
    if by_audience:
        where.insert(0, "audience = asked.audience")
    some = f"WHERE {' AND '.join(where)}"
    limit = f"{_ORDER} LIMIT %(most)s"
    if kind == _NOW:
        nexts = f"SELECT created_at, id, row, {_FITS} AS fits, {_SIZE} AS size FROM jobs {some}"  # noqa: S608
    else:
        of = f"SELECT created_at, id, row, {_FITS_TYPE} AS fits, 0 AS size FROM"
        nexts = (
            f"SELECT * FROM (({of} jobs {some} AND NOT has_versions "  # noqa: S608
            f"AND -created_at >= %(created)s::bigint {limit}) UNION ALL "
            f"({of} versions {some} AND {_IN_FORCE[kind]} {limit})) either"
        )
    if by_audience:
        nexts = (
            "SELECT next.* FROM unnest(%(audiences)s::integer[]) asked(audience) "  # noqa: S608
            f"CROSS JOIN LATERAL ({nexts} {limit}) next"
        )
    return (
        f"WITH looked AS MATERIALIZED ({nexts} {limit}), "  # noqa: S608
        f"numbered AS (SELECT *, row_number() OVER ({_ORDER}) AS at, count(*) OVER () AS total "
        "FROM looked) SELECT created_at, id, row, fits, size, total FROM numbered "
        "WHERE fits OR at = total ORDER BY at"
    ).encode()
