"""From the rows of a listing to what is made of them, in the listing's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

from projections.ports.meter import Meter, TooLong
from projections.ports.read import Audience, Line
from projections.sqlite.read.listing import Listing, among, put
from projections.sqlite.read.shards import Files, Shard
from projections.sqlite.tables.rows import COLUMNS

#: Of a row in `COLUMNS`.
_OUTPUT: Final = 11
#: Where a job lies: its creation and its id, by which listings are sorted; its row; its shard's
#: place among the sources of a statement.
_Place = tuple[int, str, int, int]


def bounded(rows: Iterable[Sequence[Any]], meter: Meter) -> list[Sequence[Any]]:
    """Return rows that begin with `COLUMNS`, where they have no more bytes than a meter allows.

    Raises:
        TooLong: They have more.
    """
    if not meter.active:
        return list(rows)
    found: list[Sequence[Any]] = []
    left = meter.rows
    for row in rows:
        found.append(row)
        if output := row[_OUTPUT]:
            left -= len(output)
            if left < 0:
                raise TooLong
    return found


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
    asked: Sequence[tuple[Files, list[Shard], Listing]], size: int, offset: int, meter: Meter
) -> list[Line]:
    """Return a page of any statements: where it lies first, then its rows.

    Raises:
        TooLong: The rows have more bytes than the meter allows.
    """
    page = _page(asked, size, offset)
    rows_of: dict[tuple[int, int], list[int]] = {}
    for number, (_created, _id, row, source) in page:
        rows_of.setdefault((number, source), []).append(row)
    found: dict[str, Line] = {}
    for (number, source), numbers in rows_of.items():
        files, shards, _listing = asked[number]
        shard = shards[source]
        values: dict[str, Any] = {}
        asked_for = among("row", "row", put(values, "row", numbers))
        statement = f"SELECT {COLUMNS} FROM {shard.name}.jobs WHERE {asked_for}"  # noqa: S608
        for job in bounded(files.db.execute(statement, values), meter):
            found[job[0]] = (job, shard.names.audience(job[-2]), shard.names.type_name(job[-1]))
    return [found[place[1]] for _number, place in page]


def _page(
    asked: Sequence[tuple[Files, list[Shard], Listing]], size: int, offset: int
) -> Sequence[tuple[int, _Place]]:
    """Return where a page lies: the number of a statement, and the place in it."""
    if len(asked) == 1:
        return list(_places(0, asked[0], size, offset))
    streams = [_places(number, one, size + offset, 0) for number, one in enumerate(asked)]
    return list(islice(merge(*streams, key=_in_order), offset, offset + size))


def _places(
    number: int, asked: tuple[Files, list[Shard], Listing], limit: int, offset: int
) -> Iterator[tuple[int, _Place]]:
    """Read the places of one statement as they are wanted, with the statement's number."""
    files, _shards, listing = asked
    values = {**listing.values, "limit": limit, "offset": offset}
    for place in files.db.execute(listing.text, values):
        yield number, place


def _in_order(place: tuple[int, _Place]) -> tuple[int, str]:
    _number, (created_at, job_id, _row, _source) = place
    return -created_at, job_id
