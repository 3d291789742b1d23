"""How many events a second come in: through `JobProducer`, and over HTTP in batches.

Beside them, in the same turns: aiokafka alone with the same settings, given what is encoded
already. Its difference to `JobProducer` is what checking, encoding and answering for each event
costs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psutil
from aiokafka import AIOKafkaProducer

from benchmarks.client import Connection, post, until_ready
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import middle
from jobtrail import JobProducer
from jobtrail.access.tokens import WRITE
from jobtrail.core.events import decode
from jobtrail.produce.delivery import MAX_UNDER_WAY
from jobtrail.produce.job_producer import WITHIN
from jobtrail.settings import Settings
from tests.processes import api, projector

#: Events of one request, and connections that send them by turns.
_BATCH: Final = 500
_CONNECTIONS: Final = 4
_AT_ONCE: Final = 1_000
_SOURCE: Final = "//benchmarks.example/load"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = Load(jobs=options.produced // 4, owners=1_000, under_way=max(options.produced // 80, 10))
    values = list(load.records())
    ways: dict[str, Callable[[], Awaitable[tuple[float, float]]]] = {
        "JobProducer, send_all": lambda: _sent_together(stage, values),
        f"JobProducer, {_AT_ONCE:,} sends at a time": lambda: _sent_each(stage, values),
        "aiokafka alone": lambda: _sent_bare(stage, values),
        f"POST /events, {_BATCH} a batch, one API process": lambda: _posted(stage, values),
    }
    runs: list[dict[str, Any]] = []
    for _ in range(options.runs):
        for name, way in ways.items():
            seconds, cpu = await way()
            rate, cost = len(values) / seconds, 1e6 * cpu / len(values)
            runs.append({"way": name, "events_per_second": rate, "cpu_us_of_an_event": cost})
            await stage.clear()
    return Result(
        figure="producing",
        what="Events a second that Kafka has acknowledged, from one process.",
        parameters={
            "runs": options.runs,
            "events": len(values),
            "bytes_of_an_event": sum(len(value) for _, value in values) / len(values),
            "partitions": 8,
        },
        runs=runs,
        rows=[row for name in ways for row in _rows(name, runs)],
    )


def _rows(name: str, runs: list[dict[str, Any]]) -> list[Row]:
    mine = [run for run in runs if run["way"] == name]
    return [
        Row(name, "events/s", middle([run["events_per_second"] for run in mine])),
        Row(name, "µs of CPU each", middle([run["cpu_us_of_an_event"] for run in mine])),
    ]


async def _timed(work: Callable[[], Awaitable[Any]], pid: int | None = None) -> tuple[float, float]:
    """Return the seconds that something took, and the CPU seconds of a process, None for this."""
    process = psutil.Process(pid)
    before, began = process.cpu_times(), time.perf_counter()
    await work()
    took, after = time.perf_counter() - began, process.cpu_times()
    return took, after.user + after.system - before.user - before.system


async def _sent_together(stage: Stage, values: list[tuple[str, bytes]]) -> tuple[float, float]:
    events = [decode(value) for _, value in values]
    async with JobProducer(_SOURCE, settings=await stage.settings()) as producer:
        return await _timed(lambda: producer.send_all(events))


async def _sent_each(stage: Stage, values: list[tuple[str, bytes]]) -> tuple[float, float]:
    events = iter([decode(value) for _, value in values])
    async with JobProducer(_SOURCE, settings=await stage.settings()) as producer:

        async def some() -> None:
            for event in events:
                await producer.send(event)

        return await _timed(lambda: asyncio.gather(*(some() for _ in range(_AT_ONCE))))


async def _sent_bare(stage: Stage, values: list[tuple[str, bytes]]) -> tuple[float, float]:
    settings = await stage.settings()
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_batch_size=256 * 1024,
        request_timeout_ms=int(WITHIN * 1000),
    )
    await producer.start()

    async def send() -> None:
        under_way: list[asyncio.Future[Any]] = []
        for job_id, value in values:
            under_way.append(await producer.send(settings.topic, key=job_id.encode(), value=value))
            if len(under_way) == MAX_UNDER_WAY:
                await asyncio.gather(*under_way)
                under_way.clear()
        await asyncio.gather(*under_way)

    try:
        return await _timed(send)
    finally:
        await producer.stop()


async def _posted(stage: Stage, values: list[tuple[str, bytes]]) -> tuple[float, float]:
    settings: Settings = await stage.settings()
    await stage.start(projector(settings))
    service = api(settings)
    url = await stage.start(service)
    token = Tokens(settings).of("producer", WRITE)
    requests = iter(
        post(
            "/events",
            token,
            b"[" + b",".join(value for _, value in some) + b"]",
            "application/cloudevents-batch+json",
        )
        for some in (values[at : at + _BATCH] for at in range(0, len(values), _BATCH))
    )

    async def sender(connection: Connection) -> None:
        for request in requests:
            await connection.expect(request)

    connections = [await Connection.open(url) for _ in range(_CONNECTIONS)]
    await until_ready(connections[0])
    try:
        return await _timed(lambda: asyncio.gather(*map(sender, connections)), service.pid)
    finally:
        for connection in connections:
            connection.close()
