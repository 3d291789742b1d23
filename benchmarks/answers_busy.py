"""What a projector that catches up at full speed does to the answers from the same store.

Each kind is asked for while nothing else goes on; then a log full of events is put before a
projector, and it is asked for again while the projector works. A run whose projector came to its
end before the asking did is not counted as one, but an error.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from benchmarks.asking import (
    SEARCH,
    WARM_UP,
    Requests,
    as_run,
    asked_load,
    fill,
    hammered,
    ratio,
    rows_of,
    told,
    warmed,
)
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.projection import Projection
from benchmarks.results import Result, Row
from benchmarks.sending import send_to
from benchmarks.stage import Stage
from benchmarks.stats import distribution, middle
from jobtrail.settings import Settings
from tests.processes import Process, api, projector

_QUIET = "quiet"
_BUSY = "while a projector catches up"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = asked_load(options)
    settings = await stage.settings()
    stage.say(f"sending {load.events:,} events")
    await send_to(settings, load)
    await fill(stage, settings, load.events)
    service = api(settings)
    url = await stage.start(service)
    requests = Requests(load, settings)
    asked = {
        "search, page of 20": requests.of_users(f"{SEARCH}?size=20"),
        "summary of a user": requests.of_users("/jobs/summary"),
    }
    (await warmed(url, asked["search, page of 20"])).close()
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = {}
    held = load.events
    for number in range(options.runs):
        for name, prepared in asked.items():
            seed = len(asked) * number + list(asked).index(name) + 1
            more = replace(_behind(options, load), seed=load.seed + seed)
            quiet = await hammered(settings, url, [service.pid], prepared, options.asking)
            stage.say(f"sending {more.events:,} events")
            await send_to(settings, more)
            busy, speed = await _busy(stage, settings, service, url, prepared, held, more, options)
            held += more.events
            for when, found in ((_QUIET, quiet), (_BUSY, busy)):
                kind = f"{name}: {when}"
                runs.append(as_run(kind, found))
                seen.setdefault(kind, []).extend(found.latencies_ms)
            runs[-1]["applied_per_second"] = speed
    return Result(
        figure="answers_busy",
        what="p99 of answers while a projector catches up in the same store, by that without.",
        parameters={**told(options, load), "behind": options.behind, "api_processes": 1},
        runs=runs,
        rows=_rows(list(asked), runs, seen),
        distributions={name: distribution(values) for name, values in seen.items()},
    )


def _behind(options: Options, load: Load) -> Load:
    """Return what the projector is to catch up with: other jobs of the same users."""
    jobs = options.behind // 4
    return Load(jobs=jobs, owners=load.owners, under_way=min(20_000, jobs // 5))


async def _busy(
    stage: Stage,
    settings: Settings,
    service: Process,
    url: str,
    prepared: list[bytes],
    held: int,
    more: Load,
    options: Options,
) -> tuple[Any, float]:
    """Ask while a projector catches up; return what was found, and events a second it applied."""
    worker = projector(settings)
    await stage.start(worker)
    projection = Projection(settings, [worker])
    end = held + more.events
    try:
        before, began = await projection.reaches(held + 1), time.perf_counter()
        found = await hammered(settings, url, [service.pid], prepared, options.asking)
        after, ended = projection.applied(), time.perf_counter()
        if after >= end:
            raise RuntimeError(
                f"the projector was through with {more.events:,} events before {WARM_UP} and "
                f"{options.asking} seconds were over: give it more with --behind"
            )
        await projection.reaches(end)
    finally:
        projection.close()
    await stage.end(worker)
    return found, (after - before) / (ended - began)


def _rows(names: list[str], runs: list[dict[str, Any]], seen: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name in names:
        quiet, busy = f"{name}: {_QUIET}", f"{name}: {_BUSY}"
        rows += rows_of(quiet, runs, seen[quiet]) + rows_of(busy, runs, seen[busy])
        rows.append(ratio(f"{name}: p99 busy by quiet", runs, busy, quiet, "p99"))
    speeds = [run["applied_per_second"] for run in runs if "applied_per_second" in run]
    rows.append(Row("the projector meanwhile", "events/s", middle(speeds)))
    return rows
