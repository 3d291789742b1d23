"""Held waits: a watch per job, shared by all who wait for it, and a future per wait.

Register first, then read the projections, then fold what the tail has seen since. All three are
one step of the event loop, and every later record of a watched job goes to its watch: so no
change is missed, and a wait never asks twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from jobtrail.job import Job
from jobtrail.partitions import partition_of
from jobtrail.states import ENDED
from projections.reading import Caller, Held, Snapshot
from services.api.buffer import Buffer, Record
from services.api.limits import Patience
from services.api.overlay import fold_record, fold_records
from services.api.problems import too_many_waits

#: Watches that are read from the projections at one look while the tail does not cover them.
_RESYNC_AT_ONCE: Final = 200
#: Jobs that all waits together may watch, per wait that may be held.
_JOBS_PER_WAIT: Final = 16
_NOTHING: Final = Held({}, {}, frozenset())


class _Seen(IntEnum):
    """How a job stands for one who waits for it."""

    #: Not there, or not for him.
    UNKNOWN = 0
    PENDING = 1
    ENDED = 2


class Watch:
    """One job as it is at the end of the log, for as long as somebody waits for it."""

    __slots__ = ("id", "job", "key", "next_offset", "partition", "partitions", "read_from", "waits")

    def __init__(self, job_id: str, partitions: int) -> None:
        self.id = job_id
        self.key = job_id.encode()
        self.partition = partition_of(job_id, partitions)
        self.partitions = partitions
        self.job: Job | None = None
        #: What `job` holds: everything before this offset.
        self.next_offset = 0
        #: What the projections held that `job` was read from, where the tail's records can't be
        #: folded on as they come; None where they can.
        self.read_from: Held | None = _NOTHING
        self.waits: dict[Wait, _Seen] = {}

    @property
    def synced(self) -> bool:
        """Whether the tail's records can be folded on as they come."""
        return self.read_from is None

    def take(self, record: Record, arrived: float) -> None:
        """Fold a record on, and wake the waits that it ends."""
        if (
            self.read_from is not None
            or record[0] != self.partition
            or record[1] < self.next_offset
        ):
            return
        self.next_offset = record[1] + 1
        job = fold_record(self.job, self.key, record, self.partitions)
        if job is not self.job:
            self.job = job
            self.tell(arrived)

    def tell(self, arrived: float | None = None) -> None:
        """Let every wait look at the job again."""
        for wait in self.waits:
            wait.look(self, arrived)


class Wait:
    """One request that waits for jobs to end."""

    __slots__ = (
        "arrived",
        "caller",
        "future",
        "impatient",
        "pending",
        "unknown",
        "until_any",
        "watches",
    )

    def __init__(self, caller: Caller, watches: Sequence[Watch], *, until_any: bool) -> None:
        self.caller = caller
        self.watches = tuple(watches)
        self.until_any = until_any
        #: How many jobs the caller sees that have not ended.
        self.pending = 0
        #: How many jobs are not there, or not for him.
        self.unknown = len(self.watches)
        #: Whether unknown jobs no longer count.
        self.impatient = False
        self.future: asyncio.Future[None] | None = None
        #: When the event arrived that ended the wait, by `time.perf_counter`.
        self.arrived: float | None = None
        for watch in self.watches:
            watch.waits[self] = _Seen.UNKNOWN
            self.look(watch)

    def look(self, watch: Watch, arrived: float | None = None) -> None:
        """Take in how a job is now."""
        job = watch.job
        if job is None or not self.caller.sees(job):
            seen = _Seen.UNKNOWN
        else:
            seen = _Seen.ENDED if job.state in ENDED else _Seen.PENDING
        before = watch.waits[self]
        if seen is before:
            return
        watch.waits[self] = seen
        self.unknown += (seen is _Seen.UNKNOWN) - (before is _Seen.UNKNOWN)
        self.pending += (seen is _Seen.PENDING) - (before is _Seen.PENDING)
        if not self.pending or self._one_has_ended():
            self.arrived = arrived
            self.wake()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        if self.until_any and self._one_has_ended():
            return True
        return not self.pending and (self.impatient or not self.unknown)

    def _one_has_ended(self) -> bool:
        return self.pending + self.unknown < len(self.watches)

    def wake(self) -> None:
        """Let the request look whether its wait is over."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    @property
    def read_from(self) -> Held | None:
        """What the projections held that the answer is read from.

        None where the tail keeps up with all of its jobs, so that it is as fresh as the log.
        """
        held = [watch.read_from for watch in self.watches if watch.read_from is not None]
        return min(held, key=lambda one: sum(one.position.values()), default=None)

    def jobs(self) -> dict[str, Job]:
        """Return the jobs that the caller sees, as they are now."""
        return {
            watch.id: watch.job
            for watch in self.watches
            if watch.job is not None and self.caller.sees(watch.job)
        }


class Limits(NamedTuple):
    """How many waits are held."""

    total: int
    per_caller: int


class Waits:
    """Holds waits.

    Args:
        buffer: What the tail knows beyond the projections.
        limits: How many waits are held at most.
        patience: How long an unknown job holds a wait.
    """

    def __init__(self, buffer: Buffer, limits: Limits, patience: Patience) -> None:
        self._buffer = buffer
        self._limits = limits
        self._patience = patience
        self._watches: dict[bytes, Watch] = {}
        self._unsynced: dict[bytes, Watch] = {}
        self._held: dict[Wait, None] = {}
        self._by_user: Counter[str] = Counter()
        self._closed = False
        self._on_unsynced: Callable[[], None] = lambda: None

    def listen(self, on_unsynced: Callable[[], None]) -> None:
        """Be told when a job has to be read from the projections as they move on."""
        self._on_unsynced = on_unsynced

    @property
    def watches(self) -> Mapping[bytes, Watch]:
        """The watches by their job's key."""
        return self._watches

    @property
    def held(self) -> int:
        """How many waits are held."""
        return len(self._held)

    def register(
        self,
        snapshot: Snapshot,
        caller: Caller,
        ids: Sequence[str],
        partitions: int,
        *,
        until_any: bool = False,
    ) -> Wait:
        """Watch jobs for a caller. `release` has to follow, whatever happens.

        Args:
            snapshot: Of the projections, opened in this step of the event loop.
            caller: Who waits.
            ids: The jobs, each once.
            partitions: How many partitions the log has.
            until_any: Whether the first job that ends ends the wait.

        Raises:
            Problem: 429 where too many waits are held.
        """
        self._check_limits(caller, ids)
        found = snapshot.watched(list(ids))
        held = snapshot.held
        watches = []
        for job_id in ids:
            key = job_id.encode()
            watch = self._watches.get(key)
            if watch is None:
                watch = self._watches[key] = Watch(job_id, partitions)
            behind = self._buffer.end(watch.partition) < held.position[watch.partition]
            if behind or not watch.synced:
                self._sync(watch, found.get(job_id), held)
                watch.tell()
            watches.append(watch)
        wait = Wait(caller, watches, until_any=until_any)
        self._held[wait] = None
        self._by_user[caller.user] += 1
        return wait

    def release(self, wait: Wait) -> None:
        """Forget a wait, and the watches that nobody else shares."""
        if wait not in self._held:
            return
        del self._held[wait]
        user = wait.caller.user
        self._by_user[user] -= 1
        if not self._by_user[user]:
            del self._by_user[user]
        for watch in wait.watches:
            del watch.waits[wait]
            if not watch.waits:
                del self._watches[watch.key]
                self._unsynced.pop(watch.key, None)

    def _check_limits(self, caller: Caller, ids: Sequence[str]) -> None:
        total, per_caller = self._limits
        if len(self._held) >= total or len(self._watches) + len(ids) > total * _JOBS_PER_WAIT:
            raise too_many_waits("This process holds as many waits as it may.")
        if self._by_user[caller.user] >= per_caller:
            raise too_many_waits(f"You hold as many waits as you may: {per_caller}.")

    async def hold(
        self,
        wait: Wait,
        deadline: Callable[[], float],
        sign_of_life: Callable[[], Awaitable[float]],
    ) -> None:
        """Wait until a wait is over, its time is up, or the service ends.

        Args:
            wait: Which.
            deadline: Tells when its time is up, by the loop's clock; asked at every sign of life.
            sign_of_life: Shows the client, where that is due, that the wait is held; returns
                when it is due again.
        """
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._patience.unknown
        while not self._is_done(wait):
            now = loop.time()
            end = deadline()
            if now >= end:
                return
            until = min(await sign_of_life(), end)
            if wait.unknown and not wait.impatient:
                if now >= patient_until:
                    wait.impatient = True
                    continue
                until = min(until, patient_until)
            wait.future = loop.create_future()
            timer = loop.call_at(until, wait.wake)
            # What happened during the sign of life woke nobody.
            if self._is_done(wait):
                wait.wake()
            try:
                await wait.future
            finally:
                timer.cancel()
                wait.future = None

    def _is_done(self, wait: Wait) -> bool:
        return wait.is_over or self._closed

    def close(self) -> None:
        """Let every wait be answered with the states as they are."""
        self._closed = True
        for wait in self._held:
            wait.wake()

    def lose(self, partition: int, held: Held) -> None:
        """Take in that the tail does not have all records of a partition any more.

        Args:
            partition: Which.
            held: Up to where the tail had them.
        """
        for watch in self._watches.values():
            if watch.partition == partition and watch.synced:
                watch.read_from = held
                self._unsynced[watch.key] = watch
        if self._unsynced:
            self._on_unsynced()

    def resync(self, snapshot: Snapshot) -> bool:
        """Read some watches that the tail does not cover from the projections.

        Returns:
            Whether any are left.
        """
        some = list(self._unsynced.values())[:_RESYNC_AT_ONCE]
        held = snapshot.held
        some = [watch for watch in some if watch.partition not in held.recovering]
        if some:
            found = snapshot.watched([watch.id for watch in some])
            for watch in some:
                self._unsynced.pop(watch.key)
                self._sync(watch, found.get(watch.id), held)
                watch.tell()
        return bool(self._unsynced)

    def _sync(self, watch: Watch, job: Job | None, held: Held) -> None:
        """Bring a watch to the log's end, or as near to it as the projections are."""
        checkpoint = held.position[watch.partition]
        watch.next_offset = checkpoint
        self._unsynced.pop(watch.key, None)
        if not self._buffer.covers(watch.partition, checkpoint):
            watch.read_from = held
            watch.job = job
            # At the end of the line, so that each has its turn.
            self._unsynced[watch.key] = watch
            self._on_unsynced()
            return
        watch.read_from = None
        records = self._buffer.beyond(watch.key, watch.partition, checkpoint)
        watch.job = fold_records(job, watch.key, records, watch.partitions)
        if records:
            watch.next_offset = records[-1][1] + 1
