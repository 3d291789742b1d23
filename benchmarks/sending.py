"""Puts a load into Kafka, as fast as it goes: `python -m benchmarks.sending` is one sender.

A load is sent once: a topic that holds all of it is found again by its name, for as long as the
broker's folder is kept.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Final

import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks.load import Load
from benchmarks.stage import Stage, run_to_end
from jobtrail.core.partitions import partition_of
from jobtrail.settings import Settings

PARTITIONS: Final = 8
_BATCH_BYTES: Final = 256 * 1024
#: After so many events a sender says how far it is: most loads have fewer.
_TOLD: Final = 1_000_000


class Order(msgspec.Struct):
    """What one sender is told."""

    bootstrap_servers: str
    topic: str
    load: Load


async def loaded(stage: Stage, load: Load) -> str:
    """Return the topic that holds a load; send it unless an earlier figure has.

    Args:
        stage: Whose broker.
        load: What shall be in the topic, and nothing else.
    """
    servers = await stage.bootstrap_servers()
    for topic, records in (await topics(servers, load.name)).items():
        if records == load.events:
            return topic
    # One that was not finished is left alone: it can't be told what is missing.
    settings = await stage.settings(topic=f"{load.name}-{uuid.uuid4().hex[:6]}")
    stage.say(f"sending {load.events:,} events")
    began = time.perf_counter()
    await send_to(settings, load)
    records = (await topics(servers, settings.topic))[settings.topic]
    if records != load.events:
        raise RuntimeError(f"{load.events} events were sent, the log has {records}")
    stage.say(f"sent at {load.events / (time.perf_counter() - began):,.0f} events/s")
    return settings.topic


async def send_to(settings: Settings, load: Load) -> None:
    """Send a load to the log of some settings, whatever else is in it."""
    # In a process of its own, which is one core's work.
    order = Order(settings.bootstrap_servers, settings.topic, load)
    await run_to_end(["-m", "benchmarks.sending", msgspec.json.encode(order).decode()], settings)


async def topics(servers: str, prefix: str) -> dict[str, int]:
    """Return how many records the topics hold whose names begin so."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    await consumer.start()
    try:
        found = {}
        for topic in await consumer.topics():
            if topic.startswith(prefix):
                tps = [TopicPartition(topic, number) for number in range(PARTITIONS)]
                found[topic] = sum((await consumer.end_offsets(tps)).values())
        return found
    finally:
        await consumer.stop()


async def send(order: Order) -> None:
    """Send a load: each partition's records in order, acknowledged by all replicas."""
    producer = AIOKafkaProducer(
        bootstrap_servers=order.bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        max_batch_size=_BATCH_BYTES,
        max_request_size=PARTITIONS * _BATCH_BYTES,
    )
    await producer.start()
    try:
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        sent = []
        for number, (job_id, value) in enumerate(order.load.records()):
            if number and number % _TOLD == 0:
                print(f"  sent {number:,}", file=sys.stderr, flush=True)
            partition = partition_of(job_id, PARTITIONS)
            key = job_id.encode()
            if batches[partition].append(key=key, value=value, timestamp=None) is None:
                full, batches[partition] = batches[partition], producer.create_batch()
                batches[partition].append(key=key, value=value, timestamp=None)
                sent.append(await producer.send_batch(full, order.topic, partition=partition))
        for partition, batch in enumerate(batches):
            if batch.record_count():
                sent.append(await producer.send_batch(batch, order.topic, partition=partition))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def main(arguments: Sequence[str]) -> None:
    """Carry out one order."""
    uvloop.run(send(msgspec.json.decode(arguments[0], type=Order)))


if __name__ == "__main__":
    main(sys.argv[1:])
