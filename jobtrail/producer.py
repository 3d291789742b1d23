"""Writing to the log: idempotent, acknowledged by all replicas, bounded in memory and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from jobtrail.errors import LogUnavailable
from jobtrail.events import MAX_EVENT_BYTES
from jobtrail.kafka import kafka_security, stop_client
from jobtrail.settings import Settings

#: Events on their way at a time: at 330 bytes about 10 MiB together with their futures.
MAX_UNDER_WAY: Final = 10_000
_BATCH_BYTES: Final = 256 * 1024
_LINGER_MS: Final = 5
#: Seconds that Kafka has to be there at the start, and between two attempts.
_START_WITHIN: Final = 15.0
_START_PAUSE: Final = 0.25


class LogWriter:
    """Appends events to the log and knows the position behind what was acknowledged.

    Use it as an async context manager.

    Args:
        settings: Which Kafka, which topic.
        within: Seconds after which a start, a send or a stop is given up.
    """

    def __init__(self, settings: Settings, within: float = 30.0) -> None:
        self._topic = settings.topic
        self._within = within
        self._where = f"{settings.bootstrap_servers}, topic {settings.topic}"
        self._room = asyncio.Semaphore(MAX_UNDER_WAY)
        self._under_way: set[asyncio.Future[Any]] = set()
        self._failure: BaseException | None = None
        #: Events acknowledged so far.
        self.acknowledged = 0
        #: Per partition the offset behind the last acknowledged event.
        self.position: dict[int, int] = {}
        self._settings = settings
        self._producer = self._new_producer()

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._settings.bootstrap_servers,
            acks="all",
            enable_idempotence=True,
            linger_ms=_LINGER_MS,
            max_batch_size=_BATCH_BYTES,
            max_request_size=max(2 * MAX_EVENT_BYTES, _BATCH_BYTES),
            request_timeout_ms=int(self._within * 1000),
            **kafka_security(self._settings),
        )

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            LogUnavailable: Kafka did not answer in time.
        """
        clock = asyncio.get_running_loop().time
        give_up = clock() + min(self._within, _START_WITHIN)
        while True:
            try:
                async with asyncio.timeout_at(give_up):
                    await self._producer.start()
                return self
            except (KafkaError, TimeoutError) as error:
                await stop_client(self._producer)
                if clock() + _START_PAUSE > give_up:
                    raise self._unavailable(error) from None
            # A broker that is being started anew is there in seconds.
            await asyncio.sleep(_START_PAUSE)
            self._producer = self._new_producer()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect; events that `settle` did not wait for may be lost."""
        await stop_client(self._producer)

    def _unavailable(self, error: BaseException) -> LogUnavailable:
        return LogUnavailable(
            "Kafka did not acknowledge in time; the events may or may not be in the log.",
            where=self._where,
            found=repr(error),
            mend="Send them again: an event that is there already changes nothing.",
        )

    async def append(
        self, job_id: str, value: bytes, acknowledged: Callable[[], None] | None = None
    ) -> asyncio.Future[Any]:
        """Send one event; waits only while too many are under way.

        Args:
            job_id: The record's key.
            value: The encoded event.
            acknowledged: Called when Kafka has it.

        Returns:
            A future of aiokafka's record metadata: partition and offset. Don't cancel it.

        Raises:
            LogUnavailable: This or an earlier event was not acknowledged in time.
        """
        try:
            async with asyncio.timeout(self._within):
                await self._room.acquire()
                try:
                    self._raise_failure()
                    future: asyncio.Future[Any] = await self._producer.send(
                        self._topic, key=job_id.encode(), value=value
                    )
                except BaseException:
                    self._room.release()
                    raise
        except (KafkaError, TimeoutError) as error:
            raise self._unavailable(self._failure or error) from None

        def done(sent: asyncio.Future[Any]) -> None:
            self._room.release()
            self._under_way.discard(sent)
            if sent.cancelled():
                self._failure = self._failure or TimeoutError("cancelled")
            elif (error := sent.exception()) is not None:
                self._failure = self._failure or error
            else:
                self._took(sent.result())
                if acknowledged is not None:
                    acknowledged()

        self._under_way.add(future)
        future.add_done_callback(done)
        return future

    def _took(self, record: Any) -> None:
        self.acknowledged += 1
        behind = record.offset + 1
        if behind > self.position.get(record.partition, 0):
            self.position[record.partition] = behind

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._unavailable(self._failure)

    async def settle(self) -> None:
        """Wait until everything that was sent is acknowledged.

        Raises:
            LogUnavailable: Something was not, in time.
        """
        try:
            async with asyncio.timeout(self._within):
                await self._producer.flush()
                if self._under_way:
                    await asyncio.wait(self._under_way)
        except (KafkaError, TimeoutError) as error:
            raise self._unavailable(self._failure or error) from None
        self._raise_failure()
