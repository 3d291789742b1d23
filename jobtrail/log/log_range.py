"""A range of a topic, read from Kafka as projectors read the log, but without a consumer group.

Nothing is committed, and no other reader is affected.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError

from jobtrail.core.errors import LogGapError, LogUnavailable
from jobtrail.internals.aiokafka_internals import client_of
from jobtrail.log.clients import missing_topic, partitions_of
from jobtrail.log.consumers import Group, group_reader
from jobtrail.log.kafka import Client, stop_client
from jobtrail.settings import Settings

_POLL_MS: Final = 500
#: Milliseconds that the broker waits for records.
_WAIT_MS: Final = 50
#: Seconds without an answer after which the log counts as unavailable.
_WITHIN: Final = 30.0
#: Bytes that are fetched ahead of each partition.
_AHEAD: Final = 2 * 1024 * 1024


class LogRange:
    """Reads ranges of offsets of a topic.

    Args:
        settings: Which Kafka.
        topic: Which topic; the log unless it is named.
    """

    def __init__(self, settings: Settings, topic: str | None = None) -> None:
        self._settings = settings
        self._topic = topic or settings.topic
        self._consumer = group_reader(
            Client(settings),
            max_partition_fetch_bytes=_AHEAD,
            # The records asked for exist: a broker that waits for more would only delay the next
            # fetch.
            fetch_max_wait_ms=_WAIT_MS,
        )

    async def __aenter__(self) -> Self:
        """Connect and wait until the topic is there.

        Raises:
            LogUnavailable: Kafka does not answer, or has no such topic.
        """
        try:
            async with asyncio.timeout(_WITHIN):
                await self._consumer.start()
                # aiokafka loads a topic's metadata only once it is assigned; without a start
                # position it would keep an error for the first fetch.
                first = TopicPartition(self._topic, 0)
                self._consumer.assign([first])
                self._consumer.seek(first, 0)
                self._consumer.pause(first)
                await partitions_of(client_of(self._consumer), self._topic)
        except UnknownTopicOrPartitionError:
            await stop_client(self._consumer)
            raise missing_topic(self._topic, self._settings.bootstrap_servers) from None
        except (KafkaError, TimeoutError) as error:
            await stop_client(self._consumer)
            raise self._away(repr(error)) from None
        return self

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
        """How many partitions the topic has."""
        return len(self._all())

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition.

        Raises:
            LogUnavailable: Kafka does not answer.
        """
        return await self._offsets(self._consumer.beginning_offsets(self._all()))

    async def ends(self) -> dict[int, int]:
        """Return the offset after the last committed record of each partition.

        Raises:
            LogUnavailable: Kafka does not answer.
        """
        return await self._offsets(self._consumer.end_offsets(self._all()))

    async def read(
        self, starts: Mapping[int, int], ends: Mapping[int, int]
    ) -> AsyncIterator[tuple[int, Group]]:
        """Yield the records between two positions, in the order in which they arrive.

        Args:
            starts: Per partition the first offset.
            ends: Per partition the offset before which to stop. The last group may reach beyond.

        Raises:
            LogGapError: The log no longer has the records, or they are damaged.
            LogUnavailable: Kafka does not answer.
        """
        left = {
            TopicPartition(self._topic, partition): ends[partition]
            for partition, start in starts.items()
            if start < ends[partition]
        }
        if left:
            self._consumer.assign(list(left))
        for tp in left:
            self._consumer.seek(tp, starts[tp.partition])
        clock = asyncio.get_running_loop().time
        heard = clock()
        while left:
            for tp, groups in (await self._fetch()).items():
                for group in groups:
                    if group.is_damaged:
                        raise self._damaged(tp, group.begin)
                    heard = clock()
                    yield tp.partition, group
                    if group.next_offset >= left.get(tp, 0):
                        left.pop(tp, None)
                        self._consumer.pause(tp)
            if clock() - heard > _WITHIN:
                raise self._away(f"nothing for {_WITHIN:.0f} s")

    async def _fetch(self) -> Mapping[TopicPartition, list[Group]]:
        try:
            fetched: Mapping[TopicPartition, list[Group]] = await self._consumer.getmany(
                timeout_ms=_POLL_MS, max_records=1
            )
        except OffsetOutOfRangeError as error:
            raise LogGapError(
                "The log no longer holds what was asked for.",
                where=f"topic {self._topic}",
                found=str(error),
                hint="Its beginning moves (retention), or it has lost its end. Try again.",
            ) from None
        except KafkaError as error:
            raise self._away(repr(error)) from None
        return fetched

    def _all(self) -> list[TopicPartition]:
        found = self._consumer.partitions_for_topic(self._topic) or ()
        return [TopicPartition(self._topic, number) for number in sorted(found)]

    async def _offsets(self, asked: Any) -> dict[int, int]:
        try:
            async with asyncio.timeout(_WITHIN):
                found = await asked
        except (KafkaError, TimeoutError) as error:
            raise self._away(repr(error)) from None
        return {tp.partition: offset for tp, offset in sorted(found.items())}

    def _damaged(self, tp: TopicPartition, end: int) -> LogGapError:
        return LogGapError(
            "Records of the log are damaged.",
            where=f"topic {tp.topic}, partition {tp.partition}",
            found=f"a batch with a wrong checksum before offset {end}",
            hint="Restore the log's segments.",
        )

    def _away(self, found: str) -> LogUnavailable:
        return LogUnavailable(
            "The log does not answer.",
            where=f"topic {self._topic} of {self._settings.bootstrap_servers}",
            found=found,
            hint="Check that Kafka runs and can be reached; nothing was changed.",
        )
