"""How a projector writes a projection store. Every store runs the same contract tests.

The store's own checkpoint alone says what was applied: rows, counters, trails and the
partition's checkpoint change in one transaction, and only if the checkpoint is still where the
batch begins. That makes effects exactly-once, whichever process is killed at whatever moment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from sys import getsizeof
from typing import Any, NamedTuple, Protocol

import msgspec

from jobtrail.core.job import Job
from jobtrail.core.position import LastRecord
from jobtrail.core.trail import NEVER


class Checkpoint(NamedTuple):
    """Up to where a partition of the log is in the store."""

    #: The next offset to apply.
    next_offset: int
    #: The last record before it, an event or not, None where there was none: by it the log is
    #: recognised as the one that was folded.
    last: LastRecord | None
    #: Reads can't be answered correctly before `next_offset` reaches this.
    recover_to: int

    @property
    def is_recovering(self) -> bool:
        """Whether reads have to wait."""
        return self.next_offset < self.recover_to


class Beat(NamedTuple):
    """The heartbeat of a projector for a partition."""

    #: The offset before which the log was found to be the one that was folded.
    proved: int
    #: Why the partition has stopped; empty where it has not.
    stopped: str


class Entry(msgspec.Struct, gc=False, eq=False):
    """A job in the projector's cache, and what the store has of it.

    The fold replaces `job` and marks the entry as touched. The other fields are the store's own,
    and change only when a batch is committed.
    """

    job: Job
    #: The row's number, None before the first commit.
    row: int | None = None
    #: What the store knows of it since it was read or written; None before that.
    stored: Any = None
    #: The generation of the store in which the other fields are valid: a reset begins another one.
    generation: str | None = None
    #: How many bytes of the trail's last entries are stored, beside the chunks before them.
    written: int = 0
    #: The effective time of the last stored applied event, microseconds since the epoch; None
    #: where it has to be read from the trail.
    reached: int | None = NEVER
    #: Whether `job` is to be written.
    touched: bool = False
    #: Earlier versions of the job since the last commit, each with the offset of the `job.created`
    #: that ended it: such events are rare, and the trail does not contain their data.
    former: tuple[tuple[int, Job], ...] = ()
    #: Whether an event since the last commit has changed who may work on the job.
    handed_on: bool = False
    #: Bytes of the parts of `job` whose size varies, as of the last `measure`.
    size: int = 0
    #: The bytes of its texts, and the objects that were measured: they hardly ever change.
    texts: int = 0
    tags: dict[str, str] | None = None
    viewers: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()

    def measure(self) -> int:
        """Measure the job; return by how many bytes it has grown."""
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
        """Keep the earlier version, where a `job.created` at this offset has begun another."""
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


class FoldedBatch(NamedTuple):
    """What consecutive records of one partition were folded into, to be written."""

    partition: int
    start: int
    next_offset: int
    #: The last record before `next_offset`; None where there was none yet.
    last: LastRecord | None
    #: Each touched job once, as it is after the batch.
    changes: Sequence[Entry]
    tally: Tally


class ProjectionWriter(Protocol):
    """The write side of a store: one instance per projector process."""

    @property
    def reads_at_once(self) -> bool:
        """Whether `load` and `seen` wait for nobody: then the event loop may call them itself."""

    def checkpoints(self) -> dict[int, Checkpoint]:
        """Return every partition's checkpoint."""

    def load(self, partition: int, ids: Iterable[str]) -> dict[str, Entry]:
        """Return those of these jobs of a partition that the store has."""

    def seen(self, partition: int, entry: Entry, keys: Collection[bytes]) -> Set[bytes]:
        """Return those of these keys of events that a job has had before its last entries.

        Args:
            partition: The job's.
            entry: As returned by `load`, or after `apply`: its `job.earlier` is in the store.
            keys: See `jobtrail.core.job.event_key`.
        """

    def part_of(self, partition: int) -> int:
        """Return the part of the store with a partition: each part is written by itself."""

    def apply(self, batches: Sequence[FoldedBatch]) -> None:
        """Write batches and move their partitions' checkpoints, in one transaction.

        Args:
            batches: One or more, of partitions of the same part.

        Raises:
            FencedError: The stored checkpoint of one is not its `start`; nothing was written.
            StoreError: The store can't be written; nothing was written.
        """

    def reset(self, partition: int, begins: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """Empty the part of the store with a partition, to be folded again from the log.

        Args:
            partition: The partition whose log is another one than was folded.
            begins: The log's first offset per partition: where the fold begins.
            ends: The log's end per partition: reads wait until the store is there again.
        """

    def wait_for_no_more(self, ends: Mapping[int, int]) -> None:
        """Let reads wait for no offset after these: the log has lost the records there.

        Args:
            ends: The log's end per partition, of a log that is proven to be the one folded.

        Raises:
            StoreError: The store can't be written.
        """

    def skip(self, partition: int, until: int) -> int:
        """Move a partition's checkpoint over a hole in the log, and record it.

        Args:
            partition: Which.
            until: The first offset after the hole.

        Returns:
            Where the checkpoint was.

        Raises:
            StoreError: It is not before `until`, or the store can't be written.
        """

    def beat(self, beats: Mapping[int, Beat]) -> None:
        """Write a projector's heartbeats.

        Args:
            beats: Per partition that is assigned to the projector.

        Raises:
            StoreError: The store can't be written.
        """

    def repair(self, begins: Mapping[int, int], ends: Mapping[int, int]) -> list[int]:
        """Replace parts that are damaged or missing, or whose file is another one.

        A damaged file is set aside, not deleted.

        Args:
            begins: The log's first offset per partition.
            ends: The log's end per partition: reads wait until the store is there again.

        Returns:
            The partitions whose checkpoints may have changed.

        Raises:
            StoreError: That can't be done now.
        """

    def checkpoint_wal(self) -> None:
        """Move what was written from the write-ahead log into the store's files.

        Reads are faster after it. A projector calls it after a pause without writes.

        Raises:
            StoreError: That can't be done now; nothing is lost by it.
        """

    def close(self) -> None:
        """Close the store."""
