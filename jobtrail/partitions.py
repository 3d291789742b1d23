"""Which partition a job's events go to: Kafka's own default, murmur2 of the key.

One job is one partition whatever client writes. librdkafka's default differs: its clients set
`partitioner=murmur2_random`.

Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner.partitionForKey`.
"""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=65_536)
def partition_of(job_id: str, partitions: int) -> int:
    """Return the partition of a job in a log of `partitions` partitions."""
    return int((murmur2(job_id.encode()) & 0x7FFFFFFF) % partitions)
