"""How fast projectors come from the start of the log to its end, into a durable store.

Beside them, in turns: stock Faust with an agent that does nothing, which shows what the work by
the record batch saves. It is given fewer events, since it takes much longer for each.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import msgspec

from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.projection import Projection
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import middle
from benchmarks.usage import Meter
from jobtrail.process import child_environment
from tests.processes import Process, projector

PROJECTORS: Final = (1, 2)


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = Load(jobs=options.events // 4, under_way=min(20_000, options.events // 20))
    peer_events = max(1_000, options.events // 10)
    topic = await loaded(stage, load)
    runs: list[dict[str, Any]] = []
    for _ in range(options.runs):
        runs += [await _catch_up(stage, topic, load.events, count) for count in PROJECTORS]
        runs.append(await _peer(stage, topic, peer_events))
    return Result(
        figure="catch_up",
        what="Events a second from the first applied batch to the last.",
        parameters={
            "load": load.as_parameters(),
            "projectors": PROJECTORS,
            "shards": 2,
            "peer_events": peer_events,
        },
        runs=runs,
        rows=_rows(runs, peer_events),
    )


async def _catch_up(stage: Stage, topic: str, events: int, count: int) -> dict[str, Any]:
    settings = await stage.settings(topic=topic)
    projectors = [projector(settings, number) for number in range(count)]
    projection = Projection(settings, projectors)
    spawned = time.perf_counter()

    async def start_all() -> tuple[float, int]:
        await asyncio.gather(*(stage.start(process) for process in projectors))
        return time.perf_counter(), projection.applied()

    starting = asyncio.create_task(start_all())
    try:
        first = await projection.reaches(1)
        began = time.perf_counter()
        pids = {f"projector-{n}": process.pid for n, process in enumerate(projectors)}
        meter = Meter({**pids, "broker": stage.broker_pid()})
        await projection.reaches(events)
        ended = time.perf_counter()
        processes = meter.stop()
        all_ready, applied = await starting
    finally:
        starting.cancel()
        projection.close()
    await stage.end(*projectors)
    run = {
        "who": "1 projector" if count == 1 else f"{count} projectors",
        "events_per_second": (events - first) / (ended - began),
        "applied": events - first,
        "seconds": ended - began,
        "seconds_to_first_batch": began - spawned,
        "seconds_to_last_ready": all_ready - spawned,
        "processes": processes,
    }
    if count > 1 and applied < events:
        run["together_per_second"] = (events - applied) / (ended - all_ready)
    return run


async def _peer(stage: Stage, topic: str, events: int) -> dict[str, Any]:
    settings = await stage.settings(topic=topic)
    argv = [sys.executable, "-m", "benchmarks.peers.faust_noop", "--events", str(events)]
    process = Process(argv, child_environment(settings), settings.data_dir / "faust.log")
    found = msgspec.json.decode(await stage.start(process))
    await stage.end(process)
    seconds = found.pop("seconds")
    return {
        "who": "stock Faust, does nothing",
        "events_per_second": (events - 1) / seconds,
        "applied": events - 1,
        "seconds": seconds,
        "processes": {"faust": found},
    }


def _rows(runs: list[dict[str, Any]], peer_events: int) -> list[Row]:
    rows = []
    for who in dict.fromkeys(run["who"] for run in runs):
        mine = [run for run in runs if run["who"] == who]
        told = f"{who} ({peer_events:,} events)" if "Faust" in who else who
        together = [run["together_per_second"] for run in mine if "together_per_second" in run]
        costs = [1e6 * _workers(run, "cpu_seconds") / run["applied"] for run in mine]
        rows.append(Row(told, "events/s", middle([run["events_per_second"] for run in mine])))
        if together:
            rows.append(Row(told, "events/s once all of them work", middle(together)))
        rows.append(Row(told, "µs of CPU each", middle(costs)))
        peaks = [_workers(run, "peak_mib") for run in mine]
        rows.append(Row(told, "MiB at most", middle(peaks)))
    return rows


def _workers(run: dict[str, Any], what: str) -> float:
    """Sum up what the processes took that did the work."""
    found = [used[what] for name, used in run["processes"].items() if name != "broker"]
    return float(sum(found))
