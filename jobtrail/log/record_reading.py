"""The records of a batch without its codec: what aiokafka's parser refuses, and what it lets pass.

It is compiled and fast, and this is neither; so here is only what it can't do. It decodes header
names, which Kafka takes for bytes that should be UTF-8 and does not check, and takes the byte of a
record's attributes for a number. And it looks neither at offsets nor at timestamps.
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
#: Before the records of a batch, and where in it is said how many there are:
#: https://kafka.apache.org/documentation/#recordbatch
HEADER_BYTES: Final = 61
COUNT: Final = struct.Struct(">57xi")
#: What to do about a batch that is not read.
MEND: Final = "The letter has the batch as it is in the log: write again what it has of events."

#: A batch without its codec.
Content: TypeAlias = memoryview | bytearray


class Head(NamedTuple):
    """What a batch says for all of its records."""

    base_offset: int
    first_timestamp: int
    max_timestamp: int
    #: 1 where the log's clock counts.
    timestamp_type: int


def unreadable(what: str, found: str) -> EventError:
    """Return why a batch can't be read."""
    return EventError(what, reason="batch-unreadable", found=found, hint=MEND)


def read_slowly(content: Content, head: Head, done: int) -> Iterator[Any]:
    """Yield the records behind so many, read as Kafka's broker reads them.

    Raises:
        CorruptRecordException: They can't be told apart.
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
    """Check that the records have not more headers than may be read, all together.

    Each takes two bytes, and as an object of Python's a hundred: some KB of zstd become gigabytes.

    Args:
        content: The batch.
        most: How many there may be.

    Raises:
        EventError: There are more.
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
        # Who reads the records says what is wrong with them.
        pass
    if found > most:
        raise EventError(
            "The records of the batch have more headers than are read.",
            reason="batch-too-large",
            expected=f"{most:,} at most",
            found=f"{found:,}",
            hint=MEND,
        )


def _record(buffer: Content, head: Head) -> Any:
    """Return the record in some bytes.

    https://kafka.apache.org/documentation/#record

    Raises:
        ValueError: There is none.
        IndexError: Likewise.
    """
    delta, at = decode_varint_py(buffer, 1)  # behind the attributes
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
    # Else it is no number for the compiled class.
    timestamp = min(max(timestamp, EARLIEST), LATEST)
    offset = min(max(head.base_offset + offset, -1), sys.maxsize)
    return DefaultRecord(offset, timestamp, head.timestamp_type, key, value, headers)


def in_order(records: list[Any], begin: int, end: int) -> list[Any]:
    """Return records whose offsets are in order, with timestamps as they are kept.

    Raises:
        EventError: The offsets are not, or lie outside of the batch: a client counts them itself,
            and the broker does not look where a batch is not compressed.
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
            "Offsets of the batch's records lie outside of it.",
            f"offsets {first} to {offsets[-1]}, where {begin} to {end - 1} are left",
        )
    return [_kept(record) for record in records]


def _ascend(numbers: Sequence[int]) -> bool:
    return all(map(lt, numbers, numbers[1:]))


def _first_of(offsets: list[int]) -> str:
    at = next(at for at in range(1, len(offsets)) if offsets[at] <= offsets[at - 1])
    return f"offset {offsets[at]} behind {offsets[at - 1]}"


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
    """Tell whether a header's name was UTF-8: what was not is half of a surrogate pair in it."""
    return not any("\udc80" <= char <= "\udcff" for char in text)
