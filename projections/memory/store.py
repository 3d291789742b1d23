"""What a store keeps: per partition the jobs and the checkpoint up to which they are folded.

Nothing of it is ever changed. A writer puts a new value in the place of the old one, so who reads
keeps what they have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

import msgspec

from jobtrail.core.errors import FencedError
from jobtrail.core.job import Job, kept_trail
from jobtrail.core.trail import CHUNK_BYTES, ENTRY_BYTES, Elsewhere
from projections.ports.write import Batch, Beat, Checkpoint, Tally


class StoredJob(NamedTuple):
    """A job, all of its trail, and what it was before events that said it is something else."""

    #: Without its trail.
    job: Job
    trail: bytes
    #: By the offsets of those events, in order.
    former: tuple[tuple[int, Job], ...] = ()

    @property
    def with_last_entries(self) -> Job:
        """The job with the last entries of its trail; those before them lie in the store."""
        earlier = len(self.trail) // CHUNK_BYTES * CHUNK_BYTES
        return msgspec.structs.replace(
            self.job,
            trail=self.trail[earlier:],
            earlier=Elsewhere(earlier // ENTRY_BYTES) if earlier else None,
        )


class Partition(NamedTuple):
    """What is stored of one partition of the log."""

    checkpoint: Checkpoint
    #: Another one after each reset: jobs that were read before are not written after it.
    generation: int = 0
    jobs: Mapping[str, StoredJob] = {}
    tally: Tally = Tally()
    #: When a projector said that it lives, microseconds since 1970; 0 for never.
    beat_at: int = 0
    beat: Beat = Beat(0, "")
    #: Holes in the log that were skipped: their first offsets, and those after their last ones.
    skipped: tuple[tuple[int, int], ...] = ()

    def after(self, batch: Batch) -> Partition:
        """Return what is stored once a batch is applied.

        Raises:
            FencedError: The batch does not begin at the checkpoint, or a job was read before the
                partition was emptied.
        """
        if batch.start != self.checkpoint.next_offset:
            raise FencedError(
                "Another projector has moved this partition's checkpoint.",
                where=f"partition {batch.partition}",
                expected=f"a checkpoint at offset {batch.start}",
                found=f"offset {self.checkpoint.next_offset}",
            )
        jobs = dict(self.jobs)
        for entry in batch.changes:
            if entry.stored not in (None, self.generation):
                raise FencedError(
                    "The partition was emptied and is being filled again.",
                    where=f"partition {batch.partition}",
                    expected="jobs that were read from it since",
                )
            job = entry.job
            before = jobs.get(job.id, StoredJob(job, b""))
            stored = job.earlier.stored if isinstance(job.earlier, Elsewhere) else 0
            jobs[job.id] = StoredJob(
                msgspec.structs.replace(job, trail=b"", earlier=None),
                before.trail[: stored * ENTRY_BYTES] + kept_trail(job),
                before.former + entry.former,
            )
        return self._replace(
            checkpoint=self.checkpoint._replace(next_offset=batch.next_offset, last=batch.last),
            jobs=jobs,
            tally=Tally(*map(sum, zip(self.tally, batch.tally, strict=True))),
        )


class MemoryStore:
    """A store that lives as long as its process.

    Args:
        begins: The log's first offset per partition: where the fold begins.
        ends: The log's end per partition: reads wait until the store is there.
    """

    def __init__(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        #: Replaced as a whole, under `lock`.
        self.partitions: Mapping[int, Partition] = {
            partition: Partition(Checkpoint(begin, None, ends[partition]))
            for partition, begin in begins.items()
        }
        #: Held by who writes.
        self.lock = Lock()
