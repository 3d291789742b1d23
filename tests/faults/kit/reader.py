"""Reads the raw log by plain aiokafka: committed records only, nothing of the product's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

#: Seconds without any record after which the reader gives up.
PATIENCE: Final = 120.0
_FETCH: Final = 256 << 10
#: Seconds before another try.
_PAUSE: Final = 0.2


async def _consumer(servers: str) -> AIOKafkaConsumer:
    """Return a consumer that has started, whenever the broker is there again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=servers,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                max_partition_fetch_bytes=_FETCH,
                fetch_max_bytes=4 * _FETCH,
            )
            try:
                await consumer.start()
            except KafkaError:
                await _stop(consumer)
                await asyncio.sleep(_PAUSE)
            else:
                return consumer


async def _stop(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer; aiokafka passes on the cancellation of a task of its own."""
    await asyncio.wait({asyncio.ensure_future(consumer.stop())})


async def _places(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    # Assigned first, so that its metadata is asked for.
    consumer.assign([TopicPartition(topic, 0)])
    while not (partitions := consumer.partitions_for_topic(topic)):
        await asyncio.sleep(_PAUSE)
    return [TopicPartition(topic, number) for number in sorted(partitions)]


async def bounds(servers: str, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """Return where each partition of a topic begins and ends."""
    async with asyncio.timeout(PATIENCE):
        while True:
            consumer = await _consumer(servers)
            try:
                places = await _places(consumer, topic)
                begins = await consumer.beginning_offsets(places)
                ends = await consumer.end_offsets(places)
            except KafkaError:
                await asyncio.sleep(_PAUSE)
            else:
                return (
                    {place.partition: offset for place, offset in begins.items()},
                    {place.partition: offset for place, offset in ends.items()},
                )
            finally:
                await _stop(consumer)


async def read(
    servers: str,
    topic: str,
    until: dict[int, int] | None = None,
    begin: dict[int, int] | None = None,
) -> AsyncIterator[tuple[int, Sequence[Any]]]:
    """Yield a topic's records, some of one partition at a time.

    Args:
        servers: Which Kafka.
        topic: Which topic.
        until: Per partition the offset before which to stop; None: its end now.
        begin: Per partition where to begin, if not where the log begins.
    """
    begins, ends = await bounds(servers, topic)
    ends |= until or {}
    for partition, offset in (begin or {}).items():
        begins[partition] = max(begins[partition], offset)
    open_places = {TopicPartition(topic, p): end for p, end in ends.items() if begins[p] < end}
    if not open_places:
        return
    consumer = await _consumer(servers)
    try:
        consumer.assign(list(open_places))
        for place in open_places:
            consumer.seek(place, begins[place.partition])
        while open_places:
            async with asyncio.timeout(PATIENCE):
                while not (found := await consumer.getmany(*open_places, timeout_ms=500)):
                    # What is left may be no records at all, such as those of aborted transactions.
                    if await _all_passed(consumer, open_places):
                        return
            for place, records in found.items():
                end = open_places.get(place)
                if end is None:
                    continue
                if records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    yield place.partition, records
                if not records or records[-1].offset + 1 >= end:
                    del open_places[place]
    finally:
        await _stop(consumer)


async def _all_passed(consumer: AIOKafkaConsumer, places: dict[TopicPartition, int]) -> bool:
    return all([await consumer.position(place) >= end for place, end in places.items()])
