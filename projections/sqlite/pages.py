"""From the rows of a listing to what is made of them, in the listing's order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from projections.reading import Audience, Line
from projections.sqlite.files import Files, Shard
from projections.sqlite.listing import Listing, among, put
from projections.sqlite.rows import COLUMNS
from projections.sqlite.schema import Connection

#: Of a row in `COLUMNS`.
_ID: Final = itemgetter(0)
_CREATED_AT: Final = itemgetter(2)
#: Where a job lies: its creation negated and its id, by which listings are sorted; its shard's
#: place among the sources of a statement; its row.
_Place = tuple[int, str, int, int]


def in_order(rows: list[Sequence[Any]]) -> list[Sequence[Any]]:
    """Sort rows, which begin with `COLUMNS`, in place as a listing is; return them."""
    # By two sorts, which keep what is equal in order: faster than one by a pair of keys.
    rows.sort(key=_ID)
    rows.sort(key=_CREATED_AT, reverse=True)
    return rows


def lines(rows: Sequence[Sequence[Any]], shards: Sequence[Shard]) -> list[Line]:
    """Return the lines of rows: `COLUMNS`, and the place of each one's shard among these."""
    names = [shard.names for shard in shards]
    # A page has few kinds of them.
    known: dict[Sequence[Any], tuple[Audience, str | None]] = {}
    found = []
    for row in rows:
        kind = row[-3:]
        said = known.get(kind)
        if said is None:
            its = names[row[-1]]
            said = known[kind] = (its.audience(row[-3]), its.type_name(row[-2]))
        found.append((row, *said))
    return found


def merged(
    asked: Sequence[tuple[Files, list[Shard], Listing]], size: int, offset: int
) -> list[Line]:
    """Return a page of several statements: where it lies first, then its rows."""
    streams: list[Iterator[tuple[_Place, int]]] = [
        _places(number, files.db, listing, size + offset)
        for number, (files, _shards, listing) in enumerate(asked)
    ]
    page = list(islice(merge(*streams), offset, offset + size))
    rows_of: dict[tuple[int, int], list[int]] = {}
    for (_created, _id, source, row), number in page:
        rows_of.setdefault((number, source), []).append(row)
    found: dict[str, Line] = {}
    for (number, source), numbers in rows_of.items():
        files, shards, _listing = asked[number]
        shard = shards[source]
        values: dict[str, Any] = {}
        asked_for = among("row", "row", put(values, "row", numbers))
        statement = f"SELECT {COLUMNS} FROM {shard.name}.jobs WHERE {asked_for}"  # noqa: S608
        for row in files.db.execute(statement, values).fetchall():
            found[row[0]] = (row, shard.names.audience(row[-2]), shard.names.type_name(row[-1]))
    return [found[job_id] for (_created, job_id, _source, _row), _number in page]


def _places(
    number: int, db: Connection, listing: Listing, limit: int
) -> Iterator[tuple[_Place, int]]:
    """Read the places of one statement as they are wanted, with the statement's number."""
    for created_at, job_id, row, source in db.execute(
        listing.text, {**listing.values, "limit": limit, "offset": 0}
    ):
        yield (-created_at, job_id, source, row), number
