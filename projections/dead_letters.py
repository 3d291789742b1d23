"""Dead letters: records that are no valid event, kept with bytes, place and reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from jobtrail.kafka import kafka_security, stop_client
from jobtrail.settings import Settings
from projections.projector import DeadLetter

logger = logging.getLogger(__name__)

#: The name under which each fact stands in a dead letter's headers.
REASON: Final = "jobtrail-reason"
DETAIL: Final = "jobtrail-detail"
PLACE: Final = "jobtrail-place"
_TIMEOUT: Final = 30.0
#: Room for a record of the log's largest size together with the headers above.
MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024


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
                    _place(letters[0].record),
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
                max_request_size=MAX_REQUEST_BYTES,
                **kafka_security(self._settings),
            )
            async with asyncio.timeout(_TIMEOUT):
                await producer.start()
            self._producer = producer
        return self._producer

    async def _send(self, producer: AIOKafkaProducer, letter: DeadLetter) -> Any:
        record, error = letter
        headers = [
            *record.headers,
            (REASON, error.reason.encode()),
            (DETAIL, str(error).encode()[:1024]),
            (PLACE, _place(record).encode()),
        ]
        async with asyncio.timeout(_TIMEOUT):
            return await producer.send(
                self._settings.dead_topic, key=record.key, value=record.value, headers=headers
            )

    async def close(self) -> None:
        """Stop the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_client(producer)


def _place(record: Any) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"
