"""How records are read where aiokafka 0.14 can't, or takes long for it.

It can't read header names that are no UTF-8. Kafka takes the name of a header for bytes that should
be UTF-8, and does not check it. aiokafka decodes it while it takes a fetched batch apart, and
raises there: whoever reads the partition gets neither that record nor any behind it, for ever. It
has no hook, so a process of ours that reads the log puts `_Fetched` in the place of the one class
in its fetcher that turns bytes into batches. The batches are still taken apart by aiokafka; only
one that it fails at is read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint_py

#: Where a batch says how long the rest of it is, and how long that is together with what precedes:
#: https://kafka.apache.org/documentation/#recordbatch
_LENGTH: Final = struct.Struct(">8xi")
#: Records of a group that is yielded; the last batch of it may add more.
GROUP: Final = 4_096


def in_groups(_value: bytes) -> bytes:
    """Stand for a wish, as the `value_deserializer` of a consumer: see `fetch_groups`."""
    raise AssertionError("groups of records are not deserialized")


class Group:
    """Consecutive batches of a partition, not taken apart yet."""

    __slots__ = ("_batches", "_begin", "next_offset", "timestamp")

    def __init__(self, begin: int, batches: list[Any]) -> None:
        self._begin = begin
        self._batches = batches
        #: The one behind the last record.
        self.next_offset: int = batches[-1].next_offset
        #: The latest of the last batch, milliseconds since the epoch.
        self.timestamp: int = batches[-1].max_timestamp

    def records(self) -> list[Any]:
        """Take the batches apart: best where the records are used, while they are in the cache.

        Raises:
            CorruptRecordException: A batch is broken.
        """
        records = [record for batch in self._batches for record in batch]
        # A fetch brings the whole of the batch in which its offset lies.
        if records and records[0].offset < self._begin:
            return [record for record in records if record.offset >= self._begin]
        return records


class _InGroups(fetcher.PartitionRecords):
    """Yields groups of batches to the consumer that wishes for it."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        if self._value_deserializer is not in_groups:
            yield from super()._unpack_records()
            return
        batches: list[Any] = []
        begin = self.next_fetch_offset
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if not batch.is_control_batch:
                batches.append(batch)
            # The batch's own end, as aiokafka has it, too: the last records may be gone.
            self.next_fetch_offset = batch.next_offset
            if batches and self.next_fetch_offset - begin >= GROUP:
                yield Group(begin, batches)
                begin, batches = self.next_fetch_offset, []
        if batches:
            yield Group(begin, batches)


def fetch_groups() -> None:
    """Let consumers whose `value_deserializer` is `in_groups` yield a `Group` for many records.

    Then nothing is done for each record but its parsing. The other consumers of the process, which
    may be a notebook's, are what they were. Of transactions it knows nothing: the log has none.
    """
    fetcher.PartitionRecords = _InGroups


class Misnamed(bytes):
    """The value of a record that has a header name which is no UTF-8: it is no valid event."""

    __slots__ = ()


def read_any_header_name() -> None:
    """Let every aiokafka consumer of this process read records with such header names.

    Their values are `Misnamed`; the names are strings with surrogates (PEP 383).
    """
    fetcher.MemoryRecords = _Fetched


class _Fetched:
    """What one fetch brought of one partition, as aiokafka's fetcher uses it."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._records = MemoryRecords(data)
        self._next = 0
        self.has_next = self._records.has_next
        self.size_in_bytes = self._records.size_in_bytes

    def next_batch(self) -> _Batch | None:
        batch = self._records.next_batch()
        if batch is None:
            return None
        begin = self._next
        self._next += _LENGTH.size + _LENGTH.unpack_from(self._data, begin)[0]
        return _Batch(batch, self._data[begin : self._next])


class _Batch:
    """A batch of aiokafka's, and its bytes."""

    __slots__ = ("_batch", "_data")

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except (UnicodeDecodeError, CorruptRecordException) as error:
            # The first is of aiokafka's compiled parser, the second of the one in Python.
            if not isinstance(error.__cause__ or error, UnicodeDecodeError):
                raise
        return _read(self._data)


def _read(data: memoryview) -> Iterator[Any]:
    """Yield the records of a batch, however their headers are named."""
    batch = _DefaultRecordBatchPy(data)
    iter(batch)  # decompresses
    buffer, at = batch._buffer, batch._pos
    for _ in range(batch._num_records):
        try:
            length, at = decode_varint_py(buffer, at)
            record, end = _record(batch, buffer, at)
        except (ValueError, IndexError) as error:
            raise CorruptRecordException(f"Found invalid record structure: {error!r}") from error
        at += length
        if end != at:
            raise CorruptRecordException(f"A record of {length} bytes ends at another place")
        yield record


def _record(batch: _DefaultRecordBatchPy, buffer: bytearray, at: int) -> tuple[Any, int]:
    """Return the record that begins there, and where it ends.

    https://kafka.apache.org/documentation/#record
    """
    delta, at = decode_varint_py(buffer, at + 1)  # behind the attributes
    timestamp = batch.max_timestamp if batch.timestamp_type else batch.first_timestamp + delta
    offset, at = decode_varint_py(buffer, at)
    key, at = _bytes(buffer, at)
    value, at = _bytes(buffer, at)
    count, at = decode_varint_py(buffer, at)
    headers: list[tuple[str, bytes | None]] = []
    misnamed = False
    for _ in range(count):
        name, at = _bytes(buffer, at)
        content, at = _bytes(buffer, at)
        text = (name or b"").decode("utf-8", "surrogateescape")
        misnamed = misnamed or not _is_utf_8(text)
        headers.append((text, content))
    if misnamed and value is not None:
        value = Misnamed(value)
    record = DefaultRecord(
        batch.base_offset + offset, timestamp, batch.timestamp_type, key, value, headers
    )
    return record, at


def _bytes(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint_py(buffer, at)
    return (None, at) if length < 0 else (bytes(buffer[at : at + length]), at + length)


def _is_utf_8(text: str) -> bool:
    return not any("\udc80" <= char <= "\udcff" for char in text)
