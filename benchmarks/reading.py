"""Reads the log with aiokafka as it comes, and does nothing with it.

`python -m benchmarks.reading` is what stands beside replay in the figure `replay`.
"""

from __future__ import annotations

import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from jobtrail.settings import Settings, load


async def read(settings: Settings) -> int:
    """Read all records that there are; return how many."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        tps = [TopicPartition(settings.topic, number) for number in range(settings.partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        wanted = sum((await consumer.end_offsets(tps)).values())
        found = 0
        while found < wanted:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                found += len(records)
        return found
    finally:
        await consumer.stop()


if __name__ == "__main__":
    print(uvloop.run(read(load())))
