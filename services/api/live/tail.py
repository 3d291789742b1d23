"""Follows all partitions of the log from its end, without a consumer group.

Waits and answers with fresh states need it. Of a record only the key and mark are read here. When
the broker goes away, the tail reconnects and goes on at its position once it is proven that the log
is the same one: the last record that was read is still at its offset. Offsets without a record for
which the broker accounts are skipped. Only if the log lost records or was replaced, the tail begins
again at its end, and those who rely on it read the projections again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)

from jobtrail.core.position import LastRecord, mark_of
from jobtrail.internals.aiokafka_internals import client_of
from jobtrail.log.clients import missing_topic, partitions_of
from jobtrail.log.consumers import BREAKS, Group, group_reader
from jobtrail.log.kafka import stop_client
from jobtrail.log.questions import Read, last_record
from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.live.absence import LogLiveness
from services.api.live.buffer import Buffer, Record
from services.api.live.log_verifier import FAILURES, LogVerifier, is_own_cancellation

logger = logging.getLogger(__name__)

#: Records that are added in one step, so that requests are served in between: with unpacking, some
#: 7 us each.
_AT_ONCE: Final = 128
#: Groups that are fetched at a time; fetched records that are not in the buffer yet count as lag.
_GROUPS_AT_ONCE: Final = 8
_POLL_MS: Final = 500
_RETRY_MS: Final = 500


class Watcher(Protocol):
    """Receives the records of one key."""

    def take(self, record: Record, arrived: float) -> None:
        """Take the next record, which arrived at that time of `time.perf_counter`."""


class Tail:
    """Reads records at the end of the log into the buffer, and hands them to watchers of a job.

    Args:
        topic: The topic of the log.
        client: Keyword arguments for aiokafka: servers and security.
        buffer: Receives every record.
        watchers: By key, who else receives its records.
        liveness: Notes when the log answers.
        verifier: Tells whether the log was replaced.
        timeouts: When to reconnect and when to verify the log.
    """

    def __init__(
        self,
        topic: str,
        client: Mapping[str, Any],
        buffer: Buffer,
        watchers: Mapping[bytes, Watcher],
        liveness: LogLiveness,
        verifier: LogVerifier,
        timeouts: Timeouts,
    ) -> None:
        self._topic = topic
        self._client = client
        self._buffer = buffer
        self._watchers = watchers
        self._liveness = liveness
        self._verifier = verifier
        self._timeouts = timeouts
        self._consumer: Any = None
        self._assigned_at = 0.0
        self._tps: list[TopicPartition] = []
        self._on_records: Callable[[], None] = lambda: None
        self._on_loss: Callable[[int, Watermark, bool], None] = lambda *_: None
        #: Per partition the leader's epoch of the group that came last; -1 for none.
        self._epochs: dict[int, int] = {}
        #: `BREAKS.count` before the last proof of all partitions, and when the next one is due.
        self._proved_breaks = -1
        self._prove_at = 0.0

    def listen(
        self, on_records: Callable[[], None], on_loss: Callable[[int, Watermark, bool], None]
    ) -> None:
        """Set the functions to call after new records, and after records were lost or skipped.

        Args:
            on_records: Called without arguments.
            on_loss: Called with the partition, the position up to which the tail had every record,
                and whether the log was replaced.
        """
        self._on_records = on_records
        self._on_loss = on_loss

    async def run(self) -> None:
        """Follow the log until cancelled."""
        while True:
            try:
                await self._follow()
            except FAILURES as error:
                logger.warning("action=tail_retry %s: %s", type(error).__name__, error)
            except Exception:
                logger.exception("action=tail_failed")
            except asyncio.CancelledError:
                if not is_own_cancellation():
                    raise
                logger.warning("action=tail_retry cancelled from within")
            await asyncio.sleep(self._timeouts.reconnect)

    async def _follow(self) -> None:
        consumer = group_reader(
            self._client,
            retry_backoff_ms=_RETRY_MS,
        )
        try:
            await consumer.start()
            await self._assign(consumer)
            self._consumer = consumer
            self._assigned_at = monotonic()
            while True:
                await self._take_some(consumer)
        finally:
            if self._consumer is not None:
                self._consumer = None
                self._liveness.note_lost()
            await stop_client(consumer)

    async def _assign(self, consumer: Any) -> None:
        """Assign all partitions: at our position, or new ones at their end."""
        # aiokafka learns the partitions of assigned topics only.
        first = TopicPartition(self._topic, 0)
        consumer.assign([first])
        try:
            partitions = sorted(await partitions_of(client_of(consumer), self._topic))
        except UnknownTopicOrPartitionError:
            raise missing_topic(self._topic, self._client["bootstrap_servers"]) from None
        self._tps = [TopicPartition(self._topic, partition) for partition in partitions]
        breaks = BREAKS.count
        followed = {p: read for p, read in self._buffer.read().items() if p in partitions}
        changed = await self._verifier.changed(followed)
        ends = await consumer.end_offsets(self._tps)
        consumer.assign(self._tps)
        for tp in self._tps:
            partition = tp.partition
            if not self._buffer.follows(partition) or partition in changed:
                await self._begin(partition, ends[tp], replaced=partition in changed)
            consumer.seek(tp, self._buffer.end(partition))
        self._epochs = dict.fromkeys(partitions, -1)
        self._have_proven(breaks)
        logger.info("action=tail_follows topic=%s partitions=%d", self._topic, len(partitions))

    async def _begin(self, partition: int, offset: int, *, replaced: bool) -> None:
        """Begin with a partition at an offset, and find the record before it."""
        last = None
        if offset:
            log = await self._verifier.log()
            record = None
            # A corrupt record proves nothing.
            with contextlib.suppress(CorruptRecordException):
                record = (await log.find({partition: offset - 1}))[partition]
            last = None if record is None else last_record(record, -1)
        self.begin(partition, offset, last, replaced=replaced)

    def begin(
        self,
        partition: int,
        offset: int,
        last: LastRecord | None = None,
        *,
        replaced: bool = False,
    ) -> None:
        """Begin with a partition at an offset; what the tail had before of it is dropped.

        Args:
            partition: Which.
            offset: The first one that it will read.
            last: The record before it; None if it is not known.
            replaced: Whether the log was replaced.
        """
        had = Watermark(self._buffer.position, {}, frozenset())
        self._buffer.begin(partition, offset, time.time_ns() // 1000)
        self._buffer.reach(partition, offset, last)
        self._on_loss(partition, had, replaced)

    async def _take_some(self, consumer: Any) -> None:
        try:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_GROUPS_AT_ONCE)
        except OffsetOutOfRangeError as error:
            await self._begin_again(consumer, error)
            return
        # Also from time to time, although no connection broke.
        breaks = BREAKS.count
        replaced: Collection[int] = ()
        if breaks != self._proved_breaks or monotonic() >= self._prove_at:
            replaced = await self._prove(consumer, self._buffer.read())
            self._have_proven(breaks)
        for tp, groups in fetched.items():
            if tp.partition in replaced:
                # Fetched before the tail began again at the end.
                continue
            for group in groups:
                if not await self._take(consumer, tp.partition, group):
                    break
        self._note_liveness(consumer)
        if not fetched:
            self._check_silence()
            return
        # With more records fetched already, the next call does not yield to other tasks.
        await asyncio.sleep(0)

    async def _take(self, consumer: Any, partition: int, group: Group) -> bool:
        """Add the next group of a partition, once it is proven that the log is the same one.

        Returns:
            Whether it is. If not, the tail has begun again, and what was fetched is dropped.
        """
        if group.begin < self._buffer.end(partition) and group.next_offset <= self._buffer.end(
            partition
        ):
            # Fetched before the tail began again at a later offset.
            return True
        if group.breaks > self._proved_breaks or self._epochs[partition] not in (-1, group.epoch):
            read = {partition: self._buffer.read()[partition]}
            if await self._prove(consumer, read):
                return False
        self._epochs[partition] = group.epoch
        if group.begin > self._buffer.end(partition) and (
            group.is_damaged or not await self._is_compacted()
        ):
            logger.warning(
                "action=tail_lost_records partition=%d expected=%d found=%d",
                partition,
                self._buffer.end(partition),
                group.begin,
            )
            self.begin(partition, group.begin)
        for records in group.pieces(_AT_ONCE):
            for at in range(0, len(records), _AT_ONCE):
                some = records[at : at + _AT_ONCE]
                self.take(partition, some, some[-1].offset + 1, group.epoch)
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        self.take(partition, (), group.next_offset, group.epoch)
        return True

    def take(
        self, partition: int, records: Sequence[Any], next_offset: int, epoch: int = -1
    ) -> None:
        """Add records that were fetched.

        Args:
            partition: Of the records.
            records: As aiokafka returns them, in order.
            next_offset: The offset before which every record is added then.
            epoch: Of the leader that appended them.
        """
        arrived = time.perf_counter()
        buffer = self._buffer
        add = buffer.add
        watchers = self._watchers
        if records:
            buffer.arrive(partition, records[0].offset, time.time_ns() // 1000)
        # Before watchers receive them, so that positions in their answers can be proven.
        buffer.remember(
            partition,
            [raw.offset for raw in records],
            [mark_of(raw.key, raw.value) for raw in records],
        )
        for raw in records:
            record = (partition, raw.offset, raw.timestamp * 1000, raw.value)
            add(raw.key, record)
            watcher = watchers.get(raw.key)
            if watcher is not None:
                watcher.take(record, arrived)
        last = last_record(records[-1], epoch) if records else None
        buffer.reach(partition, next_offset, last)
        self._on_records()

    def _have_proven(self, breaks: int) -> None:
        """Note that all partitions were proven after `breaks` connections had broken."""
        self._proved_breaks = breaks
        self._prove_at = monotonic() + self._timeouts.prove
        self._verifier.note_verified(breaks)

    async def _prove(self, consumer: Any, read: Mapping[int, Read]) -> Collection[int]:
        """Prove that the log is the one that was read; begin again where it is not.

        Returns:
            The partitions that were replaced.
        """
        changed = await self._verifier.changed(read)
        if changed:
            tps = [TopicPartition(self._topic, partition) for partition in changed]
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                await self._begin(tp.partition, ends[tp], replaced=True)
                consumer.seek(tp, ends[tp])
        return changed.keys()

    async def _is_compacted(self) -> bool:
        return await (await self._verifier.log()).is_compacted()

    def _check_silence(self) -> None:
        """Raise, to connect again, if the log has not answered for long.

        aiokafka reconnects by itself, but it has been seen to run on without any answer.

        Raises:
            OSError: The log has not answered.
        """
        silent = min(self._liveness.silent_for(), monotonic() - self._assigned_at)
        if silent > 2 * self._timeouts.silence:
            raise OSError(f"the log has not answered for {silent:.0f} seconds")

    async def _begin_again(self, consumer: Any, error: OffsetOutOfRangeError) -> None:
        """Begin again at the end of partitions that no longer have the offset of our position."""
        lost = list(error.args[0])
        read = self._buffer.read()
        changed = await self._verifier.changed({tp.partition: read[tp.partition] for tp in lost})
        ends = await consumer.end_offsets(lost)
        for tp in lost:
            logger.warning(
                "action=tail_lost_records partition=%d expected=%d end=%d",
                tp.partition,
                self._buffer.end(tp.partition),
                ends[tp],
            )
            await self._begin(tp.partition, ends[tp], replaced=tp.partition in changed)
            consumer.seek(tp, ends[tp])

    def _note_liveness(self, consumer: Any) -> None:
        """Note when the log last answered, of the partition that has waited longest."""
        polls = [consumer.last_poll_timestamp(tp) for tp in self._tps]
        if polls and None not in polls:
            heard = min(polls)
            self._liveness.note_answer(max(time.time() - heard / 1000, 0.0))
            for tp in self._tps:
                if not self._lag(tp):
                    self._buffer.note_caught_up(tp.partition, heard * 1000)

    def lag_records(self) -> int:
        """Return how many records of the log are not in the buffer yet, as far as is known."""
        return sum(self._lag(tp) for tp in self._tps)

    def has_pending(self, partition: int) -> bool:
        """Tell whether records of a partition are known that are not in the buffer yet."""
        return self._lag(TopicPartition(self._topic, partition)) > 0

    def _lag(self, tp: TopicPartition) -> int:
        # Records after the start of an open transaction can't be read yet, but they count as lag.
        end = None if self._consumer is None else self._consumer.highwater(tp)
        return 0 if end is None else max(0, end - self._buffer.end(tp.partition))
