"""Copying a log into a new topic, with another number of partitions: how a log grows.

A job's events are in one partition, which depends on the number of partitions. So a topic can't be
given more partitions: its jobs would continue in another one. A copy puts each record where its key
belongs.

Each step is one transaction of Kafka's: the records, and how far each partition of the old log is
copied, as the offsets of a consumer group. A copy that is killed continues from there; no record is
missing or copied twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    OffsetOutOfRangeError,
    ProducerFenced,
)

from jobtrail.core.decoding import InvalidHeader
from jobtrail.core.errors import LogGapError, LogUnavailable, UsageError
from jobtrail.core.partitions import partition_of_key
from jobtrail.log.batches import UnreadBatch
from jobtrail.log.clients import Producer
from jobtrail.log.consumers import group_reader
from jobtrail.log.kafka import Client, is_compacted, stop_client
from jobtrail.log.packing import CODEC, LARGEST, check_no_event, fits, is_misnamed
from jobtrail.log.topics import Topic, committed, describe_topic, make_topic
from jobtrail.settings import Settings

#: Seconds that Kafka may take for one step.
_WITHIN: Final = 60.0
#: Seconds for aborting a transaction; without an answer Kafka aborts it by itself.
_ABORT_WITHIN: Final = 5.0
_POLL_MS: Final = 500
#: Bytes that are fetched ahead of a partition.
_AHEAD: Final = 1024 * 1024
#: Records and bytes of a transaction at most.
_RECORDS: Final = 20_000
_BYTES: Final = 8 * 1024 * 1024
_BATCH_BYTES: Final = 256 * 1024
#: The largest request: a record of Kafka's largest size, by default 1 MiB, with room for its batch.
_REQUEST_BYTES: Final = 16 * 1024 * 1024


class Copied(NamedTuple):
    """What a copy did."""

    #: Records that were copied now.
    records: int
    #: Those of them that were in another partition than their key's, where they were no events.
    moved: int
    #: Records that can't be written again, as a header's name is no UTF-8, or as they are larger
    #: than the new topic takes, and batches that can't be unpacked: they are no events.
    left_out: int
    #: Per partition of the old log, up to where it is copied.
    position: dict[int, int]


class LogCopy:
    """Copies what is committed in a log into a new topic. Use it as an async context manager.

    Args:
        settings: Name the cluster and the old log.
        to_topic: The new topic; it is made where it is not there.
        partitions: How many the new one has.
        resume: Whether to go on with a copy that was begun.
        step: Records of a transaction at most; a kill makes that much to be done again.

    Raises:
        UsageError: The new topic is there with other partitions or records, or there is no copy to
            go on with.
        LogUnavailable: Kafka does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        to_topic: str,
        partitions: int,
        *,
        resume: bool = False,
        step: int = _RECORDS,
    ) -> None:
        self._old = settings.topic
        self._new = to_topic
        self._partitions = partitions
        self._resume = resume
        self._step = step
        self._options = Client(settings)
        self._group = f"jobtrail-copy.{self._old}.{to_topic}"
        self._consumer: Any = None
        self._producer: Any = None
        self._compacted = False
        #: Bytes of the largest batch that the new topic takes.
        self._largest = 0
        self._at: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._moved = self._left_out = self._records = 0

    async def __aenter__(self) -> LogCopy:
        """Connect, make the topic, and find out how far the copy is."""
        try:
            async with _answered():
                await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect; what was begun of a transaction has no effect."""
        await self.close()

    async def close(self) -> None:
        """Disconnect."""
        for client in (self._consumer, self._producer):
            if client is not None:
                await stop_client(client)

    @property
    def total(self) -> int:
        """How many offsets are to be copied."""
        return sum(max(0, end - self._at[tp]) for tp, end in self._ends.items())

    async def run(self, show: Callable[[int], None]) -> Copied:
        """Copy up to where the log ended when this was opened.

        Args:
            show: Takes how many offsets are copied.

        Raises:
            LogGapError: The old log lost records while it was copied.
            LogUnavailable: Kafka does not answer, or another copy has taken over.
            UsageError: The new topic does not take an event that the old one has.
        """
        total = self.total
        merged = aiter(_merged({tp: self._read(tp) for tp in self._at if self._is_behind(tp)}))
        over = False
        while not over:
            async with _answered():
                over = await self._transaction(merged)
            show(total - self.total)
        async with _answered():
            # Kafka starts another transaction once the one before is visible to all.
            await self._keep_place(self._at)
        return Copied(
            self._records,
            self._moved,
            self._left_out,
            {tp.partition: at for tp, at in sorted(self._at.items())},
        )

    def _is_behind(self, tp: TopicPartition) -> bool:
        return self._at[tp] < self._ends[tp]

    async def _start(self) -> None:
        old = await describe_topic(self._options, self._old)
        if old is None:
            raise UsageError("There is no such log.", where=f"topic {self._old}")
        self._compacted = await is_compacted(self._options, self._old)
        there = await describe_topic(self._options, self._new)
        if there is None:
            await make_topic(self._options, self._new, self._partitions, old)
            there = await describe_topic(self._options, self._new)
            assert there is not None
        elif there.partitions != self._partitions:
            raise UsageError(
                "The new topic has another number of partitions.",
                where=f"topic {self._new}",
                expected=str(self._partitions),
                found=str(there.partitions),
                hint="Name another topic, or delete this one.",
            )
        self._largest = there.largest
        # In this order: another copy that runs at this moment is fenced before its state is read.
        self._producer = Producer(
            **self._options,
            transactional_id=self._group,
            max_batch_size=min(_BATCH_BYTES, self._largest),
            # Unpacked, some of the old log's records may be too large for any topic.
            compression_type=CODEC,
            max_request_size=_REQUEST_BYTES,
        )
        await self._producer.start()
        self._consumer = group_reader(
            self._options,
            max_partition_fetch_bytes=_AHEAD,
        )
        await self._consumer.start()
        await self._find_place(old)

    async def _find_place(self, old: Topic) -> None:
        """Find out from where on to copy, and up to where.

        Raises:
            UsageError: The new topic has records, or there is no copy to go on with.
            LogGapError: The old log has lost what is not copied yet.
        """
        news = [TopicPartition(self._new, p) for p in range(self._partitions)]
        tps = [TopicPartition(self._old, p) for p in range(old.partitions)]
        is_empty = not any((await self._consumer.end_offsets(news)).values())
        begins = await self._consumer.beginning_offsets(tps)
        self._ends = await self._consumer.end_offsets(tps)
        copied = await committed(self._options, self._group)
        is_known = copied.keys() >= set(tps)
        if not is_empty and not (self._resume and is_known):
            raise UsageError(
                "The new topic is not empty.",
                where=f"topic {self._new}",
                hint="Say --resume to go on with the copy that was begun."
                if is_known
                else "Name another topic, or delete this one.",
            )
        if is_empty:
            # From here on the topic is marked as a copy.
            copied = begins
            await self._keep_place(begins)
        for tp in tps:
            if not begins[tp] <= copied[tp] <= self._ends[tp]:
                raise LogGapError(
                    "The log has lost records that are not copied yet.",
                    where=f"topic {tp.topic}, partition {tp.partition}",
                    expected=f"a log that holds offset {copied[tp]}, up to which it is copied",
                    found=f"one from {begins[tp]} to {self._ends[tp]}",
                    hint="Delete the new topic, and copy again.",
                )
            self._at[tp] = copied[tp]
        self._consumer.assign([tp for tp in tps if self._is_behind(tp)])
        for tp in self._consumer.assignment():
            self._consumer.seek(tp, self._at[tp])

    async def _keep_place(self, positions: Mapping[TopicPartition, int]) -> None:
        await self._producer.begin_transaction()
        await self._producer.send_offsets_to_transaction(positions, self._group)
        await self._producer.commit_transaction()

    async def _read(self, tp: TopicPartition) -> AsyncIterator[_Read]:
        """Yield the records of a partition, and offsets without one where nothing follows."""
        at, end = self._at[tp], self._ends[tp]
        while at < end:
            try:
                found = await self._consumer.getmany(tp, timeout_ms=_POLL_MS, max_records=1)
            except OffsetOutOfRangeError:
                raise _gap(tp, at) from None
            for group in found.get(tp, ()):
                if group.is_damaged or (group.begin > at and not self._compacted):
                    raise _gap(tp, at)
                for some in group.until(end).pieces():
                    for record in some:
                        yield _Read(tp, record.offset + 1, record)
                    # Other tasks have waited while it was parsed.
                    await asyncio.sleep(0)
                at = group.next_offset
                yield _Read(tp, min(at, end), None)
        self._consumer.pause(tp)

    async def _transaction(self, merged: AsyncIterator[_Read]) -> bool:
        """Copy one transaction; tell whether it was the last one."""
        count = size = 0
        over = True
        batches: dict[int, Any] = {}
        sent: list[asyncio.Future[Any]] = []
        positions: dict[TopicPartition, int] = {}
        producer = self._producer
        await producer.begin_transaction()
        try:
            async for tp, behind, record in merged:
                positions[tp] = behind
                if record is not None:
                    count += 1
                    size += len(record.key or b"") + len(record.value or b"")
                    await self._put(record, tp, batches, sent)
                if count >= self._step or size >= _BYTES:
                    over = False
                    break
            for partition, batch in batches.items():
                sent.append(await producer.send_batch(batch, self._new, partition=partition))
            await asyncio.gather(*sent)
            if positions:
                await producer.send_offsets_to_transaction(positions, self._group)
        except BaseException:
            # Else closing would wait for it.
            await asyncio.shield(
                asyncio.gather(producer.abort_transaction(), return_exceptions=True)
            )
            raise
        await producer.commit_transaction()
        self._at |= positions
        self._records += count
        return over

    async def _put(
        self, record: Any, tp: TopicPartition, batches: dict[int, Any], sent: list[Any]
    ) -> None:
        """Add a record to the batch of the partition that it belongs to."""
        if isinstance(record.value, InvalidHeader | UnreadBatch) or is_misnamed(record):
            self._left_out += 1
            return
        partition = 0 if record.key is None else partition_of_key(record.key, self._partitions)
        if not fits(record, self._largest):
            place = f"topic {tp.topic}, partition {tp.partition}, offset {record.offset}"
            check_no_event(record, place, partition, self._partitions, self._largest)
            self._left_out += 1
            return
        self._moved += record.key is not None and tp.partition != partition_of_key(
            record.key, len(self._at)
        )
        content = {
            "timestamp": record.timestamp,
            "key": record.key,
            "value": record.value,
            "headers": record.headers,
        }
        batch = batches.get(partition)
        if batch is None or batch.append(**content) is None:
            if batch is not None:
                sent.append(await self._producer.send_batch(batch, self._new, partition=partition))
            batches[partition] = batch = self._producer.create_batch()
            batch.append(**content)


class _Read(NamedTuple):
    """A record of the old log, or None, and the offset after it."""

    tp: TopicPartition
    behind: int
    record: Any


async def _merged(
    partitions: Mapping[TopicPartition, AsyncIterator[_Read]],
) -> AsyncIterator[_Read]:
    """Merge partitions by the records' timestamps; the order within each is kept.

    A job may have events in two partitions, where the topic was given partitions later: the earlier
    events then have the earlier timestamps.
    """
    heads: dict[TopicPartition, _Read] = {}

    async def advance(tp: TopicPartition) -> None:
        try:
            heads[tp] = await anext(partitions[tp])
        except StopAsyncIteration:
            heads.pop(tp, None)

    for tp in partitions:
        await advance(tp)
    while heads:
        head = min(heads.values(), key=_first)
        yield head
        await advance(head.tp)


def _first(head: _Read) -> tuple[int, int]:
    # An offset without a record has no timestamp to merge by.
    return (head.record.timestamp if head.record is not None else -(2**63), head.tp.partition)


def _gap(tp: TopicPartition, at: int) -> LogGapError:
    return LogGapError(
        "Records of the log are missing.",
        where=f"topic {tp.topic}, partition {tp.partition}",
        expected=f"every offset from {at} on",
        hint="Put back the log's files; or copy what is left by `jobtrail archive --skip-holes`, "
        "and docs/archive.md.",
    )


@contextlib.asynccontextmanager
async def _answered() -> AsyncIterator[None]:
    """Turn Kafka's errors and timeouts into `LogUnavailable`."""
    try:
        async with asyncio.timeout(_WITHIN):
            yield
    except ProducerFenced:
        raise LogUnavailable(
            "Another process has taken over this copy.", hint="Let one of them go on."
        ) from None
    except MessageSizeTooLargeError as error:
        # The topic was changed since, or Kafka compresses it in another way.
        raise UsageError(
            "The new topic does not take a batch that large.",
            found=str(error),
            hint=f"Give it a larger {LARGEST}, and say --resume to go on.",
        ) from None
    except (KafkaError, TimeoutError) as error:
        raise LogUnavailable(
            "Kafka does not answer.",
            found=repr(error),
            hint="Say --resume to go on; nothing is copied twice.",
        ) from None
