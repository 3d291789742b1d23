"""What the figures of answers have in common: a store with a load, requests, and their rows."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property, partial
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.client import Connection, get, post, until_ready
from benchmarks.hammer import Hammered, Task
from benchmarks.load import BIG_OWNER, Load
from benchmarks.options import Options
from benchmarks.projection import Projection
from benchmarks.results import Row
from benchmarks.stage import Stage, Tokens, run_to_end
from benchmarks.stats import distribution, latencies, middle
from jobtrail.access.tokens import READ_ALL
from jobtrail.settings import Settings
from tests.processes import projector

CONNECTIONS: Final = 32
WARM_UP: Final = 0.5
SEARCH: Final = "/jobs/search"
#: Pages of 100 that lie before the ones that are asked for at depth, at most.
_DEPTH: Final = 100
#: Two days of the load's thirty, and parts of two more.
_RANGE: Final = "startDate=2026-01-08T09:30:00Z&endDate=2026-01-11T17:45:00Z"


class Kind(NamedTuple):
    """One kind of request, and how it is asked for so many seconds."""

    name: str
    ask: Callable[[float], Awaitable[Hammered]]


def asked_load(options: Options) -> Load:
    """Return the jobs that are asked for: of many users, and very many of one more."""
    jobs = options.jobs + options.big_jobs
    return Load(
        jobs=jobs,
        owners=options.owners,
        under_way=jobs // 20,
        life=("created", "completed"),
        big_every=jobs // options.big_jobs,
    )


async def fill(stage: Stage, settings: Settings, events: int) -> None:
    """Bring the store of some settings to the end of their log.

    Args:
        stage: Where the projectors run, which are ended then.
        settings: Whose log and store.
        events: How many are in the log.
    """
    workers = [projector(settings, number) for number in range(2)]
    await asyncio.gather(*(stage.start(worker) for worker in workers))
    projection = Projection(settings, workers)
    stage.say("filling the store")
    try:
        await projection.reaches(events)
        # As it is when a projector has had nothing to do for a second: see
        # `ProjectionWriter.checkpoint_wal`.
        await asyncio.gather(*(worker.stop() for worker in workers))
    finally:
        projection.close()
    await stage.end(*workers)


class Requests:
    """Makes the requests for the jobs of a load.

    Args:
        load: What is in the store.
        settings: Of the service, which issues the tokens.
    """

    def __init__(self, load: Load, settings: Settings) -> None:
        self.jobs_of: dict[str, list[str]] = defaultdict(list)
        for number in range(load.jobs):
            job = load.job(number)
            self.jobs_of[job.owner].append(job.id)
        self._users = sorted(self.jobs_of.keys() - {BIG_OWNER})
        self._tokens = Tokens(settings)
        self._chance = random.Random(load.seed)

    @cached_property
    def bearers(self) -> dict[str, str]:
        """Tokens of all users but the one with very many jobs."""
        return {user: self._tokens.of(user) for user in self._users}

    @cached_property
    def big(self) -> str:
        """The token of that one."""
        return self._tokens.of(BIG_OWNER)

    @cached_property
    def ids(self) -> list[tuple[str, list[str]]]:
        """Ten jobs of each user, or all that they have."""
        return [
            (user, self._chance.sample(self.jobs_of[user], k=min(10, len(self.jobs_of[user]))))
            for user in self._users
        ]

    def of_users(self, path: str) -> list[bytes]:
        """Return a GET of each user."""
        return [get(path, bearer) for bearer in self.bearers.values()]

    def of_all(self) -> list[bytes]:
        """Return the request for the summary of all jobs."""
        return [get("/jobs/summary", self._tokens.of("admin", READ_ALL))]

    def of_a_range(self) -> list[bytes]:
        """Return the requests for summaries of a range of dates."""
        return self.of_users(f"/jobs/summary?{_RANGE}")

    def statuses(self) -> list[bytes]:
        """Return each user's request for ten jobs."""
        return [
            post("/jobs/statuses", self.bearers[user], msgspec.json.encode({"jobIds": ids}))
            for user, ids in self.ids
        ]

    async def deep(self, connection: Connection) -> list[bytes]:
        """Walk through the longest listing; return requests for pages of 20 in its second half."""
        found: list[bytes] = []
        following: str | None = f"{SEARCH}?size=100"
        while following is not None and len(found) < _DEPTH:
            answer = await connection.expect(get(following, self.big))
            following = msgspec.json.decode(answer.body)["next"]
            if following is not None:
                path = following.replace(f"{SEARCH}?", f"{SEARCH}?size=20&")
                found.append(get(path, self.big))
        return found[len(found) // 2 :]


async def warmed(url: str, requests: Sequence[bytes] = ()) -> Connection:
    """Return a connection to a service that is ready and has answered these requests once."""
    connection = await Connection.open(url)
    await until_ready(connection)
    for request in requests:
        await connection.expect(request)
    return connection


async def hammered(
    settings: Settings, url: str, pids: Sequence[int], requests: Sequence[bytes], seconds: float
) -> Hammered:
    """Ask a service in a closed loop from a process of its own.

    Args:
        settings: In whose folder the load process is told what to do.
        url: The service.
        pids: Its processes.
        requests: To be drawn from.
        seconds: For how long, beside the warm-up.
    """
    task = Task(url, list(pids), CONNECTIONS, WARM_UP, seconds, list(requests))
    return await carried_out("benchmarks.hammer", task, settings)


async def carried_out(module: str, task: msgspec.Struct, settings: Settings) -> Hammered:
    """Have a load process carry out a task.

    Raises:
        RuntimeError: Something was not answered, or nothing was.
    """
    path = settings.data_dir / "task"
    path.write_bytes(msgspec.msgpack.encode(task))
    printed = await run_to_end(["-m", module, str(path)], settings)
    found = msgspec.msgpack.decode(printed, type=Hammered)
    answers = len(found.latencies_ms)
    if found.errors or not answers:
        raise RuntimeError(f"{found.errors} of {answers} answers were not 200, or none came")
    return found


def of_service(
    settings: Settings, url: str, pids: Sequence[int], name: str, requests: Sequence[bytes]
) -> Kind:
    """Return a kind of request to a service."""
    return Kind(name, partial(hammered, settings, url, pids, requests))


def as_run(name: str, found: Hammered) -> dict[str, Any]:
    """Return what is kept of one run of a kind."""
    answers = len(found.latencies_ms)
    return {
        "kind": name,
        "answers_per_second": answers / found.seconds,
        "cpu_us_of_an_answer": 1e6 * found.processes["server"]["cpu_seconds"] / answers,
        "bytes": found.received / answers,
        "latencies_ms": distribution(found.latencies_ms),
        "processes": found.processes,
    }


async def in_turns(
    kinds: Sequence[Kind], options: Options
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Ask for each kind in each run; return the runs, and all latencies by kind."""
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.runs):
        for kind in kinds:
            found = await kind.ask(options.asking)
            runs.append(as_run(kind.name, found))
            seen[kind.name] += found.latencies_ms
    return runs, seen


def rows_of(name: str, runs: Sequence[dict[str, Any]], seen: Sequence[float]) -> list[Row]:
    """Return what a table shows of one kind."""
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


def ratio(
    measure: str, runs: Sequence[dict[str, Any]], over: str, under: str, step: str = "p50"
) -> Row:
    """Return by how much the latencies of one kind are those of another, run by run.

    Args:
        measure: What the row is called.
        runs: Of all kinds.
        over: The kind that is divided.
        under: The kind that it is divided by.
        step: Which percentile.
    """
    values = {
        name: [run["latencies_ms"][step] for run in runs if run["kind"] == name]
        for name in (over, under)
    }
    quotients = [a / b for a, b in zip(values[over], values[under], strict=True)]
    return Row(measure, "", middle(quotients))


def told(options: Options, load: Load) -> dict[str, Any]:
    """Return what is written down of how answers were asked for."""
    return {
        "runs": options.runs,
        "seconds": options.asking,
        "warm_up_seconds": WARM_UP,
        "connections": CONNECTIONS,
        "load": load.as_parameters(),
    }
