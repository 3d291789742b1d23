"""The beginnings of long trails, which are stored in chunks outside of their jobs' rows.

A row has the last entries, fewer than a chunk has, so that an event rewrites only those. Each chunk
before them is written once, under the offset of its first event, with the job's effective time at
its end. For look-ups that read no chunk there are further tables: the first offset of each event's
key, by which a late duplicate is recognised; and the offsets of the events that may have described
the job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import repeat
from struct import Struct
from typing import Final

import numpy as np
import orjson
from numpy.typing import NDArray

from jobtrail.core.trail import (
    CHUNK_BYTES,
    CHUNK_ENTRIES,
    NEVER,
    DescriptionSpan,
    description_span,
    first_place,
    merged_spans,
)
from jobtrail.core.trail_columns import TRAIL_DTYPE, applied_entries, describing_entries
from projections.sqlite.files.schema import Connection

_KEY: Final = Struct("<q")
_LAST_OFFSET: Final = 2**63 - 1


def write(db: Connection, spilled: Sequence[tuple[int, int, bytes]]) -> None:
    """Write chunks that leave their rows, inside the open transaction.

    Args:
        db: The shard.
        spilled: Per job the row, its effective time before, and one or more chunks.
    """
    chunks: list[tuple[int, int, int, bytes]] = []
    keys: list[tuple[int, int, int]] = []
    said: list[tuple[int, int]] = []
    for row, time, content in sorted(spilled):
        entries = np.frombuffer(content, TRAIL_DTYPE)
        offsets = entries["offset"]
        firsts = offsets[::CHUNK_ENTRIES].tolist()
        for at, (first, reached) in enumerate(zip(firsts, _reached(entries, time), strict=True)):
            chunks.append((row, first, reached, content[at * CHUNK_BYTES :][:CHUNK_BYTES]))
        # In the order of the table, so that each page is changed once. Of two events with the same
        # key the earlier one comes first.
        order = np.argsort(entries["key"], kind="stable")
        keys.extend(
            zip(repeat(row), entries["key"][order].tolist(), offsets[order].tolist(), strict=False)
        )
        describing = describing_entries(entries)
        if describing.any():
            said.extend(zip(repeat(row), offsets[describing].tolist(), strict=False))
    for statement, rows in (
        ("INSERT INTO trail_chunks VALUES(?, ?, ?, ?)", chunks),
        ("INSERT OR IGNORE INTO trail_keys VALUES(?, ?, ?)", keys),
        ("INSERT INTO trail_said VALUES(?, ?)", said),
    ):
        if rows:
            db.executemany(statement, rows)


def _reached(entries: NDArray[np.void], time: int) -> list[int]:
    """Return the job's effective time at the end of each chunk."""
    applied = np.where(applied_entries(entries), entries["time"], NEVER)
    found: list[int] = np.maximum(np.maximum.accumulate(applied), time)[
        CHUNK_ENTRIES - 1 :: CHUNK_ENTRIES
    ].tolist()
    return found


def reached(db: Connection, row: int) -> int:
    """Return a job's effective time at the end of its last chunk."""
    (found,) = db.execute(
        "SELECT reached FROM trail_chunks WHERE row=? ORDER BY first DESC LIMIT 1", (row,)
    ).fetchone()
    time: int = found
    return time


def seen(
    db: Connection, row: int, keys: Collection[bytes], shard: str = "main"
) -> dict[bytes, int]:
    """Return the offset of the first event of each of these keys that is in a job's chunks."""
    numbers = {_KEY.unpack(key)[0]: key for key in keys}
    rows = db.execute(
        f"SELECT key, offset FROM {shard}.trail_keys "  # noqa: S608
        "WHERE row=? AND key IN (SELECT value FROM json_each(?))",
        (row, orjson.dumps([*numbers]).decode()),
    )
    return {numbers[number]: offset for number, offset in rows}


def first_and_last_said(
    db: Connection, row: int, last: bytes, shard: str = "main"
) -> DescriptionSpan:
    """Return the first and the last offset of an event that may describe a job.

    Args:
        db: Has the shard.
        row: The job's row.
        last: The trail's last entries.
        shard: The shard's name on this connection.
    """
    found = db.execute(
        f"SELECT min(offset), max(offset) FROM {shard}.trail_said WHERE row=?",  # noqa: S608
        (row,),
    ).fetchone()
    return merged_spans(found, description_span(last))


def chunks(db: Connection, row: int, shard: str = "main") -> Iterator[bytes]:
    """Yield a job's chunks, in order."""
    for (trail,) in db.execute(
        f"SELECT trail FROM {shard}.trail_chunks WHERE row=? ORDER BY first",  # noqa: S608
        (row,),
    ):
        yield trail


def page(db: Connection, row: int, offset: int, size: int, shard: str = "main") -> bytes:
    """Return the consecutive chunks, packed, that a page of a job's events touches.

    Args:
        db: Has the shard.
        row: The job's row.
        offset: The first offset that is wanted, whether there is an event or not.
        size: How many events.
        shard: The shard's name on this connection.
    """
    # In the chunk with the offset, some entries may be before it.
    count = 2 + size // CHUNK_ENTRIES
    rows = db.execute(
        f"SELECT trail FROM {shard}.trail_chunks WHERE row=?1 AND first >= coalesce("  # noqa: S608
        f"(SELECT max(first) FROM {shard}.trail_chunks WHERE row=?1 AND first<=?2), 0) "
        "ORDER BY first LIMIT ?3",
        # SQLite's integers end there, and so do offsets.
        (row, min(offset, _LAST_OFFSET), count),
    )
    return b"".join(trail for (trail,) in rows)


def first_offset_and_time(db: Connection, row: int) -> tuple[int, int]:
    """Return offset and time of the first event of a job with chunks."""
    (trail,) = db.execute(
        "SELECT trail FROM trail_chunks WHERE row=? ORDER BY first LIMIT 1", (row,)
    ).fetchone()
    return first_place(trail)


class SqliteTrail:
    """A job's trail in a snapshot; see `projections.ports.read.Trail`."""

    __slots__ = ("_db", "_last", "_row", "_shard")

    def __init__(self, db: Connection, shard: str, row: int, last: bytes) -> None:
        self._db = db
        self._shard = shard
        self._row = row
        self._last = last

    def page(self, offset: int, size: int) -> bytes:
        """Return consecutive entries, packed, that include those of a page."""
        return page(self._db, self._row, offset, size, self._shard) + self._last

    def chunks(self) -> Iterator[bytes]:
        """Yield the complete trail, in order, in packed pieces."""
        yield from chunks(self._db, self._row, self._shard)
        yield self._last

    def seen(self, keys: Collection[bytes]) -> Mapping[bytes, int]:
        """Return the first offset of each of these keys that is in the chunks."""
        return seen(self._db, self._row, keys, self._shard)

    def said(self) -> DescriptionSpan:
        """Return the first and the last offset of an event that may describe the job."""
        return first_and_last_said(self._db, self._row, self._last, self._shard)
