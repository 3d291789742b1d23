"""What is known of every job at one place of the log, for who follows it from there.

However many jobs there are, they lie in a file without a name and little of it in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from struct import Struct as Layout
from typing import Final

import msgspec
import orjson

from jobtrail.core.earlier import StoredEntries
from jobtrail.core.events import Event
from jobtrail.core.fold import fold
from jobtrail.core.job import Job, Place, event_key
from jobtrail.core.trail import keys_of

#: KiB of the file that stay in memory.
_CACHE: Final = 64 * 1024
_KEY: Final = Layout("<q")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Job).decode


class KnownJobs:
    """Jobs as `jobtrail.core.fold.fold` has them, without what they put out and why they failed."""

    def __init__(self) -> None:
        # An empty name is a file that is gone with the connection.
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, job BLOB, earlier INTEGER) WITHOUT ROWID"
        )
        # Of long trails what is needed of their beginning: by what a duplicate is known.
        self._db.execute(
            "CREATE TABLE keys (id TEXT, key INTEGER, PRIMARY KEY (id, key)) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")

    def take(self, events: Iterable[tuple[Event, Place]]) -> list[Job]:
        """Fold the log's next events; return the job after each of them."""
        rows = list(events)
        jobs = self._read(list({event.subject for event, _ in rows}))
        self._recall(jobs, rows)
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
            "SELECT id, job, earlier FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (orjson.dumps(ids).decode(),),
        )
        jobs = {}
        for job_id, content, earlier in found:
            job = jobs[job_id] = _decode(content)
            job.earlier = StoredEntries(earlier) if earlier else None
        return jobs

    def _recall(self, jobs: dict[str, Job], rows: Sequence[tuple[Event, Place]]) -> None:
        """Let the fold know which of some events were there before."""
        asked: dict[str, set[bytes]] = {}
        for event, _ in rows:
            if event.subject in jobs and jobs[event.subject].earlier is not None:
                asked.setdefault(event.subject, set()).add(event_key(event.id))
        for job_id, keys in asked.items():
            numbers = {_KEY.unpack(key)[0]: key for key in keys}
            found = self._db.execute(
                "SELECT key FROM keys WHERE id=? AND key IN (SELECT value FROM json_each(?))",
                (job_id, orjson.dumps(list(numbers)).decode()),
            )
            seen = {numbers[number] for (number,) in found}
            earlier = jobs[job_id].earlier
            assert isinstance(earlier, StoredEntries)
            jobs[job_id].earlier = earlier.with_answers({key: key in seen for key in keys})

    def _write(self, jobs: dict[str, Job]) -> None:
        rows: list[tuple[str, bytes, int]] = []
        keys: list[tuple[str, int]] = []
        for job_id, job in jobs.items():
            # No verdict depends on them, and they may be long.
            job.output = job.error = None
            earlier, job.earlier = job.earlier, None
            if earlier is not None:
                keys += [(job_id, *_KEY.unpack(key)) for key in keys_of(earlier.kept())]
            rows.append((job_id, _encode(job), earlier.entries if earlier is not None else 0))
        self._db.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?)", rows)
        self._db.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?)", keys)
