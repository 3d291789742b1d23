"""Events that come over HTTP, on their way into the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from jobtrail.core.errors import LogUnavailable
from jobtrail.core.position import Position, mark_of
from jobtrail.produce.delivery import Delivery
from jobtrail.settings import Settings
from services.api.problems.problems import perhaps_written

#: Seconds in which a write is acknowledged or refused.
WITHIN: Final = 4.5


class Ingest:
    """Writes to the log, and answers when it has been acknowledged.

    Args:
        settings: Which Kafka, which topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._delivery = Delivery(settings, WITHIN)

    async def write(self, events: Sequence[tuple[str, bytes]]) -> list[Position]:
        """Append events.

        Args:
            events: Of each the job's id and the encoded event.

        Returns:
            The position behind each.

        Raises:
            Problem: 503 where the log does not acknowledge all of them in time. Some may be in
                it: writing them again changes nothing.
        """
        try:
            sent = [await self._delivery.send(job_id, value) for job_id, value in events]
            # Not gather: what was given up must not be cancelled, it may be under way.
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
        """Let go of the log."""
        await self._delivery.close()
