"""The projector: folds batches of records and hands the outcome to the store.

It holds the jobs under way in memory, so that a batch costs one read for the jobs that it does
not know and one write for all that it touched. What it holds is valid for exactly one offset per
partition; whenever somebody else moved a checkpoint it forgets and reads again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from jobtrail.errors import EventError, FencedError, LogGapError, StoreError
from jobtrail.events import Event
from jobtrail.fold import fold
from jobtrail.job import Job, Place, Verdict
from jobtrail.states import ENDED
from projections.decoding import accept
from projections.store import Batch, Checkpoint, Entry, ProjectionWriter, Tally

logger = logging.getLogger(__name__)

#: Jobs under way that are held between batches, per partition: about 1 KiB each.
MAX_HELD: Final = 20_000
_FIRST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0


class DeadLetter(NamedTuple):
    """A record that is no valid event, and why."""

    record: Any
    error: EventError


#: Writes dead letters for good before it returns.
Bury = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class _Partition:
    """What is held of one partition: valid for the fold of everything before `next_offset`."""

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.jobs: dict[str, Entry] = {}


class Projector:
    """Folds the log into a store.

    Args:
        store: Where to.
        partitions: How many partitions the log has.
        bury: Takes records that are no valid event.
    """

    def __init__(self, store: ProjectionWriter, partitions: int, bury: Bury) -> None:
        self._store = store
        self._partitions = partitions
        self._bury = bury
        self._held: dict[int, _Partition] = {}
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        #: Set once partitions were assigned.
        self.assigned = asyncio.Event()

    async def start_offsets(self, partitions: set[int]) -> dict[int, int]:
        """Return the store's checkpoints of partitions that were just assigned.

        Whatever is held of any partition is forgotten: another projector may have gone on.
        """
        async with self._writing:
            self._held.clear()
            checkpoints = await self.checkpoints()
        if partitions:
            self.assigned.set()
        return {p: checkpoints[p].next_offset for p in partitions}

    async def checkpoints(self) -> dict[int, Checkpoint]:
        """Return the store's checkpoints, waiting for a write that is under way."""
        found: dict[int, Checkpoint] = await self._in_thread(self._store.checkpoints)
        return found

    async def apply(self, partition: int, records: Sequence[Any]) -> None:
        """Fold consecutive records of a partition and write the outcome, once.

        Args:
            partition: Whose records.
            records: Kafka records in order; those before the checkpoint are passed over.

        Raises:
            LogGapError: Records between the checkpoint and the first one are missing.
        """
        async with self._writing:
            while True:
                held = await self._hold(partition)
                todo = _not_yet_applied(records, held.next_offset)
                if not todo:
                    return
                if todo[0].offset != held.next_offset or not _consecutive(todo):
                    await self._check_gap(partition, held, todo)
                    continue
                batch = await self._fold(partition, held, todo)
                try:
                    await self._write(batch)
                except FencedError as error:
                    logger.warning("action=fenced partition=%d %s", partition, error)
                    del self._held[partition]
                    continue
                except BaseException:
                    # The held jobs are folded ahead of what is written.
                    del self._held[partition]
                    raise
                held.next_offset = batch.next_offset
                self._let_go(held, batch)
                return

    async def _hold(self, partition: int) -> _Partition:
        held = self._held.get(partition)
        if held is None:
            checkpoint = (await self.checkpoints())[partition]
            held = self._held[partition] = _Partition(checkpoint.next_offset)
        return held

    async def _check_gap(self, partition: int, held: _Partition, todo: Sequence[Any]) -> None:
        """Look whether somebody else applied what is missing; if nobody did, it is lost."""
        stored = (await self.checkpoints())[partition].next_offset
        if stored != held.next_offset:
            del self._held[partition]
            return
        raise LogGapError(
            "Records of the log are missing.",
            where=f"partition {partition}",
            expected=f"offset {held.next_offset}",
            found=f"offsets {todo[0].offset} to {todo[-1].offset}, {len(todo)} records",
            mend="Nothing was applied. If it happens again after a restart, the log has a hole.",
        )

    async def _fold(self, partition: int, held: _Partition, records: Sequence[Any]) -> Batch:
        accepted, dead = self._accept(partition, records)
        if dead:
            await self._bury(dead)
        wanted = {event.subject for event, _place in accepted}
        unknown = [job_id for job_id in wanted if job_id not in held.jobs]
        if unknown:
            held.jobs.update(await self._in_thread(self._store.load, partition, unknown))
        changes, verdicts = _fold_all(held.jobs, accepted)
        last = records[-1]
        ends_in_event = bool(accepted) and accepted[-1][1].offset == last.offset
        return Batch(
            partition=partition,
            start=records[0].offset,
            next_offset=last.offset + 1,
            last_event_id=accepted[-1][0].id if ends_in_event else "",
            last_timestamp=last.timestamp * 1000,
            changes=changes,
            tally=Tally(
                applied=verdicts[Verdict.APPLIED],
                duplicate=verdicts[Verdict.DUPLICATE],
                late=verdicts[Verdict.LATE],
                not_allowed=verdicts[Verdict.NOT_ALLOWED],
                dead=len(dead),
            ),
        )

    def _accept(
        self, partition: int, records: Iterable[Any]
    ) -> tuple[list[tuple[Event, Place]], list[DeadLetter]]:
        accepted: list[tuple[Event, Place]] = []
        dead: list[DeadLetter] = []
        for record in records:
            try:
                event = accept(record.key, record.value, partition, self._partitions)
            except EventError as error:
                dead.append(DeadLetter(record, error))
            else:
                place = Place(partition, record.offset, record.timestamp * 1000)
                accepted.append((event, place))
        return accepted, dead

    async def _write(self, batch: Batch) -> None:
        """Apply a batch; a store that can't be written is tried again until it can."""
        pause = _FIRST_RETRY
        while True:
            try:
                await self._in_thread(self._store.apply, batch)
                return
            except FencedError:
                raise
            except StoreError as error:
                logger.error("action=store_retry pause=%.2fs %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY)

    def _let_go(self, held: _Partition, batch: Batch) -> None:
        """Forget jobs that ended, and the ones longest untouched where there are too many."""
        jobs = held.jobs
        for entry, job in batch.changes:
            del jobs[job.id]
            if job.state not in ENDED:
                jobs[job.id] = entry
        for job_id in list(jobs)[: max(0, len(jobs) - MAX_HELD)]:
            del jobs[job_id]

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

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
    jobs: dict[str, Entry], accepted: Iterable[tuple[Event, Place]]
) -> tuple[list[tuple[Entry, Job]], dict[Verdict, int]]:
    """Fold events onto the held jobs; return each touched one once, and the verdicts."""
    touched: dict[str, Entry] = {}
    verdicts = dict.fromkeys(Verdict, 0)
    for event, place in accepted:
        job_id = event.subject
        entry = jobs.get(job_id)
        job, verdict = fold(entry.job if entry is not None else None, event, place)
        if entry is None:
            entry = jobs[job_id] = Entry(job)
        else:
            entry.job = job
        touched[job_id] = entry
        verdicts[verdict] += 1
    return [(entry, entry.job) for entry in touched.values()], verdicts
