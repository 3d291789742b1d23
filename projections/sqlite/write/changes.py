"""How jobs changed, stored in columns: past summaries are counted from these changes.

A change takes a job out of one state and into another, at an effective time (see
`jobtrail.core.asof`) and at an offset. Changes are derived from the trails when a batch is written
and appended as a *run*: blocks sorted by audience, with the range of times and offsets of the run.
A reader reads only the blocks of its audiences, and only in runs that its cut divides. Small runs
are merged as they accumulate. Large runs have totals per type and day of creation, for everybody
and for each audience with many changes: where such a run lies entirely before the cut, its totals
are read and its blocks are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
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
from projections.ports.write import Entry, FoldedBatch
from projections.sqlite.files.schema import DAY, EVERYBODY, Connection
from projections.sqlite.tables.change_layout import (
    BLOCKS,
    CHANGE,
    DIRECTORY,
    NONE,
    OFFSETS,
    Change,
    ChangeArray,
)
from projections.sqlite.tables.trails import first_offset_and_time
from projections.sqlite.write.surrogate_keys import SurrogateKeys
from projections.sqlite.write.write_set import Columns, Key, WriteSet, key_of

_BLOCK: Final = 1024
_LARGEST: Final = BLOCKS * _BLOCK
#: Runs with at least so many changes are not merged any more.
_LARGE: Final = _LARGEST // 2
#: How many runs of a level are merged into one of the next, and the level of the large runs.
_MERGED_RUNS: Final = 32
_LAST_LEVEL: Final = 9
#: Runs, and audiences of a run, with at least so many changes have totals, unless the totals would
#: have more rows than one for so many changes.
_TOTALLED: Final = 1024
_MOST_TOTALS: Final = 8

#: The blocks of all runs of a level.
_ITS_BLOCKS: Final = (
    "change_runs r JOIN change_blocks b "
    f"ON b.block BETWEEN r.run * {BLOCKS} AND r.run * {BLOCKS} + {BLOCKS - 1} WHERE r.level = ?"
)
_CHANGE_ENTRY: Final = Struct("<qqqiiHBB")
_DIRECTORY_ENTRY: Final = Struct("<ii")
_OFFSETS_ENTRY: Final = Struct("<iqq")


def record(
    db: Connection,
    batches: Sequence[FoldedBatch],
    write_set: WriteSet,
    columns: Columns | None,
    surrogate_keys: SurrogateKeys,
) -> list[int]:
    """Append the changes of jobs, inside the open transaction.

    Args:
        db: The shard.
        batches: The batches that are being written.
        write_set: Their jobs, in the same order; the jobs' rows are written already.
        columns: The keys of the write set; None where it is small.
        surrogate_keys: Numbers the audiences and types that jobs had before.

    Returns:
        Per job the effective time of its last applied event, microseconds since the epoch.
    """
    found: list[Change] = []
    times = write_set.times
    partitions = np.repeat(
        np.array([batch.partition for batch in batches], "<u2"),
        [len(batch.changes) for batch in batches],
    )
    for number in range(len(times)) if columns is None else write_set.renamed:
        entry = write_set.entries[number]
        keys = [
            *(key_of(before, surrogate_keys) for _offset, before in entry.former),
            write_set.keys[number],
        ]
        partition = int(partitions[number])
        times[number], begins = _walk(
            entry, write_set.added[number], partition, keys, found, times[number]
        )
        if begins:
            _write_job_versions(db, entry, keys, begins)
    if columns is None:
        if found:
            _append_few(db, found)
            _merge_runs(db, 0)
        return times
    for number in write_set.renamed:
        write_set.added[number] = b""
    times, changes = _derive(write_set.added, columns, times, partitions)
    if found:
        changes = np.concatenate([changes, np.array(found, CHANGE)])
    if len(changes):
        _append(db, changes, 0)
        _merge_runs(db, 0)
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

    Measured: for batches of one job, applying a batch by `_derive` instead takes 73 % longer.

    Args:
        entry: Says at which offsets another version of the job began, if any did.
        added: The entries that were added to its trail, packed.
        partition: The partition of its events.
        keys: The keys of its versions since the last commit, the current one last.
        found: Its changes are added to this list.
        time: Its effective time before these events, microseconds since the epoch.

    Returns:
        Its effective time after them; and per new version the effective time and the offset at
        which it began.
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


def _write_job_versions(
    db: Connection,
    entry: Entry,
    keys: Sequence[Key],
    begins: list[tuple[int, int]],
) -> None:
    """Write the versions of a job, each with the times and offsets between which it was current."""
    db.execute(
        "UPDATE incarnations SET until=?, until_offset=? WHERE job=? AND until IS NULL",
        (*begins[0], entry.row),
    )
    if db.changes():
        keys = keys[1:]
    else:
        # The first version has no row yet. It begins with the trail, whose chunks are written.
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
) -> tuple[list[int], ChangeArray]:
    """Find the changes of all jobs that have no new version, in columns.

    Measured: for batches of 5,000 events, applying a batch by `_walk` instead takes 36 % longer.

    Args:
        added: The entries that were added to each job's trail, packed.
        columns: The keys of the jobs.
        reached_before: The effective time of each before these events.
        partitions: The partition of each.

    Returns:
        The effective time of each job after them, and the changes.
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
    """Return at each entry the largest time of its job up to there."""
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
    """Write a few changes as one run.

    Measured: for batches of one job, applying a batch by `_append` instead takes 29 % longer.
    """
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


def _append(db: Connection, changes: ChangeArray, level: int) -> None:
    """Write changes as runs of `_LARGEST` at most, whose times do not overlap."""
    pieces = [changes]
    if len(changes) > _LARGEST:
        by_time = changes[np.argsort(changes["effective"], kind="stable")]
        pieces = np.array_split(by_time, -(-len(changes) // _LARGEST))
    for piece in pieces:
        _write_run(db, piece, _LAST_LEVEL if len(piece) >= _LARGE else level)


def _write_run(db: Connection, changes: ChangeArray, level: int) -> None:
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


def _offsets(changes: ChangeArray) -> ChangeArray:
    """Return the first and the last offset of the changes of each partition."""
    partitions = changes["partition"]
    present = np.unique(partitions)
    found = np.empty(len(present), OFFSETS)
    for number, partition in enumerate(present):
        offsets = changes["offset"][partitions == partition]
        found[number] = (partition, offsets.min(), offsets.max())
    return found


def _totals(audience: int, changes: ChangeArray) -> list[tuple[int, ...]]:
    """Sum changes by type and day of creation; empty where that saves too few rows."""
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


def _merge_runs(db: Connection, level: int) -> None:
    """Merge the runs of a level into one of the next where there are many, and so on."""
    (count,) = db.execute("SELECT count(*) FROM change_runs WHERE level=?", (level,)).fetchone()
    if count < _MERGED_RUNS:
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
    _merge_runs(db, level + 1)
