"""How long after the acknowledgement of a job's end a wait for it is answered.

The answer may be there before the acknowledgement: Kafka hands a record to who follows the log
and to who wrote it at about the same time. So times from the sending are told too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from benchmarks.client import Connection, until_ready
from benchmarks.holding import Waiter, begin_jobs, hold, let_go
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage
from benchmarks.stats import distribution, latencies
from benchmarks.usage import Meter
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.processes import api, projector

#: Seconds after the last job's end after which a wait that is not answered was missed.
MISSED_AFTER: Final = 10.0


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    runs: list[dict[str, Any]] = []
    acknowledged: list[float] = []
    sent: list[float] = []
    for _ in range(options.runs):
        run, after_acknowledgement, after_sending = await _wake_all(stage, options)
        acknowledged += after_acknowledgement
        sent += after_sending
        runs.append(run)
    wrong = {what: float(sum(run[what] for run in runs)) for what in ("missed", "early")}
    return Result(
        figure="waits",
        what="Milliseconds from Kafka's acknowledgement of a job's end to the answer of the wait.",
        parameters={
            "runs": options.runs,
            "waits": options.waits,
            "connections": options.waits,
            "jobs_ended_per_second": options.wakes,
            "projectors": 1,
            "api_processes": 1,
        },
        runs=runs,
        rows=[
            Row("from the acknowledgement", "ms", latencies(acknowledged)),
            Row("from the sending", "ms", latencies(sent)),
            Row(f"wrong wakes of {options.runs * options.waits:,}", "", wrong),
        ],
        distributions={
            "from_acknowledgement_ms": distribution(acknowledged),
            "from_sending_ms": distribution(sent),
        },
    )


async def _wake_all(
    stage: Stage, options: Options
) -> tuple[dict[str, Any], list[float], list[float]]:
    settings = await stage.settings()
    worker, service = projector(settings), api(settings)
    _, url = await asyncio.gather(stage.start(worker), stage.start(service))
    connection = await Connection.open(url)
    await until_ready(connection)
    connection.close()
    load = Load(jobs=options.waits)
    jobs = await begin_jobs(settings, load, worker)
    waiters = await hold(settings, url, jobs)
    try:
        meter = Meter(
            {
                "projector": worker.pid,
                "api": service.pid,
                "broker": stage.broker_pid(),
                "producer and waiters": os.getpid(),
            }
        )
        ends = await _end_jobs(settings, load, waiters, options.wakes)
        processes = meter.stop()
        await asyncio.wait([waiter.answer for waiter in waiters], timeout=MISSED_AFTER)
        found = _judge(waiters, ends)
        found[0]["processes"] = processes
    finally:
        let_go(waiters)
    await stage.end(service, worker)
    return found


#: When a job's end was sent, and when it was acknowledged; by `time.perf_counter`.
_End = tuple[float, float]


async def _end_jobs(
    settings: Settings, load: Load, waiters: Sequence[Waiter], per_second: int
) -> dict[str, _End]:
    """End the jobs one after another; return when."""
    ends: dict[str, _End] = {}
    last = len(load.life) - 1
    async with LogWriter(settings) as writer:
        began = time.perf_counter()
        for number, waiter in enumerate(waiters):
            await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
            job, sent = waiter.job, time.perf_counter()

            def acknowledged(job_id: str = job.id, sent: float = sent) -> None:
                ends[job_id] = (sent, time.perf_counter())

            value = load.value(job, last, datetime.now(UTC))
            await writer.append(job.id, value, acknowledged)
        await writer.settle()
    return ends


def _judge(
    waiters: Sequence[Waiter], ends: dict[str, _End]
) -> tuple[dict[str, Any], list[float], list[float]]:
    """Return the run, and the milliseconds from acknowledgements and from sendings."""
    from_acknowledgement, from_sending = [], []
    missed = early = 0
    for waiter in waiters:
        if not waiter.answer.done():
            missed += 1
            continue
        answer = waiter.answer.result()
        sent, acknowledged = ends[waiter.job.id]
        told = msgspec.json.decode(answer.body)
        if answer.at < sent or told[waiter.job.id]["state"] != "completed":
            early += 1
            continue
        from_acknowledgement.append(1000 * (answer.at - acknowledged))
        from_sending.append(1000 * (answer.at - sent))
    run = {
        "answered": len(from_sending),
        "missed": missed,
        "early": early,
        "before_the_acknowledgement": sum(value < 0 for value in from_acknowledgement),
        "from_acknowledgement_ms": distribution(from_acknowledgement),
        "from_sending_ms": distribution(from_sending),
    }
    return run, from_acknowledgement, from_sending
