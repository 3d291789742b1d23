"""A table of jobs in PostgreSQL, as a team would write it: what this service is held against.

Each job's row is written over by its events: no trail of them, no counters. Whoever may see a job
beside its owner stands in an array with an inverted index.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from benchmarks.load import BEGIN, Load

#: What the server is given beyond what Debian ships: room for the table in memory, and for so much
#: to be written that no checkpoint falls into a figure. Whatever is durable stays so.
PARAMETERS: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB"}

SCHEMA: Final = """
CREATE TABLE jobs (
    id text PRIMARY KEY,
    owner text,
    viewers text[],
    type text,
    state text NOT NULL,
    bulk_id text,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    updated_at timestamptz NOT NULL,
    ended_at timestamptz,
    attempt integer NOT NULL,
    progress double precision,
    tags jsonb,
    error jsonb,
    output jsonb
);
CREATE INDEX jobs_of_owner ON jobs (owner, created_at DESC, id);
CREATE INDEX jobs_by_time ON jobs (created_at DESC);
CREATE INDEX jobs_of_bulk ON jobs (bulk_id);
CREATE INDEX jobs_for_viewers ON jobs USING gin (viewers);
CREATE TABLE offsets (partition integer PRIMARY KEY, next bigint NOT NULL);
"""
COLUMNS: Final = (
    "id",
    "owner",
    "viewers",
    "type",
    "state",
    "bulk_id",
    "created_at",
    "started_at",
    "updated_at",
    "ended_at",
    "attempt",
    "progress",
    "tags",
    "error",
    "output",
)

_LISTED: Final = ", ".join(COLUMNS)
# Two ordered walks of an index each end after a page; an OR would sort all jobs of an owner.
_PAGE: Final = f"""
WITH owned AS (
    SELECT {_LISTED} FROM jobs WHERE owner = $1 {{filter}}
    ORDER BY created_at DESC, id LIMIT $3
), shared AS MATERIALIZED (
    SELECT {_LISTED} FROM jobs WHERE viewers && $2 AND owner <> $1 {{filter}}
)
SELECT * FROM owned UNION ALL SELECT * FROM shared ORDER BY created_at DESC, id LIMIT $3
"""
PAGE: Final = _PAGE.format(filter="")
PAGE_OF_STATE: Final = _PAGE.format(filter="AND state = $4")
SUMMARY: Final = """
SELECT type, state, count(*) FROM jobs WHERE owner = $1 OR viewers && $2 GROUP BY type, state
"""
SUMMARY_OF_ALL: Final = "SELECT type, state, count(*) FROM jobs GROUP BY type, state"
STATUSES: Final = """
SELECT id, state, output FROM jobs WHERE id = ANY($1) AND (owner = $2 OR viewers && $3)
"""


class Job(NamedTuple):
    """A row, in the order of `COLUMNS`."""

    id: str
    owner: str
    viewers: list[str]
    type: str
    state: str
    bulk_id: str
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    ended_at: datetime
    attempt: int
    progress: float | None
    tags: str
    error: str | None
    output: str


def rows(load: Load) -> Iterator[Job]:
    """Yield the rows of a load's jobs once all of its events are in; each ended.

    Args:
        load: Whose jobs go from `created` to `completed` and no other way.
    """
    assert load.life == ("created", "completed")
    between = timedelta(days=load.days) / load.events
    created: dict[int, datetime] = {}
    for at, (job, step) in enumerate(load.steps()):
        time = BEGIN + at * between
        if step == 0:
            created[job.number] = time
            continue
        yield Job(
            id=job.id,
            owner=job.owner,
            viewers=[job.team] if job.team is not None else [],
            type=job.job_type,
            state="completed",
            bulk_id=job.bulk,
            created_at=created.pop(job.number),
            started_at=None,
            updated_at=time,
            ended_at=time,
            attempt=0,
            progress=None,
            tags=f'{{"tenant": "tenant-{job.number % 7}"}}',
            error=None,
            output=f'{{"rows": {job.number * 37 % 100_000}, "seconds": {job.number % 60}, '
            f'"table": "warehouse.t{job.number % 1000}"}}',
        )


async def make(connection: Any) -> None:
    """Make the empty tables."""
    await connection.execute(SCHEMA)


async def fill(connection: Any, load: Load) -> None:
    """Make the tables and fill them with a load's jobs, tidied up as autovacuum would by and by.

    Args:
        connection: Of asyncpg.
        load: As for `rows`.
    """
    await make(connection)
    await connection.copy_records_to_table("jobs", records=rows(load), columns=COLUMNS)
    await connection.execute("VACUUM ANALYZE jobs")
