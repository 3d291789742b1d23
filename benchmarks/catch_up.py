"""How fast projectors come from the start of the log to its end, into a durable store.

Beside them, in turns and on the same topic, the peers: what else such a service could be built on.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from benchmarks import catch_up_peers as peers
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.projection import Projection
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import middle
from benchmarks.usage import Meter
from tests.processes import projector

PROJECTORS: Final = (1, 2)


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = Load(jobs=options.events // 4, under_way=min(20_000, options.events // 20))
    left_out = await asyncio.to_thread(peers.make_ready)
    topic = await loaded(stage, load)
    runs: list[dict[str, Any]] = []
    for number in range(options.runs):
        runs += [await _catch_up(stage, topic, load.events, count) for count in PROJECTORS]
        for peer in peers.PEERS:
            # Every second turn is enough for them: the figures shall not take all day.
            if number % 2 == 0 and peer.who not in left_out:
                runs.append(await peers.run(stage, topic, peer, load.events))
    return Result(
        figure="catch_up",
        what="Events a second from the first applied batch to the last.",
        parameters={
            "load": load.as_parameters(),
            "projectors": PROJECTORS,
            "shards": 2,
            "peer_events": {peer.who: peer.events_of(load.events) for peer in peers.PEERS},
            "left_out": left_out,
        },
        runs=runs,
        rows=[*_rows(runs), *(Row(who, f"left out: {why}", {}) for who, why in left_out.items())],
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


def _rows(runs: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for who in dict.fromkeys(run["who"] for run in runs):
        mine = [run for run in runs if run["who"] == who]
        rows.append(Row(who, "events/s", middle([run["events_per_second"] for run in mine])))
        for found, told in (
            ("together_per_second", "events/s once all of them work"),
            ("late_per_second", "events/s in the second half"),
        ):
            values = [run[found] for run in mine if found in run]
            if values:
                rows.append(Row(who, told, middle(values)))
        costs = [1e6 * _workers(run, "cpu_seconds") / run["applied"] for run in mine]
        rows.append(Row(who, "µs of CPU each", middle(costs)))
        peaks = [_workers(run, "peak_mib") for run in mine]
        rows.append(Row(who, "MiB at most", middle(peaks)))
    return rows


def _workers(run: dict[str, Any], what: str) -> float:
    """Sum up what the processes took that did the work."""
    found = [used[what] for name, used in run["processes"].items() if name != "broker"]
    return float(sum(found))
