"""Turns the rows of listings into lines, in the listing's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, Final

from projections.ports.meter import Meter, TooLong
from projections.ports.read import Audience, Line
from projections.sqlite.read.listing import Listing, among, put
from projections.sqlite.read.shards import AttachedShards, ShardReader
from projections.sqlite.tables.rows import COLUMNS

#: The index of the output in `COLUMNS`.
_OUTPUT: Final = 11
#: The place of a job: its creation time and id, by which listings are sorted; its row; its shard's
#: number among the sources of a statement.
_Place = tuple[int, str, int, int]


def bounded(rows: Iterable[Sequence[Any]], meter: Meter) -> list[Sequence[Any]]:
    """Return rows that begin with `COLUMNS`, if they have no more bytes than a meter allows.

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


def lines(rows: Sequence[Sequence[Any]], shards: Sequence[ShardReader]) -> list[Line]:
    """Return the lines of rows: `COLUMNS`, and the number of each one's shard among these."""
    names = [shard.names for shard in shards]
    # A page has few pairs of audience and type.
    cached: dict[Sequence[Any], tuple[Audience, str | None]] = {}
    found = []
    for row in rows:
        kind = row[-3:]
        said = cached.get(kind)
        if said is None:
            its = names[row[-1]]
            said = cached[kind] = (its.audience(row[-3]), its.type_name(row[-2]))
        found.append((row, *said))
    return found


def merged(
    asked: Sequence[tuple[AttachedShards, list[ShardReader], Listing]],
    size: int,
    offset: int,
    meter: Meter,
) -> list[Line]:
    """Return a page of several statements: first its places are read, then its rows.

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
    asked: Sequence[tuple[AttachedShards, list[ShardReader], Listing]], size: int, offset: int
) -> Sequence[tuple[int, _Place]]:
    """Return the places of a page, each with the number of its statement."""
    if len(asked) == 1:
        return list(_places(0, asked[0], size, offset))
    streams = [_places(number, one, size + offset, 0) for number, one in enumerate(asked)]
    return list(islice(merge(*streams, key=_in_order), offset, offset + size))


def _places(
    number: int, asked: tuple[AttachedShards, list[ShardReader], Listing], limit: int, offset: int
) -> Iterator[tuple[int, _Place]]:
    """Yield the places of one statement, read as needed, with the statement's number."""
    files, _shards, listing = asked
    values = {**listing.values, "limit": limit, "offset": offset}
    for place in files.db.execute(listing.text, values):
        yield number, place


def _in_order(place: tuple[int, _Place]) -> tuple[int, str]:
    _number, (created_at, job_id, _row, _source) = place
    return -created_at, job_id
