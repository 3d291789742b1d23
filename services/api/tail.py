"""Follows all partitions of the log from its end, without a group, for waits and fresh answers.

Nothing of a record but its key is looked at here. A broker that goes away is waited for, and the
log read on from where it was left; only a log that lost records makes the tail begin anew at its
end, and everybody who relied on it read the projections again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from jobtrail.kafka import stop_client
from projections.reading import Held
from services.api.buffer import Buffer, Record
from services.api.limits import Patience

logger = logging.getLogger(__name__)

#: Records that are taken in at a time, so that requests are served in between.
_AT_ONCE: Final = 500
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
        patience: When to try again.
    """

    def __init__(
        self,
        topic: str,
        client: Mapping[str, Any],
        buffer: Buffer,
        watchers: Mapping[bytes, Watcher],
        patience: Patience,
    ) -> None:
        self._topic = topic
        self._client = client
        self._buffer = buffer
        self._watchers = watchers
        self._patience = patience
        self._consumer: Any = None
        self._assigned_at = 0.0
        self._tps: list[TopicPartition] = []
        self._on_records: Callable[[], None] = lambda: None
        self._on_loss: Callable[[int, Held], None] = lambda _partition, _held: None

    def listen(self, on_records: Callable[[], None], on_loss: Callable[[int, Held], None]) -> None:
        """Be told after each batch, and of a partition of which records were lost or skipped."""
        self._on_records = on_records
        self._on_loss = on_loss

    async def run(self) -> None:
        """Follow the log until cancelled."""
        while True:
            try:
                await self._follow()
            except (KafkaError, OSError) as error:
                logger.warning("action=tail_retry %s: %s", type(error).__name__, error)
            except Exception:
                logger.exception("action=tail_failed")
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # aiokafka lets out the cancellation of a task of its own.
                logger.warning("action=tail_retry cancelled from within")
            await asyncio.sleep(self._patience.reconnect)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._client,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            retry_backoff_ms=_RETRY_MS,
        )
        try:
            await consumer.start()
            await self._assign(consumer)
            self._consumer = consumer
            self._assigned_at = time.time()
            while True:
                await self._take_some(consumer)
        finally:
            self._consumer = None
            await stop_client(consumer)

    async def _assign(self, consumer: Any) -> None:
        """Take up all partitions: where we were, and new ones at their end."""
        # Of a topic that is not assigned aiokafka never learns the partitions.
        first = TopicPartition(self._topic, 0)
        consumer.assign([first])
        await consumer.end_offsets([first])
        partitions = sorted(consumer.partitions_for_topic(self._topic) or ())
        if not partitions:
            raise OSError(f"there is no topic {self._topic} yet")
        self._tps = [TopicPartition(self._topic, partition) for partition in partitions]
        ends = await consumer.end_offsets(self._tps)
        consumer.assign(self._tps)
        for tp in self._tps:
            offset = self._buffer.end(tp.partition)
            if not self._buffer.follows(tp.partition) or offset > ends[tp]:
                self.begin(tp.partition, ends[tp])
                offset = ends[tp]
            consumer.seek(tp, offset)
        logger.info("action=tail_follows topic=%s partitions=%d", self._topic, len(partitions))

    def begin(self, partition: int, offset: int) -> None:
        """Take up a partition at an offset: what was before is lost to the tail."""
        had = Held(self._buffer.position, {}, frozenset())
        self._buffer.begin(partition, offset, time.time_ns() // 1000)
        self._on_loss(partition, had)

    async def _take_some(self, consumer: Any) -> None:
        try:
            batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_AT_ONCE)
        except OffsetOutOfRangeError as error:
            await self._begin_again(consumer, error)
            return
        if not batches:
            self._check_silence()
            return
        self.take(batches)
        # Where more is at hand, the next call does not let others run.
        await asyncio.sleep(0)

    def take(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Take in records that were fetched: per partition, in order, as aiokafka gives them."""
        arrived = time.perf_counter()
        add = self._buffer.add
        watchers = self._watchers
        for tp, records in batches.items():
            partition = tp.partition
            for raw in records:
                record = (partition, raw.offset, raw.timestamp * 1000, raw.value)
                add(raw.key, record)
                watcher = watchers.get(raw.key)
                if watcher is not None:
                    watcher.take(record, arrived)
        self._on_records()

    def _check_silence(self) -> None:
        """Begin with a new connection where the log has not answered for long.

        aiokafka connects again by itself, but has been seen to be alive and get nothing.
        """
        silent = min(self.silent_for(), time.time() - self._assigned_at)
        if silent > 2 * self._patience.silence:
            raise OSError(f"the log has not answered for {silent:.0f} seconds")

    async def _begin_again(self, consumer: Any, error: OffsetOutOfRangeError) -> None:
        """Go on at the end of partitions that no longer hold the offset we are at."""
        lost = list(error.args[0])
        ends = await consumer.end_offsets(lost)
        for tp in lost:
            logger.warning(
                "action=tail_lost_records partition=%d expected=%d end=%d",
                tp.partition,
                self._buffer.end(tp.partition),
                ends[tp],
            )
            self.begin(tp.partition, ends[tp])
            consumer.seek(tp, ends[tp])

    def is_up(self) -> bool:
        """Tell whether the log answered lately, for every partition."""
        return self._consumer is not None and self.silent_for() < self._patience.silence

    def silent_for(self) -> float:
        """Return for how many seconds the log has not answered, for the worst partition."""
        if self._consumer is None:
            return float("inf")
        polls = [self._consumer.last_poll_timestamp(tp) for tp in self._tps]
        if not polls or None in polls:
            return float("inf")
        oldest: int = min(polls)
        return max(time.time() - oldest / 1000, 0.0)

    def records_behind(self) -> int:
        """Return how many records the log has that were not taken in yet, as far as is known."""
        if self._consumer is None:
            return 0
        behind = 0
        for tp in self._tps:
            end = self._consumer.highwater(tp)
            if end is not None:
                behind += max(0, end - self._buffer.end(tp.partition))
        return behind
