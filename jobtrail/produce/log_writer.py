"""Writing files of events to the log: completely, or with an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from jobtrail.core.errors import LogUnavailable
from jobtrail.produce.delivery import Delivered, Delivery
from jobtrail.settings import Settings

#: Seconds within which Kafka has to answer at the start.
_START_WITHIN: Final = 15.0


class LogWriter:
    """Appends events to the log and tracks the position after the acknowledged ones.

    Use it as an async context manager. The first event that is not acknowledged ends it.

    Args:
        settings: Which Kafka, which topic.
        within: Seconds after which a start, a send or a stop is given up.
    """

    def __init__(self, settings: Settings, within: float = 30.0) -> None:
        self._delivery = Delivery(settings, within)
        self._start_within = min(within, _START_WITHIN)
        self._failure: LogUnavailable | None = None
        #: Events acknowledged so far.
        self.acknowledged = 0
        #: Per partition the offset after the last acknowledged event.
        self.position: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            LogUnavailable: Kafka did not answer in time.
        """
        try:
            await self._delivery.open(self._start_within)
        except BaseException:
            await self._delivery.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect; events that `settle` did not wait for may be lost."""
        await self._delivery.close()

    async def append(
        self, job_id: str, value: bytes, acknowledged: Callable[[], None] | None = None
    ) -> asyncio.Future[Delivered]:
        """Send one event; waits only while too many are in flight.

        Args:
            job_id: The record's key.
            value: The encoded event.
            acknowledged: Called when Kafka has it.

        Returns:
            Where it went, once Kafka has it. Don't cancel it.

        Raises:
            LogUnavailable: This or an earlier event was not acknowledged in time.
        """
        self._raise_failure()
        future = await self._delivery.send(job_id, value)

        def done(sent: asyncio.Future[Delivered]) -> None:
            error = sent.exception()
            if isinstance(error, LogUnavailable):
                self._failure = self._failure or error
                return
            self._took(sent.result())
            if acknowledged is not None:
                acknowledged()

        future.add_done_callback(done)
        return future

    def _took(self, place: Delivered) -> None:
        self.acknowledged += 1
        next_offset = place.offset + 1
        if next_offset > self.position.get(place.partition, 0):
            self.position[place.partition] = next_offset

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def settle(self) -> None:
        """Wait until everything that was sent is acknowledged.

        Raises:
            LogUnavailable: Something was not, in time.
        """
        await self._delivery.settle()
        self._raise_failure()
