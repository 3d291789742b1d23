"""What a busy log does to the answers of the API process that follows it.

Pages of 20 are asked for at a steady rate: while nothing is written, while events come in at a
steady rate, and with that while many listen, many wait, and a few jobs are told of again and again.
A projector applies the events meanwhile, as it does anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import msgspec

from benchmarks.asking import (
    SEARCH,
    Requests,
    as_run,
    asked_load,
    carried_out,
    fill,
    ratio,
    rows_of,
    told,
    warmed,
)
from benchmarks.client import address, get, post
from benchmarks.flow import HOT, Flow, going_on, hot_jobs
from benchmarks.holding import until_held
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.pacing import PacedTask
from benchmarks.results import Result, Row
from benchmarks.sending import send_to
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import distribution, middle
from benchmarks.unfair import send_records
from jobtrail.settings import Settings
from tests.processes import api, projector

QUIET: Final = "quiet"
BUSY: Final = "events come in"
CROWDED: Final = "and many listen and wait, and some jobs are hot"
CONNECTIONS: Final = 8
WARM_UP: Final = 1.0
#: Every tenth event is of a hot job.
_HOT_EVERY: Final = 10


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    many = options.listeners
    settings = await stage.settings(max_feeds=many, max_feeds_per_caller=many)
    load = asked_load(options)
    stage.say(f"sending {load.events:,} events")
    await send_to(settings, load)
    hot = await send_records(settings, list(hot_jobs()))
    await fill(stage, settings, load.events + hot)
    service, worker = api(settings), projector(settings)
    url, _ = await asyncio.gather(stage.start(service), stage.start(worker))
    requests = Requests(load, settings)
    pages = requests.of_users(f"{SEARCH}?size=20")
    (await warmed(url, pages)).close()
    task = PacedTask(
        url, [service.pid], CONNECTIONS, WARM_UP, options.ingest_seconds, pages, options.asked_rate
    )
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = {}
    for number in range(options.runs):
        for name in (QUIET, BUSY, CROWDED):
            stage.say(name)
            async with contextlib.AsyncExitStack() as stack:
                sent: dict[str, int] = {}
                if name == CROWDED:
                    await stack.enter_async_context(_crowd(settings, url, requests, many))
                if name != QUIET:
                    flow = _flow(settings, load, options, number, hot=name == CROWDED)
                    await stack.enter_async_context(going_on(stage, settings, flow, sent))
                found = await carried_out("benchmarks.pacing", task, settings)
            runs.append(as_run(name, found) | sent)
            seen.setdefault(name, []).extend(found.latencies_ms)
    return Result(
        figure="ingest",
        what="Milliseconds of pages of 20 while events come in, by those without.",
        parameters={
            **told(options, load),
            "seconds": options.ingest_seconds,
            "asked_rate": options.asked_rate,
            "connections": CONNECTIONS,
            "ingested_per_second": options.ingested,
            "listeners": many,
            "waits": many,
            "projectors": 1,
        },
        runs=runs,
        rows=_rows(runs, seen),
        distributions={name: distribution(values) for name, values in seen.items()},
    )


def _flow(settings: Settings, load: Load, options: Options, number: int, *, hot: bool) -> Flow:
    events = int(options.ingested * (options.ingest_seconds + 10))
    jobs = events // 4
    more = Load(jobs, load.owners, min(20_000, jobs // 5), seed=2 * number + hot + 1)
    return Flow.of(settings, more, options.ingested, events, _HOT_EVERY if hot else 0)


class _Reader(asyncio.Protocol):
    """A connection whose answer is read and thrown away."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._request)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


@contextlib.asynccontextmanager
async def _crowd(
    settings: Settings, url: str, requests: Requests, many: int
) -> AsyncIterator[None]:
    """Let so many listen, and as many wait, meanwhile."""
    loop = asyncio.get_running_loop()
    wait = msgspec.json.encode({"jobIds": ["hot-0"], "wait": 3600})
    waiting = post("/jobs/statuses", Tokens(settings).of(HOT), wait)
    bearers = list(requests.bearers.values())
    transports: list[Any] = []
    readers: list[_Reader] = []
    try:
        for number in range(many):
            bearer = bearers[number % len(bearers)]
            for request in (get("/jobs/events", bearer), waiting):
                made = await loop.create_connection(partial(_Reader, request), *address(url))
                transports.append(made[0])
                readers.append(made[1])
        await until_held(url, many)
        yield
        lost = sum(reader.lost for reader in readers)
        if lost:
            raise RuntimeError(f"{lost} of {2 * many} who listened or waited were hung up on")
    finally:
        for transport in transports:
            transport.abort()


def _rows(runs: list[dict[str, Any]], seen: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name, values in seen.items():
        rows += rows_of(name, runs, values)[1:3]
        shares = [run["processes"]["server"]["cpu_share"] for run in runs if run["kind"] == name]
        rows.append(Row(name, "of a core for the API process", middle(shares)))
        if name != QUIET:
            rows.append(ratio(f"p99, {name}: by quiet", runs, name, QUIET, "p99"))
            speeds = [run["sent_per_second"] for run in runs if run["kind"] == name]
            rows.append(Row(name, "events/s", middle(speeds)))
    return rows
