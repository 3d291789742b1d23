"""Waits that are held: the jobs that they wait for, and a connection each."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from benchmarks.client import Answer, Connection, get, post, until
from benchmarks.load import Job, Load
from benchmarks.projection import Projection
from benchmarks.stage import Tokens
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.processes import Process

#: Longer than any figure takes, in seconds.
WAIT: Final = 3600
_AT_ONCE: Final = 100
_HELD: Final = re.compile(rb"^jobtrail_waits_held ([0-9.e+]+)$", re.MULTILINE)


class Waiter:
    """One job, and a request that waits for its end."""

    def __init__(self, job: Job, connection: Connection, answer: asyncio.Future[Answer]) -> None:
        self.job = job
        self.connection = connection
        self.answer = answer


async def begin_jobs(settings: Settings, load: Load, worker: Process) -> list[Job]:
    """Write the first two events of every job of a load, until the projections hold them."""
    jobs = [load.job(number) for number in range(load.jobs)]
    async with LogWriter(settings) as writer:
        for step in (0, 1):
            for job in jobs:
                await writer.append(job.id, load.value(job, step, datetime.now(UTC)))
        await writer.settle()
    projection = Projection(settings, [worker])
    try:
        await projection.reaches(2 * load.jobs)
    finally:
        projection.close()
    return jobs


async def hold(settings: Settings, url: str, jobs: Sequence[Job]) -> list[Waiter]:
    """Ask for the end of each job, on a connection of its own; return when all waits are held."""
    tokens = Tokens(settings)
    waiters: list[Waiter] = []

    async def begin(job: Job) -> None:
        connection = await Connection.open(url)
        body = msgspec.json.encode({"jobIds": [job.id], "wait": WAIT})
        answer = connection.ask(post("/jobs/statuses", tokens.of(job.owner), body))
        waiters.append(Waiter(job, connection, answer))

    try:
        remaining = iter(jobs)
        while some := list(itertools.islice(remaining, _AT_ONCE)):
            await asyncio.gather(*map(begin, some))
        await until_held(url, len(jobs))
    except BaseException:
        let_go(waiters)
        raise
    return waiters


async def until_held(url: str, waits: int) -> None:
    """Wait until the service says that it holds so many waits."""
    connection = await Connection.open(url)
    try:
        await until(connection, get("/metrics"), lambda answer: _held(answer.body) == waits)
    finally:
        connection.close()


def _held(metrics: bytes) -> int:
    found = _HELD.search(metrics)
    return int(float(found[1])) if found else 0


def let_go(waiters: Sequence[Waiter]) -> None:
    """Hang up on all of them."""
    for waiter in waiters:
        waiter.connection.close()
