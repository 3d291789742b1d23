"""Follows all partitions of the log from its end, without a group, for waits and fresh answers.

Nothing of a record but its key and mark is looked at here. A broker that goes away is waited for,
and the log read on from where it was left, once it is proven that it is the same log: its last
record that was read still lies where it lay. Offsets that the broker accounts for are passed over.
Only a log that lost records, or is another one, makes the tail begin again at its end, and
everybody who relied on it read the projections again.
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
from jobtrail.log.clients import missing_topic, partitions_of
from jobtrail.log.consumers import BREAKS, Group, group_reader
from jobtrail.log.kafka import stop_client
from jobtrail.log.questions import Read, last_record
from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.live.buffer import Buffer, Record
from services.api.live.coverage import Pulse
from services.api.live.witness import FAILURES, Witness, from_within

logger = logging.getLogger(__name__)

#: Records that are taken in at a time, so that requests are served in between: with taking them
#: apart, some 7 us each.
_AT_ONCE: Final = 128
#: Groups that are fetched at a time: what was fetched and not taken in is not covered.
_GROUPS_AT_ONCE: Final = 8
_POLL_MS: Final = 500
_RETRY_MS: Final = 500


class Watcher(Protocol):
    """Wants the records of one key."""

    def take(self, record: Record, arrived: float) -> None:
        """Take the next record, which arrived at that time of `time.perf_counter`."""


class Tail:
    """Feeds the buffer, and whoever watches a job, from the end of the log.

    Args:
        topic: The log.
        client: Keyword arguments for aiokafka: servers and security.
        buffer: Takes every record.
        watchers: By key, who else takes its records.
        pulse: Is told when the log answers.
        witness: Tells whether it is the same log.
        timeouts: When to try again.
    """

    def __init__(
        self,
        topic: str,
        client: Mapping[str, Any],
        buffer: Buffer,
        watchers: Mapping[bytes, Watcher],
        pulse: Pulse,
        witness: Witness,
        timeouts: Timeouts,
    ) -> None:
        self._topic = topic
        self._client = client
        self._buffer = buffer
        self._watchers = watchers
        self._pulse = pulse
        self._witness = witness
        self._patience = timeouts
        self._consumer: Any = None
        self._assigned_at = 0.0
        self._tps: list[TopicPartition] = []
        self._on_records: Callable[[], None] = lambda: None
        self._on_loss: Callable[[int, Watermark, bool], None] = lambda *_: None
        #: Per partition the leader's epoch of the group that came last; -1 for none.
        self._epochs: dict[int, int] = {}
        #: The breaks at the last proof of all partitions, and when the next one is due.
        self._proved_breaks = -1
        self._prove_at = 0.0

    def listen(
        self, on_records: Callable[[], None], on_loss: Callable[[int, Watermark, bool], None]
    ) -> None:
        """Be told after each batch, and of a partition of which records were lost or skipped.

        Args:
            on_records: Is called with nothing.
            on_loss: Is called with the partition, up to where the tail had everything, and whether
                the log is another one.
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
                if not from_within():
                    raise
                logger.warning("action=tail_retry cancelled from within")
            await asyncio.sleep(self._patience.reconnect)

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
                self._pulse.stop()
            await stop_client(consumer)

    async def _assign(self, consumer: Any) -> None:
        """Take up all partitions: where we were, and new ones at their end."""
        # Of a topic that is not assigned aiokafka never learns the partitions.
        first = TopicPartition(self._topic, 0)
        consumer.assign([first])
        try:
            partitions = sorted(await partitions_of(consumer._client, self._topic))
        except UnknownTopicOrPartitionError:
            raise missing_topic(self._topic, self._client["bootstrap_servers"]) from None
        self._tps = [TopicPartition(self._topic, partition) for partition in partitions]
        breaks = BREAKS.count
        known = {p: read for p, read in self._buffer.read().items() if p in partitions}
        changed = await self._witness.changed(known)
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
        """Take up a partition at an offset, and what record lies before it."""
        last = None
        if offset:
            log = await self._witness.log()
            record = None
            # One that has rotted proves nothing, and nothing is read of it.
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
        """Take up a partition at an offset: what was before is lost to the tail.

        Args:
            partition: Which.
            offset: The first one that it will see.
            last: The record before it; None where that is not known.
            replaced: Whether the log is another one.
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
        # Every now and then also while nothing comes, or the same connection goes on.
        breaks = BREAKS.count
        replaced: Collection[int] = ()
        if breaks != self._proved_breaks or monotonic() >= self._prove_at:
            replaced = await self._prove(consumer, self._buffer.read())
            self._have_proven(breaks)
        for tp, groups in fetched.items():
            if tp.partition in replaced:
                # Fetched of the log before, or of what the tail has passed over since.
                continue
            for group in groups:
                if not await self._take(consumer, tp.partition, group):
                    break
        self._listen_for_pulse(consumer)
        if not fetched:
            self._check_silence()
            return
        # Where more is at hand, the next call does not let others run.
        await asyncio.sleep(0)

    async def _take(self, consumer: Any, partition: int, group: Group) -> bool:
        """Take in the next group of a partition, once it is known to be of the same log.

        Returns:
            Whether it is: else the tail has begun again, and nothing that was fetched counts.
        """
        if group.begin < self._buffer.end(partition) and group.next_offset <= self._buffer.end(
            partition
        ):
            # Fetched before the partition was taken up elsewhere.
            return True
        if group.breaks > self._proved_breaks or self._epochs[partition] not in (-1, group.epoch):
            read = {partition: self._buffer.read()[partition]}
            if await self._prove(consumer, read):
                return False
        self._epochs[partition] = group.epoch
        if group.begin > self._buffer.end(partition) and (
            group.is_rotten or not await self._is_compacted()
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
        """Take in records that were fetched.

        Args:
            partition: Where they lie.
            records: As aiokafka gives them, in order.
            next_offset: The offset before which everything is accounted for then.
            epoch: Of the leader that appended them.
        """
        arrived = time.perf_counter()
        buffer = self._buffer
        add = buffer.add
        watchers = self._watchers
        if records:
            buffer.arrive(partition, records[0].offset, time.time_ns() // 1000)
        # Before anybody is told of them: positions that are given out then can be proven.
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
        """Take in that all partitions were proven after so many breaks."""
        self._proved_breaks = breaks
        self._prove_at = monotonic() + self._patience.prove
        self._witness.trust(breaks)

    async def _prove(self, consumer: Any, read: Mapping[int, Read]) -> Collection[int]:
        """Prove that the log is the one that was read; begin again where it is not.

        Returns:
            The partitions of which it is another one.
        """
        changed = await self._witness.changed(read)
        if changed:
            tps = [TopicPartition(self._topic, partition) for partition in changed]
            ends = await consumer.end_offsets(tps)
            for tp in tps:
                await self._begin(tp.partition, ends[tp], replaced=True)
                consumer.seek(tp, ends[tp])
        return changed.keys()

    async def _is_compacted(self) -> bool:
        return await (await self._witness.log()).is_compacted()

    def _check_silence(self) -> None:
        """Begin with a new connection where the log has not answered for long.

        aiokafka connects again by itself, but has been seen to be alive and get nothing.
        """
        silent = min(self._pulse.silent_for(), monotonic() - self._assigned_at)
        if silent > 2 * self._patience.silence:
            raise OSError(f"the log has not answered for {silent:.0f} seconds")

    async def _begin_again(self, consumer: Any, error: OffsetOutOfRangeError) -> None:
        """Go on at the end of partitions that no longer hold the offset we are at."""
        lost = list(error.args[0])
        read = self._buffer.read()
        changed = await self._witness.changed({tp.partition: read[tp.partition] for tp in lost})
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

    def _listen_for_pulse(self, consumer: Any) -> None:
        """Take note of when the log answered last, for the partition that is worst off."""
        polls = [consumer.last_poll_timestamp(tp) for tp in self._tps]
        if polls and None not in polls:
            heard = min(polls)
            self._pulse.beat(max(time.time() - heard / 1000, 0.0))
            for tp in self._tps:
                if not self._behind(tp):
                    self._buffer.be_level(tp.partition, heard * 1000)

    def records_behind(self) -> int:
        """Return how many records the log has that were not taken in yet, as far as is known."""
        return sum(self._behind(tp) for tp in self._tps)

    def has_more(self, partition: int) -> bool:
        """Tell whether a partition has records that arrived here and were not taken in yet."""
        return self._behind(TopicPartition(self._topic, partition)) > 0

    def _behind(self, tp: TopicPartition) -> int:
        # Where a transaction is under way, what lies behind its beginning can't be read yet: that
        # is there all the same.
        end = None if self._consumer is None else self._consumer.highwater(tp)
        return 0 if end is None else max(0, end - self._buffer.end(tp.partition))
