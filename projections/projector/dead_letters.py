"""Dead letters: records that are no valid event, written with bytes, place and reason.

Any record can become a dead letter, and no failure ends the process: a temporary failure is
retried, and of a record that Kafka refuses, or that aiokafka can't write, the dead letter has only
the place and the reason. The record itself stays in the log.
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

from jobtrail.internals.aiokafka_internals import DefaultRecordBatchBuilder
from jobtrail.log.batches import UnreadBatch
from jobtrail.log.clients import Producer
from jobtrail.log.dead_letters import BATCH, CUT, DETAIL, NONE, PLACE, REASON, RUN
from jobtrail.log.kafka import DEAD_LETTER_BYTES, kafka_security, stop_client
from jobtrail.settings import Settings
from projections.projector.partition_state import DeadLetter

logger = logging.getLogger(__name__)

#: Bytes of the detail of a dead letter, at most.
MAX_DETAIL_BYTES: Final = 1024
#: Dead letters of one call that are written one by one, at most. Of more, those with the same
#: reason are written together: hundreds of thousands of records fit into 1 MiB.
ONE_BY_ONE: Final = 100
#: Bytes of records that are written together: any topic accepts that much.
_RUN_BYTES: Final = 512 * 1024
_TIMEOUT: Final = 30.0
_LONGEST_PAUSE: Final = 5.0
#: Bytes of the key and of the value of a record that is too large with its headers. A batch that
#: the log has accepted may be larger than any limit once it is decompressed.
_KEPT_KEY: Final = 64 * 1024
_KEPT_VALUE: Final = 1024 * 1024
#: Headers of a record that a dead letter keeps; of a record with more, it keeps none.
_MOST_HEADERS: Final = 1_000
#: Bytes of the key where Kafka refuses the complete dead letter.
_LEAST_KEY: Final = 1024
#: Bytes for the headers below, and for the overhead of a record in Kafka.
_OVERHEAD: Final = 8 * 1024
#: Errors that are caused by the record, not by the state of Kafka.
_REFUSED: Final = (
    CorruptRecordException,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownError,
)

_Headers: TypeAlias = list[tuple[str, bytes | None]]


class _Record(NamedTuple):
    """A dead letter as it is written."""

    key: bytes | None
    value: bytes | None
    #: The record's own headers.
    headers: _Headers
    #: The headers that make it a dead letter, in their order.
    ours: _Headers
    #: Bytes of the record: key, value, headers.
    size: int

    def smallest(self) -> _Record:
        """Return it with place and reason only: no topic refuses that for its size."""
        place = self.ours[-1][1] or b""
        ours = [header for header in self.ours if header[0] != CUT]
        cut = (CUT, str(self.size).encode())
        return _Record((self.key or place)[:_LEAST_KEY], b"", [], [cut, *ours], self.size)


class DeadLetters:
    """Writes to the dead-letter topic, and returns only when Kafka has acknowledged.

    A projector that dies between this and its store's commit writes the same dead letters again:
    duplicates have the same place.

    Args:
        settings: The Kafka cluster and the topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Producer | None = None

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Write dead letters, retrying until Kafka has them; their partition waits.

        Args:
            letters: Those of one partition.
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
                # Any error: a process that ended here would end at the same record again.
                logger.error("action=dead_letters_retry pause=%.1fs %r", pause, error)
                one_by_one = one_by_one or not _is_temporary(error)
                # A batch that expired burns a sequence number (aiokafka #1017): use a new producer.
                await self.close()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        logger.warning(
            "action=dead_letters count=%d first=%s reason=%s",
            len(letters),
            self._place(letters[0]),
            letters[0].error.reason,
        )

    async def _write(self, letters: Sequence[_Record]) -> None:
        """Write dead letters together.

        Raises:
            Exception: One could not be written; a permanent error, if there is one.
        """
        producer = await self._started()
        futures = [await self._send(producer, letter) for letter in letters]
        async with asyncio.timeout(_TIMEOUT):
            found = await asyncio.gather(*futures, return_exceptions=True)
        failed = [one for one in found if isinstance(one, BaseException)]
        if failed:
            raise next((error for error in failed if not _is_temporary(error)), failed[0])

    async def _write_one_by_one(self, left: list[_Record]) -> None:
        """Write dead letters, shortened where Kafka refuses them; remove those that are written.

        Raises:
            Exception: One could not be written.
        """
        while left:
            try:
                await self._write(left[:1])
            except Exception as error:
                if _is_temporary(error):
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
                # A record that is small in the log must not become large in the dead-letter topic.
                compression_type="lz4",
                **kafka_security(self._settings),
            )
            async with asyncio.timeout(_TIMEOUT):
                await producer.start()
            self._producer = producer
        return self._producer

    async def _send(self, producer: Producer, letter: _Record) -> Any:
        async with asyncio.timeout(_TIMEOUT):
            return await producer.send(
                self._settings.dead_topic,
                key=letter.key,
                value=letter.value,
                headers=[*letter.headers, *letter.ours],
            )

    def _written(self, letters: Sequence[DeadLetter]) -> Iterator[_Record]:
        """Yield dead letters as they are written: very many become few."""
        if len(letters) <= ONE_BY_ONE:
            yield from map(self._one, letters)
            return
        for _reason, same in groupby(sorted(letters, key=_reason_of), _reason_of):
            yield from self._run(list(same))

    def _run(self, letters: Sequence[DeadLetter]) -> Iterator[_Record]:
        """Yield records with the same reason together, as a Kafka batch each."""
        some: list[DeadLetter] = []
        size = 0
        for letter in letters:
            taken = _size(letter.record.key, letter.record.value, letter.record.headers)
            if isinstance(letter.record.value, UnreadBatch) or _is_large(
                letter.record, taken, _RUN_BYTES
            ):
                yield self._one(letter)
                continue
            if some and size + taken > _RUN_BYTES:
                yield self._as_batch(some)
                some, size = [], 0
            some.append(letter)
            size += taken
        if some:
            yield self._as_batch(some)

    def _as_batch(self, letters: Sequence[DeadLetter]) -> _Record:
        first, last = letters[0].record, letters[-1].record
        if first is last:
            return self._one(letters[0])
        # No limit: the size was counted before.
        batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, DEAD_LETTER_BYTES)
        for number, (_partition, record, _error) in enumerate(letters):
            value = None if record.value is None else bytes(record.value)
            where = record.offset - first.offset
            added = batch.append(where, record.timestamp, record.key, value, _headers(record))
            assert added is not None, number
        data = batch.build()
        # A batch begins with its first offset, which its checksum does not cover.
        struct.pack_into(">q", data, 0, first.offset)
        key = first.key if all(letter.record.key == first.key for letter in letters) else None
        said = b"%d/%d" % (last.offset, len(letters))
        ours = self._ours(letters[0], first.offset, (RUN, said))
        return _Record(key and key[:_KEPT_KEY], bytes(data), [], ours, len(data))

    def _one(self, letter: DeadLetter) -> _Record:
        record = letter.record
        key, value = record.key, record.value
        size = _size(key, value, record.headers)
        if isinstance(value, UnreadBatch):
            said = f"{value.last}/{value.codec}".encode()
            ours = self._ours(letter, value.first, (BATCH, said))
        elif key is None and value is None:
            # aiokafka does not write a record without key and value.
            ours = self._ours(letter, record.offset, (NONE, b""))
            value = b""
        else:
            ours = self._ours(letter, record.offset)
        headers: _Headers = []
        if _is_large(record, size, DEAD_LETTER_BYTES - _OVERHEAD):
            # The complete record stays in the log, at its place.
            key, value = key and key[:_KEPT_KEY], value and value[:_KEPT_VALUE]
            ours.insert(0, (CUT, str(size).encode()))
        else:
            headers = _headers(record)
        # aiokafka takes no subclass of bytes.
        value = None if value is None else bytes(value)
        return _Record(key, value, headers, ours, size)

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


def _is_temporary(error: BaseException) -> bool:
    """Tell whether a failure is temporary, not caused by the record."""
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
    """Return a record's own headers; bytes of a name that are not UTF-8 become escapes."""
    return [
        (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), content)
        for name, content in record.headers
    ]
