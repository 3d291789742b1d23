"""Searches in which few jobs match: a limited number of jobs is read, matching or not.

A page of a listing ends when it has as many jobs as were asked for. Where few match, all jobs may
have to be read for that. Here the next jobs of a listing are read, a chunk at a time in one
statement, and the place where that ended is returned: the next request goes on from there.

Of very many audiences, only those with the next jobs are merged. To find them takes a step into the
index for each; the result is complete only up to the newest job of the last of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import orjson

from projections.ports.read import Cursor, Filters, Line, ListingPart
from projections.sqlite.files.schema import Connection
from projections.sqlite.read.listing import (
    Source,
    among,
    bounds_of,
    listings,
    most_streams,
    put,
    selects_of,
)
from projections.sqlite.read.shards import AttachedShards, ShardReader
from projections.sqlite.tables.rows import COLUMNS

#: Jobs that one statement reads, at most: sorting 20,000 of them takes 20 ms, in which nothing else
#: of the process could go on.
_CHUNK: Final = 2_000
#: Audiences whose newest jobs are looked up in the time that reading one job takes.
_SEEKS: Final = 4
#: Rows that are read at a time, before their bytes are counted.
_ROWS: Final = 32
#: About how many bytes a job takes in an answer beside tags, error and output; and each viewer.
_ROW_BYTES: Final = 500
_VIEWER_BYTES: Final = 30

#: The shards of a connection that may have matches, and what is listed of each.
Asked = tuple[AttachedShards, list[ShardReader], list[Source]]
#: The place of a job: its creation time negated and its id, by which listings are sorted; the
#: numbers of its connection and of its source there; its row.
_Place = tuple[int, str, int, int, int]


class BoundedSearch:
    """One search in a part of a listing.

    Args:
        asked: What is listed.
        filters: The conditions.
    """

    def __init__(self, asked: Sequence[Asked], filters: Filters) -> None:
        self._asked = asked
        self._filters = filters
        self._looked = 0

    def look(
        self, size: int, after: Cursor | None, skip: int, most: int, most_bytes: int
    ) -> ListingPart:
        """Return a part; see `projections.ports.read.Snapshot.search_some`."""
        found: list[_Place] = []
        # With one more, it is certain whether a next page exists.
        wanted = skip + size + 1
        reached = after
        more = True
        while more and len(found) < wanted and self._looked < most:
            some, reached = self._chunk(reached, min(_CHUNK, most - self._looked))
            found += some
            more = reached is not None
        passed = min(skip, len(found))
        page = found[passed : passed + size]
        if len(found) > passed + size:
            reached = _cursor(page[-1])
        lines = self._lines(page, most_bytes)
        if len(lines) < len(page):
            reached = _cursor(page[len(lines) - 1])
        return ListingPart(lines, reached, skip - passed)

    def _chunk(self, after: Cursor | None, most: int) -> tuple[list[_Place], Cursor | None]:
        """Return the matches among the next places, and the last of these; None at the end."""
        near: list[list[tuple[int, Source]]] = []
        ends: list[Cursor] = []
        for files, _shards, sources in self._asked:
            room = most_streams(selects_of(self._filters, after_cursor=True) * len(sources))
            kept = []
            for number, source in enumerate(sources):
                mine = source.audiences
                if mine is not None and len(mine) > room:
                    self._looked += len(mine) // _SEEKS
                    mine, end = _nearest(files.db, source, self._filters, after, room)
                    ends += [] if end is None else [end]
                if mine is None or mine:
                    kept.append((number, msgspec.structs.replace(source, audiences=mine)))
            near.append(kept)
        until = min(ends, key=_order, default=None)
        found: list[_Place] = []
        lasts: list[Cursor] = [] if until is None else [until]
        for number, ((files, _shards, _sources), kept) in enumerate(
            zip(self._asked, near, strict=True)
        ):
            for listing in listings([s for _n, s in kept], self._filters, after, until):
                rows = files.db.execute(listing.looks, {**listing.values, "looked": most})
                ((looked, _, whole, _), *places) = rows.fetchall()
                self._looked += looked
                if not whole:
                    last = places.pop()
                    lasts.append(Cursor(last[0], last[1]))
                found += [(-at[0], at[1], number, kept[at[3]][0], at[2]) for at in places]
        found.sort()
        end = min(lasts, key=_order, default=None)
        if end is not None:
            # After this place another statement has not read anything.
            found = [place for place in found if place[:2] <= _order(end)]
        return found, end

    def _lines(self, page: Sequence[_Place], most_bytes: int) -> list[Line]:
        """Return the lines of jobs until they have so many bytes; at least one."""
        found: list[Line] = []
        size = 0
        for at in range(0, len(page), _ROWS):
            some = page[at : at + _ROWS]
            lines_by_id = self._read(some)
            for place in some:
                line = lines_by_id[place[1]]
                size += _size(line)
                if size > most_bytes and found:
                    return found
                found.append(line)
        return found

    def _read(self, places: Sequence[_Place]) -> dict[str, Line]:
        rows_of: dict[tuple[int, int], list[int]] = {}
        for _created, _id, asked, source, row in places:
            rows_of.setdefault((asked, source), []).append(row)
        found: dict[str, Line] = {}
        for (asked, source), numbers in rows_of.items():
            files, shards, _sources = self._asked[asked]
            shard = shards[source]
            values: dict[str, Any] = {}
            wanted = among("row", "row", put(values, "row", numbers))
            statement = f"SELECT {COLUMNS} FROM {shard.name}.jobs WHERE {wanted}"  # noqa: S608
            for row in files.db.execute(statement, values).fetchall():
                found[row[0]] = (row, shard.names.audience(row[-2]), shard.names.type_name(row[-1]))
        return found


class _Nearest(NamedTuple):
    """The shape of a statement that finds the audiences with the next jobs."""

    shard: str
    bulk: bool
    after_cursor: bool
    bounds: tuple[str, ...]


def _nearest(
    db: Connection, source: Source, filters: Filters, after: Cursor | None, most: int
) -> tuple[tuple[int, ...], Cursor | None]:
    """Return the audiences of a source that have the next jobs of a listing.

    Args:
        db: The source's connection.
        source: It has more than `most` audiences.
        filters: Its bounds of the creation time and its bulk are used.
        after: Where the listing goes on.
        most: How many are wanted.

    Returns:
        The audiences, and the last place up to which no other audience has a job; None where no
        other one has any.
    """
    values = {
        "audiences": orjson.dumps(source.audiences).decode(),
        "most": most,
        "bulk": filters.bulk_id,
        "created_from": filters.created_from,
        "created_to": filters.created_to,
        "after": None if after is None else after.created_at,
        "after_id": None if after is None else after.id,
    }
    bounds = tuple(name for name in ("created_from", "created_to") if values[name] is not None)
    shape = _Nearest(source.shard, filters.bulk_id is not None, after is not None, bounds)
    rows = db.execute(_nearest_text(shape), values).fetchall()
    found = tuple(audience for audience, _created, _id in rows)
    if len(rows) < most:
        return found, None
    return found, Cursor(rows[-1][1], rows[-1][2])


@lru_cache(maxsize=64)
def _nearest_text(shape: _Nearest) -> str:
    index = "jobs_by_bulk" if shape.bulk else "jobs_by_audience"
    asked = ["audience=a.value", *bounds_of(shape.bounds)]
    if shape.bulk:
        asked.append("bulk_id=:bulk")
    table = f"{shape.shard}.jobs INDEXED BY {index}"
    jobs = f"SELECT row FROM {table} WHERE {' AND '.join(asked)}"  # noqa: S608
    order = "ORDER BY created_at DESC, id LIMIT 1"
    if shape.after_cursor:
        newest = (
            f"coalesce(({jobs} AND created_at=:after AND id>:after_id ORDER BY id LIMIT 1), "
            f"({jobs} AND created_at<:after {order}))"
        )
    else:
        newest = f"({jobs} {order})"
    return (
        f"SELECT a.value, j.created_at, j.id FROM json_each(:audiences) a "  # noqa: S608
        f"CROSS JOIN {shape.shard}.jobs j ON j.row = {newest} "
        "ORDER BY j.created_at DESC, j.id LIMIT :most"
    )


def _order(place: Cursor) -> tuple[int, str]:
    return -place.created_at, place.id


def _cursor(place: _Place) -> Cursor:
    return Cursor(-place[0], place[1])


def _size(line: Line) -> int:
    """Return about how many bytes a job takes in an answer."""
    row, (_owner, viewers), _type = line
    tags, error, output = row[9:12]
    size = _ROW_BYTES + _VIEWER_BYTES * len(viewers)
    return size + len(tags or "") + len(error or b"") + len(output or b"")
