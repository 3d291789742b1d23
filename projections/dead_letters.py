"""Dead letters: records that are no valid event, kept with bytes, place and reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from jobtrail.kafka import DEAD_LETTER_BYTES, kafka_security, stop_client
from jobtrail.settings import Settings
from projections.holding import DeadLetter

logger = logging.getLogger(__name__)

#: The name under which each fact stands in a dead letter's headers.
REASON: Final = "jobtrail-reason"
DETAIL: Final = "jobtrail-detail"
PLACE: Final = "jobtrail-place"
#: Says that the record was too large for a letter, and how large: key, value and headers in bytes.
CUT: Final = "jobtrail-cut"
#: What is kept of a detail.
MAX_DETAIL_BYTES: Final = 1024
_TIMEOUT: Final = 30.0
#: What is left of a key and of a value that are too large together with the headers. A batch that
#: the log took may be larger than any limit once it is decompressed.
_KEPT_KEY: Final = 64 * 1024
_KEPT_VALUE: Final = 1024 * 1024
#: Room for the headers below, and for what Kafka puts around a record.
_OVERHEAD: Final = 8 * 1024


class DeadLetters:
    """Writes to the dead-letter topic, and returns only when Kafka has acknowledged.

    A projector that dies between this and its store's commit writes the same letters again: a
    letter is known by its place.

    Args:
        settings: Which Kafka, which topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Write letters, trying again until Kafka has them: their partition waits."""
        pause = 0.1
        while True:
            try:
                producer = await self._started()
                futures = [await self._send(producer, letter) for letter in letters]
                async with asyncio.timeout(_TIMEOUT):
                    await asyncio.gather(*futures)
                logger.warning(
                    "action=dead_letters count=%d first=%s reason=%s",
                    len(letters),
                    self._place(letters[0]),
                    letters[0].error.reason,
                )
                return
            except (KafkaError, TimeoutError) as error:
                logger.error("action=dead_letters_retry pause=%.1fs %r", pause, error)
                # A batch that expired burns a sequence number (aiokafka #1017): begin anew.
                await self.close()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)

    async def _started(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.bootstrap_servers,
                acks="all",
                enable_idempotence=True,
                max_request_size=DEAD_LETTER_BYTES,
                **kafka_security(self._settings),
            )
            async with asyncio.timeout(_TIMEOUT):
                await producer.start()
            self._producer = producer
        return self._producer

    async def _send(self, producer: AIOKafkaProducer, letter: DeadLetter) -> Any:
        record, error = letter.record, letter.error
        key, value, headers = record.key, record.value, _headers(record)
        size = sum(len(name.encode()) + len(content or b"") + 10 for name, content in headers)
        size += len(key or b"") + len(value or b"")
        ours = [
            (REASON, error.reason.encode()),
            (DETAIL, str(error).encode()[:MAX_DETAIL_BYTES]),
            (PLACE, self._place(letter).encode()),
        ]
        if size > DEAD_LETTER_BYTES - _OVERHEAD:
            # The whole of it stays in the log, at its place.
            key, value, headers = key and key[:_KEPT_KEY], value and value[:_KEPT_VALUE], []
            ours.insert(0, (CUT, str(size).encode()))
        async with asyncio.timeout(_TIMEOUT):
            return await producer.send(
                self._settings.dead_topic,
                key=key,
                # aiokafka takes no subclass of bytes.
                value=None if value is None else bytes(value),
                headers=[*headers, *ours],
            )

    def _place(self, letter: DeadLetter) -> str:
        return f"{self._settings.topic}/{letter.partition}/{letter.record.offset}"

    async def close(self) -> None:
        """Stop the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer)


def _headers(record: Any) -> list[tuple[str, bytes | None]]:
    """Return a record's own headers; of a name that is no UTF-8, such bytes as escapes."""
    return [
        (name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), content)
        for name, content in record.headers
    ]
