"""The projector: folds groups of records and hands the outcome to the store.

It keeps the jobs under way in memory, so that a group costs one read for the jobs that are not
there and one write for all that it touched. What it keeps of a partition is valid for one offset;
when somebody else moved a checkpoint it forgets and reads again. Before it folds what came by
another connection or under another leader, it proves that the log is the one that it has folded.
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
from projections.projector.partition_state import DeadLetter, Partition
from projections.projector.store_thread import StoreThread

logger = logging.getLogger(__name__)

#: Records that may wait to be written: a job that they touch takes about 1 KiB.
MAX_WAITING: Final = 100_000
#: Seconds that writing waits for more at most: as long as they keep coming, and as none comes.
_LONGEST_WAIT: Final = 2.0
_PROMISED_WITHIN: Final = 0.1
#: Seconds without anything to fold after which the store may rest.
_REST_AFTER: Final = 1.0

_T = TypeVar("_T")
#: Writes dead letters for good before it returns.
Bury = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class Projector:
    """Folds the log into a store.

    Args:
        store: Where to.
        log: Is asked whether it still is the log that was folded.
        partitions: How many partitions the log has.
        bury: Takes records that are no valid event.
        max_waiting: Records that are folded and not yet written, at most.
    """

    def __init__(
        self,
        store: ProjectionWriter,
        log: LogLook,
        partitions: int,
        bury: Bury,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._store = StoreThread(store)
        self._log = log
        self._max_waiting = max_waiting
        self._partitions = partitions
        self._bury = bury
        self._held: dict[int, Partition] = {}
        self._continuity = Continuity(log, partitions)
        self._writing = asyncio.Lock()
        #: Taken for each group, before the other one; `finish` takes it and gives it to nobody.
        self._applying = asyncio.Lock()
        #: Set while something is folded that is not written; since when; how often was folded.
        self._ahead = asyncio.Event()
        self._since = 0.0
        self._folds = 0
        #: Partitions of which records were folded and forgotten: they are to be delivered again.
        self._awaited: set[int] = set()
        #: Set once partitions were assigned.
        self.assigned = asyncio.Event()
        #: Whether records have to be delivered again, from the store's checkpoints on, since what
        #: was known of the store was forgotten. `start_offsets` gives these.
        self.wants_records_again = False

    @property
    def stopped(self) -> Mapping[int, str]:
        """Why partitions are not folded any further."""
        return self._continuity.stopped

    async def start_offsets(self, partitions: set[int]) -> dict[int, int]:
        """Return the store's checkpoints of partitions that were just assigned.

        What is kept of any partition is forgotten: another projector may have gone on. What was
        folded and not written is delivered again, from the checkpoint on.
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
            partition: Whose.
            group: What was fetched; what lies before the checkpoint is passed over.
            more: Whether others are to follow at once, of any partition: then writing may wait
                for them, so that a transaction costs less for each.

        Raises:
            FencedError: What was folded here and not written yet is not to be written: another
                projector has, or the log or the store is another one. Records have to be delivered
                again, from the checkpoint on.
        """
        async with self._applying, self._writing:
            try:
                await self._apply(partition, group, more=more)
            except StoreDamaged as error:
                await self._repair(error)
                raise FencedError("The store was opened again.", found=str(error)) from error
            except (KafkaError, TimeoutError) as error:
                # What can't be asked can't be proven: it is folded when the log answers again.
                raise FencedError("The log does not answer.", found=repr(error)) from error

    async def _apply(self, partition: int, group: Group, *, more: bool) -> None:
        while await self._is_next(partition, group):
            waited = self._ahead.is_set()
            try:
                await self._fold_all(self._held[partition], group)
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

    async def look(self, partitions: Iterable[int]) -> None:
        """Prove that the log is the one that was folded; empty what was folded of another.

        Args:
            partitions: Which are looked at.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
            LogChanged: It has another number of partitions.
        """
        async with self._writing:
            await self._continuity.check_partitions()
            checkpoints = await self._repairing(self._store.checkpoints)
            held = {partition: await self._hold(partition) for partition in partitions}
            if any(checkpoints[p].next_offset != one.written for p, one in held.items()):
                # Somebody else has moved on, or over a hole.
                self._forget_all()
                return
            read = {p: Read(one.next_offset, one.last) for p, one in held.items()}
            different = await self._continuity.differences(read)
            for partition, reason in different.items():
                await self._fold_again(partition, reason)
            if not different:
                lost = await self._continuity.lost_ends({p: checkpoints[p] for p in held})
                await self._store.call(self._store.store.wait_for_no_more, lost)
                await self._skip_what_is_gone(held)

    async def _skip_what_is_gone(self, held: Mapping[int, Partition]) -> None:
        """Move over what the log's beginning has left behind."""
        begins = await self._log.begins()
        gone = [one for p, one in held.items() if one.next_offset < begins.get(p, 0)]
        for one in gone:
            self._continuity.note_moved_beginning(one.number, one.next_offset, begins[one.number])
            self._begin_ahead()
            one.next_offset = begins[one.number]
        if gone:
            # Where somebody else has moved over it, there is nothing to write.
            with contextlib.suppress(FencedError):
                await self._write_all()
            self.wants_records_again = True

    async def beat(self, partitions: Iterable[int]) -> None:
        """Say in the store that these partitions are cared for, and how far they are proven.

        Raises:
            StoreError: The store can't be written.
        """
        proved, stopped = self._continuity.proved, self.stopped
        beats = {p: Beat(proved.get(p, 0), stopped.get(p, "")) for p in partitions}
        async with self._writing:
            await self._repairing(lambda: self._store.call(self._store.store.beat, beats))

    async def repair(self) -> None:
        """Make parts of the store again that are damaged."""
        async with self._writing:
            await self._look_for_damage()

    async def _look_for_damage(self) -> bool:
        begins, ends = await self._log.begins(), await self._log.ends()
        changed = await self._store.call(self._store.store.repair, begins, ends)
        if changed:
            self._forget_all()
        return bool(changed)

    async def _repair(self, error: StoreDamaged) -> None:
        """Make what is damaged again; where nothing is, the error is what it says.

        Raises:
            StoreDamaged: It can't be mended.
        """
        logger.error("action=store_damaged %s", error)
        self._forget_all()
        if not await self._look_for_damage():
            raise error

    async def _repairing(self, use: Callable[[], Awaitable[_T]]) -> _T:
        """Use the store; where it is damaged, mend it and use it again."""
        try:
            return await use()
        except StoreDamaged as error:
            await self._repair(error)
            return await use()

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
                except StoreDamaged as error:
                    await self._repair(error)
                except FencedError:
                    pass
            await fetch_again()

    async def _until_ahead(self) -> None:
        """Wait until something is folded that is not written; until then let the store rest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ahead.wait(), _REST_AFTER)
            return
        async with self._writing:
            await self._store.rest()
        await self._ahead.wait()

    async def _is_next(self, partition: int, group: Group) -> bool:
        """Tell whether a group has what is to be folded next, and is of the log that was folded."""
        while True:
            if partition in self.stopped:
                return False
            held = await self._hold(partition)
            if group.next_offset <= held.next_offset:
                return False
            if group.breaks != held.breaks or group.epoch != held.epoch:
                await self._prove(partition, held)
                held.breaks, held.epoch = group.breaks, group.epoch
            if group.begin > held.next_offset:
                if partition in self._awaited:
                    # Fetched before those that are awaited.
                    return False
                if (await self._store.checkpoints())[partition].next_offset != held.written:
                    # Somebody else applied what is missing.
                    del self._held[partition]
                    continue
                if not await self._continuity.accounts_for(
                    partition, held.next_offset, group.begin, rotten=group.is_rotten
                ):
                    return False
            self._awaited.discard(partition)
            return True

    async def _prove(self, partition: int, held: Partition) -> None:
        """Prove that the log is the one that was folded, or empty what was.

        Raises:
            FencedError: It is another one.
        """
        found = await self._log.differences({partition: Read(held.next_offset, held.last)})
        if reason := found.get(partition):
            await self._fold_again(partition, reason)
            raise FencedError("The log is another one.", found=reason)

    async def _fold_again(self, partition: int, reason: str) -> None:
        """Empty what was folded from a log that is not this one."""
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
        waiting = sum(held.next_offset - held.written for held in self._held.values())
        age = asyncio.get_running_loop().time() - self._since
        return waiting < self._max_waiting and age < _LONGEST_WAIT

    def _forget(self) -> None:
        """Forget what is folded ahead of what is written."""
        ahead = {partition for partition, held in self._held.items() if held.is_ahead}
        self._held = {p: held for p, held in self._held.items() if p not in ahead}
        self._awaited |= ahead
        self._ahead.clear()

    def _forget_all(self) -> None:
        """Forget everything: the store may hold anything now."""
        self._forget()
        self._held.clear()
        self._continuity.forget()
        self.wants_records_again = True

    async def _hold(self, partition: int) -> Partition:
        if partition not in self._held:
            at = (await self._store.checkpoints())[partition]
            self._held[partition] = Partition(partition, at.next_offset, at.last)
        return self._held[partition]

    def _begin_ahead(self) -> None:
        if not self._ahead.is_set():
            self._ahead.set()
            self._since = asyncio.get_running_loop().time()
        self._folds += 1

    async def _fold_all(self, held: Partition, group: Group) -> None:
        """Fold a group; what is large is also written some at a time."""
        folds = self._folds
        for records in held.next_of(group):
            if self._folds > folds and not self._may_wait():
                await self._write_all()
            # Others go on while it is unpacked.
            await (self._fold(held, records, group.epoch) if records else asyncio.sleep(0))
        self._begin_ahead()
        held.next_offset = group.next_offset

    async def _fold(self, held: Partition, records: Sequence[Any], epoch: int) -> None:
        ids, unknown, misrouted = held.unknown(records, self._partitions)
        if misrouted:
            # Before any of them counts as no event: it may be the log that has changed.
            await self._continuity.check_partitions(now=True)
        if unknown:
            held.take_in(await self._store.load(held.number, unknown))
        for entry, asked in held.to_be_recalled(records, ids):
            held.recall(entry, asked, await self._store.seen(held.number, entry, asked))
        self._begin_ahead()
        dead = held.fold(records, epoch, self._partitions, misrouted)
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
                together.setdefault(self._store.store.part_of(partition), []).append(partition)
        try:
            for partitions in together.values():
                await self._store.write([self._held[p].batch() for p in partitions])
                for partition in partitions:
                    self._held[partition].settle()
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
        """Wait for what is being written, then let go of the store."""
        self._store.close()
