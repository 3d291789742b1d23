"""What is waited for: a watch per job, shared by all who wait for it, and who waits.

A wait is decided record by record, in the log's order as this process takes it in. While the tail
does not have all records of a job (it began later, or had no room), only the states at the looks
into the projections are seen, each as of its checkpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final

from jobtrail.core.job import Job
from jobtrail.core.partitions import partition_of
from jobtrail.core.states import ENDED
from jobtrail.core.trail import MANY, Chunks
from projections.ports.read import Caller, Watermark
from services.api.live.buffer import Buffer, Record
from services.api.live.overlay import fold_records, is_long
from services.api.problems.problems import Problem
from services.api.store import Store, is_recovering

_NOTHING: Final = Watermark({}, {}, frozenset())


class Seen(IntEnum):
    """How a job stands for one who waits for it."""

    #: Not there, or not for them.
    UNKNOWN = 0
    PENDING = 1
    ENDED = 2


class Claim:
    """Keeps watches for a wait that has not taken up all of its jobs yet."""

    __slots__ = ()

    def look(self, watch: Watch, arrived: float | None = None) -> None:
        """Take no notice: the wait looks at all of them when it begins."""


class Watch:
    """One job as it is at the end of the log, for as long as somebody waits for it."""

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
        #: What `job` holds: everything before this offset.
        self.next_offset = 0
        #: What the projections held that `job` was read from, where the tail's records can't be
        #: folded on as they come; None where they can.
        self.read_from: Watermark | None = _NOTHING
        self.waits: dict[Wait | Claim, Seen] = {}

    @property
    def synced(self) -> bool:
        """Whether the tail's records can be folded on as they come."""
        return self.read_from is None

    def begin(self) -> None:
        """Know nothing of the job: the log is another one."""
        self.next_offset = 0
        self.read_from = _NOTHING
        self.become(None)

    def take(self, record: Record, arrived: float) -> None:
        """Fold a record on, and wake the waits that it ends."""
        if (
            self.read_from is not None
            or record[0] != self.partition
            or record[1] < self.next_offset
        ):
            return
        try:
            job = self._fold(record)
        except Problem:
            # The projections can't be asked now: it is read from them when they can be.
            self._read_again()
            return
        self.next_offset = record[1] + 1
        self.become(job, arrived)
        if job is not None and isinstance(job.earlier, Chunks) and job.earlier.entries >= MANY:
            # Its trail need not be kept here: the projections have it, or will.
            self._read_again()

    def _read_again(self) -> None:
        """Have the job read from the projections at the next look."""
        self.read_from = Watermark({self.partition: self.next_offset}, {}, frozenset())
        self._on_unsynced(self)

    def _fold(self, record: Record) -> Job | None:
        """Return the job after a record.

        Raises:
            Problem: The projections have the beginning of its trail, and can't be read.
        """
        if not is_long(self.job):
            return fold_records(self.job, self.key, (record,), self.partitions)
        with self._store.snapshot(allow_recovering=True) as snapshot:
            if self.partition in snapshot.watermark.recovering:
                raise is_recovering(snapshot.watermark)
            return fold_records(self.job, self.key, (record,), self.partitions, snapshot)

    def become(self, job: Job | None, arrived: float | None = None) -> None:
        """Take in how the job is, and let every wait look at it that may count it anew."""
        before, self.job = self.job, job
        # A job that many wait for may be told of very often, with nothing that concerns them.
        if job is not before and _decisive(job) != _decisive(before):
            for wait in self.waits:
                wait.look(self, arrived)


def _decisive(job: Job | None) -> tuple[bool, str | None, tuple[str, ...]] | None:
    """Return all of a job by which a wait counts it: whether it has ended, and who may see it."""
    return None if job is None else (job.state in ENDED, job.owner, job.viewers)


class Wait:
    """One request that waits for jobs to end.

    It is over at the first moment at which its condition holds, record by record as the tail takes
    them in, and keeps the jobs as they are then: what happens to them later changes nothing.
    """

    __slots__ = (
        "_buffer",
        "_held",
        "_jobs",
        "arrived",
        "caller",
        "future",
        "impatient",
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
        #: How many jobs the caller sees that have not ended.
        self.pending = 0
        #: How many jobs are not there, or not for them.
        self.unknown = len(self.watches)
        #: Whether unknown jobs no longer count.
        self.impatient = False
        #: Whether there is nothing more to wait for.
        self.over = False
        #: The jobs that they saw when it was over, and the log's end then.
        self._jobs: dict[str, Job] = {}
        self._held: tuple[Mapping[int, int], Watermark | None] | None = None
        self.future: asyncio.Future[None] | None = None
        #: When the event arrived that ended the wait, by `time.perf_counter`.
        self.arrived: float | None = None
        for watch in self.watches:
            watch.waits[self] = Seen.UNKNOWN
        for watch in self.watches:
            self._count(watch)
        self._check(None)

    def look(self, watch: Watch, arrived: float | None = None) -> None:
        """Take in how a job is now."""
        if self._count(watch):
            self._check(arrived)

    def _count(self, watch: Watch) -> bool:
        """Count a job as it is now; return whether it counted as something else before."""
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
        """Be over, where the condition holds for the first time."""
        if self.over:
            return
        if self.until_any and self.pending + self.unknown < len(self.watches):
            pass
        elif self.pending or (self.unknown and not self.impatient):
            return
        self.over = True
        self.arrived = arrived
        self._jobs = self._now()
        self._held = self.held()
        self.wake()

    def ignore_unknown(self) -> None:
        """Wait no longer for jobs that are not there."""
        self.impatient = True
        self._check(None)

    def wake(self) -> None:
        """Let the request look whether its wait is over."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def held(self) -> tuple[Mapping[int, int], Watermark | None]:
        """Return what the answer holds, and the same with the log's times.

        The second is None where the tail keeps up with all of its jobs.
        """
        if self._held is not None:
            return self._held
        position = self._buffer.position
        behind = [watch for watch in self.watches if watch.read_from is not None]
        if not behind:
            return position, None
        timestamps: dict[int, int] = {}
        for watch in behind:
            assert watch.read_from is not None
            for partition, offset in watch.read_from.position.items():
                if partition == watch.partition or partition not in position:
                    position[partition] = min(offset, position.get(partition, offset))
            timestamps |= watch.read_from.timestamps
        return position, Watermark(position, timestamps, frozenset())

    def doubts(self) -> bool:
        """Tell whether a job counts as unknown that the tail does not follow to the log's end."""
        return any(
            seen is Seen.UNKNOWN
            for seen in (watch.waits[self] for watch in self.watches if not watch.synced)
        )

    def unknown_partitions(self) -> set[int]:
        """Return where the jobs would be that are not there, or not for them."""
        return {w.partition for w in self.watches if w.waits[self] is Seen.UNKNOWN}

    def _now(self) -> dict[str, Job]:
        return {
            watch.id: watch.job
            for watch in self.watches
            if watch.job is not None and self.caller.sees(watch.job)
        }

    def jobs(self) -> dict[str, Job]:
        """Return the jobs that the caller sees: as they were when it was over, else as now."""
        return {**self._now(), **self._jobs}
