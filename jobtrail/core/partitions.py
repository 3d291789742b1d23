"""Which partition a job's events go to: Kafka's own default, murmur2 of the key.

One job is one partition whatever client writes. librdkafka's default differs: its clients set
`partitioner=murmur2_random`.

Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner.partitionForKey`.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_BITS: Final = 0xFFFFFFFF
_words: Final = Struct("<I").iter_unpack


@lru_cache(maxsize=65_536)
def partition_of(job_id: str, partitions: int) -> int:
    """Return the partition of a job in a log of `partitions` partitions."""
    return partition_of_key(job_id.encode(), partitions)


def partition_of_key(key: bytes, partitions: int) -> int:
    """Return the partition of a record's key, which may be any bytes."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(key: bytes) -> int:
    """Return Kafka's hash of a key: aiokafka's takes twice as long, once for each new job."""
    tail = len(key) & 3
    mixed = _SEED ^ len(key)
    for (word,) in _words(key[: len(key) - tail]):
        scrambled = word * _FACTOR & _BITS
        mixed = mixed * _FACTOR & _BITS ^ (scrambled ^ scrambled >> 24) * _FACTOR & _BITS
    if tail:
        mixed = (mixed ^ int.from_bytes(key[-tail:], "little")) * _FACTOR & _BITS
    mixed = (mixed ^ mixed >> 13) * _FACTOR & _BITS
    return mixed ^ mixed >> 15
