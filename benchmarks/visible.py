"""How long after Kafka's acknowledgement a new job is in the answers of a search.

While events come in at a steady rate, new jobs are looked for one at a time, in two ways by
turns: by asking again and again, and by one request whose `Jobtrail-Position` makes it wait until
the projections hold what was written. Asking again and again has a cost of its own, which is told.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from datetime import UTC, datetime
from typing import NamedTuple

from benchmarks.client import Connection, get, until_ready
from benchmarks.load import Job, Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import distribution, latencies
from benchmarks.usage import Meter
from jobtrail.core.partitions import partition_of
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.processes import api, projector

#: Seconds of events before the first job is looked for.
WARM_UP = 1.0
#: Events are sent so many times a second, a few at a time.
_TICKS = 200


class _Acknowledged(NamedTuple):
    """A job whose first event Kafka has."""

    job: Job
    at: float
    #: What a read has to hold to show it.
    position: str


class _Newest:
    """The next job that is acknowledged while somebody waits for one."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[_Acknowledged] | None = None

    def offer(self, job: Job, writer: LogWriter, partitions: int) -> None:
        if self._asked is not None and not self._asked.done():
            partition = partition_of(job.id, partitions)
            position = f"{partition}:{writer.position[partition]}"
            self._asked.set_result(_Acknowledged(job, time.perf_counter(), position))

    async def next(self) -> _Acknowledged:
        self._asked = asyncio.get_running_loop().create_future()
        return await self._asked


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    runs = []
    seen: dict[str, list[float]] = {"asking": [], "position": [], "request": []}
    for _ in range(options.runs):
        found, took, processes = await _look(stage, options)
        for name, values in found.items():
            seen[name] += values
        told = {name: distribution(values) for name, values in found.items()}
        runs.append({**told, "sent_per_second": took, "processes": processes})
    return Result(
        figure="visible",
        what="Milliseconds from Kafka's acknowledgement of a new job to a search that shows it.",
        parameters={
            "runs": options.runs,
            "events_per_second": options.rate,
            "seconds": options.seconds,
            "projectors": 1,
            "api_processes": 1,
        },
        runs=runs,
        rows=[
            Row("asking again and again", "ms", latencies(seen["asking"])),
            Row("one request of them", "ms", latencies(seen["request"])),
            Row("one request with Jobtrail-Position", "ms", latencies(seen["position"])),
        ],
        distributions={f"{name}_ms": distribution(values) for name, values in seen.items()},
    )


async def _look(
    stage: Stage, options: Options
) -> tuple[dict[str, list[float]], float, dict[str, dict[str, float]]]:
    """Look for jobs while they are sent; return times, the rate, and what the processes took."""
    settings = await stage.settings()
    worker, service = projector(settings), api(settings)
    _, url = await asyncio.gather(stage.start(worker), stage.start(service))
    connection = await Connection.open(url)
    await until_ready(connection)
    newest = _Newest()
    meter = Meter(
        {
            "projector": worker.pid,
            "api": service.pid,
            "broker": stage.broker_pid(),
            "producer and onlooker": os.getpid(),
        }
    )
    looking = asyncio.create_task(_looker(settings, connection, newest))
    try:
        took = await _send(settings, options, newest)
        processes = meter.stop()
    finally:
        looking.cancel()
        results = await asyncio.gather(looking, return_exceptions=True)
        connection.close()
    await stage.end(service, worker)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0], took, processes


async def _send(settings: Settings, options: Options, newest: _Newest) -> float:
    """Send events at a steady rate; return at which rate they went."""
    events = int(options.rate * (WARM_UP + options.seconds))
    load = Load(jobs=events // 4, under_way=options.rate // 4)
    steps = load.steps()
    async with LogWriter(settings) as writer:

        def offer(job: Job) -> None:
            newest.offer(job, writer, settings.partitions)

        began = time.perf_counter()
        for tick in range(int(_TICKS * (WARM_UP + options.seconds))):
            due = began + tick / _TICKS
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            warm = tick >= WARM_UP * _TICKS
            some = (tick + 1) * options.rate // _TICKS - tick * options.rate // _TICKS
            for job, step in itertools.islice(steps, some):
                value = load.value(job, step, datetime.now(UTC))
                told = (lambda job=job: offer(job)) if warm and step == 0 else None
                await writer.append(job.id, value, told)
        await writer.settle()
        return writer.acknowledged / (time.perf_counter() - began)


async def _looker(
    settings: Settings, connection: Connection, newest: _Newest
) -> dict[str, list[float]]:
    """Look for new jobs, one after the other, until cancelled; all times in milliseconds."""
    found: dict[str, list[float]] = {"asking": [], "position": [], "request": []}
    tokens = Tokens(settings)
    try:
        for way in itertools.cycle(("asking", "position")):
            job, acknowledged, position = await newest.next()
            path, key = "/jobs/search?size=20", job.id.encode()
            headers = {"Jobtrail_Position": position} if way == "position" else {}
            request = get(path, tokens.of(job.owner), **headers)
            while True:
                asked = time.perf_counter()
                answer = await connection.expect(request)
                if way == "asking":
                    found["request"].append(1000 * (answer.at - asked))
                if key in answer.body:
                    break
                if way == "position":
                    raise RuntimeError(f"the answer that holds {position} lacks its job")
            found[way].append(1000 * (answer.at - acknowledged))
    except asyncio.CancelledError:
        pass
    return found
