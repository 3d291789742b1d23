"""A listing in SQL: where its rows lie in an index, from behind a cursor, in the answer's order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from jobtrail.job import STATE_CODES
from projections.reading import Cursor, Filters

#: The most places that are read of one stream at a time.
_LARGEST_CHUNK: Final = 4096
_NEWEST_FIRST: Final = "ORDER BY created_at DESC, id"


#: Where a job lies: its creation negated and its id, by which listings are sorted; its row; and
#: the number of its shard.
Place: TypeAlias = tuple[int, str, int, int]


class Where(NamedTuple):
    """Conditions on rows of `jobs`, and their values."""

    clauses: tuple[str, ...]
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return " AND ".join(self.clauses) or "1"


def conditions(filters: Filters) -> Where:
    """Return what filters ask of a row, whatever index it is found by."""
    clauses: list[str] = []
    values: list[Any] = []
    if filters.states:
        clauses.append(f"state IN ({','.join(str(STATE_CODES[s]) for s in filters.states)})")
    if filters.job_types:
        clauses.append(
            "type IN (SELECT type FROM types WHERE name IN (SELECT value FROM json_each(?)))"
        )
        values.append(orjson.dumps(filters.job_types).decode())
    for column, operator, bound in (
        ("created_at", ">=", filters.created_from),
        ("created_at", "<=", filters.created_to),
        ("updated_at", ">=", filters.updated_since),
    ):
        if bound is not None:
            clauses.append(f"{column}{operator}?")
            values.append(bound)
    for key, value in filters.tags:
        clauses.append("EXISTS(SELECT 1 FROM json_each(tags) WHERE key=? AND value=?)")
        values.extend((key, value))
    return Where(tuple(clauses), tuple(values))


class Stream:
    """Jobs of one index in its order, read in growing chunks.

    Args:
        db: The shard.
        shard: Its number.
        index: The index to go along.
        source: What of the index is gone along.
        where: What else is asked of each row.
        after: Where to begin; None for the beginning.
        first: How many rows the first chunk has.

    Two exact seeks lead behind a cursor: to its ties in creation time, then to what is older.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        shard: int,
        index: str,
        source: Where,
        where: Where,
        after: Cursor | None,
        first: int,
    ) -> None:
        self._db = db
        self._select = f"SELECT -created_at, id, row, {shard} FROM jobs INDEXED BY {index} WHERE "  # noqa: S608
        self._source = source
        self._where = where
        self._after = after
        self._chunk = min(first, _LARGEST_CHUNK)
        #: Whether everything was read.
        self.over = False
        #: The last place that was read.
        self.last: Place = (0, "", 0, shard)

    def read(self) -> list[Place]:
        """Return the next chunk."""
        left = self._chunk
        found: list[Place] = []
        for part in _behind(self._after):
            condition = Where(
                (*self._source.clauses, *part.clauses, *self._where.clauses),
                (*self._source.values, *part.values, *self._where.values),
            )
            found += self._db.execute(
                f"{self._select}{condition} {_NEWEST_FIRST} LIMIT ?",
                (*condition.values, left),
            ).fetchall()
            left = self._chunk - len(found)
            if not left:
                break
        if left:
            self.over = True
        else:
            self.last = found[-1]
            self._after = Cursor(-self.last[0], self.last[1])
            self._chunk = min(self._chunk * 4, _LARGEST_CHUNK)
        return found


def first_of(streams: Sequence[Stream], count: int) -> list[Place]:
    """Return the first places of several streams, in the order of a listing.

    Args:
        streams: Each in that order; what is not needed of them is not read.
        count: How many at most.
    """
    found: list[Place] = []
    unread = list(streams)
    while unread:
        for stream in unread:
            found += stream.read()
        found.sort()
        del found[count:]
        # What a stream has not shown yet lies behind its last place.
        unread = [s for s in unread if not s.over and (len(found) < count or s.last < found[-1])]
    return found


def _behind(after: Cursor | None) -> Iterator[Where]:
    if after is None:
        yield Where((), ())
    else:
        yield Where(("created_at=?", "id>?"), (after.created_at, after.id))
        yield Where(("created_at<?",), (after.created_at,))
