"""How long `jobtrail up` takes to `ready`: on a new data folder, and on one that was used."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage
from benchmarks.stats import middle
from tests.e2e.service import Service


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure; the jars are there, or are fetched before."""
    await _up(stage, Service(stage.folder / "start-fetch"))
    runs: list[dict[str, Any]] = []
    for number in range(options.runs):
        folder = stage.folder / f"start-{number}"
        runs += [{"how": how, **await _up(stage, Service(folder))} for how in ("cold", "warm")]
    rows = []
    for how, told in (("cold", "new data folder"), ("warm", "data folder that was used")):
        mine = [run for run in runs if run["how"] == how]
        rows.append(Row(told, "s to ready", middle([run["ready"] for run in mine])))
        rows.append(Row(told, "s to its end", middle([run["stopped"] for run in mine])))
    return Result(
        figure="start",
        what="Seconds from the start of `jobtrail up` to `ready`, and from SIGTERM to its end.",
        parameters={"runs": options.runs, "jars": "cached", "api_processes": 1, "projectors": 1},
        runs=runs,
        rows=rows,
    )


async def _up(stage: Stage, service: Service) -> dict[str, float]:
    began = time.perf_counter()
    try:
        await stage.start(service.process)
    finally:
        # After a Ctrl-C too: its own processes end before the folder is removed.
        ready = time.perf_counter()
        status = await service.process.stop()
    stopped = time.perf_counter()
    if status != 0:
        raise RuntimeError(f"jobtrail up ended with status {status}")
    await stage.end(service.process)
    return {"ready": ready - began, "stopped": stopped - ready}
