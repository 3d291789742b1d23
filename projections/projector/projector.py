"""The projector: folds groups of records and hands the outcome to the store.

It caches unfinished jobs in memory, so that a group costs one read for the jobs that are not cached
and one write for all that it touched. The cache of a partition is valid for exactly one offset;
when another projector has moved a checkpoint, it is dropped and read again. Before it folds records
that came by another connection or under another leader, it proves that the log still is the one
that it has folded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from aiokafka.errors import KafkaError

from jobtrail.core.errors import FencedError, StoreDamaged
from jobtrail.log.consumers import Group
from jobtrail.log.questions import Read
from projections.ports.write import Beat, Checkpoint, ProjectionWriter
from projections.projector.continuity import Continuity, LogLook
from projections.projector.partition_state import DeadLetter, PartitionState
from projections.projector.store_thread import StoreThread

logger = logging.getLogger(__name__)

#: Folded records that may wait to be written: each job that they touch takes about 1 KiB.
MAX_WAITING: Final = 100_000
#: Seconds that a write waits for more records, at most: while they come, and while none come.
_LONGEST_WAIT: Final = 2.0
_PROMISED_WITHIN: Final = 0.1
#: Seconds without anything to fold after which the WAL is moved into the files.
_CHECKPOINT_AFTER: Final = 1.0

_T = TypeVar("_T")
#: Writes dead letters, and returns when Kafka has acknowledged them.
WriteDeadLetters = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class Projector:
    """Folds the log into a store.

    Args:
        store: The store that is written.
        log: Used to check that it still is the log that was folded.
        partitions: How many partitions the log has.
        write_dead_letters: Takes records that are no valid event.
        max_waiting: Records that are folded and not yet written, at most.
    """

    def __init__(
        self,
        store: ProjectionWriter,
        log: LogLook,
        partitions: int,
        write_dead_letters: WriteDeadLetters,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._store = StoreThread(store)
        self._log = log
        self._max_waiting = max_waiting
        self._partitions = partitions
        self._write_dead_letters = write_dead_letters
        self._states: dict[int, PartitionState] = {}
        self._continuity = Continuity(log, partitions)
        self._writing = asyncio.Lock()
        #: Taken for each group, before the other one; `finish` takes it and gives it to nobody.
        self._applying = asyncio.Lock()
        #: Set while folded records wait to be written; since when they do; how often was folded.
        self._ahead = asyncio.Event()
        self._since = 0.0
        self._folds = 0
        #: Partitions whose folded records were dropped: they have to be delivered again.
        self._awaited: set[int] = set()
        #: Set once partitions were assigned.
        self.assigned = asyncio.Event()
        #: Whether records have to be delivered again, from the store's checkpoints on, since the
        #: cache was dropped. `start_offsets` returns these checkpoints.
        self.wants_records_again = False

    @property
    def stopped(self) -> Mapping[int, str]:
        """Why partitions are not folded any further."""
        return self._continuity.stopped

    async def start_offsets(self, partitions: set[int]) -> dict[int, int]:
        """Return the store's checkpoints of partitions that were just assigned.

        The cache of all partitions is dropped: another projector may have gone on. Records that
        were folded and not written are delivered again, from the checkpoint on.
        """
        async with self._writing:
            self._forget_all()
            checkpoints = await self._repairing(self._store.checkpoints)
            self.wants_records_again = False
        if partitions:
            self.assigned.set()
        return {p: checkpoints[p].next_offset for p in partitions}

    async def checkpoints(self) -> dict[int, Checkpoint]:
        """Return the store's checkpoints, waiting for a write that is under way.

        Raises:
            StoreError: They can't be read now.
        """
        return await self._store.checkpoints()

    async def apply(self, partition: int, group: Group, *, more: bool = False) -> None:
        """Fold the next group of a partition and write the outcome, once.

        Args:
            partition: The group's partition.
            group: Fetched records; those before the checkpoint are skipped.
            more: Whether more groups follow at once, of any partition: the write may wait for them.

        Raises:
            FencedError: Folded records that are not written must not be: another projector has
                written, or the log or the store is another one. Records have to be delivered
                again, from the checkpoint on.
        """
        async with self._applying, self._writing:
            try:
                await self._apply(partition, group, more=more)
            except StoreDamaged as error:
                await self._repair(error)
                raise FencedError("The store was opened again.", found=str(error)) from error
            except (KafkaError, TimeoutError) as error:
                # Without an answer nothing is proven: folding goes on when the log answers again.
                raise FencedError("The log does not answer.", found=repr(error)) from error

    async def _apply(self, partition: int, group: Group, *, more: bool) -> None:
        while await self._is_next(partition, group):
            waited = self._ahead.is_set()
            try:
                await self._fold_all(self._states[partition], group)
                if not (more and self._may_wait()):
                    await self._write_all()
                return
            except FencedError:
                if waited:
                    # Other records were dropped, too: the caller has to fetch them again.
                    raise
                self._awaited.discard(partition)
        if self._ahead.is_set() and not more:
            await self._write_all()

    async def look(self, partitions: Iterable[int]) -> None:
        """Prove that the log is the one that was folded; empty what was folded of another one.

        Args:
            partitions: The partitions that are checked.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
            LogChanged: It has another number of partitions.
        """
        async with self._writing:
            await self._continuity.check_partitions()
            checkpoints = await self._repairing(self._store.checkpoints)
            state = {partition: await self._state_of(partition) for partition in partitions}
            if any(checkpoints[p].next_offset != one.written for p, one in state.items()):
                # Another process has moved the checkpoint: a projector, or `jobtrail skip`.
                self._forget_all()
                return
            read = {p: Read(one.next_offset, one.last) for p, one in state.items()}
            different = await self._continuity.differences(read)
            for partition, reason in different.items():
                await self._fold_again(partition, reason)
            if not different:
                lost = await self._continuity.lost_ends({p: checkpoints[p] for p in state})
                await self._store.call(self._store.store.wait_for_no_more, lost)
                await self._skip_what_is_gone(state)

    async def _skip_what_is_gone(self, state: Mapping[int, PartitionState]) -> None:
        """Move checkpoints that are before the log's beginning to it."""
        begins = await self._log.begins()
        gone = [one for p, one in state.items() if one.next_offset < begins.get(p, 0)]
        for one in gone:
            self._continuity.note_moved_beginning(one.number, one.next_offset, begins[one.number])
            self._begin_ahead()
            one.next_offset = begins[one.number]
        if gone:
            # Where another projector has moved the checkpoint, there is nothing to write.
            with contextlib.suppress(FencedError):
                await self._write_all()
            self.wants_records_again = True

    async def beat(self, partitions: Iterable[int]) -> None:
        """Write the heartbeat of these partitions, and how far their log is proven.

        Raises:
            StoreError: The store can't be written.
        """
        proved, stopped = self._continuity.proved, self.stopped
        beats = {p: Beat(proved.get(p, 0), stopped.get(p, "")) for p in partitions}
        async with self._writing:
            await self._repairing(lambda: self._store.call(self._store.store.beat, beats))

    async def repair(self) -> None:
        """Replace damaged parts of the store."""
        async with self._writing:
            await self._look_for_damage()

    async def _look_for_damage(self) -> bool:
        begins, ends = await self._log.begins(), await self._log.ends()
        changed = await self._store.call(self._store.store.repair, begins, ends)
        if changed:
            self._forget_all()
        return bool(changed)

    async def _repair(self, error: StoreDamaged) -> None:
        """Replace what is damaged.

        Raises:
            StoreDamaged: Nothing was found that could be replaced.
        """
        logger.error("action=store_damaged %s", error)
        self._forget_all()
        if not await self._look_for_damage():
            raise error

    async def _repairing(self, use: Callable[[], Awaitable[_T]]) -> _T:
        """Use the store; where it is damaged, repair it and use it again."""
        try:
            return await use()
        except StoreDamaged as error:
            await self._repair(error)
            return await use()

    async def keep_writing(self, fetch_again: Callable[[], Awaitable[None]]) -> str:
        """Write folded records that wait for more, when no more come. Never returns.

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
                except StoreDamaged as error:
                    await self._repair(error)
                except FencedError:
                    pass
            await fetch_again()

    async def _until_ahead(self) -> None:
        """Wait until something is folded that is not written; after a pause move the WAL."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ahead.wait(), _CHECKPOINT_AFTER)
            return
        async with self._writing:
            await self._store.checkpoint_wal()
        await self._ahead.wait()

    async def _is_next(self, partition: int, group: Group) -> bool:
        """Tell whether a group has the next records, and is of the log that was folded."""
        while True:
            if partition in self.stopped:
                return False
            state = await self._state_of(partition)
            if group.next_offset <= state.next_offset:
                return False
            if group.breaks != state.breaks or group.epoch != state.epoch:
                await self._prove(partition, state)
                state.breaks, state.epoch = group.breaks, group.epoch
            if group.begin > state.next_offset:
                if partition in self._awaited:
                    # Fetched before the records that have to be delivered again.
                    return False
                if (await self._store.checkpoints())[partition].next_offset != state.written:
                    # Another projector has applied the missing records.
                    del self._states[partition]
                    continue
                if not await self._continuity.accounts_for(
                    partition, state.next_offset, group.begin, rotten=group.is_damaged
                ):
                    return False
            self._awaited.discard(partition)
            return True

    async def _prove(self, partition: int, state: PartitionState) -> None:
        """Prove that the log is the one that was folded, or empty the store's part.

        Raises:
            FencedError: It is another one.
        """
        found = await self._log.differences({partition: Read(state.next_offset, state.last)})
        if reason := found.get(partition):
            await self._fold_again(partition, reason)
            raise FencedError("The log is another one.", found=reason)

    async def _fold_again(self, partition: int, reason: str) -> None:
        """Empty a part of the store that was folded from another log."""
        begins, ends = await self._log.begins(), await self._log.ends()
        logger.error(
            "action=store_reset partition=%d The log is not the one that was folded: %s. "
            "The projections are folded again from the log; reads answer 503 until then.",
            partition,
            reason,
        )
        self._forget_all()
        await self._store.call(self._store.store.reset, partition, begins, ends)

    def _may_wait(self) -> bool:
        waiting = sum(state.next_offset - state.written for state in self._states.values())
        age = asyncio.get_running_loop().time() - self._since
        return waiting < self._max_waiting and age < _LONGEST_WAIT

    def _forget(self) -> None:
        """Drop what is folded and not written."""
        ahead = {partition for partition, state in self._states.items() if state.is_ahead}
        self._states = {p: state for p, state in self._states.items() if p not in ahead}
        self._awaited |= ahead
        self._ahead.clear()

    def _forget_all(self) -> None:
        """Drop the cache: others may have changed the store."""
        self._forget()
        self._states.clear()
        self._continuity.forget()
        self.wants_records_again = True

    async def _state_of(self, partition: int) -> PartitionState:
        if partition not in self._states:
            at = (await self._store.checkpoints())[partition]
            self._states[partition] = PartitionState(partition, at.next_offset, at.last)
        return self._states[partition]

    def _begin_ahead(self) -> None:
        if not self._ahead.is_set():
            self._ahead.set()
            self._since = asyncio.get_running_loop().time()
        self._folds += 1

    async def _fold_all(self, state: PartitionState, group: Group) -> None:
        """Fold a group; a large one is also written in pieces."""
        folds = self._folds
        for records in state.next_of(group):
            if self._folds > folds and not self._may_wait():
                await self._write_all()
            # Other tasks may run between two pieces.
            await (self._fold(state, records, group.epoch) if records else asyncio.sleep(0))
        self._begin_ahead()
        state.next_offset = group.next_offset

    async def _fold(self, state: PartitionState, records: Sequence[Any], epoch: int) -> None:
        ids, missing, misrouted = state.missing(records, self._partitions)
        if misrouted:
            # Before they become dead letters: the log may have another number of partitions now.
            await self._continuity.check_partitions(now=True)
        if missing:
            state.take_in(await self._store.load(state.number, missing))
        for entry, asked in state.to_be_recalled(records, ids):
            state.recall(entry, asked, await self._store.seen(state.number, entry, asked))
        self._begin_ahead()
        dead = state.fold(records, epoch, self._partitions, misrouted)
        if dead:
            try:
                await self._write_dead_letters(dead)
            except BaseException:
                self._forget()
                raise

    async def _write_all(self) -> None:
        """Write what is folded, a transaction per part of the store; drop it after an error."""
        together: dict[int, list[int]] = {}
        for partition, state in self._states.items():
            if state.is_ahead:
                together.setdefault(self._store.store.part_of(partition), []).append(partition)
        try:
            for partitions in together.values():
                await self._store.write([self._states[p].batch() for p in partitions])
                for partition in partitions:
                    self._states[partition].settle()
        except BaseException as error:
            if isinstance(error, FencedError):
                logger.warning("action=fenced %s", error)
            self._forget()
            raise
        self._ahead.clear()

    async def finish(self) -> None:
        """Wait for the group that is being applied, and write it. No other one is applied then."""
        await self._applying.acquire()
        async with self._writing:
            await self._write_all()

    def close(self) -> None:
        """Wait for the current write, then close the store."""
        self._store.close()
