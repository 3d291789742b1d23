"""How many answers a second one API process gives, and how long each takes, kind by kind.

A closed loop of 32 connections from a process of its own, users drawn at random. Beside the kinds,
in the same turns: an aiohttp handler that does nothing, the most that this server could give; the
same questions to a table of jobs in PostgreSQL; and what pg-boss has for one job.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Final

from benchmarks.asking import (
    SEARCH,
    Kind,
    Requests,
    asked_load,
    fill,
    in_turns,
    of_service,
    rows_of,
    told,
    warmed,
)
from benchmarks.client import Connection, get
from benchmarks.load import BIG_OWNER
from benchmarks.options import Options
from benchmarks.peers.beside import peers
from benchmarks.results import Result
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import distribution
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.processes import Process, api

NOTHING: Final = "aiohttp, does nothing"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = asked_load(options)
    settings = await stage.settings(topic=await loaded(stage, load))
    await fill(stage, settings, load.events)
    service = api(settings)
    url = await stage.start(service)
    requests = Requests(load, settings)
    stage.say("asking for every user once")
    connection = await warmed(url, requests.of_users(f"{SEARCH}?size=20"))
    asked = await _kinds(requests, connection)
    connection.close()
    kinds = [of_service(settings, url, [service.pid], *one) for one in asked.items()]
    kinds.append(await _nothing(stage, settings))
    async with AsyncExitStack() as stack:
        beside, left_out = await peers(stack, stage, settings, load, requests)
        runs, seen = await in_turns([*kinds, *beside], options)
    return Result(
        figure="answers",
        what="Answers a second of one API process, and their milliseconds.",
        parameters={**told(options, load), "left_out": left_out},
        runs=runs,
        rows=[row for name in seen for row in rows_of(name, runs, seen[name])],
        distributions={name: distribution(values) for name, values in seen.items()},
    )


async def _kinds(requests: Requests, connection: Connection) -> dict[str, list[bytes]]:
    many = f"{len(requests.jobs_of[BIG_OWNER]):,}"
    return {
        "search, page of 20": requests.of_users(f"{SEARCH}?size=20"),
        f"search, page of 100 of {many}": [get(SEARCH, requests.big)],
        "search, next page of 20 at depth": await requests.deep(connection),
        "search, a state without jobs": requests.of_users(f"{SEARCH}?state=failed"),
        "summary of a user": requests.of_users("/jobs/summary"),
        "summary of all jobs": requests.of_all(),
        "summary of a user, range of dates": requests.of_a_range(),
        "statuses of 10 jobs": requests.statuses(),
    }


async def _nothing(stage: Stage, settings: Settings) -> Kind:
    """Start the server that does nothing, and return how it is asked."""
    argv = [sys.executable, "-m", "benchmarks.peers.aiohttp_noop"]
    peer = Process(argv, child_environment(settings), settings.data_dir / "peer.log")
    url = await stage.start(peer)
    return of_service(settings, url, [peer.pid], NOTHING, [get("/nothing")])
