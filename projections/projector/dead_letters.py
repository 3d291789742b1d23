"""Dead letters: records that are no valid event, kept with bytes, place and reason.

Nothing that can be in a record keeps it from being buried, and no failure ends the process: one
that passes is waited for, and a record that Kafka refuses, or that aiokafka can't write, leaves a
letter with its place and the reason. The record itself stays in the log.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, TypeAlias

from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from jobtrail.log.batches import Unread
from jobtrail.log.clients import Producer
from jobtrail.log.dead_letters import BATCH, CUT, DETAIL, NONE, PLACE, REASON, RUN
from jobtrail.log.kafka import DEAD_LETTER_BYTES, kafka_security, stop_client
from jobtrail.settings import Settings
from projections.projector.partition_state import DeadLetter

logger = logging.getLogger(__name__)

#: What is kept of a detail.
MAX_DETAIL_BYTES: Final = 1024
#: Letters of one piece of a batch that are written one by one at most. Of more, those with the same
#: reason are written together: hundreds of thousands of records fit into 1 MiB.
ONE_BY_ONE: Final = 100
#: Bytes of records that are written together: any topic takes that much.
_RUN_BYTES: Final = 512 * 1024
_TIMEOUT: Final = 30.0
_LONGEST_PAUSE: Final = 5.0
#: What is left of a key and of a value that are too large together with the headers. A batch that
#: the log took may be larger than any limit once it is decompressed.
_KEPT_KEY: Final = 64 * 1024
_KEPT_VALUE: Final = 1024 * 1024
#: Headers of a record that a letter keeps: with more it has none, as with one that is too large.
_MOST_HEADERS: Final = 1_000
#: What is left of a key where Kafka refuses the letter as it is.
_LEAST_KEY: Final = 1024
#: Room for the headers below, and for what Kafka puts around a record.
_OVERHEAD: Final = 8 * 1024
#: What Kafka says of a record, and not of itself.
_REFUSED: Final = (
    CorruptRecordException,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownError,
)

_Headers: TypeAlias = list[tuple[str, bytes | None]]


class _Written(NamedTuple):
    """A letter as it is written."""

    key: bytes | None
    value: bytes | None
    #: The record's own.
    headers: _Headers
    #: Those that make it a letter, in their order.
    ours: _Headers
    #: Bytes of the record: key, value, headers.
    size: int

    def smallest(self) -> _Written:
        """Return a letter with the place and the reason only: no topic refuses it for its size."""
        place = self.ours[-1][1] or b""
        ours = [header for header in self.ours if header[0] != CUT]
        cut = (CUT, str(self.size).encode())
        return _Written((self.key or place)[:_LEAST_KEY], b"", [], [cut, *ours], self.size)


class DeadLetters:
    """Writes to the dead-letter topic, and returns only when Kafka has acknowledged.

    A projector that dies between this and its store's commit writes the same letters again: a
    letter is known by its place.

    Args:
        settings: Which Kafka, which topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Producer | None = None

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Write letters, trying again until Kafka has them: their partition waits.

        Args:
            letters: Of one partition.
        """
        left = list(self._written(letters))
        pause = 0.1
        one_by_one = False
        while True:
            try:
                if one_by_one:
                    await self._write_one_by_one(left)
                else:
                    await self._write(left)
                break
            except Exception as error:
                # Whatever it is: a process that ends here would end at the same record again.
                logger.error("action=dead_letters_retry pause=%.1fs %r", pause, error)
                one_by_one = one_by_one or not _passes(error)
                # A batch that expired burns a sequence number (aiokafka #1017): begin anew.
                await self.close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        logger.warning(
            "action=dead_letters count=%d first=%s reason=%s",
            len(letters),
            self._place(letters[0]),
            letters[0].error.reason,
        )

    async def _write(self, letters: Sequence[_Written]) -> None:
        """Write letters together.

        Raises:
            Exception: One could not be written; one that does not pass by itself, if any.
        """
        producer = await self._started()
        futures = [await self._send(producer, letter) for letter in letters]
        async with asyncio.timeout(_TIMEOUT):
            found = await asyncio.gather(*futures, return_exceptions=True)
        failed = [one for one in found if isinstance(one, BaseException)]
        if failed:
            raise next((error for error in failed if not _passes(error)), failed[0])

    async def _write_one_by_one(self, left: list[_Written]) -> None:
        """Write letters, of one that is refused the smallest; take out those that are written.

        Raises:
            Exception: One could not be written.
        """
        while left:
            try:
                await self._write(left[:1])
            except Exception as error:
                if _passes(error):
                    raise
                logger.warning("action=dead_letter_cut place=%r %r", left[0].ours[-1][1], error)
                await self.close()
                await self._write([left[0].smallest()])
            del left[0]

    async def _started(self) -> Producer:
        if self._producer is None:
            producer = Producer(
                bootstrap_servers=self._settings.bootstrap_servers,
                acks="all",
                enable_idempotence=True,
                max_request_size=DEAD_LETTER_BYTES,
                # What is small in the log is not to become large by being buried.
                compression_type="lz4",
                **kafka_security(self._settings),
            )
            async with asyncio.timeout(_TIMEOUT):
                await producer.start()
            self._producer = producer
        return self._producer

    async def _send(self, producer: Producer, letter: _Written) -> Any:
        async with asyncio.timeout(_TIMEOUT):
            return await producer.send(
                self._settings.dead_topic,
                key=letter.key,
                value=letter.value,
                headers=[*letter.headers, *letter.ours],
            )

    def _written(self, letters: Sequence[DeadLetter]) -> Iterator[_Written]:
        """Return letters as they are written: very many become few."""
        if len(letters) <= ONE_BY_ONE:
            yield from map(self._one, letters)
            return
        for _reason, same in groupby(sorted(letters, key=_reason_of), _reason_of):
            yield from self._run(list(same))

    def _run(self, letters: Sequence[DeadLetter]) -> Iterator[_Written]:
        """Write records that were refused for one reason together, as a batch of Kafka's."""
        some: list[DeadLetter] = []
        size = 0
        for letter in letters:
            taken = _size(letter.record.key, letter.record.value, letter.record.headers)
            if isinstance(letter.record.value, Unread) or _is_large(
                letter.record, taken, _RUN_BYTES
            ):
                yield self._one(letter)
                continue
            if some and size + taken > _RUN_BYTES:
                yield self._together(some)
                some, size = [], 0
            some.append(letter)
            size += taken
        if some:
            yield self._together(some)

    def _together(self, letters: Sequence[DeadLetter]) -> _Written:
        first, last = letters[0].record, letters[-1].record
        if first is last:
            return self._one(letters[0])
        # No limit: what it takes was counted.
        batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, DEAD_LETTER_BYTES)
        for number, (_partition, record, _error) in enumerate(letters):
            value = None if record.value is None else bytes(record.value)
            where = record.offset - first.offset
            added = batch.append(where, record.timestamp, record.key, value, _headers(record))
            assert added is not None, number
        data = batch.build()
        # Where a batch has its first offset, and what its checksum leaves out.
        struct.pack_into(">q", data, 0, first.offset)
        key = first.key if all(letter.record.key == first.key for letter in letters) else None
        said = b"%d/%d" % (last.offset, len(letters))
        ours = self._ours(letters[0], first.offset, (RUN, said))
        return _Written(key and key[:_KEPT_KEY], bytes(data), [], ours, len(data))

    def _one(self, letter: DeadLetter) -> _Written:
        record = letter.record
        key, value = record.key, record.value
        size = _size(key, value, record.headers)
        if isinstance(value, Unread):
            said = f"{value.last}/{value.codec}".encode()
            ours = self._ours(letter, value.first, (BATCH, said))
        elif key is None and value is None:
            # aiokafka does not write that.
            ours = self._ours(letter, record.offset, (NONE, b""))
            value = b""
        else:
            ours = self._ours(letter, record.offset)
        headers: _Headers = []
        if _is_large(record, size, DEAD_LETTER_BYTES - _OVERHEAD):
            # The whole of it stays in the log, at its place.
            key, value = key and key[:_KEPT_KEY], value and value[:_KEPT_VALUE]
            ours.insert(0, (CUT, str(size).encode()))
        else:
            headers = _headers(record)
        # aiokafka takes no subclass of bytes.
        value = None if value is None else bytes(value)
        return _Written(key, value, headers, ours, size)

    def _ours(self, letter: DeadLetter, offset: int, *more: tuple[str, bytes | None]) -> _Headers:
        place = f"{self._settings.topic}/{letter.partition}/{offset}"
        return [
            (REASON, letter.error.reason.encode()),
            (DETAIL, str(letter.error).encode(errors="backslashreplace")[:MAX_DETAIL_BYTES]),
            *more,
            (PLACE, place.encode()),
        ]

    def _place(self, letter: DeadLetter) -> str:
        return f"{self._settings.topic}/{letter.partition}/{letter.record.offset}"

    async def close(self) -> None:
        """Stop the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer)


def _passes(error: BaseException) -> bool:
    """Tell whether a failure is Kafka's, which passes, and not the record's."""
    return isinstance(error, KafkaError | TimeoutError | OSError) and not isinstance(
        error, _REFUSED
    )


def _reason_of(letter: DeadLetter) -> str:
    return letter.error.reason


def _size(key: bytes | None, value: bytes | None, headers: Any) -> int:
    size = sum(len(name) * 4 + len(content or b"") + 10 for name, content in headers)
    return size + len(key or b"") + len(value or b"") + 40


def _is_large(record: Any, size: int, most: int) -> bool:
    return size > most or len(record.headers) > _MOST_HEADERS


def _headers(record: Any) -> _Headers:
    """Return a record's own headers; of a name that is no UTF-8, such bytes as escapes."""
    return [
        (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), content)
        for name, content in record.headers
    ]
