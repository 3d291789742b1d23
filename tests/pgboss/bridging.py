"""A bridge as a test runs it, and what pg-boss and the log have to agree on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from jobtrail.core.job import Job
from jobtrail.integrations.pgboss.bridge import Bridge, BridgeOptions
from jobtrail.integrations.pgboss.session import Figures
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.e2e.service import command
from tests.faults.flows import DEADLINE, fold_of, read_log
from tests.processes import Process

LOOK_EVERY: Final = 0.05

Counts = Mapping[tuple[str, str], int]


def bridge(settings: Settings, dsn: str, *options: str) -> Process:
    """Return a bridge on a log, not started yet."""
    argv = command("bridge", "pg-boss", "--dsn", dsn, "--every", "0.1", *options)
    return Process(argv, child_environment(settings), settings.data_dir / "bridge.log")


async def once(settings: Settings, dsn: str, **wanted: Any) -> Figures:
    """Bridge what is there."""
    made = Bridge(settings, BridgeOptions(dsn, once=True, **wanted))
    await made.run(asyncio.Event())
    return made.figures


async def jobs_of(settings: Settings) -> dict[str, Job]:
    """Return the fold of a log."""
    return fold_of(await read_log(settings)).jobs


async def counted_in(dsn: str) -> Counts:
    """Return how many jobs pg-boss has of each queue and state."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = "SELECT name, state FROM pgboss.job"
        if await connection.fetchval("SELECT to_regclass('pgboss.archive')"):
            tables += " UNION ALL SELECT name, state FROM pgboss.archive"
        query = f"SELECT name, state::text, count(*) FROM ({tables}) AS job GROUP BY 1, 2"
        return {(name, state): count for name, state, count in await connection.fetch(query)}
    finally:
        await connection.close()


def counted(jobs: Mapping[str, Job]) -> Counts:
    return Counter((str(job.job_type), str(job.state)) for job in jobs.values())


async def until_counted(settings: Settings, dsn: str) -> dict[str, Job]:
    """Wait until the log tells of the jobs what pg-boss's tables hold."""
    expected = await counted_in(dsn)
    found: dict[str, Job] = {}
    try:
        async with asyncio.timeout(DEADLINE):
            while counted(found := await jobs_of(settings)) != expected:
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError:
        assert counted(found) == expected
    return found


async def insert(connection: asyncpg.Connection[Any], queue: str) -> str:
    """Make a job; return its id."""
    query = "INSERT INTO pgboss.job (name) VALUES ($1) RETURNING id::text"
    return str(await connection.fetchval(query, queue))
