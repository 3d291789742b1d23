"""Batches with header names that are no UTF-8, as aiokafka's fetcher takes them apart."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from jobtrail.records import (
    GROUP,
    Misnamed,
    _Batch,
    fetch_groups,
    in_groups,
    read_any_header_name,
)

HEADER = _DefaultRecordBatchPy.HEADER_STRUCT.size
TP = TopicPartition("log", 0)
#: Offset, key, value and headers of the records in a batch; `?` stands for a byte that is no text.
RECORDS: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
    (b"k", b"v", [("é", b"1"), ("", None)]),
    (b"k", b"v", [("é", b"1"), ("a??", b"2"), ("b", None)]),
    (None, None, [("??", None)]),
    (b"", b"", []),
    (None, b"v" * 300, [("??", b"")]),
    (b"k", b"last", [("n", b"")]),
]


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    before = fetcher.MemoryRecords, fetcher.PartitionRecords
    read_any_header_name()
    yield
    fetcher.MemoryRecords, fetcher.PartitionRecords = before


def batch(base: int, compressed: bool = False, *, appended_at: int | None = None) -> bytes:
    """Return a batch as a broker has it, with its `?` replaced."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, (key, value, headers) in enumerate(RECORDS):
        builder.append(number, 1000 + number, key, value, headers)
    data = bytearray(builder.build()).replace(b"??", b"\xff\xfe")
    attributes = 0
    if compressed:
        data[HEADER:] = gzip.compress(data[HEADER:])
        attributes |= 1
    if appended_at is not None:
        attributes |= 8
        struct.pack_into(">q", data, 35, appended_at)
    struct.pack_into(">qi", data, 0, base, len(data) - 12)
    struct.pack_into(">h", data, 21, attributes)
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def fetched(data: bytes, offset: int = 0) -> list[Any]:
    """Return the records that aiokafka's fetcher makes of what it fetched."""
    records = fetcher.MemoryRecords(data)
    return list(fetcher.PartitionRecords(TP, records, [], offset, None, None, True, 0))


def names(record: Any) -> list[tuple[bytes, bytes | None]]:
    return [(name.encode("utf-8", "surrogateescape"), value) for name, value in record.headers]


@pytest.mark.parametrize("compressed", [False, True])
def test_every_record_comes_once_and_in_order(compressed: bool) -> None:
    data = batch(7, compressed) + batch(13) + batch(19, not compressed)
    found = fetched(data, 7)
    assert [record.offset for record in found] == list(range(7, 25))
    for record, (key, value, headers) in zip(found, RECORDS * 3, strict=True):
        assert (record.key, record.value) == (key, value)
        wanted = [(name.encode().replace(b"??", b"\xff\xfe"), v) for name, v in headers]
        assert names(record) == wanted
        misnamed = value is not None and any("?" in name for name, _ in headers)
        assert isinstance(record.value, Misnamed) == misnamed
        assert record.timestamp == 1000 + (record.offset - 7) % 6


def test_a_read_may_begin_and_end_anywhere() -> None:
    data = batch(0) + batch(6)
    assert [record.offset for record in fetched(data, 3)] == list(range(3, 12))
    # A broker sends as many bytes as it was asked for, and cuts the last batch there.
    assert [record.offset for record in fetched(data[:-1])] == list(range(6))
    assert fetcher.MemoryRecords(data[:40]).size_in_bytes() == 40
    assert not fetcher.MemoryRecords(data[:40]).has_next()


def test_the_time_of_the_log_is_taken_where_it_counts() -> None:
    assert {record.timestamp for record in fetched(batch(0, appended_at=5000))} == {5000}


def test_the_parser_in_python_is_helped_as_the_compiled_one_is() -> None:
    data = batch(3)
    found = list(_Batch(_DefaultRecordBatchPy(data), memoryview(data)))
    assert [record.offset for record in found] == list(range(3, 9))
    assert [type(record.value) for record in found[:2]] == [bytes, Misnamed]


def test_a_broken_batch_is_still_refused() -> None:
    data = bytearray(batch(0))
    data[-1] ^= 1
    with pytest.raises(CorruptRecordException, match="CRC"):
        fetched(bytes(data))
    # One record more than there are.
    struct.pack_into(">i", data, HEADER - 4, len(RECORDS) + 1)
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    with pytest.raises(CorruptRecordException, match="structure"):
        fetched(bytes(data))
    # A record that says it is longer than what is in it.
    data = bytearray(batch(0))
    data[HEADER] += 2
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    with pytest.raises(CorruptRecordException):
        fetched(bytes(data))


@pytest.mark.parametrize("begin", [0, 3, 6])
def test_who_wishes_for_groups_gets_lists_and_nobody_else(begin: int) -> None:
    count = GROUP // len(RECORDS) + 3
    data = b"".join(batch(number * len(RECORDS)) for number in range(count))
    wanted = [record.offset for record in fetched(data, begin)]
    fetch_groups()
    assert [record.offset for record in fetched(data, begin)] == wanted
    records = fetcher.MemoryRecords(data)
    partition = fetcher.PartitionRecords(TP, records, [], begin, None, in_groups, True, 0)
    groups = []
    for group in partition:
        assert partition.next_fetch_offset == group.next_offset
        groups.append(group.records())
        assert group.next_offset == groups[-1][-1].offset + 1
        assert group.timestamp == max(record.timestamp for record in groups[-1][-len(RECORDS) :])
    assert [record.offset for group in groups for record in group] == wanted
    assert all(GROUP <= len(group) < GROUP + len(RECORDS) for group in groups[:-1])
    assert len(groups) == 2


def test_a_broken_batch_ends_a_group_too() -> None:
    data = bytearray(batch(0))
    data[-1] ^= 1
    fetch_groups()
    records = fetcher.MemoryRecords(bytes(data))
    with pytest.raises(CorruptRecordException, match="CRC"):
        list(fetcher.PartitionRecords(TP, records, [], 0, None, in_groups, True, 0))
