"""The log in Kafka as a source of replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError

from jobtrail.core.errors import LogGapError, LogUnavailable
from jobtrail.internals.aiokafka_internals import client_of
from jobtrail.log.clients import missing_topic, partitions_of
from jobtrail.log.consumers import Group, group_reader
from jobtrail.log.kafka import Client, is_compacted, stop_client
from jobtrail.processes.loop_thread import LoopThread
from jobtrail.replay.schemas import RECORDS
from jobtrail.replay.sources.holes import Hole, Holes
from jobtrail.settings import Settings

_POLL_MS: Final = 500
#: Seconds without an answer after which the log counts as away.
_WITHIN: Final = 30.0
#: Bytes that are fetched ahead of a partition: 16 MiB with 8 of them.
_AHEAD: Final = 2 * 1024 * 1024
_HEADERS: Final = RECORDS.field("headers").type


class LogSource:
    """Reads the log, without a consumer group: nobody else is affected, nothing is committed.

    Args:
        settings: Name the cluster and the topic.
        max_rate: Records a second at most, so that a service beside it keeps its speed; None for
            as fast as it goes.
        holes: What to do where records are missing; None: stop.

    Raises:
        LogUnavailable: The log does not answer.
    """

    def __init__(
        self, settings: Settings, max_rate: float | None = None, holes: Holes | None = None
    ) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._max_rate = max_rate
        self._holes = holes or Holes()
        self._compacted: bool | None = None
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
        """Return the offset behind the last one that is committed, per partition."""
        return self._offsets(self._run(self._consumer.end_offsets(self._all())))

    def is_compacted(self) -> bool:
        """Tell whether the topic is compacted; it is asked once."""
        if self._compacted is None:
            self._compacted = bool(self._run(self._asked_whether_compacted()))
        return self._compacted

    def read(self, start: Mapping[int, int], end: Mapping[int, int]) -> Iterator[pa.RecordBatch]:
        """Read a range of each partition; see `Source.read`."""
        begins = self.begins() if end.keys() - start.keys() else {}
        first = {partition: start.get(partition, begins.get(partition, 0)) for partition in end}
        position = {self._tp(p): first[p] for p, last in end.items() if first[p] < last}
        #: Nothing of them was read yet that would not be missed.
        from_begin = {tp for tp in position if tp.partition not in start}
        if not position:
            return
        began, count = time.monotonic(), 0
        self._run(self._seek(position))
        heard = time.monotonic()
        while position:
            for tp, group in self._fetched(position, from_begin).items():
                if tp not in position:
                    continue
                heard = time.monotonic()
                last = end[tp.partition]
                if group.begin > position[tp]:
                    self._jump(tp, position[tp], min(group.begin, last), rotten=group.is_damaged)
                from_begin.discard(tp)
                position[tp] = group.next_offset
                for records in group.until(last).pieces():
                    if records:
                        count += len(records)
                        yield _batch(tp.partition, records)
            for tp in [tp for tp, at in position.items() if at >= end[tp.partition]]:
                del position[tp]
                self._run(self._leave(tp))
            if time.monotonic() - heard > _WITHIN:
                raise _away(f"nothing for {_WITHIN:.0f} s")
            if self._max_rate is not None:
                time.sleep(max(0.0, began + count / self._max_rate - time.monotonic()))
                heard = max(heard, time.monotonic() - 1)

    def _fetched(
        self, position: dict[TopicPartition, int], from_begin: set[TopicPartition]
    ) -> dict[TopicPartition, Group]:
        """Fetch; where the log does not hold a position any more, go on where it begins.

        Raises:
            LogGapError: It was read up to there, or was to be read from there, or it ends before.
        """
        try:
            found: dict[TopicPartition, Group] = self._run(self._fetch())
        except OffsetOutOfRangeError as error:
            begins = self.begins()
            for tp, at in error.args[0].items():
                begin = begins[tp.partition]
                if at >= begin:
                    raise LogGapError(
                        "The log ends before what was asked for.",
                        where=f"partition {tp.partition}",
                        expected=f"a log that goes on at offset {at}",
                        hint="It lost its end, or is another log: begin again.",
                    ) from None
                if tp not in from_begin:
                    self._lost(tp, at, begin)
                position[tp] = begin
                self._run(self._seek_one(tp, begin))
            return {}
        return found

    def _jump(self, tp: TopicPartition, at: int, begin: int, *, rotten: bool) -> None:
        """Pass over offsets that no batch accounts for, or one that is damaged.

        Raises:
            LogGapError: They are not gone by right.
        """
        # In this order: one request tells the first, and most logs are not compacted.
        log_begin = self.begins()[tp.partition]
        if log_begin > at:
            self._lost(tp, at, min(begin, log_begin))
        if max(at, log_begin) < begin and (rotten or not self.is_compacted()):
            self._holes.meet(
                Hole(tp.partition, max(at, log_begin), begin - 1),
                f"Records of the log are {'damaged' if rotten else 'missing'}.",
                found=f"offset {begin}",
                hint="Put back the log's files, or read an archive of it.",
            )

    def _lost(self, tp: TopicPartition, at: int, begin: int) -> None:
        self._holes.meet(
            Hole(tp.partition, at, begin - 1),
            "The log no longer holds what was asked for.",
            found=f"a log that begins at offset {begin}",
            hint="Begin later, or read an archive of the log.",
        )

    def close(self) -> None:
        """Let go of the log."""
        if self._thread.is_running:
            self._run(stop_client(self._consumer))
            self._thread.stop()

    def _all(self) -> list[TopicPartition]:
        topic = self._settings.topic
        partitions = self._consumer.partitions_for_topic(topic)
        if not partitions:
            raise missing_topic(topic, self._settings.bootstrap_servers)
        return [self._tp(partition) for partition in sorted(partitions)]

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic, partition)

    @staticmethod
    def _offsets(found: Mapping[TopicPartition, int]) -> dict[int, int]:
        return {tp.partition: offset for tp, offset in sorted(found.items())}

    def _run(self, work: Any) -> Any:
        try:
            return self._thread.run(work)
        except OffsetOutOfRangeError:
            raise
        except UnknownTopicOrPartitionError:
            raise missing_topic(self._settings.topic, self._settings.bootstrap_servers) from None
        except (KafkaError, TimeoutError) as error:
            raise _away(repr(error)) from None

    async def _started(self) -> Any:
        consumer = group_reader(
            self._client,
            max_partition_fetch_bytes=_AHEAD,
        )
        try:
            async with asyncio.timeout(_WITHIN):
                await consumer.start()
                await partitions_of(client_of(consumer), self._settings.topic)
        except BaseException:
            await stop_client(consumer)
            raise
        return consumer

    async def _seek(self, position: Mapping[TopicPartition, int]) -> None:
        self._consumer.assign(list(position))
        for tp, offset in position.items():
            self._consumer.seek(tp, offset)

    async def _leave(self, tp: TopicPartition) -> None:
        self._consumer.pause(tp)

    async def _seek_one(self, tp: TopicPartition, offset: int) -> None:
        self._consumer.seek(tp, offset)

    async def _fetch(self) -> dict[TopicPartition, Group]:
        found: dict[TopicPartition, list[Group]] = await self._consumer.getmany(
            timeout_ms=_POLL_MS, max_records=1
        )
        return {tp: group for tp, (group,) in found.items()}

    async def _asked_whether_compacted(self) -> bool:
        async with asyncio.timeout(_WITHIN):
            return await is_compacted(self._client, self._settings.topic)


def _away(found: str) -> LogUnavailable:
    return LogUnavailable(
        "The log does not answer.",
        found=found,
        hint="Check that Kafka runs and can be reached; nothing was changed.",
    )


def _batch(partition: int, records: Sequence[Any]) -> pa.RecordBatch:
    timestamps = np.array([record.timestamp for record in records], np.int64)
    logged_at = timestamps * 1000
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(len(records), partition, np.int32)),
            _offsets(records),
            pa.array(logged_at).cast(RECORDS.field("logged_at").type),
            pa.array([record.key for record in records], pa.binary()),
            pa.array([record.value for record in records], pa.binary()),
            _headers(records),
        ],
        schema=RECORDS,
    )


def _offsets(records: Sequence[Any]) -> pa.Array:
    first, last = records[0].offset, records[-1].offset
    if last - first + 1 == len(records):
        # Nearly always, and in no time.
        return pa.array(np.arange(first, last + 1))
    return pa.array([record.offset for record in records], pa.int64())


def _headers(records: Sequence[Any]) -> pa.Array:
    if not any(record.headers for record in records):
        return pa.nulls(len(records), _HEADERS)
    found = []
    for record in records:
        # A name that is no UTF-8 has surrogates, see `jobtrail.log.consumers`: so it gets its bytes
        # back.
        headers = [
            {"name": name.encode("utf-8", "surrogateescape"), "value": value}
            for name, value in record.headers
        ]
        found.append(headers or None)
    return pa.array(found, _HEADERS)
