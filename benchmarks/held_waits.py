"""What very many held waits take of one API process, while something happens on two of them.

Resident memory of the process, which has held and answered some waits before; the kernel's
buffers of the connections are not in it. Then two of the jobs end, and nobody but those who wait
for them is to notice. At last all clients vanish at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.client import Connection, until_ready
from benchmarks.holding import Waiter, begin_jobs, hold, let_go, until_held
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage
from benchmarks.stats import latencies, middle
from benchmarks.usage import resident_kib
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.processes import Process, api, projector

#: Waits that are held and let go before, so that what is made once is made.
WARM_UP: Final = 100
#: Waits whose jobs end while the others are held.
WOKEN: Final = 2
#: Seconds after which every wait has sent its first sign of life, which is due after 15.
SIGN_OF_LIFE: Final = 18.0
#: Seconds within which a wait is answered, or was missed.
_ANSWERED_WITHIN: Final = 10.0


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    settings = await stage.settings(max_waits=max(20_000, 2 * options.held_waits))
    worker = projector(settings)
    await stage.start(worker)
    # Every run ends two jobs of its own.
    load = Load(jobs=options.held_waits + WOKEN * options.runs)
    jobs = await begin_jobs(settings, load, worker)
    runs: list[dict[str, Any]] = []
    for number in range(options.runs):
        service = api(settings)
        url = await stage.start(service)
        connection = await Connection.open(url)
        await until_ready(connection)
        let_go(await hold(settings, url, jobs[-WARM_UP:]))
        await until_held(url, 0)
        before = resident_kib(service.pid)
        mine = jobs[WOKEN * number :][: options.held_waits]
        waiters = sorted(await hold(settings, url, mine), key=lambda waiter: waiter.job.number)
        try:
            run = await _run(settings, url, service, load, waiters, before)
            last = number == options.runs - 1
            if last:
                await asyncio.sleep(SIGN_OF_LIFE)
                left = len(waiters) - WOKEN
                run["kib_after_sign_of_life"] = (resident_kib(service.pid) - before) / left
            run["release_seconds"] = await _released(url, waiters)
            run["kept_mib"] = (resident_kib(service.pid) - before) / 1024
        finally:
            let_go(waiters)
            connection.close()
        await stage.end(service)
        runs.append(run)
    return _result(options, runs)


async def _run(
    settings: Settings,
    url: str,
    service: Process,
    load: Load,
    waiters: Sequence[Waiter],
    before: float,
) -> dict[str, Any]:
    """Measure what the waits take, and end the jobs of the first ones."""
    kib = (resident_kib(service.pid) - before) / len(waiters)
    woken, others = waiters[:WOKEN], waiters[WOKEN:]
    acknowledged: dict[str, float] = {}
    step = len(load.life) - 1
    async with LogWriter(settings) as writer:
        for waiter in woken:
            job = waiter.job

            def taken(job_id: str = job.id) -> None:
                acknowledged[job_id] = time.perf_counter()

            await writer.append(job.id, load.value(job, step, datetime.now(UTC)), taken)
        await writer.settle()
    await asyncio.wait([waiter.answer for waiter in woken], timeout=_ANSWERED_WITHIN)
    answered = [waiter for waiter in woken if waiter.answer.done()]
    await until_held(url, len(waiters) - len(answered))
    return {
        "before_mib": before / 1024,
        "kib": kib,
        "wake_ms": [
            1000 * (waiter.answer.result().at - acknowledged[waiter.job.id]) for waiter in answered
        ],
        "missed": len(woken) - len(answered),
        "woken_for_nothing": sum(waiter.answer.done() for waiter in others),
    }


async def _released(url: str, waiters: Sequence[Waiter]) -> float:
    """Let all clients vanish; return after how many seconds no wait is held any longer."""
    began = time.perf_counter()
    for waiter in waiters:
        waiter.answer.cancel()
        waiter.connection.transport.abort()
    await until_held(url, 0)
    return time.perf_counter() - began


def _result(options: Options, runs: list[dict[str, Any]]) -> Result:
    later = [run["kib_after_sign_of_life"] for run in runs if "kib_after_sign_of_life" in run]
    wakes = [value for run in runs for value in run["wake_ms"]]
    wrong = {
        what: float(sum(run[what] for run in runs)) for what in ("missed", "woken_for_nothing")
    }
    return Result(
        figure="held_waits",
        what="Memory of an API process for each held wait for one job, and the way out of all.",
        parameters={
            "runs": options.runs,
            "waits": options.held_waits,
            "connections": options.held_waits,
            "woken": WOKEN,
            "api_processes": 1,
        },
        runs=runs,
        rows=[
            Row("a wait", "KiB", middle([run["kib"] for run in runs])),
            Row("a wait that has sent a sign of life", "KiB", middle(later)),
            Row("the process without them", "MiB", middle([run["before_mib"] for run in runs])),
            Row("what it keeps when they are gone", "MiB", middle([r["kept_mib"] for r in runs])),
            Row(f"from the acknowledgement to the {WOKEN} answers", "ms", latencies(wakes)),
            Row("wrong wakes", "", wrong),
            Row(
                "until all are released once their clients vanish",
                "s",
                middle([run["release_seconds"] for run in runs]),
            ),
        ],
    )
