"""The bodies of events, read from the log at their places: a trail keeps only where they lie."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from jobtrail.kafka import stop_client
from services.api.buffer import Record
from services.api.problems import log_unavailable, position_gone

logger = logging.getLogger(__name__)

#: Events of one job that lie nearer together than this are read in one go.
_READ_ON: Final = 2_000
_AT_ONCE: Final = 500
_POLL_MS: Final = 1_000
_WITHIN: Final = 10.0


class Bodies:
    """Reads records of the log by their offsets, one request at a time.

    Args:
        topic: The log.
        client: Keyword arguments for aiokafka: servers and security.
    """

    def __init__(self, topic: str, client: Mapping[str, Any]) -> None:
        self._topic = topic
        self._client = client
        self._consumer: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def read(self, partition: int, offsets: Sequence[int]) -> dict[int, bytes | None]:
        """Return the values of records; without those that the log has lost.

        Args:
            partition: Where they lie.
            offsets: Their offsets, ascending.

        Raises:
            Problem: 503 where the log does not answer in time.
        """
        if not offsets:
            return {}
        try:
            async with asyncio.timeout(_WITHIN), self._one_at_a_time:
                return await self._read(TopicPartition(self._topic, partition), offsets)
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise log_unavailable(f"reading events: {error!r}") from None

    async def _read(self, tp: TopicPartition, offsets: Sequence[int]) -> dict[int, bytes | None]:
        consumer = await self._started()
        consumer.assign([tp])
        wanted = set(offsets)
        found: dict[int, bytes | None] = {}
        position = -_READ_ON - 1
        for offset in offsets:
            if offset in found:
                continue
            if not position <= offset <= position + _READ_ON:
                consumer.seek(tp, offset)
                position = offset
            while position <= offset:
                try:
                    some = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_AT_ONCE)
                except OffsetOutOfRangeError:
                    # The log does not reach back, or on, to there; maybe to the next one.
                    position = -_READ_ON - 1
                    break
                batch = some.get(tp)
                for record in batch or ():
                    if record.offset in wanted:
                        found[record.offset] = record.value
                    position = record.offset + 1
        # Or it would go on fetching what nobody asked for.
        consumer.pause(tp)
        return found

    async def scan(
        self, partition: int, begin: int, end: int
    ) -> tuple[list[tuple[bytes, Record]], int]:
        """Read some records one after the other.

        Args:
            partition: Where they lie.
            begin: The offset of the first one.
            end: The offset behind the last one that is wanted; after `begin`.

        Returns:
            Key and record of those that have a key, and the offset from where to go on.

        Raises:
            Problem: 410 where the log does not hold that offset any more; 503 where it does not
                answer in time.
        """
        tp = TopicPartition(self._topic, partition)
        try:
            async with asyncio.timeout(_WITHIN), self._one_at_a_time:
                consumer = await self._started()
                consumer.assign([tp])
                consumer.seek(tp, begin)
                batch: Sequence[Any] = ()
                while not batch:
                    found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_AT_ONCE)
                    batch = found.get(tp, ())
                consumer.pause(tp)
        except OffsetOutOfRangeError:
            raise position_gone(f"{partition}:{begin}") from None
        except (KafkaError, TimeoutError) as error:
            await self.close()
            raise log_unavailable(f"reading events: {error!r}") from None
        records = [
            (raw.key, (partition, raw.offset, raw.timestamp * 1000, raw.value))
            for raw in batch
            if raw.key is not None and raw.offset < end
        ]
        return records, min(batch[-1].offset + 1, end)

    async def _started(self) -> Any:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **self._client,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=256 * 1024,
            )
            self._consumer = consumer
            await consumer.start()
        return self._consumer

    async def close(self) -> None:
        """Let go of the log; the next read connects again."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_client(consumer)
