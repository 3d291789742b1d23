"""A bridge's stored state: how far it has read, and which jobs were cancelled.

The checkpoint is written after Kafka has acknowledged the events before it; a cancellation before
its event is sent, since nothing in pg-boss distinguishes a resumed job from one that was never
cancelled. Without the file everything is read and sent again, which changes no job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from jobtrail.core.errors import JobtrailError
from jobtrail.integrations.pgboss.mapping import Past

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS checkpoint (only INTEGER PRIMARY KEY CHECK (only = 1), value BLOB);
CREATE TABLE IF NOT EXISTS cancelled (job TEXT PRIMARY KEY, past BLOB NOT NULL) WITHOUT ROWID;
"""


class Reading(msgspec.Struct, frozen=True):
    """The reading in progress, and how far it is."""

    #: Only rows written by this transaction or a later one are read; None: all rows.
    since: int | None
    #: Where the next reading begins.
    until: int
    #: The table and its file; tables with lower numbers are done. 0: none is done.
    table: int = 0
    file: int = 0
    #: The last row read: block, row.
    place: tuple[int, int] = (0, 0)


class BridgeCheckpoint(msgspec.Struct, frozen=True):
    """How far a bridge has read."""

    #: The cluster, timeline and database that the numbers belong to.
    origin: str = ""
    #: The transaction that the next reading begins with; None: all rows.
    since: int | None = None
    reading: Reading | None = None


class Memory:
    """The file of one bridge. Use it as a context manager.

    Args:
        path: The file; it is made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        #: The last checkpoint that was written.
        self.checkpoint = BridgeCheckpoint()

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            JobtrailError: It can't be used.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._path, isolation_level=None)
            self._file.executescript(f"PRAGMA journal_mode=WAL;{_SCHEMA}")
            found = self._file.execute("SELECT value FROM checkpoint").fetchone()
            if found:
                self.checkpoint = msgspec.json.decode(found[0], type=BridgeCheckpoint)
        except (OSError, sqlite3.Error, msgspec.MsgspecError) as error:
            raise JobtrailError(
                "The bridge's checkpoint can't be used.",
                where=str(self._path),
                found=str(error),
                hint="Delete the file: everything is sent again, which changes no job.",
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    def past(self, job: str) -> Past | None:
        """Return what is stored about a job's cancellations."""
        found = self._file.execute("SELECT past FROM cancelled WHERE job = ?", (job,)).fetchone()
        return msgspec.json.decode(found[0], type=Past) if found else None

    def remember(self, cancelled: Mapping[str, Past]) -> None:
        """Store jobs that were cancelled."""
        if not cancelled:
            return
        with self._file:
            self._file.execute("BEGIN")
            self._file.executemany(
                "INSERT OR REPLACE INTO cancelled VALUES (?, ?)",
                ((job, msgspec.json.encode(past)) for job, past in cancelled.items()),
            )

    def save(self, checkpoint: BridgeCheckpoint) -> None:
        """Store the checkpoint."""
        value = msgspec.json.encode(checkpoint)
        self._file.execute("INSERT OR REPLACE INTO checkpoint VALUES (1, ?)", (value,))
        self.checkpoint = checkpoint
