"""A job's partition is the one that Kafka's own clients choose for its id."""

from __future__ import annotations

from random import Random

import pytest
from aiokafka.partitioner import DefaultPartitioner

from jobtrail.core.partitions import partition_of

# From Kafka's own UtilsTest.testMurmur2.
KAFKA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@pytest.mark.parametrize(("key", "hashed"), KAFKA.items())
@pytest.mark.parametrize("partitions", [1, 2, 7, 8, 1024, 2**31])
def test_a_partition_is_kafkas_murmur2_made_positive(
    key: str, hashed: int, partitions: int
) -> None:
    assert partition_of(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(
    ("key", "partition"),
    [("foobar", 6), ("21", 4), ("abc", 3), ("cefb58a0-cd71-11ec-8e29-81c20d280994", 3)],
)
def test_known_partitions_of_eight(key: str, partition: int) -> None:
    assert partition_of(key, 8) == partition


def test_1000_keys_go_where_aiokafkas_default_partitioner_puts_them() -> None:
    random, choose = Random(7), DefaultPartitioner()
    letters = "abcXYZ019-_:/ é漢😀"
    keys = ["".join(random.choices(letters, k=random.randint(1, 40))) for _ in range(1000)]
    for partitions in (1, 3, 8, 64):
        every = list(range(partitions))
        theirs = [choose(key.encode(), every, every) for key in keys]
        assert [partition_of(key, partitions) for key in keys] == theirs


def test_eight_partitions_share_jobs_evenly() -> None:
    counts = [0] * 8
    for number in range(8000):
        counts[partition_of(f"job-{number}", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150
