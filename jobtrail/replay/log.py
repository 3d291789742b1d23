"""The log in Kafka as a source of replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from jobtrail.blocking import LoopThread
from jobtrail.errors import LogGapError, LogUnavailable
from jobtrail.kafka import kafka_security, stop_client
from jobtrail.records import Group, fetch_groups, in_groups, read_any_header_name
from jobtrail.replay.schemas import RECORDS
from jobtrail.settings import Settings

_POLL_MS: Final = 500
#: Seconds without an answer after which the log counts as away.
_WITHIN: Final = 30.0
#: Bytes that are fetched ahead of a partition: 16 MiB with 8 of them.
_AHEAD: Final = 2 * 1024 * 1024
_HEADERS: Final = RECORDS.field("headers").type
#: Milliseconds that still are a number of microseconds: a record's timestamp is its producer's.
_FAR: Final = 2**63 // 1000 - 1


class LogSource:
    """Reads the log, without a consumer group: nobody else is affected, nothing is committed.

    Args:
        settings: Name the cluster and the topic.
        max_rate: Records a second at most, so that a service beside it keeps its speed; None for
            as fast as it goes.

    Raises:
        LogUnavailable: The log does not answer.
    """

    def __init__(self, settings: Settings, max_rate: float | None = None) -> None:
        read_any_header_name()
        fetch_groups()
        self._settings = settings
        self._max_rate = max_rate
        self._thread = LoopThread("jobtrail-replay")
        self._thread.start()
        self._consumer: Any = None
        try:
            self._consumer = self._run(self._started())
        except BaseException:
            self._thread.stop()
            raise

    @property
    def name(self) -> str:
        """The topic and its cluster."""
        return f"{self._settings.topic} of {self._settings.bootstrap_servers}"

    def begins(self) -> dict[int, int]:
        """Return the first offset that can be read, per partition."""
        return self._offsets(self._run(self._consumer.beginning_offsets(self._all())))

    def ends(self) -> dict[int, int]:
        """Return the offset behind the last one, per partition."""
        return self._offsets(self._run(self._consumer.end_offsets(self._all())))

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        """Read a range of each partition; see `Source.read`."""
        topic = self._settings.topic
        position = {
            TopicPartition(topic, partition): offset
            for partition, offset in start.items()
            if offset < end.get(partition, 0)
        }
        if not position:
            return
        began, count = time.monotonic(), 0
        self._run(self._seek(position))
        heard = time.monotonic()
        while position:
            for tp, records in self._run(self._fetch()).items():
                if tp not in position:
                    continue
                heard = time.monotonic()
                last = end[tp.partition]
                if records[-1].offset >= last:
                    records = [record for record in records if record.offset < last]
                if records:
                    _check(tp.partition, records, position[tp])
                    position[tp] = records[-1].offset + 1
                    count += len(records)
                    yield _batch(tp.partition, records)
                if position[tp] >= last:
                    del position[tp]
                    self._run(self._leave(tp))
            if time.monotonic() - heard > _WITHIN:
                raise _away(f"nothing for {_WITHIN:.0f} s")
            if self._max_rate is not None:
                time.sleep(max(0.0, began + count / self._max_rate - time.monotonic()))
                heard = max(heard, time.monotonic() - 1)

    def close(self) -> None:
        """Let go of the log."""
        if self._thread.is_running:
            self._run(stop_client(self._consumer))
            self._thread.stop()

    def _all(self) -> list[TopicPartition]:
        topic = self._settings.topic
        partitions = self._consumer.partitions_for_topic(topic)
        if not partitions:
            raise LogUnavailable(
                "The cluster has no such topic.",
                where=self._settings.bootstrap_servers,
                expected=f"the topic {topic}",
            )
        return [TopicPartition(topic, partition) for partition in sorted(partitions)]

    @staticmethod
    def _offsets(found: Mapping[TopicPartition, int]) -> dict[int, int]:
        return {tp.partition: offset for tp, offset in sorted(found.items())}

    def _run(self, work: Any) -> Any:
        try:
            return self._thread.run(work)
        except OffsetOutOfRangeError as error:
            raise LogGapError(
                "The log no longer holds what was asked for.",
                found=str(error),
                mend="Begin later, or read an archive of the log.",
            ) from None
        except (KafkaError, TimeoutError) as error:
            raise _away(repr(error)) from None

    async def _started(self) -> Any:
        consumer = AIOKafkaConsumer(
            self._settings.topic,
            bootstrap_servers=self._settings.bootstrap_servers,
            **kafka_security(self._settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=_AHEAD,
            value_deserializer=in_groups,
        )
        try:
            async with asyncio.timeout(_WITHIN):
                await consumer.start()
        except BaseException:
            await stop_client(consumer)
            raise
        consumer.unsubscribe()
        return consumer

    async def _seek(self, position: Mapping[TopicPartition, int]) -> None:
        self._consumer.assign(list(position))
        for tp, offset in position.items():
            self._consumer.seek(tp, offset)

    async def _leave(self, tp: TopicPartition) -> None:
        self._consumer.pause(tp)

    async def _fetch(self) -> dict[TopicPartition, list[Any]]:
        found: dict[TopicPartition, list[Group]] = await self._consumer.getmany(
            timeout_ms=_POLL_MS, max_records=1
        )
        fetched = {tp: group.records() for tp, (group,) in found.items()}
        return {tp: records for tp, records in fetched.items() if records}


def _away(found: str) -> LogUnavailable:
    return LogUnavailable(
        "The log does not answer.",
        found=found,
        mend="Check that Kafka runs and can be reached; nothing was changed.",
    )


def _check(partition: int, records: Sequence[Any], expected: int) -> None:
    first, last = records[0].offset, records[-1].offset
    if first != expected or last - first + 1 != len(records):
        raise LogGapError(
            "Records of the log are missing.",
            where=f"partition {partition}",
            expected=f"every offset from {expected} on",
            found=f"{len(records)} records at offsets {first} to {last}",
        )


def _batch(partition: int, records: Sequence[Any]) -> pa.RecordBatch:
    first = records[0].offset
    timestamps = np.array([record.timestamp for record in records], np.int64)
    logged_at = np.clip(timestamps, -_FAR, _FAR) * 1000
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(len(records), partition, np.int32)),
            pa.array(np.arange(first, first + len(records))),
            pa.array(logged_at).cast(RECORDS.field("logged_at").type),
            pa.array([record.key for record in records], pa.binary()),
            pa.array([record.value for record in records], pa.binary()),
            _headers(records),
        ],
        schema=RECORDS,
    )


def _headers(records: Sequence[Any]) -> pa.Array:
    if not any(record.headers for record in records):
        return pa.nulls(len(records), _HEADERS)
    found = []
    for record in records:
        # A name that is no UTF-8 has surrogates, see `jobtrail.records`: so it gets its bytes back.
        headers = [
            {"name": name.encode("utf-8", "surrogateescape"), "value": value}
            for name, value in record.headers
        ]
        found.append(headers or None)
    return pa.array(found, _HEADERS)
