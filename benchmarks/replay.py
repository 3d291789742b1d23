"""What replay costs: the whole log to a file, and what the API's answers suffer meanwhile.

The command is run as analysts run it. Beside it stands aiokafka, which reads the same log and does
nothing with it, and a command that finds nothing to read, which is what starting takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.asking import (
    SEARCH,
    Requests,
    as_run,
    asked_load,
    fill,
    hammered,
    ratio,
    rows_of,
    warmed,
)
from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import distribution, middle
from jobtrail.position import format_position
from jobtrail.process import child_environment
from jobtrail.settings import Settings
from tests.processes import api

_BARE: Final = "aiokafka alone, nothing done"
_NOTHING: Final = "nothing to read"
_PARQUET: Final = "events to Parquet"
_DUCKDB: Final = "events, jobs, transitions to DuckDB"
_ALONE: Final = "search, nothing else going on"
_BESIDE: Final = "search, while a replay runs"
_SLOWED: Final = "search, while a replay runs at --max-rate"
#: Records a second of a replay that is to leave the service its speed.
_MAX_RATE: Final = 25_000


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = Load(jobs=options.replayed // 4, under_way=min(20_000, options.replayed // 20))
    settings = await stage.settings(topic=await loaded(stage, load))
    runs = []
    for _ in range(options.runs):
        for who, command in _commands(settings, load).items():
            stage.say(who)
            runs.append(await asyncio.to_thread(_run, who, command, settings, load.events))
    asked, seen = await _beside(stage, options, settings)
    return Result(
        figure="replay",
        what="A whole log to a file, by one process, and answers of the API meanwhile.",
        parameters={"load": load.as_parameters(), "max_rate": _MAX_RATE},
        runs=[*runs, *asked],
        rows=[
            *(row for who in _commands(settings, load) for row in _rows(who, runs)),
            *(row for name in seen for row in rows_of(name, asked, seen[name])),
            ratio("p99 while a replay runs, by that alone", asked, _BESIDE, _ALONE, "p99"),
            ratio("p99 with --max-rate, by that alone", asked, _SLOWED, _ALONE, "p99"),
        ],
        distributions={name: distribution(values) for name, values in seen.items()},
    )


def _commands(settings: Settings, load: Load) -> dict[str, list[str]]:
    """Return what is run, by what it is called."""
    replay = ["-m", "jobtrail", "replay"]
    nothing = format_position(dict.fromkeys(range(settings.partitions), 0))
    return {
        _BARE: ["-m", "benchmarks.reading"],
        _NOTHING: [*replay, "--until", nothing, "--to", str(settings.data_dir / "none.parquet")],
        _PARQUET: [*replay, "--to", str(settings.data_dir / "events.parquet")],
        _DUCKDB: [*replay, "--to", str(settings.data_dir / "all.duckdb")],
    }


def _run(who: str, arguments: list[str], settings: Settings, events: int) -> dict[str, Any]:
    """Run a command to its end; return what it took.

    Raises:
        RuntimeError: It failed.
    """
    for file in _files(arguments):
        file.unlink()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=child_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{who} ended with {process.returncode}")
    cpu = used.ru_utime + used.ru_stime
    return {
        "who": who,
        "seconds": seconds,
        "events_per_second": events / seconds,
        "cpu_seconds": cpu,
        "cpu_us_of_an_event": 1e6 * cpu / events,
        # Linux tells it in KiB.
        "peak_mib": used.ru_maxrss / 1024,
        "bytes": sum(file.stat().st_size for file in _files(arguments)),
    }


def _files(arguments: list[str]) -> list[Path]:
    return [path for path in map(Path, arguments[-1:]) if path.is_file()]


async def _beside(
    stage: Stage, options: Options, log: Settings
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """Ask an API for pages: alone, while a replay of the long log runs, while a slow one does."""
    load = asked_load(options)
    settings = await stage.settings(topic=await loaded(stage, load))
    await fill(stage, settings, load.events)
    service = api(settings)
    url = await stage.start(service)
    pages = Requests(load, settings).of_users(f"{SEARCH}?size=20")
    (await warmed(url, pages)).close()
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for name, rate in ((_ALONE, None), (_BESIDE, 0), (_SLOWED, _MAX_RATE)):
            stage.say(name)
            replays = None if rate is None else asyncio.create_task(_keep_replaying(log, rate))
            try:
                found = await hammered(settings, url, [service.pid], pages, options.asking)
            finally:
                if replays is not None:
                    replays.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await replays
            runs.append(as_run(name, found))
            seen.setdefault(name, []).extend(found.latencies_ms)
    await stage.end(service)
    return runs, seen


async def _keep_replaying(log: Settings, rate: int) -> None:
    """Export the log to Parquet, again and again, until cancelled."""
    slowly = ["--max-rate", str(rate)] if rate else []
    to = str(log.data_dir / "beside.parquet")
    while True:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jobtrail", "replay", *slowly, "--to", to),
            env=child_environment(log),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status:
            raise RuntimeError(f"a replay ended with {status}")


def _rows(who: str, runs: list[dict[str, Any]]) -> list[Row]:
    mine = [run for run in runs if run["who"] == who]
    peak = Row(who, "MiB at most", middle([run["peak_mib"] for run in mine]))
    if who == _NOTHING:
        return [Row(who, "s of CPU", middle([run["cpu_seconds"] for run in mine])), peak]
    return [
        Row(who, "events/s", middle([run["events_per_second"] for run in mine])),
        Row(who, "µs of CPU each", middle([run["cpu_us_of_an_event"] for run in mine])),
        peak,
    ]
