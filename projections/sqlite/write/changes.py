"""How jobs changed, kept in columns: what a summary of the past is counted from.

A change takes a job out of one state and into another, at an effective time (see
`jobtrail.core.asof`) and at an offset. Changes are derived from the trails when a batch is written,
all jobs at once, and appended as a *run*: blocks sorted by audience, with the times and offsets
between which they lie, so that a reader takes in only those of its audiences in the runs that its
cut goes through. Small runs are put together as they pile up. Large ones have totals per type and
day of creation, for everybody and for each audience with many changes: a run that lies before the
cut as a whole is not read at all for those.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct as Layout
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.states import STATES
from jobtrail.core.trail import (
    APPLIED_CODES,
    ENTRY_BYTES,
    first_place,
    raw_entries,
)
from jobtrail.core.trail_columns import TRAIL_DTYPE, applied_entries
from projections.ports.write import Batch, Entry
from projections.sqlite.files.schema import DAY, EVERYBODY, Connection
from projections.sqlite.tables.change_layout import (
    BLOCKS,
    CHANGE,
    DIRECTORY,
    NONE,
    OFFSETS,
    Change,
    Rows,
)
from projections.sqlite.tables.trails import first_offset_and_time
from projections.sqlite.write.surrogate_keys import SurrogateKeys
from projections.sqlite.write.write_set import Columns, Key, WriteSet, key_of

_BLOCK: Final = 1024
_LARGEST: Final = BLOCKS * _BLOCK
#: Runs from here on are not put together any more.
_LARGE: Final = _LARGEST // 2
#: How many runs of a level become one of the next, and the level of the large ones.
_TOGETHER: Final = 32
_LAST_LEVEL: Final = 9
#: Runs, and audiences of a run, with so many changes have totals, if these are few.
_TOTALLED: Final = 1024
_MOST_TOTALS: Final = 8

#: The blocks of all runs of a level.
_ITS_BLOCKS: Final = (
    "change_runs r JOIN change_blocks b "
    f"ON b.block BETWEEN r.run * {BLOCKS} AND r.run * {BLOCKS} + {BLOCKS - 1} WHERE r.level = ?"
)
_CHANGE_ENTRY: Final = Layout("<qqqiiHBB")
_DIRECTORY_ENTRY: Final = Layout("<ii")
_OFFSETS_ENTRY: Final = Layout("<iqq")


def record(
    db: Connection,
    batches: Sequence[Batch],
    placed: WriteSet,
    columns: Columns | None,
    numbers: SurrogateKeys,
) -> list[int]:
    """Append how jobs changed, inside the open transaction.

    Args:
        db: The shard.
        batches: What is written.
        placed: The same, job by job in the same order; the rows are written.
        columns: The same; None where it is little.
        numbers: Of the audiences and types that jobs had.

    Returns:
        Per job the effective time of its last applied event.
    """
    found: list[Change] = []
    times = placed.times
    partitions = np.repeat(
        np.array([batch.partition for batch in batches], "<u2"),
        [len(batch.changes) for batch in batches],
    )
    for number in range(len(times)) if columns is None else placed.renamed:
        entry = placed.entries[number]
        keys = [*(key_of(before, numbers) for _offset, before in entry.former), placed.keys[number]]
        partition = int(partitions[number])
        times[number], begins = _walk(
            entry, placed.added[number], partition, keys, found, times[number]
        )
        if begins:
            _write_incarnations(db, entry, keys, begins)
    if columns is None:
        if found:
            _append_few(db, found)
            _put_together(db, 0)
        return times
    for number in placed.renamed:
        placed.added[number] = b""
    times, changes = _derive(placed.added, columns, times, partitions)
    if found:
        changes = np.concatenate([changes, np.array(found, CHANGE)])
    if len(changes):
        _append(db, changes, 0)
        _put_together(db, 0)
    return times


def _walk(
    entry: Entry,
    added: bytes,
    partition: int,
    keys: Sequence[Key],
    found: list[Change],
    time: int,
) -> tuple[int, list[tuple[int, int]]]:
    """Find the changes of one job, event by event.

    Args:
        entry: Says where it became another one, if it did.
        added: What came to its trail.
        partition: Where its events lie.
        keys: Of all that it was since the last commit, then of what it is.
        found: Takes its changes.
        time: What it had reached.

    Returns:
        The time that it reached; and when, and at which offset, it became each other one.
    """
    turns = [offset for offset, _before in entry.former]
    state = entry.stored[4] if entry.stored else NONE
    begins: list[tuple[int, int]] = []
    key = keys[0]
    for _key, offset, at, after, code in raw_entries(added):
        if at > time and code in APPLIED_CODES:
            time = at
        if len(begins) < len(turns) and offset == turns[len(begins)]:
            found.append((time, offset, key[2], key[0], key[1], partition, state, NONE))
            state = NONE
            begins.append((time, offset))
            key = keys[len(begins)]
        if after != state:
            found.append((time, offset, key[2], key[0], key[1], partition, state, after))
            state = after
    return time, begins


def _write_incarnations(
    db: Connection,
    entry: Entry,
    keys: Sequence[Key],
    begins: list[tuple[int, int]],
) -> None:
    """Write what a job was and is, and from when to when."""
    db.execute(
        "UPDATE incarnations SET until=?, until_offset=? WHERE job=? AND until IS NULL",
        (*begins[0], entry.row),
    )
    if db.changes():
        keys = keys[1:]
    else:
        # The rows are written, and with them what of its trail lies outside.
        if entry.job.earlier is None:
            offset, at = first_place(entry.job.trail)
        else:
            assert entry.row is not None
            offset, at = first_offset_and_time(db, entry.row)
        begins = [(at, offset), *begins]
    ends = [*begins[1:], (None, None)]
    db.executemany(
        "INSERT INTO incarnations(job, id, audience, type, created_at, bulk_id, since, "
        "since_offset, until, until_offset) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (entry.row, entry.job.id, *key[:4], *begin, *end)
            for key, begin, end in zip(keys, begins, ends, strict=True)
        ],
    )


def _derive(
    added: Sequence[bytes],
    columns: Columns,
    reached_before: list[int],
    partitions: NDArray[np.uint16],
) -> tuple[list[int], Rows]:
    """Find the changes of all jobs that stay what they are, in columns.

    Args:
        added: What came to each job's trail.
        columns: The jobs.
        reached_before: The time that each had reached.
        partitions: Where the events of each lie.

    Returns:
        The time that each job reached, and the changes.
    """
    times = np.array(reached_before, "<i8")
    trail = np.frombuffer(b"".join(added), TRAIL_DTYPE)
    whose = np.repeat(np.arange(len(added)), np.array(list(map(len, added))) // ENTRY_BYTES)
    applied = applied_entries(trail)
    if not applied.all():
        trail, whose = trail[applied], whose[applied]
    if not len(trail):
        return reached_before, np.empty(0, CHANGE)
    first = np.empty(len(trail), bool)
    first[0] = True
    np.not_equal(whose[1:], whose[:-1], out=first[1:])
    effective = np.maximum(_running_maximum(trail["time"], whose, first), times[whose])
    after = trail["state"]
    earlier = np.empty_like(after)
    earlier[1:] = after[:-1]
    earlier[first] = columns.before[whose[first]]
    last = np.append(first[1:], True)
    times[whose[last]] = effective[last]
    changed = np.flatnonzero(after != earlier)
    whose = whose[changed]
    changes = np.empty(len(changed), CHANGE)
    changes["effective"] = effective[changed]
    changes["offset"] = trail["offset"][changed]
    changes["before"] = earlier[changed]
    changes["after"] = after[changed]
    changes["audience"] = columns.audience[whose]
    changes["type"] = columns.type[whose]
    changes["created"] = columns.created[whose]
    changes["partition"] = partitions[whose]
    return times.tolist(), changes


def _running_maximum(
    times: NDArray[np.int64], whose: NDArray[np.int64], first: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the largest of each job's times so far."""
    if (first[1:] | (times[1:] >= times[:-1])).all():
        return times
    # By rank, so that a number made of job and rank grows from job to job.
    order = np.argsort(times, kind="stable")
    rank = np.empty(len(times), "<i8")
    rank[order] = np.arange(len(times))
    highest = np.maximum.accumulate(whose * len(times) + rank) - whose * len(times)
    found: NDArray[np.int64] = times[order][highest]
    return found


def _append_few(db: Connection, changes: list[Change]) -> None:
    """Write a few changes as one run: arrays would cost more than what is in them."""
    changes.sort(key=_by_audience)
    offsets: dict[int, tuple[int, int]] = {}
    for change in changes:
        offset, partition = change[1], change[5]
        low, high = offsets.get(partition, (offset, offset))
        offsets[partition] = (min(low, offset), max(high, offset))
    times = [change[0] for change in changes]
    _insert_run(
        db,
        0,
        (min(times), max(times)),
        _DIRECTORY_ENTRY.pack(changes[0][3], changes[-1][3]),
        b"".join(_OFFSETS_ENTRY.pack(p, *between) for p, between in offsets.items()),
        [b"".join(_CHANGE_ENTRY.pack(*change) for change in changes)],
    )


def _by_audience(change: Change) -> tuple[int, int]:
    return change[3], change[0]


def _append(db: Connection, changes: Rows, level: int) -> None:
    """Write changes as runs of `_LARGEST` at most, each of a stretch of time of its own."""
    pieces = [changes]
    if len(changes) > _LARGEST:
        by_time = changes[np.argsort(changes["effective"], kind="stable")]
        pieces = np.array_split(by_time, -(-len(changes) // _LARGEST))
    for piece in pieces:
        _write_run(db, piece, _LAST_LEVEL if len(piece) >= _LARGE else level)


def _write_run(db: Connection, changes: Rows, level: int) -> None:
    changes = changes[np.argsort(changes["audience"], kind="stable")]
    blocks = [changes[at : at + _BLOCK] for at in range(0, len(changes), _BLOCK)]
    audiences = changes["audience"]
    directory = np.empty(len(blocks), DIRECTORY)
    directory["first"] = audiences[::_BLOCK]
    directory["last"] = [block["audience"][-1] for block in blocks]
    totals: list[tuple[int, ...]] = []
    if len(changes) >= _TOTALLED:
        totals += _totals(EVERYBODY, changes)
    if totals:
        ends = np.append(np.flatnonzero(audiences[1:] != audiences[:-1]) + 1, len(changes))
        counts = np.diff(ends, prepend=0)
        for end, count in zip(ends[counts >= _TOTALLED], counts[counts >= _TOTALLED], strict=True):
            its = changes[end - count : end]
            totals += _totals(int(its["audience"][0]), its)
    effective = changes["effective"]
    run = _insert_run(
        db,
        level,
        (int(effective.min()), int(effective.max())),
        directory.tobytes(),
        _offsets(changes).tobytes(),
        [block.tobytes() for block in blocks],
        totalled=bool(totals),
    )
    if totals:
        marks = ", ".join("?" * (4 + len(STATES)))
        rows = [(audience, run, *rest) for audience, *rest in sorted(totals)]
        db.executemany(f"INSERT INTO change_totals VALUES({marks})", rows)


def _insert_run(
    db: Connection,
    level: int,
    between: tuple[int, int],
    directory: bytes,
    offsets: bytes,
    blocks: Sequence[bytes],
    *,
    totalled: bool = False,
) -> int:
    """Write a run; return its number."""
    db.execute(
        "INSERT INTO change_runs(level, low, high, totalled, directory, offsets) "
        "VALUES(?, ?, ?, ?, ?, ?)",
        (level, *between, totalled, directory, offsets),
    )
    run = db.last_insert_rowid()
    db.executemany("INSERT INTO change_blocks VALUES(?, ?)", enumerate(blocks, run * BLOCKS))
    return run


def _offsets(changes: Rows) -> Rows:
    """Return between which offsets of each partition changes lie."""
    partitions = changes["partition"]
    present = np.unique(partitions)
    found = np.empty(len(present), OFFSETS)
    for number, partition in enumerate(present):
        offsets = changes["offset"][partitions == partition]
        found[number] = (partition, offsets.min(), offsets.max())
    return found


def _totals(audience: int, changes: Rows) -> list[tuple[int, ...]]:
    """Add changes up by type and day of creation; nothing where that makes hardly fewer."""
    days = changes["created"] // DAY
    first = days.min()
    span = int(days.max() - first) + 1
    kinds, kind = np.unique(changes["type"] * np.int64(span) + days - first, return_inverse=True)
    if len(kinds) * _MOST_TOTALS > len(changes):
        return []
    width = NONE + 1
    size = len(kinds) * width
    sums = np.bincount(kind * width + changes["after"], minlength=size)
    sums = sums - np.bincount(kind * width + changes["before"], minlength=size)
    return [
        (audience, int(number // span), int(number % span + first), *by_state[:NONE])
        for number, by_state in zip(kinds, sums.reshape(-1, width).tolist(), strict=True)
    ]


def _put_together(db: Connection, level: int) -> None:
    """Make one run of the next level of those of a level where there are many, and so on."""
    (count,) = db.execute("SELECT count(*) FROM change_runs WHERE level=?", (level,)).fetchone()
    if count < _TOGETHER:
        return
    blobs = db.execute(f"SELECT rows FROM {_ITS_BLOCKS}", (level,)).fetchall()  # noqa: S608
    db.execute(
        f"DELETE FROM change_blocks WHERE block IN (SELECT block FROM {_ITS_BLOCKS})",  # noqa: S608
        (level,),
    )
    for (run,) in db.execute(
        "SELECT run FROM change_runs WHERE level=? AND totalled", (level,)
    ).fetchall():
        db.execute("DELETE FROM change_totals WHERE run=?", (run,))
    db.execute("DELETE FROM change_runs WHERE level=?", (level,))
    _append(db, np.frombuffer(b"".join(rows for (rows,) in blobs), CHANGE), level + 1)
    _put_together(db, level + 1)
