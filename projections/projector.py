"""The projector: folds batches of records and hands the outcome to the store.

It holds the jobs under way in memory, so that a batch costs one read for the jobs that it does
not know and one write for all that it touched. What it holds is valid for exactly one offset per
partition; whenever somebody else moved a checkpoint it forgets and reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from jobtrail.decoding import ids_of
from jobtrail.errors import FencedError, LogGapError, StoreError
from jobtrail.placing import partitions_of
from projections.holding import DeadLetter, Partition
from projections.store import Batch, Checkpoint, ProjectionWriter

logger = logging.getLogger(__name__)

#: Records that may wait to be written: a job that they touch takes about 1 KiB.
MAX_WAITING: Final = 100_000
#: Seconds that writing waits for more at most: as long as they keep coming, and as none comes.
_LONGEST_WAIT: Final = 2.0
_PROMISED_WITHIN: Final = 0.1
#: Seconds without anything to fold after which the store may rest.
_REST_AFTER: Final = 1.0
_FIRST_RETRY: Final = 0.05
_LONGEST_RETRY: Final = 5.0

#: Writes dead letters for good before it returns.
Bury = Callable[[Sequence[DeadLetter]], Awaitable[None]]


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
        self._held: dict[int, Partition] = {}
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        #: Whose call of the store it is: one at a time, of this thread or the other one.
        self._turn = asyncio.Lock()
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

    async def _hold(self, partition: int) -> Partition:
        held = self._held.get(partition)
        if held is None:
            checkpoint = (await self.checkpoints())[partition]
            held = self._held[partition] = Partition(partition, checkpoint.next_offset)
        return held

    async def _check_gap(self, partition: int, held: Partition, todo: Sequence[Any]) -> None:
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

    async def _fold(self, partition: int, held: Partition, records: Sequence[Any]) -> None:
        jobs = held.jobs
        ids = ids_of({record.key for record in records})
        unknown = {key: job_id for key, job_id in ids.items() if job_id not in jobs}
        keys = list(unknown)
        places = partitions_of(keys, self._partitions)
        astray = {key for key, place in zip(keys, places, strict=True) if place != partition}
        if unknown:
            # Here and not in the thread: to read waits for nobody, and going there takes longer.
            mine = [job_id for key, job_id in unknown.items() if key not in astray]
            async with self._turn:
                jobs.update(self._store.load(partition, mine))
        if not self._ahead.is_set():
            self._ahead.set()
            self._since = asyncio.get_running_loop().time()
        self._folds += 1
        dead = held.fold(records, self._partitions, astray)
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
                await self._write([self._held[p].batch() for p in partitions])
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
        async with self._turn:
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
