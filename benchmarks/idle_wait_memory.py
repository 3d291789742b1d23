"""What a held wait takes of an API process's memory, while nothing happens.

Resident memory of the process, which has held and answered some waits before; the kernel's
buffers of the connections are not in it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from benchmarks.client import Connection, until_ready
from benchmarks.holding import begin_jobs, hold, let_go, until_held
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage
from benchmarks.stats import middle
from benchmarks.usage import resident_kib
from tests.processes import api, projector

#: Waits that are held and let go before, so that what is made once is made.
WARM_UP: Final = 100
#: Seconds after which every wait has sent its first sign of life, which is due after 15.
SIGN_OF_LIFE: Final = 18.0


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    settings = await stage.settings(max_waits=max(20_000, options.idle_waits))
    worker = projector(settings)
    await stage.start(worker)
    load = Load(jobs=options.idle_waits)
    jobs = await begin_jobs(settings, load, worker)
    await stage.end(worker)
    runs: list[dict[str, Any]] = []
    for number in range(options.runs):
        service = api(settings)
        url = await stage.start(service)
        connection = await Connection.open(url)
        await until_ready(connection)
        let_go(await hold(settings, url, jobs[:WARM_UP]))
        await until_held(url, 0)
        before = resident_kib(service.pid)
        waiters = await hold(settings, url, jobs)
        try:
            run = {"before_mib": before / 1024, "kib": _of_one(service.pid, before, len(jobs))}
            if number == options.runs - 1:
                await asyncio.sleep(SIGN_OF_LIFE)
                run["kib_after_sign_of_life"] = _of_one(service.pid, before, len(jobs))
        finally:
            let_go(waiters)
            connection.close()
        await stage.end(service)
        runs.append(run)
    later = [run["kib_after_sign_of_life"] for run in runs if "kib_after_sign_of_life" in run]
    return Result(
        figure="idle_wait_memory",
        what="Resident memory of an API process for each held wait for one job.",
        parameters={"runs": options.runs, "waits": options.idle_waits, "api_processes": 1},
        runs=runs,
        rows=[
            Row("a wait", "KiB", middle([run["kib"] for run in runs])),
            Row("a wait that has sent a sign of life", "KiB", middle(later)),
            Row("the process without them", "MiB", middle([run["before_mib"] for run in runs])),
        ],
    )


def _of_one(pid: int, before: float, waits: int) -> float:
    return (resident_kib(pid) - before) / waits
