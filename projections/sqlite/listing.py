"""A listing in SQL: where its rows lie in an index, from behind a cursor, in the answer's order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from jobtrail.job import STATE_CODES
from projections.reading import Cursor, Filters

#: The most places that are read of one stream at a time.
_LARGEST_CHUNK: Final = 4096
_NEWEST_FIRST: Final = "ORDER BY created_at DESC, id"


class Place(NamedTuple):
    """Where a job lies, and in a listing."""

    created_at: int
    id: str
    row: int


def newest_first(found: tuple[Place, object]) -> tuple[int, str]:
    """Return the key by which listings are merged."""
    return -found[0].created_at, found[0].id


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


def walk(
    db: sqlite3.Connection,
    index: str,
    source: Where,
    where: Where,
    after: Cursor | None,
    first: int,
) -> Iterator[Place]:
    """Jobs of one index in its order, from behind a cursor, in growing chunks.

    Args:
        db: The shard.
        index: The index to go along.
        source: What of the index is gone along.
        where: What else is asked of each row.
        after: Where to begin; None for the beginning.
        first: How many rows the first chunk has.

    Two exact seeks lead behind a cursor: to its ties in creation time, then to what is older.
    """
    chunk = min(first, _LARGEST_CHUNK)
    while True:
        left = chunk
        for part in _behind(after):
            condition = Where(
                (*source.clauses, *part.clauses, *where.clauses),
                (*source.values, *part.values, *where.values),
            )
            rows = db.execute(
                "SELECT created_at, id, row FROM jobs "  # noqa: S608
                f"INDEXED BY {index} WHERE {condition} {_NEWEST_FIRST} LIMIT ?",
                (*condition.values, left),
            ).fetchall()
            for row in rows:
                yield Place(*row)
            left -= len(rows)
            if rows:
                after = Cursor(rows[-1][0], rows[-1][1])
            if not left:
                break
        if left:
            return
        chunk = min(chunk * 4, _LARGEST_CHUNK)


def _behind(after: Cursor | None) -> Iterator[Where]:
    if after is None:
        yield Where((), ())
    else:
        yield Where(("created_at=?", "id>?"), (after.created_at, after.id))
        yield Where(("created_at<?",), (after.created_at,))
