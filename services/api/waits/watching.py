"""A watch per job, shared by all waits for that job, and the waits.

A wait is decided record by record, in the order in which the tail reads the log. While the tail
lacks records of a job (it began later, or its buffer was full), a wait sees only the states that
are read from the projections, each as of its checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final

from jobtrail.core.earlier import TRIM_ENTRIES, MemoryChunks
from jobtrail.core.job import Job
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import ENDED
from projections.ports.read import Caller, Watermark
from services.api.live.buffer import Buffer, Record
from services.api.live.overlay import fold_records, is_long
from services.api.problems.problems import Problem
from services.api.store import Store, is_recovering

_NOTHING: Final = Watermark({}, {}, frozenset())


class Seen(IntEnum):
    """How a wait counts a job."""

    #: Absent, or not visible to the caller.
    UNKNOWN = 0
    PENDING = 1
    ENDED = 2


class Claim:
    """Keeps watches for a wait that is being registered."""

    __slots__ = ()

    def update(self, watch: Watch, arrived: float | None = None) -> None:
        """Do nothing: the wait counts all of its jobs when it begins."""


class Watch:
    """One job at the end of the log, for as long as a wait is open for it."""

    __slots__ = (
        "_on_unsynced",
        "_store",
        "id",
        "job",
        "key",
        "next_offset",
        "partition",
        "partitions",
        "read_from",
        "waits",
    )

    def __init__(
        self, job_id: str, store: Store, partitions: int, on_unsynced: Callable[[Watch], None]
    ) -> None:
        self._store = store
        self._on_unsynced = on_unsynced
        self.id = job_id
        self.key = job_id.encode()
        self.partition = partition_of(job_id, partitions)
        self.partitions = partitions
        self.job: Job | None = None
        #: The offset before which all events are in `job`.
        self.next_offset = 0
        #: The watermark of the projections from which `job` was read, if the tail's records can't
        #: be folded onto it as they arrive; None if they can.
        self.read_from: Watermark | None = _NOTHING
        self.waits: dict[Wait | Claim, Seen] = {}

    @property
    def synced(self) -> bool:
        """Whether the tail's records can be folded onto the job as they arrive."""
        return self.read_from is None

    def begin(self) -> None:
        """Begin without the job: the log was replaced."""
        self.next_offset = 0
        self.read_from = _NOTHING
        self.become(None)

    def take(self, record: Record, arrived: float) -> None:
        """Fold a record onto the job, and wake the waits that it ends."""
        if (
            self.read_from is not None
            or record[0] != self.partition
            or record[1] < self.next_offset
        ):
            return
        try:
            job = self._fold(record)
        except Problem:
            # The projections can't be read now; the job is read from them when they can be.
            self._read_again()
            return
        self.next_offset = record[1] + 1
        self.become(job, arrived)
        if (
            job is not None
            and isinstance(job.earlier, MemoryChunks)
            and job.earlier.entries >= TRIM_ENTRIES
        ):
            # Read again without the long trail, which the projections have, or will have.
            self._read_again()

    def _read_again(self) -> None:
        """Have the job read from the projections again."""
        self.read_from = Watermark({self.partition: self.next_offset}, {}, frozenset())
        self._on_unsynced(self)

    def _fold(self, record: Record) -> Job | None:
        """Return the job after a record.

        Raises:
            Problem: The job's trail is in the projections, and they can't be read.
        """
        if not is_long(self.job):
            return fold_records(self.job, self.key, (record,), self.partitions)
        with self._store.snapshot(allow_recovering=True) as snapshot:
            if self.partition in snapshot.watermark.recovering:
                raise is_recovering(snapshot.watermark)
            return fold_records(self.job, self.key, (record,), self.partitions, snapshot)

    def become(self, job: Job | None, arrived: float | None = None) -> None:
        """Set the job, and have every wait count it again if that can differ."""
        before, self.job = self.job, job
        # A job with many waits may have many events that change nothing for them.
        if job is not before and _decisive(job) != _decisive(before):
            for wait in self.waits:
                wait.update(self, arrived)


def _decisive(job: Job | None) -> tuple[bool, str | None, tuple[str, ...]] | None:
    """Return what decides how a wait counts a job: whether it has ended, and who may see it."""
    return None if job is None else (job.state in ENDED, job.owner, job.viewers)


class Wait:
    """One request that waits for jobs to end.

    It is over after the first record with which its condition holds, in the order in which the tail
    reads them. It keeps the jobs as they are then; later events change nothing.
    """

    __slots__ = (
        "_buffer",
        "_jobs",
        "_position",
        "arrived",
        "caller",
        "future",
        "ignores_unknown",
        "over",
        "pending",
        "unknown",
        "until_any",
        "watches",
    )

    def __init__(
        self, caller: Caller, watches: Sequence[Watch], buffer: Buffer, *, until_any: bool
    ) -> None:
        self.caller = caller
        self.watches = tuple(watches)
        self.until_any = until_any
        self._buffer = buffer
        #: How many jobs that the caller may see have not ended.
        self.pending = 0
        #: How many jobs are absent, or not visible to the caller.
        self.unknown = len(self.watches)
        #: Whether it no longer waits for unknown jobs.
        self.ignores_unknown = False
        #: Whether its condition has held.
        self.over = False
        #: The visible jobs when it was over, and the position then.
        self._jobs: dict[str, Job] = {}
        self._position: tuple[Mapping[int, int], Watermark | None] | None = None
        self.future: asyncio.Future[None] | None = None
        #: When the event that ended the wait arrived, by `time.perf_counter`.
        self.arrived: float | None = None
        for watch in self.watches:
            watch.waits[self] = Seen.UNKNOWN
        for watch in self.watches:
            self._count(watch)
        self._check(None)

    def update(self, watch: Watch, arrived: float | None = None) -> None:
        """Count a job as it is now."""
        if self._count(watch):
            self._check(arrived)

    def _count(self, watch: Watch) -> bool:
        """Count a job as it is now; return whether that differs from before."""
        job = watch.job
        if job is None or not self.caller.sees(job):
            seen = Seen.UNKNOWN
        else:
            seen = Seen.ENDED if job.state in ENDED else Seen.PENDING
        before = watch.waits[self]
        if seen is before:
            return False
        watch.waits[self] = seen
        self.unknown += (seen is Seen.UNKNOWN) - (before is Seen.UNKNOWN)
        self.pending += (seen is Seen.PENDING) - (before is Seen.PENDING)
        return True

    def _check(self, arrived: float | None) -> None:
        """End the wait if its condition holds for the first time."""
        if self.over:
            return
        if self.until_any and self.pending + self.unknown < len(self.watches):
            pass
        elif self.pending or (self.unknown and not self.ignores_unknown):
            return
        self.over = True
        self.arrived = arrived
        self._jobs = self._now()
        self._position = self.position()
        self.wake()

    def ignore_unknown(self) -> None:
        """Wait no longer for unknown jobs."""
        self.ignores_unknown = True
        self._check(None)

    def wake(self) -> None:
        """Wake the request."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def position(self) -> tuple[Mapping[int, int], Watermark | None]:
        """Return the position of the answer, and the same as a watermark with times.

        The second is None if all of its watches are synced, so that the answer is at the log's end.
        """
        if self._position is not None:
            return self._position
        position = self._buffer.position
        unsynced = [watch for watch in self.watches if watch.read_from is not None]
        if not unsynced:
            return position, None
        timestamps: dict[int, int] = {}
        for watch in unsynced:
            assert watch.read_from is not None
            for partition, offset in watch.read_from.position.items():
                if partition == watch.partition or partition not in position:
                    position[partition] = min(offset, position.get(partition, offset))
            timestamps |= watch.read_from.timestamps
        return position, Watermark(position, timestamps, frozenset())

    def may_miss_jobs(self) -> bool:
        """Tell whether a job of an unsynced watch counts as unknown."""
        return any(
            seen is Seen.UNKNOWN
            for seen in (watch.waits[self] for watch in self.watches if not watch.synced)
        )

    def unknown_partitions(self) -> set[int]:
        """Return the partitions of the unknown jobs."""
        return {w.partition for w in self.watches if w.waits[self] is Seen.UNKNOWN}

    def _now(self) -> dict[str, Job]:
        return {
            watch.id: watch.job
            for watch in self.watches
            if watch.job is not None and self.caller.sees(watch.job)
        }

    def jobs(self) -> dict[str, Job]:
        """Return the visible jobs as they were when the wait was over; before, as they are now."""
        return {**self._now(), **self._jobs}
