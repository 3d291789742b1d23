"""A batch of the log, taken apart some records at a time.

No batch that a Kafka client has written may stop a reader. aiokafka's compiled parser reads what it
can. A batch that it refuses is parsed here, as Kafka's broker parsed it on arrival. A batch that
can't be read, or would exceed the limits, becomes one record in place of its records: an
`UnreadBatch`, which is no event and goes to the dead-letter topic. So no reader stops, and all
readers agree.

Timestamps are any 64-bit number in Kafka. They are clamped to the years that the fold supports
here, and nowhere else.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from aiokafka.errors import CorruptRecordException

from jobtrail.core.errors import EventError
from jobtrail.internals.aiokafka_internals import DefaultRecord, DefaultRecordBatch
from jobtrail.log.limits import Limits
from jobtrail.log.record_reading import (
    COUNT,
    EARLIEST,
    HEADER_BYTES,
    HINT,
    LATEST,
    Content,
    Head,
    check_headers,
    in_order,
    read_slowly,
    unreadable,
)
from jobtrail.log.unpacking import NAMES, PIECE, TooLarge, Unpackable, unpack

__all__ = ["BYTES", "RECORDS", "Batch", "Limits", "OldBatch", "UnreadBatch"]

#: Records that are listed at a time, and about how many bytes of them.
RECORDS: Final = 4_096
BYTES: Final = 4 * 1024 * 1024
_EPOCH: Final = struct.Struct(">12xi")
_ATTRIBUTES_AT: Final = 21
_CODEC: Final = 0x07
#: Pieces that are unpacked before other tasks may run, however small they are.
_PIECES: Final = 256
#: The most headers of a batch. Batches of the usual size are not checked: they can't have more than
#: two million, which take half a second.
_HEADERS: Final = 200_000


class UnreadBatch(bytes):
    """The value of a record that stands for records of a batch: the batch as it is in the log.

    The record has the last offset of the batch, and no key. Its value begins with a zero byte, so
    that readers without this class don't take it for an event.
    """

    #: The first and the last offset that it stands for.
    first: int
    last: int
    #: The name of the batch's codec.
    codec: str
    #: Why it was not read.
    error: EventError


class Batch:
    """A batch as it was fetched.

    Args:
        batch: As aiokafka has it.
        data: Its bytes.
    """

    __slots__ = ("_batch", "_data", "base_offset", "next_offset")

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self.base_offset: int = batch.base_offset
        self.next_offset: int = batch.next_offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    @property
    def leader_epoch(self) -> int:
        """Under which leader of the partition it was appended."""
        epoch: int = _EPOCH.unpack_from(self._data)[0]
        return epoch

    @property
    def timestamp(self) -> int:
        """The latest of its records', in milliseconds since 1970."""
        latest: int = self._batch.max_timestamp
        return min(max(latest, EARLIEST), LATEST)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        """Yield the records as aiokafka does, also those with header names that are not UTF-8."""
        try:
            return iter(list(self._batch))
        except (UnicodeDecodeError, CorruptRecordException) as error:
            # The first is of aiokafka's compiled parser, the second of the one in Python.
            if not isinstance(error.__cause__ or error, UnicodeDecodeError):
                raise
        content: Content = self._data
        for more in self._content(Limits(sys.maxsize)):
            content = more
        return read_slowly(content, self._head_of(), 0)

    def all_records(self, limits: Limits) -> tuple[list[Any], int] | None:
        """Return all records of a small, valid batch; nearly every batch is one.

        Args:
            limits: The size of the unpacked batch.

        Returns:
            The records, and how many bytes they take; None for any other batch: see `pieces`.
        """
        data: memoryview | bytes = self._data
        (count,) = COUNT.unpack_from(data)
        if count > RECORDS or count > limits.records or len(data) > BYTES:
            return None
        try:
            if codec := self._codec:
                packed = unpack(codec, self._data[HEADER_BYTES:], min(BYTES, limits.size))
                data = b"".join((self._head(), *packed))
            records = list(DefaultRecordBatch(data))
            if records:
                records = in_order(records, self.base_offset, self.next_offset)
            return records, len(data)
        except Exception:
            # Any exception: the bytes come from outside, and the compiled parser documents none.
            return None

    def pieces(self, limits: Limits) -> Iterator[list[Any]]:
        """Parse the batch, some records at a time; may be called more than once.

        Args:
            limits: The size of the unpacked batch.

        Yields:
            Records in the order of their offsets, about `RECORDS` and `BYTES` at most; an empty
            list while it is being unpacked, so that other tasks can run.
        """
        begin = self.base_offset
        try:
            (count,) = COUNT.unpack_from(self._data)
            if count > limits.records:
                raise _too_large(
                    "The batch has more records than are read.",
                    f"{limits.records:,} at most (JOBTRAIL_MAX_BATCH_RECORDS)",
                    f"{count:,}",
                )
            content: Content = self._data
            for more in self._content(limits):
                if more is content:
                    yield []
                content = more
            if len(content) > BYTES:
                check_headers(content, _HEADERS)
            size = len(content) // max(count, 1) + 1
            for some in self._listed(content, max(min(RECORDS, BYTES // size), 1)):
                records = in_order(some, begin, self.next_offset)
                begin = records[-1].offset + 1
                yield records
        except EventError as error:
            # Without an offset left, all of its records were read.
            if begin < self.next_offset:
                last = self.next_offset - 1
                codec = NAMES.get(self._codec, str(self._codec))
                yield [unread(self._data, begin, last, self.timestamp, codec, error)]

    @property
    def _codec(self) -> int:
        codec: int = self._batch.attributes & _CODEC
        return codec

    def _content(self, limits: Limits) -> Iterator[Content]:
        """Yield the uncompressed batch, the same object again and again while it grows.

        Raises:
            EventError: It can't be unpacked, or not within the limits.
        """
        if not self._codec:
            return
        content = self._head()
        try:
            packed = unpack(self._codec, self._data[HEADER_BYTES:], limits.size)
            for number, piece in enumerate(packed, 1):
                content += piece
                if len(piece) >= PIECE or number % _PIECES == 0:
                    yield content
        except Unpackable as error:
            raise unreadable("The batch can't be unpacked.", str(error.args[0])) from None
        except TooLarge:
            raise _too_large(
                "The batch unpacks to more than is read.",
                f"{limits.size:,} bytes at most (JOBTRAIL_MAX_BATCH_BYTES)",
                f"more, of {len(self._data):,} bytes",
            ) from None
        yield content

    def _head(self) -> bytearray:
        """Return the header of the batch as it would be without a codec."""
        head = bytearray(self._data[:HEADER_BYTES])
        struct.pack_into(">h", head, _ATTRIBUTES_AT, self._batch.attributes & ~_CODEC)
        return head

    def _head_of(self) -> Head:
        batch = self._batch
        return Head(
            self.base_offset, batch.first_timestamp, batch.max_timestamp, batch.timestamp_type
        )

    def _listed(self, content: Content, most: int) -> Iterator[list[Any]]:
        """Yield the records, at most `most` at a time.

        Raises:
            EventError: They can't be told apart.
        """
        done = 0
        records = iter(DefaultRecordBatch(content))
        while True:
            try:
                some = list(islice(records, most))
            except Exception:
                # As in `all_records`.
                break
            if some:
                done += len(some)
                yield some
            if len(some) < most:
                return
        check_headers(content, _HEADERS)
        slow = read_slowly(content, self._head_of(), done)
        some = []
        try:
            for record in slow:
                some.append(record)
                if len(some) == most:
                    yield some
                    some = []
        except CorruptRecordException as error:
            if some:
                yield some
            raise unreadable(
                "Records of the batch can't be told apart.", str(error.args[0])
            ) from None
        if some:
            yield some


class OldBatch:
    """A batch of a format that Kafka has not written since 3.0: it is not read.

    Args:
        batch: As aiokafka has it.
        data: Its bytes.
    """

    is_control_batch = is_transactional = False
    producer_id = None
    #: The format stores only its last offset.
    base_offset = 0
    leader_epoch = -1
    timestamp = 0

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch = batch
        self._data = data
        self.next_offset: int = batch.next_offset

    def validate_crc(self) -> bool:
        """Tell whether its checksum is right."""
        return bool(self._batch.validate_crc())

    def __iter__(self) -> Iterator[Any]:
        """Yield the records as aiokafka does."""
        return iter(self._batch)

    def all_records(self, _limits: Limits) -> None:
        """Return None; see `Batch.all_records`."""

    def pieces(self, _limits: Limits) -> Iterator[list[Any]]:
        """Yield what stands for it; see `Batch.pieces`."""
        last = self.next_offset - 1
        error = unreadable("The batch has a format that is no longer read.", "version 0 or 1")
        yield [unread(self._data, last, last, self.timestamp, "none", error)]


def unread(
    data: memoryview, first: int, last: int, timestamp: int, codec: str, error: EventError
) -> Any:
    """Return the record that stands for some of a batch; see `UnreadBatch`."""
    value = UnreadBatch(data)
    value.first, value.last, value.codec, value.error = first, last, codec, error
    return DefaultRecord(last, timestamp, 0, None, value, [])


def _too_large(what: str, expected: str, found: str) -> EventError:
    return EventError(what, reason="batch-too-large", expected=expected, found=found, hint=HINT)
