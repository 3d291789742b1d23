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

from jobtrail.core.decoding import InvalidHeader
from jobtrail.log.batches import Batch, Limits
from jobtrail.log.consumers import GROUP, Group, InGroups, fetch_groups, read_any_header_name

HEADER = _DefaultRecordBatchPy.HEADER_STRUCT.size
TP = TopicPartition("log", 0)
IN_GROUPS = InGroups(Limits())
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


def listed(group: Group) -> list[Any]:
    """Return the records of a group; each piece has some."""
    return [record for some in group.pieces() for record in some]


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
        assert isinstance(record.value, InvalidHeader) == misnamed
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
    found = list(Batch(_DefaultRecordBatchPy(data), memoryview(data)))
    assert [record.offset for record in found] == list(range(3, 9))
    assert [type(record.value) for record in found[:2]] == [bytes, InvalidHeader]


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
    partition = fetcher.PartitionRecords(TP, records, [], begin, None, IN_GROUPS, True, 0)
    groups = []
    for group in partition:
        assert partition.next_fetch_offset == group.next_offset
        groups.append(listed(group))
        assert group.next_offset == groups[-1][-1].offset + 1
        assert group.timestamp == max(record.timestamp for record in groups[-1][-len(RECORDS) :])
    assert [record.offset for group in groups for record in group] == wanted
    assert all(GROUP <= len(group) < GROUP + len(RECORDS) for group in groups[:-1])
    assert len(groups) == 2


def test_a_broken_batch_ends_a_group_too() -> None:
    data = bytearray(batch(3) + batch(9))
    data[-1] ^= 1
    fetch_groups()
    records = fetcher.MemoryRecords(bytes(data))
    groups = fetcher.PartitionRecords(TP, records, [], 3, None, IN_GROUPS, True, 0)
    assert (next(groups).next_offset, groups.next_fetch_offset) == (9, 9)
    rotten = next(groups)
    assert (rotten.begin, rotten.next_offset, groups.next_fetch_offset) == (15, 15, 15)
    assert rotten.is_damaged
    assert (listed(rotten), rotten.at(10)) == ([], None)
    with pytest.raises(CorruptRecordException, match="CRC"):
        rotten.check()
    assert list(groups) == []


def test_what_follows_a_broken_batch_is_fetched_again() -> None:
    """Where it begins tells where the broken one ends, whatever that says of itself."""
    data = bytearray(batch(0) + batch(6))
    data[26] ^= 255  # its last offset
    fetch_groups()
    records = fetcher.MemoryRecords(bytes(data))
    groups = fetcher.PartitionRecords(TP, records, [], 0, None, IN_GROUPS, True, 0)
    assert [(group.begin, group.is_damaged) for group in groups] == [(6, True)]
    assert groups.next_fetch_offset == 6
    records = fetcher.MemoryRecords(bytes(data))
    again = fetcher.PartitionRecords(TP, records, [], 6, None, IN_GROUPS, True, 0)
    with pytest.raises(CorruptRecordException, match="CRC"):
        next(again)


COMMIT, ABORT = b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"


def written(
    base: int,
    offsets: list[int],
    last: int,
    *,
    producer: int = -1,
    transactional: bool = False,
    control: bytes | None = None,
    epoch: int = 0,
) -> bytes:
    """Return a batch as a broker may have it, with records at some of its offsets.

    Args:
        base: Its first offset.
        offsets: Of its records.
        last: Its last offset, which it says whether there is a record or not.
        producer: The id of who wrote it.
        transactional: Whether it belongs to a transaction.
        control: The key of the marker that it is, if it is one.
        epoch: Of the leader.
    """
    builder = DefaultRecordBatchBuilder(2, 0, int(transactional), producer, 0, 0, 1 << 20)
    for offset in offsets:
        builder.append(offset - base, 1000 + offset, control or b"k", b"v", [])
    data = bytearray(builder.build())
    attributes = 16 * transactional | 32 * (control is not None)
    struct.pack_into(">qii", data, 0, base, len(data) - 12, epoch)
    struct.pack_into(">hi", data, 21, attributes, last - base)
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def grouped(
    data: bytes, begin: int, aborted: list[tuple[int, int]] | None = None, committed: bool = True
) -> list[tuple[int, int, list[int]]]:
    """Return begin, end and offsets of the records of each group."""
    fetch_groups()
    level = fetcher.READ_COMMITTED if committed else fetcher.READ_UNCOMMITTED
    records = fetcher.MemoryRecords(data)
    partition = fetcher.PartitionRecords(
        TP, records, aborted or [], begin, None, IN_GROUPS, True, level
    )
    found = []
    for group in partition:
        assert partition.next_fetch_offset == group.next_offset
        found.append((group.begin, group.next_offset, [one.offset for one in listed(group)]))
    return found


def test_what_was_aborted_is_passed_over_and_accounted_for() -> None:
    data = b"".join(
        (
            written(0, [0, 1], 1, producer=7, transactional=True),
            written(2, [2, 3], 3, producer=8, transactional=True),
            written(4, [4], 4, producer=7, transactional=True, control=ABORT),
            written(5, [5], 5),
            written(6, [6], 6, producer=8, transactional=True, control=COMMIT),
            # The same producers once more, the other way round.
            written(7, [7, 8], 8, producer=7, transactional=True),
            written(9, [9], 9, producer=8, transactional=True),
            written(10, [10], 10, producer=8, transactional=True, control=ABORT),
            written(11, [11], 11, producer=7, transactional=True, control=COMMIT),
        )
    )
    aborted = [(8, 9), (7, 0)]
    assert grouped(data, 0, aborted) == [(0, 12, [2, 3, 5, 7, 8])]
    # A read that begins within: the broker tells of the transaction that began before.
    assert grouped(data, 1, aborted) == [(1, 12, [2, 3, 5, 7, 8])]
    # No isolation was asked for: markers are no records even so.
    assert grouped(data, 0, committed=False) == [(0, 12, [0, 1, 2, 3, 5, 7, 8, 9])]


def test_a_fetch_of_nothing_but_markers_moves_on() -> None:
    data = b"".join(
        written(n, [n], n, producer=1, transactional=True, control=COMMIT) for n in range(5)
    )
    assert grouped(data, 2) == [(2, 5, [])]
    aborted = written(5, [5, 6], 6, producer=1, transactional=True)
    assert grouped(aborted, 5, [(1, 5)]) == [(5, 7, [])]


def test_what_compaction_took_out_of_batches_is_accounted_for() -> None:
    data = b"".join(
        (
            written(0, [], 3),  # an empty batch stays for its producer's sake
            written(4, [6], 9),  # the first and the last are gone
            written(10, [10], 10),
        )
    )
    assert grouped(data, 0) == [(0, 11, [6, 10])]
    assert grouped(data, 7) == [(7, 11, [10])]


def test_a_group_ends_before_offsets_that_no_batch_accounts_for() -> None:
    data = b"".join(
        (written(5, [5, 6], 6), written(10, [10], 10), written(11, [11], 11), written(20, [20], 20))
    )
    assert grouped(data, 5) == [(5, 7, [5, 6]), (10, 12, [10, 11]), (20, 21, [20])]
    # The first batch lies behind what was asked for: whoever compares `begin` is told.
    assert grouped(data, 2)[0] == (5, 7, [5, 6])


def test_a_group_is_of_one_leader() -> None:
    data = b"".join((written(0, [0], 0), written(1, [1], 1, epoch=3), written(2, [2], 2, epoch=3)))
    assert grouped(data, 0) == [(0, 1, [0]), (1, 3, [1, 2])]
