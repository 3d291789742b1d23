"""Reads stored jobs by the hashes of their ids, for the writer and for the reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jobtrail.core.earlier import StoredEntries
from jobtrail.core.job import Job
from projections.ports.read import Audience
from projections.sqlite.files import schema
from projections.sqlite.tables.by_ids import Values, in_pieces, named, put_ids
from projections.sqlite.tables.rows import COLUMNS, FOLD_COLUMNS, Names, unpack_writers


class StoredJob(NamedTuple):
    """A job with all that the fold needs, and its place in the shard."""

    job: Job
    audience: int
    type: int
    row: int


def rows_of(
    db: schema.Connection, ids: Sequence[str], seed: int, shard: str = "main"
) -> Iterator[Sequence[Any]]:
    """Return the rows of those of some jobs that a shard has.

    Args:
        db: Has the shard.
        ids: Ids of jobs, each once.
        seed: The seed of the shard's hashes.
        shard: Its name on this connection.

    Returns:
        `COLUMNS`, `FOLD_COLUMNS`, the row's number, how many entries of the trail are in chunks,
        and the last entries.
    """
    return _read(db, f"{COLUMNS}, {FOLD_COLUMNS}, row, spilled, trail", ids, seed, shard)


def _read(
    db: schema.Connection, columns: str, ids: Sequence[str], seed: int, shard: str
) -> Iterator[Sequence[Any]]:
    """Yield these columns of those of some jobs that a shard has."""
    for some in in_pieces(ids):
        values: Values = []
        room = put_ids(values, some, seed)
        yield from db.execute(f"SELECT {columns} FROM {named(shard, room)}", values).fetchall()  # noqa: S608


def read_jobs(
    db: schema.Connection, ids: Sequence[str], seed: int, names: Names, shard: str = "main"
) -> Iterator[StoredJob]:
    """Yield those of some jobs that a shard has, with the last entries of their trails.

    Args:
        db: Has the shard.
        ids: Ids of jobs, each once.
        seed: The seed of the shard's hashes.
        names: The shard's names.
        shard: Its name on this connection.
    """
    for *columns, source, writers, row, spilled, trail in rows_of(db, ids, seed, shard):
        job = whole_job(columns, source, writers, names)
        job.trail = trail
        if spilled:
            job.earlier = StoredEntries(spilled)
        yield StoredJob(job, columns[-2], columns[-1], row)


def read_audiences(
    db: schema.Connection, ids: Sequence[str], seed: int, names: Names, shard: str = "main"
) -> Iterator[tuple[str, Audience]]:
    """Yield the ids and audiences of those of some jobs that a shard has; see `read_jobs`."""
    for job_id, audience in _read(db, "id, audience", ids, seed, shard):
        yield job_id, names.audience(audience)


def whole_job(columns: list[Any], source: str, writers: str | None, names: Names) -> Job:
    """Build a job with all that the fold needs but its trail.

    Args:
        columns: `COLUMNS`.
        source: The row's source.
        writers: The row's writers, packed.
        names: The shard's names.
    """
    job = names.job(columns)
    job.source, job.writers = source, unpack_writers(writers)
    return job
