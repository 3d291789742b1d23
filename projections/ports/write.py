"""What a projector asks of a projection store. Every store runs the same contract tests.

The store's own checkpoint is the truth about what was applied: rows, counters, trails and the
partition's checkpoint change in one transaction, and only if the checkpoint is still where the
batch begins. That makes effects exactly-once, whatever dies when.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from sys import getsizeof
from typing import Any, NamedTuple, Protocol

import msgspec

from jobtrail.core.asof import NEVER
from jobtrail.core.job import Job
from jobtrail.core.position import LastRecord


class Checkpoint(NamedTuple):
    """Up to where a partition of the log is in the store."""

    #: The next offset to apply.
    next_offset: int
    #: The last record before it, an event or not, None where there was none: shows whether the
    #: log is still the one that was folded.
    last: LastRecord | None
    #: Reads can't be answered truly before `next_offset` reaches this.
    recover_to: int

    @property
    def is_recovering(self) -> bool:
        """Whether reads have to wait."""
        return self.next_offset < self.recover_to


class Beat(NamedTuple):
    """What a projector says of a partition from time to time: that it lives, and how far it is."""

    #: The offset before which the log was found to be the one that was folded.
    proved: int
    #: Why the partition is not folded any further; empty where it is.
    stopped: str


class Entry(msgspec.Struct, gc=False, eq=False):
    """A job that the projector holds, and what the store holds of it.

    `job` moves on with the fold, which marks what it has touched. The other fields are the store's
    own, and change only when a batch is committed.
    """

    job: Job
    #: The row's number, None before the first commit.
    row: int | None = None
    #: What the store knows of it since it was read or written; None before that.
    stored: Any = None
    #: Of which filling of the store the other fields speak: a reset begins another one.
    filling: str | None = None
    #: How many bytes of the trail's last entries are stored, beside whole chunks before them.
    written: int = 0
    #: The effective time of the last applied event that is stored; None where the trail has to
    #: be asked.
    reached: int | None = NEVER
    #: Whether `job` is to be written.
    touched: bool = False
    #: What the job was before an event at this offset said anew what it is and whose, since
    #: the last commit: such events are rare, and the trail does not hold what they say.
    former: tuple[tuple[int, Job], ...] = ()
    #: Whether an event since the last commit said anew who may work on the job.
    handed_on: bool = False
    #: Bytes of what `job` holds that differs from job to job, as of the last `measure`.
    size: int = 0
    #: Of them those of texts, and the objects that these are: they hardly ever change.
    texts: int = 0
    tags: dict[str, str] | None = None
    viewers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()

    def measure(self) -> int:
        """Take in how large the job is now; return by how many bytes it has grown."""
        job = self.job
        if (
            job.tags is not self.tags
            or job.viewers is not self.viewers
            or job.writers is not self.writers
        ):
            self.tags, self.viewers, self.writers = job.tags, job.viewers, job.writers
            self.texts = sum(map(getsizeof, (*job.tags, *job.tags.values())))
            self.texts += sum(map(getsizeof, (*job.viewers, *job.writers)))
        size = self.texts + len(job.trail)
        if job.error is not None:
            size += len(job.error)
        if job.output is not None:
            size += len(job.output)
        before, self.size = self.size, size
        return size - before

    def note(self, before: Job, offset: int) -> None:
        """Keep what the job was, after a `job.created` at this offset, where that has changed."""
        if before.source != self.job.source or before.writers != self.job.writers:
            self.handed_on = True
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
    foreign: int = 0
    dead: int = 0


class Batch(NamedTuple):
    """The outcome of folding consecutive records of one partition."""

    partition: int
    start: int
    next_offset: int
    #: The last record before `next_offset`; None where none was met yet.
    last: LastRecord | None
    #: Each touched job once, as it is after the batch.
    changes: Sequence[Entry]
    tally: Tally


class ProjectionWriter(Protocol):
    """The write side of a store: one instance per projector process."""

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that the store knows."""

    def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries.

        Args:
            partition: The job's.
            entry: As `load` or `apply` have left it: its `job.earlier` lies in the store.
            keys: See `jobtrail.core.job.event_key`.
        """

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

    def reset(self, partition: int, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Empty the part of the store that holds a partition, to be folded again from the log.

        Args:
            partition: The partition whose log is not the one that was folded.
            begins: The log's first offset per partition: where the fold begins.
            ends: The log's end per partition: reads wait until the store is there again.
        """

    def wait_for_no_more(self, ends: Mapping[int, int]) -> None:
        """Let reads wait for nothing behind these offsets: the log has lost what was there.

        Args:
            ends: The log's end per partition, of a log that is proven to be the one folded.

        Raises:
            StoreError: The store can't be written.
        """

    def skip(self, partition: int, until: int) -> int:
        """Move a partition's checkpoint over a hole in the log, and remember it.

        Args:
            partition: Which.
            until: The offset behind the hole.

        Returns:
            Where the checkpoint was.

        Raises:
            StoreError: It is not before `until`, or the store can't be written.
        """

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Say that a projector lives, and how far it is.

        Args:
            beats: Per partition that is the projector's.

        Raises:
            StoreError: The store can't be written.
        """

    def repair(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
        """Look for parts that are damaged, missing or another file, and make them again.

        What is damaged is set aside, not deleted.

        Args:
            begins: The log's first offset per partition.
            ends: The log's end per partition: reads wait until the store is there again.

        Returns:
            The partitions whose checkpoints may have changed.

        Raises:
            StoreError: That can't be done now.
        """

    def rest(self) -> None:
        """Make what was written ready to be read fast, since nothing is to be written for a while.

        Raises:
            StoreError: That can't be done now; nothing is lost by it.
        """

    def close(self) -> None:
        """Let go of the store."""
