"""Writes events that arrive over HTTP to the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from jobtrail.core.errors import LogUnavailable
from jobtrail.core.position import Position, mark_of
from jobtrail.produce.delivery import Delivery
from jobtrail.settings import Settings
from services.api.problems.problems import perhaps_written

#: Seconds after which a write that Kafka has not acknowledged fails.
WITHIN: Final = 4.5


class Ingest:
    """Writes to the log, and returns when Kafka has acknowledged it.

    Args:
        settings: Name the brokers and the topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._delivery = Delivery(settings, WITHIN)

    async def write(self, events: Sequence[tuple[str, bytes]]) -> list[Position]:
        """Append events.

        Args:
            events: Pairs of the job's id and the encoded event.

        Returns:
            The position after each event.

        Raises:
            Problem: 503 if Kafka does not acknowledge all of them in time. Some may be in the log;
                writing them again changes nothing.
        """
        try:
            sent = [await self._delivery.send(job_id, value) for job_id, value in events]
            # Not gather, which would cancel the other sends at the first error.
            await asyncio.wait(sent)
            places = [future.result() for future in sent]
        except LogUnavailable as error:
            raise perhaps_written(f"writing events: {error}") from None
        return [
            Position(
                {place.partition: place.offset + 1},
                {place.partition: mark_of(job_id.encode(), value)},
            )
            for place, (job_id, value) in zip(places, events, strict=True)
        ]

    async def close(self) -> None:
        """Close the connection to Kafka."""
        await self._delivery.close()
