"""Jobs as a shard has them, found by the hashes of their ids: for who writes and who reads."""

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
    """A job as the fold takes it, and how it lies in its shard."""

    job: Job
    audience: int
    type: int
    row: int


def rows_of(
    db: schema.Connection, ids: Sequence[str], seed: int, shard: str = "main"
) -> Iterator[Sequence[Any]]:
    """Return what a shard has of those of some jobs that it knows.

    Args:
        db: Has the shard.
        ids: The jobs', each once.
        seed: Of the hashes by which the shard is asked.
        shard: What it is called on this connection.

    Returns:
        `COLUMNS`, `FOLD_COLUMNS`, the row's number, how many entries of the trail are spilled, and
        the last ones.
    """
    return _read(db, f"{COLUMNS}, {FOLD_COLUMNS}, row, spilled, trail", ids, seed, shard)


def _read(
    db: schema.Connection, columns: str, ids: Sequence[str], seed: int, shard: str
) -> Iterator[Sequence[Any]]:
    """Yield these columns of those of some jobs that a shard knows."""
    for some in in_pieces(ids):
        values: Values = []
        room = put_ids(values, some, seed)
        yield from db.execute(f"SELECT {columns} FROM {named(shard, room)}", values).fetchall()  # noqa: S608


def read_jobs(
    db: schema.Connection, ids: Sequence[str], seed: int, names: Names, shard: str = "main"
) -> Iterator[StoredJob]:
    """Yield those of some jobs that a shard knows, with the last entries of their trails.

    Args:
        db: Has the shard.
        ids: The jobs', each once.
        seed: Of the hashes by which the shard is asked.
        names: Of the shard.
        shard: What it is called on this connection.
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
    """Yield those of some jobs that a shard knows, with their audiences; as `read_jobs`."""
    for job_id, audience in _read(db, "id, audience", ids, seed, shard):
        yield job_id, names.audience(audience)


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
