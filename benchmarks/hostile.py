"""What healthy requests notice of clients that behave badly: their latency before and during it.

A mob in a process of its own holds half-open connections and bodies that drip in, and sends
headers that are too large and gzip bombs at a bounded rate; meanwhile a few clients ask as always.
"""

from __future__ import annotations

from typing import Any, Final

from benchmarks.asking import carried_out
from benchmarks.client import Connection, get, until_ready
from benchmarks.hammer import Hammered, Task
from benchmarks.holding import begin_jobs
from benchmarks.load import Load
from benchmarks.mob import Mob
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import distribution, latencies, middle
from benchmarks.usage import resident_kib
from tests.processes import api, projector

#: Healthy requests that are under way at a time.
CONNECTIONS: Final = 8
WARM_UP: Final = 0.5
OVERSIZED_PER_SECOND: Final = 20.0
BOMBS_PER_SECOND: Final = 20.0
_JOBS: Final = 2_000


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    settings = await stage.settings()
    worker = projector(settings)
    await stage.start(worker)
    load = Load(jobs=_JOBS, owners=100)
    jobs = await begin_jobs(settings, load, worker)
    tokens = Tokens(settings)
    users = sorted({job.owner for job in jobs})
    requests = [get("/jobs/search?size=20", tokens.of(user)) for user in users]
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = {"before": [], "during": []}
    for _ in range(options.runs):
        service = api(settings)
        url = await stage.start(service)
        connection = await Connection.open(url)
        await until_ready(connection)
        connection.close()
        task = Task(url, [service.pid], CONNECTIONS, WARM_UP, options.hostile_seconds, requests)
        before = await carried_out("benchmarks.hammer", task, settings)
        memory = resident_kib(service.pid)
        mob = await stage.start_told("mob", _mob(url, tokens.of("mallory"), options), settings)
        during = await carried_out("benchmarks.hammer", task, settings)
        if mob.child.returncode is not None:
            raise RuntimeError(f"the mob went away: {mob.log.read_text()[-2000:]}")
        grown = (resident_kib(service.pid) - memory) / 1024
        await stage.end(mob, service)
        seen["before"] += before.latencies_ms
        seen["during"] += during.latencies_ms
        runs.append(_run(before, during) | {"grown_mib": grown})
    return _result(options, runs, seen)


def _mob(url: str, token: str, options: Options) -> Mob:
    return Mob(
        url=url,
        token=token,
        half_open=options.half_open,
        dripping=options.half_open // 5,
        oversized=OVERSIZED_PER_SECOND,
        bombs=BOMBS_PER_SECOND,
    )


def _run(before: Hammered, during: Hammered) -> dict[str, Any]:
    told = {"before": before, "during": during}
    p99 = {name: latencies(found.latencies_ms)["p99"] for name, found in told.items()}
    return {
        "p99_ratio": p99["during"] / p99["before"],
        **{
            name: {
                "answers_per_second": len(found.latencies_ms) / found.seconds,
                "latencies_ms": distribution(found.latencies_ms),
                "processes": found.processes,
            }
            for name, found in told.items()
        },
    }


def _result(options: Options, runs: list[dict[str, Any]], seen: dict[str, list[float]]) -> Result:
    rows = []
    for name, values in seen.items():
        rates = [run[name]["answers_per_second"] for run in runs]
        rows += [
            Row(f"healthy requests {name}", "ms", latencies(values)),
            Row(f"healthy requests {name}", "answers/s", middle(rates)),
        ]
    return Result(
        figure="hostile",
        what="Milliseconds of healthy requests before and while others behave badly.",
        parameters={
            "runs": options.runs,
            "seconds": options.hostile_seconds,
            "connections": CONNECTIONS,
            "half_open": options.half_open,
            "dripping": options.half_open // 5,
            "oversized_per_second": OVERSIZED_PER_SECOND,
            "bombs_per_second": BOMBS_PER_SECOND,
            "api_processes": 1,
        },
        runs=runs,
        rows=[
            *rows,
            Row("p99 during, by p99 before", "", middle([run["p99_ratio"] for run in runs])),
            Row("memory of the process, more", "MiB", middle([run["grown_mib"] for run in runs])),
        ],
        distributions={f"{name}_ms": distribution(values) for name, values in seen.items()},
    )
