"""How many answers a second one API process gives, and how long each takes, kind by kind.

A closed loop of 32 connections from a process of its own, users drawn at random. Beside the kinds,
in the same turns: an aiohttp handler that does nothing, the most that this server could give.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import defaultdict
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.client import Connection, get, post, until_ready
from benchmarks.hammer import Hammered, Task
from benchmarks.load import BIG_OWNER, Load
from benchmarks.options import Options
from benchmarks.projection import Projection
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage, Tokens, run_to_end
from benchmarks.stats import distribution, latencies, middle
from jobtrail.process import child_environment
from jobtrail.settings import Settings
from jobtrail.tokens import READ_ALL
from tests.processes import Process, api, projector

CONNECTIONS: Final = 32
WARM_UP: Final = 0.5
PEER: Final = "aiohttp, does nothing"
#: Pages of 100 that lie before the ones that are asked for at depth, at most.
_DEPTH: Final = 100
_SEARCH: Final = "/jobs/search"
#: Two days of the load's thirty, and parts of two more.
_RANGE: Final = "startDate=2026-01-08T09:30:00Z&endDate=2026-01-11T17:45:00Z"


class _Kind(NamedTuple):
    """One kind of request."""

    name: str
    requests: list[bytes]


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = _load(options)
    settings = await _filled(stage, load)
    service = api(settings)
    url = await stage.start(service)
    connection = await Connection.open(url)
    await until_ready(connection)
    kinds = await _kinds(load, Tokens(settings), connection)
    stage.say("asking for every user once")
    for request in kinds[0].requests:
        await connection.expect(request)
    connection.close()
    argv = [sys.executable, "-m", "benchmarks.peers.aiohttp_noop"]
    peer = Process(argv, child_environment(settings), settings.data_dir / "peer.log")
    peer_url = await stage.start(peer)
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.runs):
        for kind in kinds:
            found = await _hammer(settings, url, service.pid, kind.requests, options.asking)
            runs.append(_run(kind.name, found))
            seen[kind.name] += found.latencies_ms
        found = await _hammer(settings, peer_url, peer.pid, [get("/nothing")], options.asking)
        runs.append(_run(PEER, found))
        seen[PEER] += found.latencies_ms
    return Result(
        figure="answers",
        what="Answers a second of one API process, and their milliseconds.",
        parameters={
            "runs": options.runs,
            "seconds": options.asking,
            "warm_up_seconds": WARM_UP,
            "connections": CONNECTIONS,
            "load": load.as_parameters(),
        },
        runs=runs,
        rows=[row for name in seen for row in _rows(name, runs, seen[name])],
        distributions={name: distribution(values) for name, values in seen.items()},
    )


def _load(options: Options) -> Load:
    jobs = options.jobs + options.big_jobs
    return Load(
        jobs=jobs,
        owners=max(10, options.jobs // 20),
        under_way=jobs // 20,
        life=("created", "completed"),
        big_every=jobs // options.big_jobs,
    )


async def _filled(stage: Stage, load: Load) -> Settings:
    """Return settings whose store holds a load."""
    settings = await stage.settings(topic=await loaded(stage, load))
    workers = [projector(settings, number) for number in range(2)]
    await asyncio.gather(*(stage.start(worker) for worker in workers))
    projection = Projection(settings, workers)
    stage.say("filling the store")
    try:
        await projection.reaches(load.events)
    finally:
        projection.close()
    await stage.end(*workers)
    return settings


async def _kinds(load: Load, tokens: Tokens, connection: Connection) -> list[_Kind]:
    chance = random.Random(load.seed)
    jobs_of: dict[str, list[str]] = defaultdict(list)
    for number in range(load.jobs):
        job = load.job(number)
        jobs_of[job.owner].append(job.id)
    users = {user: tokens.of(user) for user in sorted(jobs_of.keys() - {BIG_OWNER})}
    big, admin = tokens.of(BIG_OWNER), tokens.of("admin", READ_ALL)

    def of_users(path: str) -> list[bytes]:
        return [get(path, bearer) for bearer in users.values()]

    def statuses(user: str) -> bytes:
        ids = chance.sample(jobs_of[user], k=min(10, len(jobs_of[user])))
        return post("/jobs/statuses", users[user], msgspec.json.encode({"jobIds": ids}))

    deep = [get(path, big) for path in await _pages(connection, big)]
    return [
        _Kind("search, page of 20", of_users(f"{_SEARCH}?size=20")),
        _Kind(f"search, page of 100 of {len(jobs_of[BIG_OWNER]):,}", [get(_SEARCH, big)]),
        _Kind("search, next page of 20 at depth", deep),
        _Kind("search, a state without jobs", of_users(f"{_SEARCH}?state=failed")),
        _Kind("summary of a user", of_users("/jobs/summary")),
        _Kind("summary of all jobs", [get("/jobs/summary", admin)]),
        _Kind("summary of a user, range of dates", of_users(f"/jobs/summary?{_RANGE}")),
        _Kind("statuses of 10 jobs", [statuses(user) for user in users]),
    ]


async def _pages(connection: Connection, bearer: str) -> list[str]:
    """Walk through a listing; return the second half of the pages' places, for pages of 20."""
    found: list[str] = []
    following: str | None = f"{_SEARCH}?size=100"
    while following is not None and len(found) < _DEPTH:
        answer = await connection.expect(get(following, bearer))
        following = msgspec.json.decode(answer.body)["next"]
        if following is not None:
            found.append(following.replace(_SEARCH + "?", _SEARCH + "?size=20&"))
    return found[len(found) // 2 :]


async def _hammer(
    settings: Settings, url: str, pid: int, requests: list[bytes], seconds: float
) -> Hammered:
    task = Task(url, pid, CONNECTIONS, WARM_UP, seconds, requests)
    path = settings.data_dir / "task"
    path.write_bytes(msgspec.msgpack.encode(task))
    printed = await run_to_end(["-m", "benchmarks.hammer", str(path)], settings)
    found = msgspec.msgpack.decode(printed, type=Hammered)
    answers = len(found.latencies_ms)
    if found.errors or not answers:
        raise RuntimeError(f"{found.errors} of {answers} answers were not 200, or none came")
    return found


def _run(name: str, found: Hammered) -> dict[str, Any]:
    answers = len(found.latencies_ms)
    return {
        "kind": name,
        "answers_per_second": answers / found.seconds,
        "cpu_us_of_an_answer": 1e6 * found.processes["server"]["cpu_seconds"] / answers,
        "bytes": found.received / answers,
        "latencies_ms": distribution(found.latencies_ms),
        "processes": found.processes,
    }


def _rows(name: str, runs: list[dict[str, Any]], seen: list[float]) -> list[Row]:
    mine = [run for run in runs if run["kind"] == name]
    shown = latencies(seen)
    costs = [run["cpu_us_of_an_answer"] for run in mine]
    load = [100 * run["processes"]["load"]["cpu_share"] for run in mine]
    return [
        Row(name, "answers/s", middle([run["answers_per_second"] for run in mine])),
        Row(name, "ms", {p: shown[p] for p in ("p50", "p99")}),
        Row(name, "µs of CPU each", middle(costs)),
        Row(name, "% of a core for the load process", middle(load)),
    ]
