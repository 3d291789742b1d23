"""Parsing the records of an uncompressed batch where aiokafka's compiled parser does not suffice.

That parser is fast and this one is not, so only what it can't do is done here. It refuses header
names that are not UTF-8, which Kafka does not check, and reads the byte of a record's attributes as
a variable-length number. It checks neither offsets nor timestamps.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from operator import lt
from typing import Any, Final, NamedTuple, TypeAlias

from aiokafka.errors import CorruptRecordException

from jobtrail.core.decoding import InvalidHeader
from jobtrail.core.errors import EventError
from jobtrail.core.fold import FIRST, LAST
from jobtrail.internals.aiokafka_internals import DefaultRecord, decode_varint_py

#: Milliseconds since 1970 within which a timestamp is kept: the years 2 to 9998.
EARLIEST: Final = -(-FIRST // 1000)
LATEST: Final = LAST // 1000
#: Bytes before the records of a batch, and where it has their number:
#: https://kafka.apache.org/documentation/#recordbatch
HEADER_BYTES: Final = 61
COUNT: Final = struct.Struct(">57xi")
#: What to do about a batch that is not read.
HINT: Final = "The letter has the batch as it is in the log: write the events in it again."

#: A batch without its codec.
Content: TypeAlias = memoryview | bytearray


class Head(NamedTuple):
    """The fields of a batch that apply to all of its records."""

    base_offset: int
    first_timestamp: int
    max_timestamp: int
    #: 1 where the timestamp is the log's append time.
    timestamp_type: int


def unreadable(what: str, found: str) -> EventError:
    """Return the error for a batch that can't be read."""
    return EventError(what, reason="batch-unreadable", found=found, hint=HINT)


def read_slowly(content: Content, head: Head, done: int) -> Iterator[Any]:
    """Yield the records after a number of them, parsed as Kafka's broker parses them.

    Raises:
        CorruptRecordException: They can't be separated.
    """
    at = HEADER_BYTES
    (count,) = COUNT.unpack_from(content)
    for number in range(count):
        try:
            length, at = decode_varint_py(content, at)
            end = at + length
            if not 0 <= length <= len(content) - at:
                raise ValueError(f"it has {length} bytes, and {len(content) - at} follow")
            if number >= done:
                yield _record(content[at:end], head)
        except (ValueError, IndexError) as error:
            raise CorruptRecordException(
                f"Found invalid record structure: record {number} of {count}: {error}"
            ) from None
        at = end


def check_headers(content: Content, most: int) -> None:
    """Check that a batch has no more headers than may be read.

    Each takes two bytes, and a hundred as a Python object: some KB of zstd become gigabytes.

    Args:
        content: The batch.
        most: The most headers of the batch.

    Raises:
        EventError: The batch has more.
    """
    at = HEADER_BYTES
    (count,) = COUNT.unpack_from(content)
    found = 0
    try:
        for _ in range(count):
            length, at = decode_varint_py(content, at)
            end = at + length
            _delta, at = decode_varint_py(content, at + 1)
            _offset, at = decode_varint_py(content, at)
            for _key_then_value in range(2):
                size, at = decode_varint_py(content, at)
                at += max(size, 0)
            headers, at = decode_varint_py(content, at)
            found += max(headers, 0)
            at = end
    except (ValueError, IndexError):
        # Parsing the records reports what is wrong with them.
        pass
    if found > most:
        raise EventError(
            "The records of the batch have more headers than are read.",
            reason="batch-too-large",
            expected=f"{most:,} at most",
            found=f"{found:,}",
            hint=HINT,
        )


def _record(buffer: Content, head: Head) -> Any:
    """Parse one record.

    https://kafka.apache.org/documentation/#record

    Raises:
        ValueError: The bytes are no record.
        IndexError: Likewise.
    """
    delta, at = decode_varint_py(buffer, 1)  # after the attributes
    timestamp = head.max_timestamp if head.timestamp_type else head.first_timestamp + delta
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
        misnamed = misnamed or not is_utf_8(text)
        headers.append((text, content))
    if at != len(buffer):
        raise ValueError(f"it has {len(buffer)} bytes, and what is in it {at}")
    if misnamed and value is not None:
        value = InvalidHeader(value)
    # The compiled class takes an int only.
    timestamp = min(max(timestamp, EARLIEST), LATEST)
    offset = min(max(head.base_offset + offset, -1), sys.maxsize)
    return DefaultRecord(offset, timestamp, head.timestamp_type, key, value, headers)


def in_order(records: list[Any], begin: int, end: int) -> list[Any]:
    """Return the records, with clamped timestamps, after checking the order of their offsets.

    Raises:
        EventError: They are not in order, or outside of the batch: the client assigns them, and the
            broker does not check them in an uncompressed batch.
    """
    earliest, latest = EARLIEST, LATEST
    first = number = records[0].offset
    for record in records:
        if record.offset != number or not earliest <= record.timestamp <= latest:
            break
        number += 1
    else:
        # Nearly always.
        if first >= begin and number <= end:
            return records
    offsets = [record.offset for record in records]
    if not _ascend(offsets):
        raise unreadable("The offsets of the batch's records are not in order.", _first_of(offsets))
    if first < begin or offsets[-1] >= end:
        raise unreadable(
            "Offsets of the batch's records are outside of it.",
            f"offsets {first} to {offsets[-1]}, where {begin} to {end - 1} are left",
        )
    return [_kept(record) for record in records]


def _ascend(numbers: Sequence[int]) -> bool:
    return all(map(lt, numbers, numbers[1:]))


def _first_of(offsets: list[int]) -> str:
    at = next(at for at in range(1, len(offsets)) if offsets[at] <= offsets[at - 1])
    return f"offset {offsets[at]} after {offsets[at - 1]}"


def _kept(record: Any) -> Any:
    timestamp = min(max(record.timestamp, EARLIEST), LATEST)
    return DefaultRecord(
        record.offset, timestamp, record.timestamp_type, record.key, record.value, record.headers
    )


def _bytes(buffer: Content, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint_py(buffer, at)
    if length > len(buffer) - at:
        raise ValueError(f"{length} bytes, where {len(buffer) - at} follow")
    return (None, at) if length < 0 else (bytes(buffer[at : at + length]), at + length)


def is_utf_8(text: str) -> bool:
    """Tell whether a header's name was UTF-8: bytes that were not are lone surrogates in it."""
    return not any("\udc80" <= char <= "\udcff" for char in text)
