"""The projector: folds batches of records and hands the outcome to the store.

It holds the jobs under way in memory, so that a batch costs one read for the jobs that it does
not know and one write for all that it touched. What it holds is valid for exactly one offset per
partition; whenever somebody else moved a checkpoint it forgets and reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, NamedTuple

from jobtrail.decoding import accept, decode_clear, ids_of
from jobtrail.errors import EventError, FencedError, LogGapError, StoreError
from jobtrail.events import Created
from jobtrail.fold import fold
from jobtrail.job import Place, Verdict
from jobtrail.placing import partitions_of
from jobtrail.states import ENDED
from projections.store import Batch, Checkpoint, Entry, ProjectionWriter, Tally

logger = logging.getLogger(__name__)

#: Jobs under way that are held between batches, per partition: about 1 KiB each.
MAX_HELD: Final = 20_000
#: Records that may wait to be written: a job that they touch takes about 1 KiB.
MAX_WAITING: Final = 100_000
#: Records that are decoded at one go.
_DECODED_TOGETHER: Final = 256
#: Seconds that writing waits for more at most: as long as they keep coming, and as none comes.
_LONGEST_WAIT: Final = 2.0
_PROMISED_WITHIN: Final = 0.1
#: Seconds without anything to fold after which the store may rest.
_REST_AFTER: Final = 1.0
_FIRST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0
#: Looked up once: each access to a member of an enum takes as long as a small function.
_APPLIED: Final = Verdict.APPLIED


class DeadLetter(NamedTuple):
    """A record that is no valid event, and why."""

    partition: int
    record: Any
    error: EventError


#: Writes dead letters for good before it returns.
Bury = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class _Partition:
    """What is held of one partition: valid for the fold of everything before `next_offset`."""

    def __init__(self, next_offset: int) -> None:
        #: The store's checkpoint: what lies between is folded and not yet written.
        self.written = next_offset
        self.next_offset = next_offset
        self.jobs: dict[str, Entry] = {}
        self.last_event_id = ""
        self.last_timestamp = 0
        self._begin()

    def _begin(self) -> None:
        """Begin what is to be written next."""
        self.touched: list[Entry] = []
        #: How many events were not applied, by their verdict, and records that are no events.
        self.ignored = dict.fromkeys(Verdict, 0)
        self.dead = 0

    @property
    def is_ahead(self) -> bool:
        """Whether something is folded that is not written."""
        return self.next_offset != self.written

    def batch(self, partition: int) -> Batch:
        """Return what is to be written."""
        return Batch(
            partition=partition,
            start=self.written,
            next_offset=self.next_offset,
            last_event_id=self.last_event_id,
            last_timestamp=self.last_timestamp,
            changes=self.touched,
            tally=Tally(
                applied=self.next_offset - self.written - sum(self.ignored.values()) - self.dead,
                duplicate=self.ignored[Verdict.DUPLICATE],
                late=self.ignored[Verdict.LATE],
                not_allowed=self.ignored[Verdict.NOT_ALLOWED],
                dead=self.dead,
            ),
        )

    def settle(self) -> None:
        """Take it that all is written: forget jobs that ended, and those longest untouched."""
        self.written = self.next_offset
        jobs = self.jobs
        for entry in self.touched:
            entry.touched = False
            job_id = entry.job.id
            del jobs[job_id]
            if entry.job.state not in ENDED:
                jobs[job_id] = entry
        for job_id in list(islice(jobs, max(0, len(jobs) - MAX_HELD))):
            del jobs[job_id]
        self._begin()


class Projector:
    """Folds the log into a store.

    Args:
        store: Where to.
        partitions: How many partitions the log has.
        bury: Takes records that are no valid event.
        max_waiting: Records that are folded and not yet written, at most.
    """

    def __init__(
        self,
        store: ProjectionWriter,
        partitions: int,
        bury: Bury,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._partitions = partitions
        self._bury = bury
        self._held: dict[int, _Partition] = {}
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        #: Set while something is folded that is not written; since when; how often was folded.
        self._ahead = asyncio.Event()
        self._since = 0.0
        self._folds = 0
        #: Partitions of which records were folded and forgotten: they are to be delivered again.
        self._awaited: set[int] = set()
        #: Set once partitions were assigned.
        self.assigned = asyncio.Event()

    async def start_offsets(self, partitions: set[int]) -> dict[int, int]:
        """Return the store's checkpoints of partitions that were just assigned.

        Whatever is held of any partition is forgotten: another projector may have gone on. What
        was folded and not written is delivered again, from the checkpoint on.
        """
        async with self._writing:
            self._forget()
            self._held.clear()
            checkpoints = await self.checkpoints()
        if partitions:
            self.assigned.set()
        return {p: checkpoints[p].next_offset for p in partitions}

    async def checkpoints(self) -> dict[int, Checkpoint]:
        """Return the store's checkpoints, waiting for a write that is under way."""
        found: dict[int, Checkpoint] = await self._in_thread(self._store.checkpoints)
        return found

    async def apply(self, partition: int, records: Sequence[Any], *, more: bool = False) -> None:
        """Fold consecutive records of a partition and write the outcome, once.

        Args:
            partition: Whose records.
            records: Kafka records in order; those before the checkpoint are passed over.
            more: Whether others are to follow at once, of any partition: then writing may wait
                for them, so that a transaction costs less for each.

        Raises:
            LogGapError: Records between the checkpoint and the first one are missing.
            FencedError: Another projector has written what was folded here and not written yet:
                records have to be delivered again, from the checkpoint on.
        """
        async with self._writing:
            while todo := await self._todo(partition, records):
                waited = self._ahead.is_set()
                try:
                    await self._fold(partition, self._held[partition], todo)
                    if not (more and self._may_wait()):
                        await self._write_all()
                    return
                except FencedError:
                    if waited:
                        # Of records that are gone from here.
                        raise
                    self._awaited.discard(partition)
            if self._ahead.is_set() and not more:
                await self._write_all()

    async def keep_writing(self, fetch_again: Callable[[], Awaitable[None]]) -> str:
        """Write what waits for more that does not come. Never returns.

        Args:
            fetch_again: Has records delivered again from the checkpoints on.
        """
        while True:
            await self._until_ahead()
            folds = self._folds
            await asyncio.sleep(_PROMISED_WITHIN)
            async with self._writing:
                if not self._ahead.is_set() or folds != self._folds:
                    continue
                try:
                    await self._write_all()
                    continue
                except FencedError:
                    pass
            await fetch_again()

    async def _until_ahead(self) -> None:
        """Wait until something is folded that is not written; meanwhile let the store rest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ahead.wait(), _REST_AFTER)
            return
        try:
            async with self._writing:
                await self._in_thread(self._store.rest)
        except StoreError as error:
            logger.warning("action=store_restless %s", error)
        await self._ahead.wait()

    async def _todo(self, partition: int, records: Sequence[Any]) -> Sequence[Any]:
        """Return those of consecutive records that are not folded yet, from the next one on."""
        while True:
            held = await self._hold(partition)
            todo = _not_yet_applied(records, held.next_offset)
            if not todo:
                return todo
            if todo[0].offset == held.next_offset and _consecutive(todo):
                self._awaited.discard(partition)
                return todo
            if partition in self._awaited:
                # Fetched before those that are awaited.
                return []
            await self._check_gap(partition, held, todo)

    def _may_wait(self) -> bool:
        waiting = sum(held.next_offset - held.written for held in self._held.values())
        age = asyncio.get_running_loop().time() - self._since
        return waiting < self._max_waiting and age < _LONGEST_WAIT

    def _forget(self) -> None:
        """Forget what is folded ahead of what is written."""
        ahead = {partition for partition, held in self._held.items() if held.is_ahead}
        for partition in ahead:
            del self._held[partition]
        self._awaited |= ahead
        self._ahead.clear()

    async def _hold(self, partition: int) -> _Partition:
        held = self._held.get(partition)
        if held is None:
            checkpoint = (await self.checkpoints())[partition]
            held = self._held[partition] = _Partition(checkpoint.next_offset)
        return held

    async def _check_gap(self, partition: int, held: _Partition, todo: Sequence[Any]) -> None:
        """Look whether somebody else applied what is missing; if nobody did, it is lost."""
        stored = (await self.checkpoints())[partition].next_offset
        if stored != held.written:
            del self._held[partition]
            return
        raise LogGapError(
            "Records of the log are missing.",
            where=f"partition {partition}",
            expected=f"offset {held.next_offset}",
            found=f"offsets {todo[0].offset} to {todo[-1].offset}, {len(todo)} records",
            mend="Nothing was applied. If it happens again after a restart, the log has a hole.",
        )

    async def _fold(self, partition: int, held: _Partition, records: Sequence[Any]) -> None:
        jobs = held.jobs
        ids = ids_of({record.key for record in records})
        unknown = {key: job_id for key, job_id in ids.items() if job_id not in jobs}
        keys = list(unknown)
        places = partitions_of(keys, self._partitions)
        astray = {key for key, place in zip(keys, places, strict=True) if place != partition}
        if unknown:
            # Here and not in the thread: to read waits for nobody, and going there takes longer.
            mine = [job_id for key, job_id in unknown.items() if key not in astray]
            jobs.update(self._store.load(partition, mine))
        if not self._ahead.is_set():
            self._ahead.set()
            self._since = asyncio.get_running_loop().time()
        self._folds += 1
        dead = _fold_all(held, records, partition, self._partitions, astray)
        if dead:
            try:
                await self._bury(dead)
            except BaseException:
                self._forget()
                raise

    async def _write_all(self) -> None:
        """Write what is folded, in one transaction per part of the store, or forget it."""
        together: dict[int, list[int]] = {}
        for partition, held in self._held.items():
            if held.is_ahead:
                together.setdefault(self._store.part_of(partition), []).append(partition)
        try:
            for partitions in together.values():
                await self._write([self._held[p].batch(p) for p in partitions])
                for partition in partitions:
                    self._held[partition].settle()
        except BaseException as error:
            if isinstance(error, FencedError):
                logger.warning("action=fenced %s", error)
            self._forget()
            raise
        self._ahead.clear()

    async def _write(self, batches: Sequence[Batch]) -> None:
        """Apply batches; a store that can't be written is tried again until it can."""
        pause = _FIRST_RETRY
        while True:
            try:
                await self._in_thread(self._store.apply, batches)
                return
            except FencedError:
                raise
            except StoreError as error:
                logger.error("action=store_retry pause=%.2fs %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the store; whoever is cancelled meanwhile ends with the call, not before.

        The store is one thread's at a time, and a thread can't be stopped.
        """
        called = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        try:
            return await asyncio.shield(called)
        except asyncio.CancelledError:
            while not called.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([called])
            raise

    def close(self) -> None:
        """Wait for what is being written, then let go of the store."""
        self._thread.shutdown(wait=True)
        self._store.close()


def _not_yet_applied(records: Sequence[Any], next_offset: int) -> Sequence[Any]:
    if records[0].offset >= next_offset:
        return records
    return [record for record in records if record.offset >= next_offset]


def _consecutive(records: Sequence[Any]) -> bool:
    return bool(records[-1].offset - records[0].offset == len(records) - 1)


def _fold_all(
    held: _Partition,
    records: Sequence[Any],
    partition: int,
    partitions: int,
    astray: Set[bytes],
) -> list[DeadLetter]:
    """Fold records onto the held jobs; those with a key that is `astray` lie where they may not.

    Some at a time: what was decoded is in the processor's cache then.
    """
    jobs, touched, ignored = held.jobs, held.touched, held.ignored
    dead: list[DeadLetter] = []
    last_event_id = ""
    for begin in range(0, len(records), _DECODED_TOGETHER):
        some = records[begin : begin + _DECODED_TOGETHER]
        clear = decode_clear([record.value for record in some])
        for record, event in zip(some, clear, strict=True):
            key = record.key
            if event is None or key in astray or key != event.subject.encode():
                try:
                    event = accept(key, record.value, partition, partitions)
                except EventError as error:
                    dead.append(DeadLetter(partition, record, error))
                    last_event_id = ""
                    continue
            job_id, last_event_id = event.subject, event.id
            place = Place(partition, record.offset, record.timestamp * 1000)
            entry = jobs.get(job_id)
            if entry is None:
                job, verdict = fold(None, event, place)
                entry = jobs[job_id] = Entry(job)
            else:
                before = entry.job
                entry.job, verdict = fold(before, event, place)
                if type(event) is Created:
                    entry.note(before, place.offset)
            if not entry.touched:
                entry.touched = True
                touched.append(entry)
            if verdict is not _APPLIED:
                ignored[verdict] += 1
    last = records[-1]
    held.next_offset = last.offset + 1
    held.last_event_id, held.last_timestamp = last_event_id, last.timestamp * 1000
    held.dead += len(dead)
    return dead
