"""Jobs as a shard has them, found by the hashes of their ids: for who writes and who reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from jobtrail.job import Job
from jobtrail.trail import Elsewhere
from projections.sqlite import schema
from projections.sqlite.rows import COLUMNS, FOLD_COLUMNS, Names, hashes_of, unpack_writers

#: Finds rows of jobs by what `by_id` returns. Ids are compared before anything wide is read: others
#: may have the same hashes.
BY_ID: Final = (
    "hash IN (SELECT value FROM json_each(?1)) AND id IN (SELECT value FROM json_each(?2))"
)


class StoredJob(NamedTuple):
    """A job as the fold takes it, and how it lies in its shard."""

    job: Job
    audience: int
    type: int
    row: int


def by_id(ids: Sequence[str], seed: int) -> tuple[str, str]:
    """Return the values of `BY_ID` for some jobs.

    Args:
        ids: The jobs'.
        seed: Of the shard's hashes.
    """
    return orjson.dumps(hashes_of(ids, seed)).decode(), orjson.dumps(ids).decode()


def read_jobs(
    db: schema.Connection, ids: Sequence[str], seed: int, names: Names, shard: str = "main"
) -> Iterator[StoredJob]:
    """Yield those of some jobs that a shard knows, with the last entries of their trails.

    Args:
        db: Has the shard.
        ids: The jobs'.
        seed: Of the hashes by which the shard is asked.
        names: Of the shard.
        shard: What it is called on this connection.
    """
    rows = db.execute(
        f"SELECT {COLUMNS}, {FOLD_COLUMNS}, row, spilled, trail FROM {shard}.jobs "  # noqa: S608
        f"WHERE {BY_ID}",
        by_id(ids, seed),
    )
    for *columns, source, writers, row, spilled, trail in rows.fetchall():
        job = whole_job(columns, source, writers, names)
        job.trail = trail
        if spilled:
            job.earlier = Elsewhere(spilled)
        yield StoredJob(job, columns[-2], columns[-1], row)


def whole_job(columns: list[Any], source: str, writers: str | None, names: Names) -> Job:
    """Build a job as the fold takes it, but for its trail.

    Args:
        columns: `COLUMNS`.
        source: As in the row, as are the writers.
        writers: Packed.
        names: Of the shard.
    """
    job = names.job(columns)
    job.source, job.writers = source, unpack_writers(writers)
    return job
