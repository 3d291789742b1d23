"""What `answers` is held against: a jobs table in PostgreSQL, and pg-boss, where they can run."""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from benchmarks.asking import CONNECTIONS, WARM_UP, Kind, Requests, carried_out
from benchmarks.hammer import Hammered
from benchmarks.load import BIG_OWNER, Load
from benchmarks.peers import jobs_table
from benchmarks.peers.postgres_asking import Question
from benchmarks.stage import Stage
from benchmarks.usage import Meter, read_tree
from jobtrail.settings import Settings
from tests.pgboss.servers import Driver, install
from tests.postgres import Postgres, find_programs

_PG_BOSS: Final = Path(__file__).parent / "pg_boss.mjs"
#: Jobs of pg-boss, at most: they are looked up by their keys.
_PG_BOSS_JOBS: Final = 100_000


async def peers(
    stack: AsyncExitStack, stage: Stage, settings: Settings, load: Load, requests: Requests
) -> tuple[list[Kind], list[str]]:
    """Start the peers.

    Args:
        stack: Ends them.
        stage: Where they run.
        settings: Whose folder they may use.
        load: The jobs that they hold.
        requests: Whose jobs are asked for.

    Returns:
        How they are asked, and which of them is left out for what reason.
    """
    programs = find_programs()
    if programs is None:
        return [], ["PostgreSQL table, pg-boss: PostgreSQL is not installed"]
    # Not in the data folder, where no other user may go.
    postgres = Postgres(programs, jobs_table.PARAMETERS, settings.data_dir.parent)
    stack.push_async_callback(postgres.remove)
    await postgres.start()
    stage.say("filling PostgreSQL")
    dsn = await postgres.make("jobs")
    connection = await asyncpg.connect(dsn)
    await jobs_table.fill(connection, load)
    await connection.close()
    found = [
        Kind(f"PostgreSQL table: {name}", partial(_ask, settings, dsn, postgres.pid, *asked))
        for name, asked in _questions(requests).items()
    ]
    try:
        found.append(await _pg_boss(stack, stage, settings, postgres, load))
    except (OSError, subprocess.CalledProcessError) as error:
        return found, [f"pg-boss: npm could not install it, {type(error).__name__}"]
    return found, []


#: A query, and the arguments that are drawn from.
_Asked = tuple[str, list[list[Any]]]


def _questions(requests: Requests) -> dict[str, _Asked]:
    users = list(requests.bearers)

    def of_users(*more: Any) -> list[list[Any]]:
        return [[user, [f"user:{user}"], *more] for user in users]

    many = f"{len(requests.jobs_of[BIG_OWNER]):,}"
    return {
        "page of 20": (jobs_table.PAGE, of_users(20)),
        f"page of 100 of {many}": (jobs_table.PAGE, [[BIG_OWNER, [f"user:{BIG_OWNER}"], 100]]),
        "a state without jobs": (jobs_table.PAGE_OF_STATE, of_users(100, "failed")),
        "summary of a user": (jobs_table.SUMMARY, of_users()),
        "summary of all jobs": (jobs_table.SUMMARY_OF_ALL, [[]]),
        "statuses of 10 jobs": (
            jobs_table.STATUSES,
            [[ids, user, [f"user:{user}"]] for user, ids in requests.ids],
        ),
    }


async def _ask(
    settings: Settings,
    dsn: str,
    pid: int,
    query: str,
    arguments: list[list[Any]],
    seconds: float,
) -> Hammered:
    question = Question(dsn, pid, CONNECTIONS, WARM_UP, seconds, query, arguments)
    return await carried_out("benchmarks.peers.postgres_asking", question, settings)


async def _pg_boss(
    stack: AsyncExitStack, stage: Stage, settings: Settings, postgres: Postgres, load: Load
) -> Kind:
    """Start pg-boss and return how it is asked."""
    folder = stage.folder / "pg-boss"
    folder.mkdir(exist_ok=True)
    await asyncio.to_thread(install, folder)
    seen = settings.data_dir / "pg-boss.json"
    arguments = (min(load.jobs, _PG_BOSS_JOBS), CONNECTIONS, WARM_UP, seen)
    dsn = await postgres.make("boss")
    driver = Driver(folder, str(_PG_BOSS), dsn, *map(str, arguments))
    await stack.enter_async_context(driver)
    await driver.stage("fill")

    async def ask(seconds: float) -> Hammered:
        await driver.stage("begin")
        meter = Meter({"load": driver.pid, "server": partial(read_tree, postgres.pid)})
        began = time.perf_counter()
        await asyncio.sleep(seconds)
        took, processes = time.perf_counter() - began, meter.stop()
        await driver.stage("end")
        latencies = msgspec.json.decode(seen.read_bytes(), type=list[float])
        return Hammered(took, latencies, 0, 0, processes)

    return Kind("pg-boss: getJobById", ask)
