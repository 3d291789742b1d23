"""What is known of every job at one place of the log, for who follows it from there.

However many jobs there are, they lie in a file without a name and little of it in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import orjson

from jobtrail.events import Event
from jobtrail.fold import fold
from jobtrail.job import Job, Place

#: KiB of the file that stay in memory.
_CACHE: Final = 64 * 1024
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Job).decode


class KnownJobs:
    """Jobs as `jobtrail.fold.fold` has them, without what they put out and why they failed."""

    def __init__(self) -> None:
        # An empty name is a file that is gone with the connection.
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, job BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def take(self, events: Iterable[tuple[Event, Place]]) -> list[Job]:
        """Fold the log's next events; return the job after each of them."""
        rows = list(events)
        jobs = self._read(list({event.subject for event, _ in rows}))
        after = []
        for event, place in rows:
            job, _ = fold(jobs.get(event.subject), event, place)
            jobs[event.subject] = job
            after.append(job)
        self._write(jobs)
        return after

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _read(self, ids: Sequence[str]) -> dict[str, Job]:
        found = self._db.execute(
            "SELECT id, job FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (orjson.dumps(ids).decode(),),
        )
        return {job_id: _decode(job) for job_id, job in found}

    def _write(self, jobs: dict[str, Job]) -> None:
        for job in jobs.values():
            # No verdict depends on them, and they may be long.
            job.output = job.error = None
        self._db.executemany(
            "INSERT OR REPLACE INTO jobs VALUES (?, ?)",
            ((job_id, _encode(job)) for job_id, job in jobs.items()),
        )
