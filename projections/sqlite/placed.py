"""Jobs that are about to be written: as rows, and their keys job by job and in columns.

All is made in one pass over the jobs: there are so many that none of them is in the processor's
cache any more when it is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobtrail.asof import NEVER, reached
from jobtrail.errors import FencedError
from jobtrail.job import ENTRY_BYTES, STATE_CODES, Job
from jobtrail.states import STATES
from projections.reading import pack_tags
from projections.sqlite.numbers import Numbers
from projections.sqlite.rows import hash_of
from projections.store import Batch, Entry

#: (audience, type, creation time, bulk id, state code) of a row.
Key = tuple[int, int, int, str | None, int]

#: What an event can change of a job that keeps its audience, type and creation: the first columns
#: of a row that is written.
_Changing = tuple[Any, ...]

#: The code of no state: a job comes into being, or stops being what it was.
NONE: Final = len(STATES)
#: A row's own trail holds fewer entries than this; older ones move to `trail_chunks`, so that a
#: job with very many events does not rewrite all of them with each.
CHUNK_ENTRIES: Final = 64
CHUNK_BYTES: Final = CHUNK_ENTRIES * ENTRY_BYTES
#: Up to so many jobs are looked at one by one, which costs less than arrays of them.
_FEW: Final = 128


class Columns(NamedTuple):
    """The keys of jobs, and the codes of their states: as stored, `NONE` for new ones, and now."""

    audience: NDArray[np.int32]
    type: NDArray[np.int32]
    created: NDArray[np.int64]
    before: NDArray[np.uint8]
    after: NDArray[np.uint8]


class Placed:
    """Jobs that are about to be written, in the order of their batches.

    Args:
        last_row: The highest number that a row has.
        filling: Of which filling of the shard the numbers are.
    """

    def __init__(self, last_row: int, filling: str) -> None:
        self._last_row = last_row
        self.filling = filling
        self.entries: list[Entry] = []
        self.keys: list[Key] = []
        #: The code of the state that is stored, `NONE` where none is.
        self.before: list[int] = []
        #: Which of them were said anew to be another's, or of another kind.
        self.renamed: list[int] = []
        #: The effective time of each one's last applied event that is stored, and its trail since.
        self.times: list[int] = []
        self.added: list[bytes] = []
        #: How many entries of each one's trail lie outside of its row.
        self.spilled: list[int] = []
        #: Rows to be inserted, updated, and updated with what they usually keep.
        self.inserts: list[tuple[Any, ...]] = []
        self.updates: list[tuple[Any, ...]] = []
        self.moves: list[tuple[Any, ...]] = []
        self._spills: list[tuple[Entry, list[tuple[int, bytes]]]] = []

    def add(self, batch: Batch, numbers: Numbers) -> None:
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
            job, trail, spilled = entry.job, entry.job.trail, 0
            if len(trail) >= CHUNK_BYTES:
                spilled = len(trail) // CHUNK_BYTES * CHUNK_ENTRIES
                trail = trail[spilled * ENTRY_BYTES :]
            if spilled != entry.spilled:
                self._spill(entry, spilled)
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
                trail,
            )
            if entry.stored is None:
                key = self._insert(entry, changing, numbers)
            else:
                key = self._update(entry, entry.stored, changing, numbers)
            self.entries.append(entry)
            self.keys.append(key)
            self.spilled.append(spilled)

    def _insert(self, entry: Entry, changing: _Changing, numbers: Numbers) -> Key:
        job = entry.job
        self._last_row += 1
        entry.row = self._last_row
        key = key_of(job, numbers)
        self.inserts.append((*changing, *key[:4], entry.row, job.id, hash_of(job.id)))
        self.before.append(NONE)
        self.times.append(NEVER)
        self.added.append(job.trail)
        return key

    def _update(self, entry: Entry, stored: Key, changing: _Changing, numbers: Numbers) -> Key:
        job = entry.job
        # Of one that was not said anew nothing but the state can differ from what is stored.
        key = key_of(job, numbers) if entry.former else (*stored[:4], changing[0])
        if key[:4] == stored[:4]:
            self.updates.append((*changing, entry.row))
        else:
            self.moves.append((*changing, *key[:4], entry.row))
        self.before.append(stored[4])
        if entry.reached is None:
            entry.reached = reached(job.trail[: entry.written])
        self.times.append(entry.reached)
        self.added.append(job.trail[entry.written :])
        return key

    def _spill(self, entry: Entry, spilled: int) -> None:
        """Move entries of a trail out of its row, once the row has its number."""
        trail = entry.job.trail
        self._spills.append(
            (
                entry,
                [
                    (chunk, trail[chunk * CHUNK_BYTES :][:CHUNK_BYTES])
                    for chunk in range(entry.spilled // CHUNK_ENTRIES, spilled // CHUNK_ENTRIES)
                ],
            )
        )

    def chunks(self) -> list[tuple[int | None, int, bytes]]:
        """Return the parts of trails that are to lie outside of their rows."""
        return [(entry.row, *chunk) for entry, chunks in self._spills for chunk in chunks]

    def settle(self, times: Sequence[int]) -> None:
        """Note in the entries what is stored now that the transaction is committed.

        Args:
            times: The effective time that each job has reached.
        """
        for entry, key, spilled, time in zip(
            self.entries, self.keys, self.spilled, times, strict=True
        ):
            entry.stored = key
            entry.spilled = spilled
            entry.filling = self.filling
            entry.written = len(entry.job.trail)
            entry.reached = time
            entry.former = ()

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


def key_of(job: Job, numbers: Numbers) -> Key:
    """Return the key of a job as it is."""
    return (
        numbers.audience(job.owner, job.viewers),
        numbers.type(job.job_type),
        job.created_at,
        job.bulk_id,
        STATE_CODES[job.state],
    )
