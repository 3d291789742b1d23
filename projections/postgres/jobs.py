"""Jobs as the fold takes them, read from their rows: for who writes and for who reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import orjson

from jobtrail.core.earlier import StoredEntries
from jobtrail.core.job import Job
from projections.ports.read import job_of
from projections.postgres.connection import Connection
from projections.postgres.layout import (
    LINE_COLUMNS,
    LINES,
    PARTITION_OF_ROW,
    audience_of,
    first_row,
    storable,
)

_READ: Final = (
    f"SELECT {LINE_COLUMNS}, audience, type, row, c.generation, source, writers, "  # noqa: S608
    f"spilled, trail FROM {LINES} JOIN checkpoints c ON c.partition = {PARTITION_OF_ROW} "
    "WHERE j.id = ANY(%s)"
)
_IN_PARTITION: Final = f"{_READ} AND row > %s AND row < %s"


class StoredJob(NamedTuple):
    """A job with the last entries of its trail, and how it lies in the store."""

    job: Job
    row: int
    #: Audience, type, creation, bulk id.
    key: tuple[int, int, int, str | None]
    state: int
    #: Of its partition, as of the same moment.
    generation: int


def read_jobs(
    connection: Connection, ids: Sequence[str], partition: int | None = None
) -> Iterator[StoredJob]:
    """Yield those of some jobs that there are.

    Args:
        connection: Of the store.
        ids: The jobs'.
        partition: In which they are looked for; None for all.
    """
    asked = [job_id for job_id in ids if storable(job_id)]
    if partition is None:
        found = connection.execute(_READ.encode(), (asked,))
    else:
        between = (first_row(partition), first_row(partition + 1))
        found = connection.execute(_IN_PARTITION.encode(), (asked, *between))
    for (
        *line,
        owner,
        viewers,
        name,
        audience,
        job_type,
        row,
        generation,
        source,
        writers,
        spilled,
        trail,
    ) in found.fetchall():
        job = job_of(line, audience_of(owner, viewers), name)
        job.source = source
        job.writers = tuple(orjson.loads(writers)) if writers else ()
        job.trail = trail
        if spilled:
            job.earlier = StoredEntries(spilled)
        key = (audience, job_type, job.created_at, job.bulk_id)
        yield StoredJob(job, row, key, line[1], generation)
