"""Jobs that are about to be written: as rows, and their keys job by job and in columns.

All is made in one pass over the jobs: there are so many that none of them is in the processor's
cache any more when it is looked at again.
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
from projections.ports.write import Batch, Entry
from projections.sqlite.tables.change_layout import NONE
from projections.sqlite.tables.rows import hash_of, pack_writers
from projections.sqlite.write.surrogate_keys import SurrogateKeys

#: (audience, type, creation time, bulk id, state code) of a row.
Key = tuple[int, int, int, str | None, int]

#: What an event can change of a job that keeps its audience, type and creation: the first columns
#: of a row that is written.
_Changing = tuple[Any, ...]

#: Up to so many jobs are looked at one by one, which costs less than arrays of them.
_FEW: Final = 128


class Columns(NamedTuple):
    """The keys of jobs, and the codes of their states: as stored, `NONE` for new ones, and now."""

    audience: NDArray[np.int32]
    type: NDArray[np.int32]
    created: NDArray[np.int64]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


class WriteSet:
    """Jobs that are about to be written, in the order of their batches.

    Args:
        last_row: The highest number that a row has.
        filling: Of which filling of the shard the numbers are.
        seed: Of the hashes of ids in that filling.
    """

    def __init__(self, last_row: int, filling: str, seed: int) -> None:
        self._last_row = last_row
        self.filling = filling
        self._seed = seed
        self.entries: list[Entry] = []
        self.keys: list[Key] = []
        #: The code of the state that is stored, `NONE` where none is.
        self.before: list[int] = []
        #: Which of them were said anew to be another's, or of another kind.
        self.renamed: list[int] = []
        #: The effective time of each one's last applied event that is stored, and its trail since.
        self.times: list[int] = []
        self.added: list[bytes] = []
        #: Rows to be inserted, updated, and updated with what they usually keep.
        self.inserts: list[tuple[Any, ...]] = []
        self.updates: list[tuple[Any, ...]] = []
        self.moves: list[tuple[Any, ...]] = []
        #: What leaves the rows of some: the entry, what it had reached, and whole chunks.
        self._spills: list[tuple[Entry, int, bytes]] = []

    def add(self, batch: Batch, numbers: SurrogateKeys) -> None:
        """Add the jobs of a batch.

        Raises:
            FencedError: One was read before the shard was emptied.
        """
        for entry in batch.changes:
            if entry.filling is not None and entry.filling != self.filling:
                raise FencedError(
                    "The shard was emptied and is being filled anew.",
                    where=f"partition {batch.partition}",
                    expected="jobs that were read from it since",
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
                key = self._insert(entry, changing, numbers)
            else:
                key = self._update(entry, entry.stored, changing, numbers)
            if sealed:
                self._spills.append((entry, self.times[-1], sealed))
            self.entries.append(entry)
            self.keys.append(key)

    def _insert(self, entry: Entry, changing: _Changing, numbers: SurrogateKeys) -> Key:
        job = entry.job
        self._last_row += 1
        entry.row = self._last_row
        key = key_of(job, numbers)
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
        self, entry: Entry, stored: Key, changing: _Changing, numbers: SurrogateKeys
    ) -> Key:
        job = entry.job
        # Of one that was not said anew nothing but the state can differ from what is stored.
        key = key_of(job, numbers) if entry.former else (*stored[:4], changing[0])
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
        """Return what leaves the rows of jobs, as `tables.trails.write` takes it."""
        return [(entry.row or 0, time, chunks) for entry, time, chunks in self._spills]

    def settle(self, times: Sequence[int]) -> None:
        """Note in the entries what is stored now that the transaction is committed.

        Args:
            times: The effective time that each job has reached.
        """
        for entry, key, time in zip(self.entries, self.keys, times, strict=True):
            entry.stored = key
            entry.filling = self.filling
            entry.written = len(entry.job.trail)
            entry.reached = time
            entry.former = ()
            entry.handed_on = False
        for entry, _time, _chunks in self._spills:
            assert entry.job.earlier is not None
            entry.job.earlier = StoredEntries(entry.job.earlier.entries)

    def in_columns(self) -> Columns | None:
        """Return the keys in columns; None where they are so few that this would cost more."""
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


def key_of(job: Job, numbers: SurrogateKeys) -> Key:
    """Return the key of a job as it is."""
    return (
        numbers.audience(job.owner, job.viewers),
        numbers.type(job.job_type),
        job.created_at,
        job.bulk_id,
        STATE_CODES[job.state],
    )
