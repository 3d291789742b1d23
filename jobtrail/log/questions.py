"""Queries about the log: where it begins and ends, single records, whether it is still the same.

A reader that folds the log keeps the last record that it read (`LastRecord`). A log can lose its
end (a power cut on one machine, an unclean election), be deleted and made again, or be restored
from a copy; then new records get offsets that count as read. So the last record is looked up again
whenever the log may have changed, and from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Set
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError

from jobtrail.core.errors import LogUnavailable
from jobtrail.core.fold import within_years
from jobtrail.core.position import LastRecord, mark_of
from jobtrail.internals.aiokafka_internals import client_of, refresh_metadata
from jobtrail.log.clients import missing_topic, partitions_of
from jobtrail.log.consumers import Group, group_reader
from jobtrail.log.kafka import is_compacted, stop_client

#: Seconds within which the log has to answer.
_TIMEOUT: Final = 30.0
_POLL_MS: Final = 500
#: Bytes fetched for one record: a batch is always complete, however large it is.
_FETCH_BYTES: Final = 16 * 1024
#: Milliseconds after which the number of partitions is asked for again.
_METADATA_MS: Final = 5_000


class Read(NamedTuple):
    """How far a reader has read a partition."""

    #: The offset after the last one read.
    next_offset: int
    #: The last record before it; None where there was none.
    last: LastRecord | None


def last_record(record: Any, epoch: int) -> LastRecord:
    """Return the identity of a record, by which the log is recognized.

    Args:
        record: As aiokafka gives it.
        epoch: Epoch of the leader that appended it.
    """
    timestamp = within_years(record.timestamp * 1000)
    return LastRecord(record.offset, mark_of(record.key, record.value), timestamp, epoch)


class Log:
    """A consumer without a group, for queries about the log.

    It connects when it is entered as a context manager, else with the first query.

    Args:
        topic: The log.
        client: Keyword arguments for aiokafka: servers and security.
    """

    def __init__(self, topic: str, client: Mapping[str, Any]) -> None:
        self._topic = topic
        self._client = client
        self._consumer: Any = None
        self._one_at_a_time = asyncio.Lock()
        #: The log's partitions as of the last answer; `refresh` updates it.
        self.partitions = 0

    async def __aenter__(self) -> Self:
        """Connect and wait until the topic is there.

        Raises:
            LogUnavailable: Kafka doesn't answer, or has no such topic.
        """
        try:
            async with self._asking():
                pass
        except UnknownTopicOrPartitionError:
            raise missing_topic(self._topic, self._client["bootstrap_servers"]) from None
        except (KafkaError, TimeoutError) as error:
            raise LogUnavailable(
                "The log can't be reached.", where=f"topic {self._topic}", found=repr(error)
            ) from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await self.close()

    async def close(self) -> None:
        """Disconnect; the next query connects again."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_client(consumer)

    @contextlib.asynccontextmanager
    async def _asking(self) -> AsyncIterator[Any]:
        """Yield a connected consumer, to one query at a time and in bounded time.

        After a query without an answer the next one gets a new consumer: aiokafka's have been seen
        to stay connected and receive nothing.
        """
        try:
            async with self._one_at_a_time, asyncio.timeout(_TIMEOUT):
                if self._consumer is None:
                    self._consumer = await self._connect()
                self._count(self._consumer)
                yield self._consumer
                self._count(self._consumer)
        except (KafkaError, TimeoutError):
            await self.close()
            raise

    def _count(self, consumer: Any) -> None:
        found = consumer.partitions_for_topic(self._topic)
        if not found:
            raise UnknownTopicOrPartitionError(f"there is no topic {self._topic}")
        self.partitions = len(found)

    async def _connect(self) -> Any:
        consumer = group_reader(
            self._client,
            request_timeout_ms=15_000,
            metadata_max_age_ms=_METADATA_MS,
            max_partition_fetch_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
            # aiokafka loads a topic's metadata only once it is assigned. Nothing is fetched.
            first = TopicPartition(self._topic, 0)
            consumer.assign([first])
            consumer.seek(first, 0)
            consumer.pause(first)
            await partitions_of(client_of(consumer), self._topic)
        except BaseException:
            await stop_client(consumer)
            raise
        return consumer

    def _all(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number) for number in range(self.partitions)]

    async def refresh(self) -> None:
        """Update the number of partitions.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
        """
        async with self._asking() as consumer:
            if not await refresh_metadata(consumer):
                raise TimeoutError("no metadata")

    async def begins(self) -> dict[int, int]:
        """Return the first offset of each partition.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
        """
        async with self._asking() as consumer:
            return self._offsets(await consumer.beginning_offsets(self._all()))

    async def ends(self) -> dict[int, int]:
        """Return the offset after the last committed record of each partition.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
        """
        async with self._asking() as consumer:
            return self._offsets(await consumer.end_offsets(self._all()))

    @staticmethod
    def _offsets(found: Mapping[TopicPartition, int]) -> dict[int, int]:
        return {tp.partition: offset for tp, offset in sorted(found.items())}

    async def is_compacted(self) -> bool:
        """Tell whether the log's topic is compacted, so that offsets may be missing.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
        """
        return await is_compacted(self._client, self._topic)

    async def accounted_from(self, partition: int, offset: int) -> int:
        """Return the first offset, from the given one on, that a batch accounts for.

        Args:
            partition: Which one.
            offset: Neither before the log's beginning nor at its end.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
        """
        group = (await self._groups_at({partition: offset}))[partition]
        return offset if group is None else group.begin

    async def first_records(self) -> dict[int, list[Any]]:
        """Return some of the oldest records of each partition that has any."""
        begins, ends = await self.begins(), await self.ends()
        wanted = {p: begin for p, begin in begins.items() if begin < ends[p]}
        found = await self._groups_at(wanted)
        return {p: next(group.pieces(), []) for p, group in found.items() if group}

    async def find(self, offsets: Mapping[int, int]) -> dict[int, Any]:
        """Look up one record per partition.

        Args:
            offsets: Its offset, per partition; before the log's end.

        Returns:
            Per partition the record, as aiokafka gives it; None where the offset has none.

        Raises:
            KafkaError: The log does not answer, or has it damaged.
            TimeoutError: Likewise.
        """
        groups = await self._groups_at(offsets)
        return {p: group and group.check().at(offsets[p]) for p, group in groups.items()}

    async def _groups_at(self, offsets: Mapping[int, int]) -> dict[int, Group | None]:
        """Return per partition the group from an offset on; None where the log lacks it."""
        found: dict[int, Group | None] = {}
        wanted = {TopicPartition(self._topic, p): offset for p, offset in offsets.items()}
        if not wanted:
            return found
        async with self._asking() as consumer:
            consumer.assign(list(wanted))
            for tp, offset in wanted.items():
                consumer.seek(tp, offset)
            while len(found) < len(wanted):
                try:
                    fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=1)
                except OffsetOutOfRangeError as error:
                    for tp in error.args[0]:
                        found[tp.partition] = None
                        consumer.pause(tp)
                    continue
                for tp, (group,) in fetched.items():
                    found[tp.partition] = group
                    consumer.pause(tp)
        return found

    async def differences(self, read: Mapping[int, Read]) -> dict[int, str]:
        """Return the partitions in which the log is not the one that was read.

        Args:
            read: Per partition how far it was read.

        Returns:
            Per such partition what is different, in words.

        Raises:
            KafkaError: The log does not answer.
            TimeoutError: Likewise.
        """
        # The ends last: a reader that advances in between must not seem to be beyond them.
        begins, ends = await self.begins(), await self.ends()
        found: dict[int, str] = {}
        asked: dict[int, int] = {}
        for partition, (next_offset, last) in sorted(read.items()):
            end = ends.get(partition, 0)
            if next_offset > end:
                found[partition] = f"it ends at {end}, it was read up to {next_offset}"
            elif last is not None and last.offset >= begins[partition]:
                asked[partition] = last.offset
        if not asked:
            return found
        # A record that was damaged since can't be compared: that is no sign of another log.
        groups = await self._groups_at(asked)
        sound = {p: group for p, group in groups.items() if group is None or not group.is_damaged}
        there = {p: group and group.at(asked[p]) for p, group in sound.items()}
        gone = await self._lost({p for p, one in there.items() if one is None}, read)
        for partition, record in there.items():
            last = read[partition].last
            assert last is not None
            if record is not None and last_record(record, last.epoch) != last:
                found[partition] = f"at offset {last.offset} it has another record"
            elif partition in gone:
                found[partition] = f"at offset {last.offset} it has no record any more"
        return found

    async def _lost(self, partitions: Set[int], read: Mapping[int, Read]) -> set[int]:
        """Return those of these partitions whose last record is missing without a reason.

        The beginnings are read again: records may have been deleted on purpose since, and deleted
        records can't be compared.
        """
        if not partitions or await self.is_compacted():
            return set()
        begins = await self.begins()
        lasts = {p: read[p].last for p in partitions}
        return {p for p, last in lasts.items() if last and last.offset >= begins.get(p, 0)}
