"""What a projector asks of the log beside its records: where it begins, ends, and what lies where.

With a single broker a power cut can leave a log that ends before the store's checkpoint, since
Kafka acknowledges before it syncs to disk. New events would then take offsets that the store
holds for applied; so at start the store's last event is looked up in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from jobtrail.errors import EventError, LogGapError, LogUnavailable
from jobtrail.events import decode
from jobtrail.kafka import kafka_security, stop_client
from jobtrail.settings import Settings
from projections.store import Checkpoint, ProjectionWriter

logger = logging.getLogger(__name__)

_TIMEOUT: Final = 30.0


class Log:
    """A consumer without a group, for questions about the log.

    Args:
        settings: Which Kafka, which topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers,
            enable_auto_commit=False,
            request_timeout_ms=15_000,
            **kafka_security(settings),
        )
        self._partitions: list[TopicPartition] = []

    async def __aenter__(self) -> Self:
        """Connect and wait until the topic is there.

        Raises:
            LogUnavailable: Kafka doesn't answer, or has no such topic.
        """
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._consumer.start()
                # A topic has to be assigned before anything is known of it.
                self._assign({0})
                while not (found := self._consumer.partitions_for_topic(self._topic)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except (KafkaError, TimeoutError) as error:
            await stop_client(self._consumer)
            raise LogUnavailable(
                "The log can't be reached.", where=f"topic {self._topic}", found=repr(error)
            ) from None
        self._assign(found)
        return self

    def _assign(self, partitions: set[int]) -> None:
        """Take partitions, and fetch nothing of them unless asked."""
        self._partitions = [TopicPartition(self._topic, p) for p in sorted(partitions)]
        self._consumer.assign(self._partitions)
        self._consumer.pause(*self._partitions)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await stop_client(self._consumer)

    @property
    def partitions(self) -> int:
        """How many partitions the log has."""
        return len(self._partitions)

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition."""
        offsets = await self._consumer.beginning_offsets(self._partitions)
        return {tp.partition: offset for tp, offset in offsets.items()}

    async def ends(self) -> dict[int, int]:
        """Return the offset behind the last record of each partition."""
        offsets = await self._consumer.end_offsets(self._partitions)
        return {tp.partition: offset for tp, offset in offsets.items()}

    async def event_id_at(self, partition: int, offset: int) -> str:
        """Return the id of the event at an offset, empty where the record is no valid event."""
        tp = TopicPartition(self._topic, partition)
        self._consumer.seek(tp, offset)
        self._consumer.resume(tp)
        try:
            async with asyncio.timeout(_TIMEOUT):
                record = await self._consumer.getone(tp)
        finally:
            self._consumer.pause(tp)
        try:
            return decode(record.value).id if record.offset == offset else ""
        except EventError:
            return ""


async def check(log: Log, store: ProjectionWriter) -> None:
    """Hold the store's checkpoints against the log; empty what was folded from another log.

    Args:
        log: The log as it is now.
        store: The store; a part whose checkpoint lies beyond the log's end, or whose last event
            is not the one at that place, is emptied to be folded anew.

    Raises:
        LogGapError: The log begins behind a checkpoint: what lay between is gone for ever.
    """
    # In this order: other projectors go on meanwhile, and must not seem to be ahead of the log.
    checkpoints = store.checkpoints()
    begins, ends = await log.begins(), await log.ends()
    for partition, checkpoint in sorted(checkpoints.items()):
        if checkpoint.next_offset < begins[partition]:
            raise LogGapError(
                "The log no longer has what the store has not applied yet.",
                where=f"partition {partition}",
                expected=f"a log that begins at or before offset {checkpoint.next_offset}",
                found=f"a log that begins at {begins[partition]}",
                mend="Keep the log for ever (retention.ms=-1). To fold what is left, delete the "
                "store.",
            )
        reason = await _difference(log, partition, checkpoint, ends)
        if reason:
            logger.error(
                "action=store_reset partition=%d The log is not the one that was folded: %s. "
                "The projections are folded anew from the log; reads answer 503 until then.",
                partition,
                reason,
            )
            store.reset(partition, ends)


async def _difference(
    log: Log, partition: int, checkpoint: Checkpoint, ends: Mapping[int, int]
) -> str | None:
    if checkpoint.next_offset > ends[partition]:
        return f"it ends at {ends[partition]}, the checkpoint is at {checkpoint.next_offset}"
    if not checkpoint.last_event_id:
        return None
    found = await log.event_id_at(partition, checkpoint.next_offset - 1)
    if found != checkpoint.last_event_id:
        return (
            f"at offset {checkpoint.next_offset - 1} it has event {found!r}, "
            f"the checkpoint event {checkpoint.last_event_id!r}"
        )
    return None
