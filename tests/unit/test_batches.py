"""Batches as a hostile client writes them, and as no broker should have let them in."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from functools import cache
from typing import Any, Final
from zlib import crc32

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.decoding import accept
from jobtrail.core.errors import EventError
from jobtrail.log.batches import BYTES, RECORDS, Limits, UnreadBatch
from jobtrail.log.consumers import Group, InGroups, fetch_groups
from jobtrail.log.kafka import Client
from jobtrail.settings import Settings
from tests.contract.store_streams import event
from tests.hostile import ZSTD, Case, Odd, all_cases, batch, count_of, packed, with_base, zeros

TP: Final = TopicPartition("log", 0)
KEY: Final = b"job-1"
BASE: Final = 1_000
MIB: Final = 1 << 20
#: Years 2 to 9998.
EARLIEST, LATEST = -62_104_060_800_000, 253_370_764_799_999


@pytest.fixture(autouse=True, scope="module")
def _installed() -> Iterator[None]:
    before = fetcher.MemoryRecords, fetcher.PartitionRecords
    fetch_groups()
    yield
    fetcher.MemoryRecords, fetcher.PartitionRecords = before


@cache
def cases() -> list[Case]:
    return all_cases(event("progress", "job-1", "same"), KEY)


def groups_of(data: bytes, begin: int = BASE, limits: Limits = Limits()) -> list[Group]:  # noqa: B008
    """Return what a consumer gets of fetched bytes."""
    records = fetcher.MemoryRecords(data)
    return list(fetcher.PartitionRecords(TP, records, [], begin, None, InGroups(limits), False, 0))


def records_of(group: Group) -> list[Any]:
    """Return all records of a group, none of whose pieces is large."""
    found = []
    for some in group.pieces():
        assert len(some) <= RECORDS + 1
        found += some
    return found


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_each_batch_is_read_or_stands_for_itself_and_what_follows_is_read(case: Case) -> None:
    count = count_of(case.data)
    good = batch(packed([Odd(KEY, b"good")]), 1)
    data = with_base(case.data, BASE) + with_base(good, BASE + count)
    groups = groups_of(data)
    assert groups[-1].next_offset == BASE + count + 1
    found = [record for group in groups for record in records_of(group)]
    assert (found[-1].offset, found[-1].value) == (BASE + count, b"good")
    unread = [record for record in found if isinstance(record.value, UnreadBatch)]
    assert len(found) - len(unread) - 1 == (case.read or 0)
    assert all(EARLIEST <= record.timestamp <= LATEST for record in found)
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets))
    if case.read is None:
        (record,) = unread
        value = record.value
        assert (value.first, value.last) == (BASE, record.offset) == (BASE, BASE + count - 1)
        assert value == with_base(case.data, BASE)
        assert value.error.reason == (case.reason or value.error.reason)
        # Who does not know of it takes it for no event either.
        with pytest.raises(EventError):
            accept(record.key, record.value, 0, 1)
        # It is found at its place, and by who begins within.
        assert groups[0].at(record.offset).value == value
        assert records_of(groups_of(data, BASE + count - 1)[0])[0].value == value


def test_a_batch_is_read_a_second_time() -> None:
    (group,) = groups_of(with_base(cases()[0].data, BASE))
    first, second = records_of(group), records_of(group)
    assert [one.offset for one in first] == [one.offset for one in second] == [BASE, 1001, 1002]
    assert [one.offset for one in records_of(group.until(BASE + 2))] == [BASE, BASE + 1]
    assert group.at(BASE + 1).offset == BASE + 1
    assert group.at(BASE + 3) is None


def test_what_is_unpacked_takes_no_more_memory_than_its_bound() -> None:
    data = batch(zstd.compress(b"".join(zeros(40 * MIB))), 1, ZSTD)
    many = b"".join(with_base(data, BASE + number) for number in range(10))
    within = batch(zstd.compress(b"".join(zeros(7 * MIB))), 1, ZSTD)
    many += b"".join(with_base(within, BASE + 10 + number) for number in range(10))
    limits = Limits(8 * MIB)
    (group,) = groups_of(many, limits=limits)
    tracemalloc.start()
    try:
        count = sum(1 for some in group.pieces() for _ in some)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20
    # The batch, the record in it, and what is still held of the one before.
    assert peak < 4 * limits.size
    assert limits.size > BYTES


def test_limits_are_those_of_the_settings() -> None:
    settings = Settings(bootstrap_servers="h:1", max_batch_bytes=MIB, max_batch_records=1_000)
    assert Client(settings).limits == Limits(MIB, 1_000)
    assert Limits() == Client(Settings(bootstrap_servers="h:1")).limits
    data = batch(packed([Odd(KEY, b"v")] * 1_001), 1_001)
    for most, reads in ((1_000, 0), (1_001, 1_001)):
        (group,) = groups_of(with_base(data, BASE), limits=Limits(MIB, most))
        found = records_of(group)
        assert sum(not isinstance(record.value, UnreadBatch) for record in found) == reads


def test_a_batch_of_an_old_format_is_one_that_is_not_read() -> None:
    # https://kafka.apache.org/documentation/#messageset, version 1
    rest = struct.pack(">bbqi5si1s", 1, 0, 1, len(KEY), KEY, 1, b"v")
    old = struct.pack(">qiI", BASE + 3, len(rest) + 4, crc32(rest)) + rest
    good = with_base(batch(packed([Odd(KEY, b"good")]), 1), BASE + 4)
    found = [record for group in groups_of(old + good) for record in records_of(group)]
    assert [record.offset for record in found] == [BASE + 3, BASE + 4]
    assert isinstance(found[0].value, UnreadBatch)
    assert found[0].value.error.reason == "batch-unreadable"


@given(st.data())
def test_no_damage_stops_anybody(data: st.DataObject) -> None:
    small = [case for case in cases() if len(case.data) < 2_000]
    case = data.draw(st.sampled_from(small))
    damaged = bytearray(with_base(case.data, BASE))
    # Lengths and counts of the batch itself are the broker's: it looks at them.
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(61, len(damaged) - 1)) if len(damaged) > 61 else 60
        damaged[at] = data.draw(st.integers(0, 255))
    end = BASE + count_of(damaged)
    damaged += with_base(batch(packed([Odd(KEY, b"good")]), 1), end)
    try:
        groups = groups_of(bytes(damaged))
    except KafkaError:
        return
    found = [record for group in groups for record in records_of(group)]
    assert (found[-1].offset, found[-1].value) == (end, b"good")
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets))
