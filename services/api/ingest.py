"""Events that come over HTTP, on their way into the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from aiokafka.errors import KafkaError

from jobtrail.errors import LogUnavailable
from jobtrail.position import format_position
from jobtrail.producer import LogWriter
from jobtrail.settings import Settings
from services.api.problems import log_unavailable

logger = logging.getLogger(__name__)

#: Seconds in which a write is acknowledged or refused.
WITHIN: Final = 4.5


class Ingest:
    """Writes to the log, and answers when it has been acknowledged.

    Args:
        settings: Which Kafka, which topic.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writer: LogWriter | None = None
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def write(self, events: Sequence[tuple[str, bytes]]) -> list[str]:
        """Append events.

        Args:
            events: Of each the job's id and the encoded event.

        Returns:
            The position behind each.

        Raises:
            Problem: 503 where the log does not acknowledge all of them in time. Some may be in
                it: writing them again changes nothing.
        """
        writer = None
        try:
            async with asyncio.timeout(WITHIN):
                writer = await self._open()
                sent = [await writer.append(job_id, value) for job_id, value in events]
                # Not gather: a send that was given up must not be cancelled, it may be under way.
                await asyncio.wait(sent)
                records = [future.result() for future in sent]
        except (LogUnavailable, KafkaError, TimeoutError) as error:
            if writer is not None and writer is self._writer:
                # A batch that expired burns a sequence number (aiokafka #1017): begin anew.
                self._writer = None
                closing = asyncio.create_task(_close(writer))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            raise log_unavailable(f"writing events: {error!r}") from None
        return [format_position({place.partition: place.offset + 1}) for place in records]

    async def _open(self) -> LogWriter:
        async with self._opening:
            if self._writer is None:
                self._writer = await LogWriter(self._settings, within=WITHIN).__aenter__()
            return self._writer

    async def close(self) -> None:
        """Let go of the log."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await _close(writer)


async def _close(writer: LogWriter) -> None:
    await writer.__aexit__(None, None, None)
