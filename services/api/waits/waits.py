"""Open waits: a watch per job, shared by all waits for it, and a future per wait.

A wait first registers its watches, then reads the projections, then folds the tail's later records.
These are one step of the event loop, and every later record of a watched job goes to its watch. So
no change is missed, and no wait has to poll.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Final, NamedTuple

from jobtrail.core.job import Job
from jobtrail.settings import Settings
from projections.ports.read import Caller, Snapshot, Watermark
from services.api.limits.limits import Timeouts
from services.api.limits.turns import Turns
from services.api.live.absence import AbsenceCheck
from services.api.live.buffer import Buffer
from services.api.live.overlay import fold_each
from services.api.problems.problems import stopping, too_many_waits, unknown_yet
from services.api.store import Store
from services.api.waits.watching import Claim, Seen, Wait, Watch

#: Watches that are read from the projections in one step, while the tail lacks records of them.
_RESYNC_AT_ONCE: Final = 100
#: Jobs that are read and watched in one step of the event loop.
_AT_ONCE: Final = 100
#: Jobs that all waits together may watch, per allowed wait; the same for the waits of one caller.
_JOBS_PER_WAIT: Final = 16
#: Seconds between two checks whether a job that was not found is certainly absent.
_CHECK_AGAIN: Final = 0.1
#: Seconds that a wait for a job that is watched already waits for the tail, and between two checks.
_JOIN_WITHIN: Final = 2.0
_JOIN_CHECK: Final = 0.005


class WaitLimits(NamedTuple):
    """Bounds of the open waits."""

    total: int
    per_caller: int
    #: Events that are folded in one step. Jobs that have more of them beyond the projections are
    #: read from the projections until these have caught up.
    events: int

    @classmethod
    def of(cls, settings: Settings) -> WaitLimits:
        """Return the bounds of a process."""
        return cls(settings.max_waits, settings.max_waits_per_caller, settings.max_events_folded)


class Waits:
    """The open waits of a process.

    Args:
        store: The projections.
        buffer: The tail's records beyond them.
        absence: Tells where an unknown job is read_until_certain not there.
        watches: An empty dictionary, filled with the watches by the key of their job.
        limits: The bounds of open waits.
        timeouts: How long a wait stays open for an unknown job.
        turns: Lets other callers have their turn while a wait for many jobs begins.
    """

    def __init__(
        self,
        store: Store,
        buffer: Buffer,
        absence: AbsenceCheck,
        watches: dict[bytes, Watch],
        limits: WaitLimits,
        timeouts: Timeouts,
        turns: Turns,
    ) -> None:
        self._store = store
        self._turns = turns
        self._buffer = buffer
        self._absence = absence
        self._limits = limits
        self._timeouts = timeouts
        self._watches = watches
        self._unsynced: dict[bytes, Watch] = {}
        self._open: dict[Wait, None] = {}
        self._by_user: Counter[str] = Counter()
        #: A job counts once for each wait for it.
        self._jobs_by_user: Counter[str] = Counter()
        #: How many waits are being registered, and how many of their jobs are not watched yet.
        self._starting = 0
        self._jobs_starting = 0
        self._closed = False
        self._on_unsynced: Callable[[], None] = lambda: None

    def listen(self, on_unsynced: Callable[[], None]) -> None:
        """Set the function to call when a watch has to be read from the projections again."""
        self._on_unsynced = on_unsynced

    @property
    def watches(self) -> Mapping[bytes, Watch]:
        """The watches by the key of their job."""
        return self._watches

    @property
    def held(self) -> int:
        """How many waits are open."""
        return len(self._open)

    async def register(
        self,
        view: Callable[[], AbstractContextManager[Snapshot]],
        check: Callable[[Watermark, Sequence[str], int], None],
        caller: Caller,
        ids: Sequence[str],
        *,
        until_any: bool = False,
    ) -> Wait:
        """Watch jobs for a caller. `release` has to follow, whatever happens.

        Args:
            view: Opens a view of the projections.
            check: Raises if a view can't answer for the jobs; called with the watermark, the jobs
                and the number of partitions of the log.
            caller: Who waits.
            ids: Of the jobs, each once.
            until_any: Whether the wait ends with the first job that ends.

        Raises:
            Problem: 429 where too many waits are open or jobs watched; what `check` raises.
        """
        self._check_limits(caller, ids)
        self._count(caller.user, len(ids))
        self._starting += 1
        self._jobs_starting += len(ids)
        claim = Claim()
        watches: list[Watch] = []
        try:
            for at in range(0, len(ids), _AT_ONCE):
                if at:
                    await self._turns.pause(caller.user)
                some = ids[at : at + _AT_ONCE]
                await self._join(view, some)
                with view() as snapshot:
                    partitions = len(snapshot.watermark.position)
                    check(snapshot.watermark, some, partitions)
                    watches += self._watch(snapshot, some, partitions, claim)
                    self._jobs_starting -= len(some)
            wait = Wait(caller, watches, self._buffer, until_any=until_any)
        except BaseException:
            self._count(caller.user, -len(ids))
            raise
        finally:
            self._starting -= 1
            self._jobs_starting -= len(ids) - len(watches)
            self._drop_watches(watches, claim)
        if self._unsynced:
            self._on_unsynced()
        self._open[wait] = None
        return wait

    async def _join(
        self, view: Callable[[], AbstractContextManager[Snapshot]], ids: Sequence[str]
    ) -> None:
        """Wait until the tail has reached the projections for jobs that are watched already.

        Their watches receive every event in order, so none may be skipped for the wait that joins.
        If the tail does not catch up in time, they see the states that the projections have.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + _JOIN_WITHIN
        while True:
            watches = (self._watches.get(job_id.encode()) for job_id in ids)
            shared = {watch.partition for watch in watches if watch is not None and watch.synced}
            if not shared or clock() >= until:
                return
            with view() as snapshot:
                position = snapshot.watermark.position
            if all(self._buffer.end(p) >= position.get(p, 0) for p in shared):
                return
            await asyncio.sleep(_JOIN_CHECK)

    def _watch(
        self, snapshot: Snapshot, ids: Sequence[str], partitions: int, claim: Claim
    ) -> list[Watch]:
        """Watch some jobs from now on, for a wait that is being registered.

        Args:
            snapshot: Of the projections, opened in this step of the event loop.
            ids: Of the jobs.
            partitions: How many partitions the log has.
            claim: Keeps the watches until the wait has them.
        """
        found = snapshot.watched(list(ids))
        watermark = snapshot.watermark
        watches = []
        left = self._limits.events
        for job_id in ids:
            watch = self._watches.get(job_id.encode())
            if watch is None:
                watch = Watch(job_id, self._store, partitions, self._is_unsynced)
            lags = self._buffer.end(watch.partition) < watermark.position[watch.partition]
            if lags or not watch.synced:
                left -= self._sync(watch, found.get(job_id), snapshot, left)
            watches.append(watch)
        # Stored only once all of it has succeeded: nothing would remove it after an error.
        for watch in watches:
            watch.waits[claim] = Seen.UNKNOWN
            self._watches[watch.key] = watch
            if not watch.synced:
                self._unsynced[watch.key] = watch
        return watches

    def release(self, wait: Wait) -> None:
        """Remove a wait, and the watches that no other wait shares."""
        if wait not in self._open:
            return
        del self._open[wait]
        self._count(wait.caller.user, -len(wait.watches))
        self._drop_watches(wait.watches, wait)

    def _drop_watches(self, watches: Iterable[Watch], by: Wait | Claim) -> None:
        for watch in watches:
            del watch.waits[by]
            if not watch.waits:
                del self._watches[watch.key]
                self._unsynced.pop(watch.key, None)

    def _count(self, user: str, jobs: int) -> None:
        """Count a wait for so many jobs; a negative number counts one less."""
        self._by_user[user] += 1 if jobs > 0 else -1
        self._jobs_by_user[user] += jobs
        if not self._by_user[user]:
            del self._by_user[user], self._jobs_by_user[user]

    def _check_limits(self, caller: Caller, ids: Sequence[str]) -> None:
        total, per_caller, _events = self._limits
        waits = len(self._open) + self._starting
        jobs = len(self._watches) + self._jobs_starting + len(ids)
        if waits >= total or jobs > total * _JOBS_PER_WAIT:
            raise too_many_waits("This process has as many open waits as allowed.")
        if self._by_user[caller.user] >= per_caller:
            raise too_many_waits(f"You have {per_caller} open waits, as many as allowed.")
        most = per_caller * _JOBS_PER_WAIT
        if self._jobs_by_user[caller.user] + len(ids) > most:
            raise too_many_waits(f"Your waits watch {most} jobs at most.")

    async def hold(
        self,
        wait: Wait,
        deadline: Callable[[], float],
        sign_of_life: Callable[[], Awaitable[float]],
    ) -> None:
        """Wait until a wait is over or its time is up.

        Args:
            wait: Which.
            deadline: Returns when its time is up, by the loop's clock; called before each sleep.
            sign_of_life: Sends the client a line feed if that is due; returns when it is due again.

        Raises:
            Problem: 503 where the service stops before that, or where it is not certain at the end
                whether a job exists.
        """
        loop = asyncio.get_running_loop()
        unknown_until = loop.time() + self._timeouts.unknown
        while not wait.over:
            self._check_open()
            now = loop.time()
            end = deadline()
            if now >= end:
                break
            until = min(await sign_of_life(), end)
            if wait.unknown and not wait.ignores_unknown:
                if now >= unknown_until:
                    if not self._may_be_there(wait):
                        wait.ignore_unknown()
                        continue
                    unknown_until = now + _CHECK_AGAIN
                until = min(until, unknown_until)
            await self._sleep(wait, until)
        # A wait for any job that is over may have unknown jobs that are not certainly absent.
        limit = loop.time() + (self._timeouts.position if wait.over else 0.0)
        while wait.unknown and self._may_be_there(wait):
            self._check_open()
            if loop.time() >= limit:
                raise unknown_yet()
            await asyncio.sleep(_CHECK_AGAIN)

    def _check_open(self) -> None:
        if self._closed:
            raise stopping()

    async def _sleep(self, wait: Wait, until: float) -> None:
        """Sleep until a wait is woken, or until a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        wait.future = loop.create_future()
        timer = loop.call_at(until, wait.wake)
        # What happened while the sign of life was sent has woken nobody.
        if self._closed or wait.over:
            wait.wake()
        try:
            await wait.future
        finally:
            timer.cancel()
            wait.future = None

    def _may_be_there(self, wait: Wait) -> bool:
        """Tell whether a job that counts as unknown may exist."""
        return wait.may_miss_jobs() or not all(
            map(self._absence.has_all_of, wait.unknown_partitions())
        )

    def close(self) -> None:
        """End all waits: those that are not over are refused, or their connections closed."""
        self._closed = True
        for wait in self._open:
            wait.wake()

    def _is_unsynced(self, watch: Watch) -> None:
        self._unsynced[watch.key] = watch
        self._on_unsynced()

    def lose(self, partition: int, watermark: Watermark, *, replaced: bool) -> None:
        """Note that the tail has lost records of a partition.

        Args:
            partition: Which.
            watermark: Up to where the tail had every record.
            replaced: Whether the log was replaced: its jobs begin again.
        """
        for watch in self._watches.values():
            if watch.partition != partition:
                continue
            if replaced:
                watch.begin()
            elif watch.synced:
                watch.read_from = watermark
            self._unsynced[watch.key] = watch
        if self._unsynced:
            self._on_unsynced()

    def resync(self, snapshot: Snapshot) -> bool:
        """Read some watches from the projections, of those that the tail lacks records of.

        Returns:
            Whether any are left.
        """
        watermark = snapshot.watermark
        ready = (w for w in self._unsynced.values() if w.partition not in watermark.recovering)
        some = list(islice(ready, _RESYNC_AT_ONCE))
        if some:
            found = snapshot.watched([watch.id for watch in some])
            left = self._limits.events
            for watch in some:
                left -= self._sync(watch, found.get(watch.id), snapshot, left)
        return bool(self._unsynced)

    def _sync(self, watch: Watch, job: Job | None, snapshot: Snapshot, most: int) -> int:
        """Bring a watch to the log's end, or to the checkpoint of the projections.

        A watch that is further than the projections stays as it is: a job never goes back.

        Args:
            watch: Which.
            job: As the projections have it.
            snapshot: Of the projections.
            most: The most events to fold.

        Returns:
            How many were folded.
        """
        watermark = snapshot.watermark
        checkpoint = watermark.position[watch.partition]
        records = self._buffer.beyond(watch.key, watch.partition, checkpoint, most + 1)
        covered = len(records) <= most and self._buffer.covers(watch.partition, checkpoint)
        reached = watch.next_offset
        if covered:
            watch.read_from = None
        elif checkpoint >= reached:
            watch.read_from = watermark
        if checkpoint >= reached:
            watch.next_offset = checkpoint
            watch.become(job)
        if not covered:
            if watch.waits:
                # At the end, so that each watch has its turn.
                self._unsynced.pop(watch.key, None)
                self._unsynced[watch.key] = watch
                self._on_unsynced()
            return 0
        for offset, after in fold_each(job, watch.key, records, watch.partitions, snapshot):
            if offset >= reached:
                watch.next_offset = offset + 1
                watch.become(after)
        self._unsynced.pop(watch.key, None)
        return len(records)
