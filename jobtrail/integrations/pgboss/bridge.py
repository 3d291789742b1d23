"""Running the bridge: one session after the other, until it is stopped.

While PostgreSQL or Kafka is unavailable it waits, and then continues from the checkpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from jobtrail.core.errors import LogUnavailable
from jobtrail.integrations.pgboss.mapping import Labels
from jobtrail.integrations.pgboss.memory import Memory
from jobtrail.integrations.pgboss.session import Figures, Session, elapsed
from jobtrail.integrations.pgboss.source import PgBossSource, Unavailable
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings

logger = logging.getLogger(__name__)

#: Seconds before another attempt: the first, and the longest.
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
#: Seconds for finishing the current page when the bridge is stopped.
_FINISH_WITHIN: Final = 10.0


class BridgeOptions(NamedTuple):
    """What to bridge, and how."""

    #: The database, as libpq's URI.
    dsn: str
    #: Identifies the log among others of the same data folder: its servers as given; empty for the
    #: local Kafka, whose port may change.
    log: str = ""
    schema: str = "pgboss"
    #: The owner of jobs whose data names none.
    owner: str = "pg-boss"
    #: Keys that lead to a job's owner in its data.
    owner_path: Sequence[str] = ()
    bulk_path: Sequence[str] = ()
    #: The least seconds between two readings.
    every: float = 1.0
    #: End once everything that existed at the start is sent.
    once: bool = False
    #: Read everything again.
    again: bool = False


class Bridge:
    """One pg-boss schema, followed.

    Args:
        settings: Which log, and the data folder that keeps the checkpoint.
        wanted: What to bridge.
    """

    def __init__(self, settings: Settings, wanted: BridgeOptions) -> None:
        self._settings = settings
        self._wanted = wanted
        self.figures = Figures()

    @property
    def path(self) -> Path:
        """The file of the checkpoint: one for each database, schema and log."""
        url = urlsplit(self._wanted.dsn)
        which = f"{url.hostname}:{url.port}{url.path}?{url.query}\n{self._wanted.schema}"
        log = "\n".join([self._settings.topic, *filter(None, [self._wanted.log])])
        name = hashlib.sha256(f"{which}\n{log}".encode()).hexdigest()[:16]
        return self._settings.data_dir / "bridges" / f"pg-boss-{name}.db"

    async def run(self, stop: asyncio.Event) -> None:
        """Follow pg-boss until `stop` is set, or with `once` until everything is sent.

        While PostgreSQL or Kafka is unavailable it waits; with `once` that is an error.

        Raises:
            JobtrailError: A permanent error.
        """
        pause = _FIRST_PAUSE
        while not stop.is_set():
            readings = self.figures.readings
            try:
                await self._until(stop)
                if self._wanted.once:
                    return
            except (Unavailable, LogUnavailable) as error:
                if self._wanted.once:
                    raise
                if self.figures.readings > readings:
                    pause = _FIRST_PAUSE
                logger.warning("action=bridge_waits seconds=%g reason=%s", pause, error)
                await elapsed(stop, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _until(self, stop: asyncio.Event) -> None:
        """Run a session; end it when `stop` is set, by cancelling it if it takes too long."""
        session = asyncio.create_task(self._session(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({session, stopped}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({session}, timeout=_FINISH_WITHIN if stop.is_set() else None)
        finally:
            for task in (session, stopped):
                task.cancel()
            outcomes = await asyncio.gather(session, stopped, return_exceptions=True)
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]

    async def _session(self, stop: asyncio.Event) -> None:
        """Read and send on one connection to each, until something fails."""
        wanted = self._wanted
        source = PgBossSource(wanted.dsn, wanted.schema, wanted.owner_path, wanted.bulk_path)
        with Memory(self.path) as memory:
            async with source, LogWriter(self._settings) as writer:
                labels = Labels(f"//pg-boss/{source.database}/{wanted.schema}", wanted.owner)
                session = Session(source, memory, writer, labels, self.figures)
                if wanted.again and not self.figures.readings:
                    session.forget()
                await session.run(stop, wanted.every, once=wanted.once)
