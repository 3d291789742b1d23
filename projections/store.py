"""What a projector asks of a projection store. Every store runs the same contract tests.

The store's own checkpoint is the truth about what was applied: rows, counters, trails and the
partition's checkpoint change in one transaction, and only if the checkpoint is still where the
batch begins. That makes effects exactly-once, whatever dies when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from jobtrail.asof import NEVER
from jobtrail.job import Job


class Checkpoint(NamedTuple):
    """Up to where a partition of the log is in the store."""

    #: The next offset to apply.
    next_offset: int
    #: CloudEvents id of the last record that was applied, empty where there was none or where
    #: the record was no event: shows whether the log is still the one that was folded.
    last_event_id: str
    #: The log's timestamp of that record, microseconds since the epoch; 0 where there was none.
    last_timestamp: int
    #: Reads can't be answered truly before `next_offset` reaches this.
    recover_to: int


class Entry(msgspec.Struct, gc=False, eq=False):
    """A job that the projector holds, and what the store holds of it.

    `job` moves on with the fold, which marks what it has touched. The other fields are the store's
    own, and change only when a batch is committed.
    """

    job: Job
    #: The row's number, None before the first commit.
    row: int | None = None
    #: (audience, type, creation time, bulk id, state code) as stored.
    stored: tuple[int, int, int, str | None, int] | None = None
    #: How many entries of the trail the store keeps outside of the row.
    spilled: int = 0
    #: Of which filling of the store the other fields speak: a reset begins another one.
    filling: str | None = None
    #: How many bytes of the trail are stored.
    written: int = 0
    #: The effective time of the last applied event that is stored; None where the trail has to
    #: be asked.
    reached: int | None = NEVER
    #: Whether `job` is to be written.
    touched: bool = False
    #: What the job was before an event at this offset said anew what it is and whose, since
    #: the last commit: such events are rare, and the trail does not hold what they say.
    former: tuple[tuple[int, Job], ...] = ()

    def note(self, before: Job, offset: int) -> None:
        """Keep what the job was, after a `job.created` at this offset, where that has changed."""
        if _description(before) != _description(self.job):
            self.former += ((offset, before),)


def _description(job: Job) -> tuple[object, ...]:
    return job.owner, job.viewers, job.job_type, job.created_at, job.bulk_id


class Tally(NamedTuple):
    """How the records of a batch were judged."""

    applied: int = 0
    duplicate: int = 0
    late: int = 0
    not_allowed: int = 0
    dead: int = 0


class Batch(NamedTuple):
    """The outcome of folding consecutive records of one partition."""

    partition: int
    start: int
    next_offset: int
    last_event_id: str
    last_timestamp: int
    #: Each touched job once, as it is after the batch.
    changes: Sequence[Entry]
    tally: Tally


class ProjectionWriter(Protocol):
    """The write side of a store: one instance per projector process."""

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that the store knows."""

    def part_of(self, partition: int) -> int:
        """Return which part of the store holds a partition: each is written by itself."""

    def apply(self, batches: Sequence[Batch]) -> None:
        """Write batches and move their partitions' checkpoints, in one transaction.

        Args:
            batches: One or more, of partitions of the same part.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
            StoreError: The store can't be written; nothing was written.
        """

    def reset(self, partition: int, ends: Mapping[int, int]) -> None:
        """Empty the part of the store that holds a partition, to be folded anew from the log.

        Args:
            partition: The partition whose log is not the one that was folded.
            ends: The log's end per partition: reads wait until the store is there again.
        """

    def rest(self) -> None:
        """Make what was written ready to be read fast, since nothing is to be written for a while.

        Raises:
            StoreError: That can't be done now; nothing is lost by it.
        """

    def close(self) -> None:
        """Let go of the store."""
