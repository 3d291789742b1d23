"""How far the projections of some settings are, as an onlooker sees it: read from the store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.options import PATIENCE
from jobtrail.core.errors import StoreError
from jobtrail.settings import Settings
from projections.sqlite.read.reader import SqliteReader
from tests.processes import Process

#: Seconds between two looks: they cost a fifth of a millisecond each.
LOOK: Final = 0.02


class Projection:
    """The store of some settings.

    Args:
        settings: Which store.
        projectors: Whose logs are shown when it does not get on.
    """

    def __init__(self, settings: Settings, projectors: Sequence[Process]) -> None:
        self._folder = settings.store_folder
        self._projectors = projectors
        self._reader: SqliteReader | None = None

    def applied(self) -> int:
        """Return how many records of the log the store holds, all partitions together."""
        try:
            if self._reader is None:
                self._reader = SqliteReader(self._folder)
            with self._reader.snapshot() as snapshot:
                return sum(snapshot.watermark.position.values())
        except StoreError:
            return 0

    async def reaches(self, records: int) -> int:
        """Wait until the store holds as many records, and return how many it holds then.

        Raises:
            RuntimeError: It does not get on, or a projector has ended.
        """
        seen, since = -1, time.monotonic()
        while (applied := self.applied()) < records:
            if applied != seen:
                seen, since = applied, time.monotonic()
            if time.monotonic() - since > PATIENCE or any(map(_has_ended, self._projectors)):
                logs = "\n".join(p.log.read_text()[-2000:] for p in self._projectors)
                raise RuntimeError(f"the projections stay at {applied} of {records}:\n{logs}")
            await asyncio.sleep(LOOK)
        return applied

    def close(self) -> None:
        """Let go of the store."""
        if self._reader is not None:
            self._reader.close()


def _has_ended(process: Process) -> bool:
    try:
        return process.child.returncode is not None
    except AssertionError:  # it is not started yet
        return False
