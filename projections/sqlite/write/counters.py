"""What a transaction moves in the counters: by how jobs changed, never by how many events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.states import STATES
from projections.sqlite.files.schema import DAY, EVERYBODY
from projections.sqlite.tables.change_layout import NONE
from projections.sqlite.write.write_set import Columns, Key, WriteSet

#: Takes a bucket, and by how much each of its counts moves.
MOVE: Final = (
    f"INSERT INTO counters(audience, day, type, {', '.join(STATES)}) "
    f"VALUES({', '.join('?' * (3 + len(STATES)))}) "
    "ON CONFLICT DO UPDATE SET " + ", ".join(f"{s}={s}+excluded.{s}" for s in STATES)
)
#: A bucket (audience, day, type), a state that a job of it left, and one that it entered; `NONE`
#: for a job that came into the bucket, or went out of it.
_Move = tuple[int, int, int, int, int]


def rows(placed: WriteSet, columns: Columns | None) -> Sequence[Sequence[int]]:
    """Return what `MOVE` is to be given, in the order of the buckets.

    Args:
        placed: What is written; its entries say what is stored.
        columns: The same; None where it is little.
    """
    return _one_by_one(placed) if columns is None else _together(placed, columns)


def _moves(stored: Key | None, key: Key) -> Iterator[_Move]:
    """Yield what becomes of the counts where a job's key becomes another one."""
    audience, job_type, created, _bulk, state = key
    before = NONE
    if stored is not None:
        if stored[:3] == key[:3]:
            before = stored[4]
        else:
            yield (stored[0], stored[2] // DAY, stored[1], stored[4], NONE)
    if before != state:
        yield (audience, created // DAY, job_type, before, state)


def _one_by_one(placed: WriteSet) -> list[tuple[int, ...]]:
    """Return the rows of a few jobs."""
    sums: dict[tuple[int, int, int], list[int]] = {}
    for entry, key in zip(placed.entries, placed.keys, strict=True):
        for audience, day, job_type, before, after in _moves(entry.stored, key):
            for whose in (audience, EVERYBODY):
                counts = sums.setdefault((whose, day, job_type), [0] * (NONE + 1))
                counts[before] -= 1
                counts[after] += 1
    return sorted((*bucket, *counts[:NONE]) for bucket, counts in sums.items() if any(counts))


def _together(placed: WriteSet, columns: Columns) -> list[list[int]]:
    """Return the rows of many jobs, of which few are another user's or of another type now."""
    moved = [
        (number, stored, placed.keys[number])
        for number in placed.renamed
        if (stored := placed.entries[number].stored) is not None
    ]
    stay = columns.before != columns.after
    stay[[number for number, _stored, _key in moved]] = False
    moves = np.array(
        (
            columns.audience[stay],
            columns.created[stay] // DAY,
            columns.type[stay],
            columns.before[stay],
            columns.after[stay],
        ),
        "<i8",
    )
    others = [move for _number, stored, key in moved for move in _moves(stored, key)]
    if others:
        moves = np.hstack([moves, np.array(others, "<i8").T])
    if not moves.size:
        return []
    everybody = moves.copy()
    everybody[0] = EVERYBODY
    # Whose number is the lowest.
    return _sums(everybody) + _sums(moves)


def _sums(moves: NDArray[np.int64]) -> list[list[int]]:
    """Return what moves, a column each, come to per bucket, in the order of the buckets."""
    audience, day, job_type, before, after = moves[:, np.lexsort((moves[2], moves[1], moves[0]))]
    first = np.append(
        True,
        (audience[1:] != audience[:-1]) | (day[1:] != day[:-1]) | (job_type[1:] != job_type[:-1]),
    )
    # No state has a place too, which nobody looks at.
    width = NONE + 1
    places = (np.cumsum(first) - 1) * width
    size = int(places[-1]) + width
    sums = np.bincount(places + after, minlength=size)
    sums -= np.bincount(places + before, minlength=size)
    counts = sums.reshape(-1, width)[:, :NONE]
    table = np.column_stack((audience[first], day[first], job_type[first], counts))
    kept: list[list[int]] = table[counts.any(axis=1)].tolist()
    return kept
