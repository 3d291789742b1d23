"""The beginnings of long trails, which lie outside of their jobs' rows: written and read.

Each chunk is written once, under the offset of its first event, with the effective time that the
job had reached at its end. Beside them stand, for look-ups that read no chunk, each event's key
with its first offset, and the offsets of the events that may have said what the job is and whose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from jobtrail.core.trail import (
    CHUNK_BYTES,
    CHUNK_ENTRIES,
    DescriptionSpan,
    describing_offsets,
    description_span,
    effective_time,
    first_place,
    merged_spans,
    raw_entries,
)
from projections.postgres.arrays import insert, run
from projections.postgres.connection import Connection
from projections.postgres.layout import HIGHEST, KEY, LOWEST

_CHUNKS: Final = insert(
    "trail_chunks", {"row": "bigint", "first": "bigint", "reached": "bigint", "trail": "bytea"}
)
#: Of two events with one key the first one counts.
_KEYS: Final = insert(
    "trail_keys",
    {"row": "bigint", "key": "bigint", "at_offset": "bigint"},
    "ON CONFLICT DO NOTHING",
)
_SAID: Final = insert("trail_said", {"row": "bigint", "at_offset": "bigint"})
#: Chunks that are read at a time.
_READ: Final = 64


class ChunkRows:
    """Rows of chunks that leave their jobs' rows."""

    def __init__(self) -> None:
        self._chunks: list[tuple[int, int, int, bytes]] = []
        self._keys: list[tuple[int, int, int]] = []
        self._said: list[tuple[int, int]] = []

    def add(self, row: int, reached: int, content: bytes) -> None:
        """Add chunks of a job.

        Args:
            row: The job's.
            reached: The effective time that it had reached before.
            content: One or more chunks.
        """
        for at in range(0, len(content), CHUNK_BYTES):
            chunk = content[at : at + CHUNK_BYTES]
            first, _time = first_place(chunk)
            reached = max(reached, effective_time(chunk))
            self._keys += [
                (row, KEY.unpack(key)[0], offset) for key, offset, *_ in raw_entries(chunk)
            ]
            self._said += [(row, offset) for offset in describing_offsets(chunk)]
            self._chunks.append((row, first, reached, chunk))

    def write(self, connection: Connection) -> None:
        """Write them, inside the open transaction."""
        run(connection, _CHUNKS, self._chunks)
        run(connection, _KEYS, self._keys)
        run(connection, _SAID, self._said)


def reached(connection: Connection, rows: Collection[int]) -> dict[int, int]:
    """Return the effective times that jobs had reached at the end of their last chunks."""
    found = connection.execute(
        "SELECT DISTINCT ON (row) row, reached FROM trail_chunks WHERE row = ANY(%s) "
        "ORDER BY row, first DESC",
        (list(rows),),
    )
    return dict(found.fetchall())


def seen(connection: Connection, row: int, keys: Collection[bytes]) -> dict[bytes, int]:
    """Return of those of these keys that are in a job's chunks the offset of the first event."""
    numbers = {KEY.unpack(key)[0]: key for key in keys if len(key) == KEY.size}
    found = connection.execute(
        "SELECT key, at_offset FROM trail_keys WHERE row = %s AND key = ANY(%s::bigint[])",
        (row, list(numbers)),
    ).fetchall()
    return {numbers[number]: offset for number, offset in found}


def chunks(connection: Connection, row: int) -> Iterator[bytes]:
    """Yield a job's chunks, in order, without reading more of them than are wanted soon."""
    last = LOWEST
    while True:
        found = connection.execute(
            "SELECT first, trail FROM trail_chunks WHERE row = %s AND first > %s "
            "ORDER BY first LIMIT %s",
            (row, last, _READ),
        ).fetchall()
        for _first, trail in found:
            yield trail
        if len(found) < _READ:
            return
        last = found[-1][0]


def first_events(connection: Connection, rows: Collection[int]) -> dict[int, tuple[int, int]]:
    """Return offset and time of the first events of those of some jobs that have chunks."""
    found: list[tuple[Any, ...]] = connection.execute(
        "SELECT DISTINCT ON (row) row, trail FROM trail_chunks WHERE row = ANY(%s) "
        "ORDER BY row, first",
        (list(rows),),
    ).fetchall()
    return {row: first_place(trail) for row, trail in found}


class PostgresTrail:
    """A job's trail in a snapshot; see `projections.ports.read.Trail`."""

    __slots__ = ("_connection", "_last", "_row")

    def __init__(self, connection: Connection, row: int, last: bytes) -> None:
        self._connection = connection
        self._row = row
        self._last = last

    def page(self, offset: int, size: int) -> bytes:
        """Return consecutive entries, packed, among which those of a page are."""
        # The chunk in which the offset lies has fewer than its entries after it.
        count = 2 + size // CHUNK_ENTRIES
        found = self._connection.execute(
            "SELECT trail FROM trail_chunks WHERE row = %(row)s AND first >= coalesce("
            "(SELECT max(first) FROM trail_chunks WHERE row = %(row)s AND first <= %(offset)s), 0)"
            " ORDER BY first LIMIT %(count)s",
            {"row": self._row, "offset": min(offset, HIGHEST), "count": count},
        ).fetchall()
        return b"".join(trail for (trail,) in found) + self._last

    def chunks(self) -> Iterator[bytes]:
        """Yield all of it, in order, in packed pieces."""
        yield from chunks(self._connection, self._row)
        yield self._last

    def seen(self, keys: Collection[bytes]) -> Mapping[bytes, int]:
        """Return of those of these keys that are before its last entries the first offset."""
        return seen(self._connection, self._row, keys)

    def said(self) -> DescriptionSpan:
        """Return the first and the last offset of an event that may describe the job."""
        found = self._connection.execute(
            "SELECT min(at_offset), max(at_offset) FROM trail_said WHERE row = %s", (self._row,)
        ).fetchone()
        first, last = found or (None, None)
        return merged_spans((first, last), description_span(self._last))
