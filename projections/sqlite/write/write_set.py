"""Jobs that are about to be written: as rows, and their keys job by job and in columns.

All of it is made in one pass over the jobs: a second pass would find none of them in the
processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobtrail.core.earlier import StoredEntries
from jobtrail.core.errors import FencedError
from jobtrail.core.job import Job
from jobtrail.core.trail import NEVER, STATE_CODES, effective_time
from projections.ports.read import pack_tags
from projections.ports.write import Entry, FoldedBatch
from projections.sqlite.tables.change_layout import NONE
from projections.sqlite.tables.rows import hash_of, pack_writers
from projections.sqlite.write.surrogate_keys import SurrogateKeys

#: (audience, type, creation time, bulk id, state code) of a row.
Key = tuple[int, int, int, str | None, int]

#: The columns that any event can change: the first ones of a row that is written.
_Changing = tuple[Any, ...]

#: Up to so many jobs are handled one by one, which costs less than arrays of them.
_FEW: Final = 128


class Columns(NamedTuple):
    """The keys of jobs, a column each; states as codes, before (`NONE` for new jobs) and after."""

    audience: NDArray[np.int32]
    type: NDArray[np.int32]
    created: NDArray[np.int64]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


class WriteSet:
    """Jobs that are about to be written, in the order of their batches.

    Args:
        last_row: The highest row number in use.
        generation: The generation of the shard in which the numbers are valid.
        seed: The seed of the hashes of ids in that generation.
    """

    def __init__(self, last_row: int, generation: str, seed: int) -> None:
        self._last_row = last_row
        self.generation = generation
        self._seed = seed
        self.entries: list[Entry] = []
        self.keys: list[Key] = []
        #: The code of each stored state, `NONE` for new jobs.
        self.before: list[int] = []
        #: The places of the jobs that have a new version: another owner, type or the like.
        self.renamed: list[int] = []
        #: Per job the effective time of its last stored applied event, and its trail after that.
        self.times: list[int] = []
        self.added: list[bytes] = []
        #: Rows to be inserted, updated in the columns that any event can change, and in all.
        self.inserts: list[tuple[Any, ...]] = []
        self.updates: list[tuple[Any, ...]] = []
        self.moves: list[tuple[Any, ...]] = []
        #: Chunks that leave their jobs' rows: the entry, its effective time before, the chunks.
        self._spills: list[tuple[Entry, int, bytes]] = []

    def add(self, batch: FoldedBatch, surrogate_keys: SurrogateKeys) -> None:
        """Add the jobs of a batch.

        Raises:
            FencedError: A job was read from an earlier generation of the shard.
        """
        for entry in batch.changes:
            if entry.generation is not None and entry.generation != self.generation:
                raise FencedError(
                    "The shard was emptied and is being folded again.",
                    where=f"partition {batch.partition}",
                    expected="jobs of its current generation",
                )
            job = entry.job
            trail, sealed, spilled = job.trail, b"", 0
            if job.earlier is not None:
                spilled, sealed = job.earlier.entries, job.earlier.kept()
                trail = sealed + trail
            if entry.reached is None:
                entry.reached = effective_time(trail[: entry.written])
            self.added.append(trail[entry.written :])
            if entry.former:
                self.renamed.append(len(self.entries))
            changing = (
                STATE_CODES[job.state],
                job.updated_at,
                job.started_at,
                job.ended_at,
                job.attempt,
                job.progress,
                pack_tags(job.tags),
                job.error,
                job.output,
                spilled,
                job.trail,
            )
            if entry.stored is None:
                key = self._insert(entry, changing, surrogate_keys)
            else:
                key = self._update(entry, entry.stored, changing, surrogate_keys)
            if sealed:
                self._spills.append((entry, self.times[-1], sealed))
            self.entries.append(entry)
            self.keys.append(key)

    def _insert(self, entry: Entry, changing: _Changing, surrogate_keys: SurrogateKeys) -> Key:
        job = entry.job
        self._last_row += 1
        entry.row = self._last_row
        key = key_of(job, surrogate_keys)
        self.inserts.append(
            (
                *changing,
                *key[:4],
                job.source,
                pack_writers(job.writers),
                entry.row,
                job.id,
                hash_of(job.id, self._seed),
            )
        )
        self.before.append(NONE)
        self.times.append(NEVER)
        return key

    def _update(
        self, entry: Entry, stored: Key, changing: _Changing, surrogate_keys: SurrogateKeys
    ) -> Key:
        job = entry.job
        # Without a new version, only the state can differ from the stored key.
        key = key_of(job, surrogate_keys) if entry.former else (*stored[:4], changing[0])
        if key[:4] == stored[:4] and not entry.handed_on:
            self.updates.append((*changing, entry.row))
        else:
            writers = pack_writers(job.writers)
            self.moves.append((*changing, *key[:4], job.source, writers, entry.row))
        self.before.append(stored[4])
        assert entry.reached is not None
        self.times.append(entry.reached)
        return key

    def spilled(self) -> list[tuple[int, int, bytes]]:
        """Return the chunks that leave the rows of jobs, as `tables.trails.write` takes them."""
        return [(entry.row or 0, time, chunks) for entry, time, chunks in self._spills]

    def settle(self, times: Sequence[int]) -> None:
        """Note in the entries what is stored, after the transaction was committed.

        Args:
            times: The effective time of each job, microseconds since the epoch.
        """
        for entry, key, time in zip(self.entries, self.keys, times, strict=True):
            entry.stored = key
            entry.generation = self.generation
            entry.written = len(entry.job.trail)
            entry.reached = time
            entry.former = ()
            entry.handed_on = False
        for entry, _time, _chunks in self._spills:
            assert entry.job.earlier is not None
            entry.job.earlier = StoredEntries(entry.job.earlier.entries)

    def in_columns(self) -> Columns | None:
        """Return the keys in columns; None for few keys, where columns would cost more."""
        if len(self.keys) <= _FEW:
            return None
        audience, job_type, created, _bulk, after = zip(*self.keys, strict=True)
        return Columns(
            np.array(audience, "<i4"),
            np.array(job_type, "<i4"),
            np.array(created, "<i8"),
            np.array(self.before, "u1"),
            np.array(after, "u1"),
        )


def key_of(job: Job, surrogate_keys: SurrogateKeys) -> Key:
    """Return the current key of a job."""
    return (
        surrogate_keys.audience(job.owner, job.viewers),
        surrogate_keys.type(job.job_type),
        job.created_at,
        job.bulk_id,
        STATE_CODES[job.state],
    )
