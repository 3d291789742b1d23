"""Held waits: a watch per job, shared by all who wait for it, and a future per wait.

Register first, then read the projections, then fold what the tail has seen since. All three are
one step of the event loop, and every later record of a watched job goes to its watch: so no
change is missed, and a wait never asks twice.
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
from services.api.live.buffer import Buffer
from services.api.live.coverage import Coverage
from services.api.live.overlay import fold_each
from services.api.problems.problems import stopping, too_many_waits, unknown_yet
from services.api.store import Store
from services.api.waits.watching import Claim, Seen, Wait, Watch

#: Watches that are read from the projections at one look while the tail does not cover them.
_RESYNC_AT_ONCE: Final = 100
#: Jobs that are read and taken up in one step of the event loop.
_AT_ONCE: Final = 100
#: Jobs that all waits together may watch, per wait that may be held; the same for one caller's.
_JOBS_PER_WAIT: Final = 16
#: Seconds between two looks whether the log is known to its end where a job was not found.
_LOOK_AGAIN: Final = 0.1
#: For how many seconds somebody waits for the tail who joins others, and between two looks.
_JOINS_WITHIN: Final = 2.0
_JOINS_AGAIN: Final = 0.005


class Limits(NamedTuple):
    """How many waits are held."""

    total: int
    per_caller: int
    #: Events that are folded at one go. Where jobs have more beyond the projections, these are
    #: looked at until they have caught up.
    events: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the bounds of a process."""
        return cls(settings.max_waits, settings.max_waits_per_caller, settings.max_events_folded)


class Waits:
    """Holds waits.

    Args:
        store: The projections.
        buffer: What the tail knows beyond them.
        coverage: Tells where an unknown job is surely not there.
        watches: Empty; will have the watches by their job's key.
        limits: How many waits are held at most.
        timeouts: How long an unknown job holds a wait.
        turns: Let others go on while a wait for many jobs begins.
    """

    def __init__(
        self,
        store: Store,
        buffer: Buffer,
        coverage: Coverage,
        watches: dict[bytes, Watch],
        limits: Limits,
        timeouts: Timeouts,
        turns: Turns,
    ) -> None:
        self._store = store
        self._turns = turns
        self._buffer = buffer
        self._coverage = coverage
        self._limits = limits
        self._patience = timeouts
        self._watches = watches
        self._unsynced: dict[bytes, Watch] = {}
        self._held: dict[Wait, None] = {}
        self._by_user: Counter[str] = Counter()
        #: Each job counts as often as it is waited for.
        self._jobs_by_user: Counter[str] = Counter()
        #: How many waits have begun and are not held yet, and their jobs that are not watched yet.
        self._beginning = 0
        self._coming = 0
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
            check: Refuses a view that can't be answered from; is told of what it holds, the jobs,
                and how many partitions the log has.
            caller: Who waits.
            ids: The jobs, each once.
            until_any: Whether the first job that ends ends the wait.

        Raises:
            Problem: 429 where too many waits are held, or jobs watched; what `check` raises.
        """
        self._check_limits(caller, ids)
        self._count(caller.user, len(ids))
        self._beginning += 1
        self._coming += len(ids)
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
                    self._coming -= len(some)
            wait = Wait(caller, watches, self._buffer, until_any=until_any)
        except BaseException:
            self._count(caller.user, -len(ids))
            raise
        finally:
            self._beginning -= 1
            self._coming -= len(ids) - len(watches)
            self._let_go(watches, claim)
        if self._unsynced:
            self._on_unsynced()
        self._held[wait] = None
        return wait

    async def _join(
        self, view: Callable[[], AbstractContextManager[Snapshot]], ids: Sequence[str]
    ) -> None:
        """Wait until the tail has what the projections have of jobs that others wait for.

        They are told of these event by event, so none may be passed over for who comes later. Where
        the tail does not catch up in time, they see the states at looks into the projections.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + _JOINS_WITHIN
        while True:
            known = (self._watches.get(job_id.encode()) for job_id in ids)
            shared = {watch.partition for watch in known if watch is not None and watch.synced}
            if not shared or clock() >= until:
                return
            with view() as snapshot:
                position = snapshot.watermark.position
            if all(self._buffer.end(p) >= position.get(p, 0) for p in shared):
                return
            await asyncio.sleep(_JOINS_AGAIN)

    def _watch(
        self, snapshot: Snapshot, ids: Sequence[str], partitions: int, claim: Claim
    ) -> list[Watch]:
        """Follow some jobs from now on, on behalf of a wait that is not there yet.

        Args:
            snapshot: Of the projections, opened in this step of the event loop.
            ids: The jobs.
            partitions: How many partitions the log has.
            claim: Keeps them.
        """
        found = snapshot.watched(list(ids))
        held = snapshot.watermark
        watches = []
        left = self._limits.events
        for job_id in ids:
            watch = self._watches.get(job_id.encode())
            if watch is None:
                watch = Watch(job_id, self._store, partitions, self._is_unsynced)
            behind = self._buffer.end(watch.partition) < held.position[watch.partition]
            if behind or not watch.synced:
                left -= self._sync(watch, found.get(job_id), snapshot, left)
            watches.append(watch)
        # Nothing is kept before all of it has succeeded: nobody would let it go.
        for watch in watches:
            watch.waits[claim] = Seen.UNKNOWN
            self._watches[watch.key] = watch
            if not watch.synced:
                self._unsynced[watch.key] = watch
        return watches

    def release(self, wait: Wait) -> None:
        """Forget a wait, and the watches that nobody else shares."""
        if wait not in self._held:
            return
        del self._held[wait]
        self._count(wait.caller.user, -len(wait.watches))
        self._let_go(wait.watches, wait)

    def _let_go(self, watches: Iterable[Watch], by: Wait | Claim) -> None:
        for watch in watches:
            del watch.waits[by]
            if not watch.waits:
                del self._watches[watch.key]
                self._unsynced.pop(watch.key, None)

    def _count(self, user: str, jobs: int) -> None:
        """Count a wait for so many jobs; one that is over where that is negative."""
        self._by_user[user] += 1 if jobs > 0 else -1
        self._jobs_by_user[user] += jobs
        if not self._by_user[user]:
            del self._by_user[user], self._jobs_by_user[user]

    def _check_limits(self, caller: Caller, ids: Sequence[str]) -> None:
        total, per_caller, _events = self._limits
        waits = len(self._held) + self._beginning
        jobs = len(self._watches) + self._coming + len(ids)
        if waits >= total or jobs > total * _JOBS_PER_WAIT:
            raise too_many_waits("This process holds as many waits as it may.")
        if self._by_user[caller.user] >= per_caller:
            raise too_many_waits(f"You hold as many waits as you may: {per_caller}.")
        most = per_caller * _JOBS_PER_WAIT
        if self._jobs_by_user[caller.user] + len(ids) > most:
            raise too_many_waits(f"Your waits watch as many jobs as they may: {most}.")

    async def hold(
        self,
        wait: Wait,
        deadline: Callable[[], float],
        sign_of_life: Callable[[], Awaitable[float]],
    ) -> None:
        """Wait until a wait is over or its time is up.

        Args:
            wait: Which.
            deadline: Tells when its time is up, by the loop's clock; asked at every sign of life.
            sign_of_life: Shows the client, where that is due, that the wait is held; returns
                when it is due again.

        Raises:
            Problem: 503 where the service ends before that, or where it is not known at the end
                whether a job is there.
        """
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._patience.unknown
        while not wait.over:
            self._go_on()
            now = loop.time()
            end = deadline()
            if now >= end:
                break
            until = min(await sign_of_life(), end)
            if wait.unknown and not wait.impatient:
                if now >= patient_until:
                    if not self._in_doubt(wait):
                        wait.ignore_unknown()
                        continue
                    patient_until = now + _LOOK_AGAIN
                until = min(until, patient_until)
            await self._sleep(wait, until)
        # Who waited for any may be told of it although others are not known.
        limit = loop.time() + (self._patience.position if wait.over else 0.0)
        while wait.unknown and self._in_doubt(wait):
            self._go_on()
            if loop.time() >= limit:
                raise unknown_yet()
            await asyncio.sleep(_LOOK_AGAIN)

    def _go_on(self) -> None:
        if self._closed:
            raise stopping()

    async def _sleep(self, wait: Wait, until: float) -> None:
        """Sleep until a wait is woken, or until a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        wait.future = loop.create_future()
        timer = loop.call_at(until, wait.wake)
        # What happened during the sign of life woke nobody.
        if self._closed or wait.over:
            wait.wake()
        try:
            await wait.future
        finally:
            timer.cancel()
            wait.future = None

    def _in_doubt(self, wait: Wait) -> bool:
        """Tell whether a job that counts as unknown may be there all the same."""
        return wait.doubts() or not all(map(self._coverage.is_level, wait.unknown_partitions()))

    def close(self) -> None:
        """Let no wait be held any longer: those that are not over are refused, or cut off."""
        self._closed = True
        for wait in self._held:
            wait.wake()

    def _is_unsynced(self, watch: Watch) -> None:
        self._unsynced[watch.key] = watch
        self._on_unsynced()

    def lose(self, partition: int, held: Watermark, *, replaced: bool) -> None:
        """Take in that the tail does not have all records of a partition any more.

        Args:
            partition: Which.
            held: Up to where the tail had them.
            replaced: Whether the log is another one: what is known of its jobs is not true of it.
        """
        for watch in self._watches.values():
            if watch.partition != partition:
                continue
            if replaced:
                watch.begin()
            elif watch.synced:
                watch.read_from = held
            self._unsynced[watch.key] = watch
        if self._unsynced:
            self._on_unsynced()

    def resync(self, snapshot: Snapshot) -> bool:
        """Read some watches that the tail does not cover from the projections.

        Returns:
            Whether any are left.
        """
        held = snapshot.watermark
        ready = (w for w in self._unsynced.values() if w.partition not in held.recovering)
        some = list(islice(ready, _RESYNC_AT_ONCE))
        if some:
            found = snapshot.watched([watch.id for watch in some])
            left = self._limits.events
            for watch in some:
                left -= self._sync(watch, found.get(watch.id), snapshot, left)
        return bool(self._unsynced)

    def _sync(self, watch: Watch, job: Job | None, snapshot: Snapshot, most: int) -> int:
        """Bring a watch to the log's end, or as near to it as the projections are.

        What it knows already it keeps: a job never goes back for those who wait for it.

        Args:
            watch: Which.
            job: As the projections have it.
            snapshot: Of the projections.
            most: Events that may be folded.

        Returns:
            How many were folded.
        """
        held = snapshot.watermark
        checkpoint = held.position[watch.partition]
        records = self._buffer.beyond(watch.key, watch.partition, checkpoint, most + 1)
        covered = len(records) <= most and self._buffer.covers(watch.partition, checkpoint)
        reached = watch.next_offset
        if covered:
            watch.read_from = None
        elif checkpoint >= reached:
            watch.read_from = held
        if checkpoint >= reached:
            watch.next_offset = checkpoint
            watch.become(job)
        if not covered:
            if watch.waits:
                # At the end of the line, so that each has its turn.
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
