"""What replay costs: the whole log to a file, and what the API's answers suffer meanwhile.

The command is run as analysts run it, whole and on one core; the broker has the others. Beside it
stands aiokafka, which reads the same log and does nothing with it, and a command that finds nothing
to read, which is what starting takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

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
from benchmarks.stage import Stage, run_to_end
from benchmarks.stats import distribution, middle
from benchmarks.trace import ROWS, imported
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
    log = await _log(stage, options)
    settings = await stage.settings(topic=log.topic)
    runs = []
    for _ in range(options.runs):
        for who, command in _commands(settings).items():
            stage.say(who)
            runs.append(await _run(who, command, settings, log.events))
    asked, seen = await _beside(stage, options, settings)
    return Result(
        figure="replay",
        what="A whole log to a file, by one process, and answers of the API meanwhile.",
        parameters={"load": log.told, "max_rate": _MAX_RATE},
        runs=[*runs, *asked],
        rows=[
            *(row for who in _commands(settings) for row in _rows(who, runs)),
            *(row for name in seen for row in rows_of(name, asked, seen[name])),
            ratio("p99 while a replay runs, by that alone", asked, _BESIDE, _ALONE, "p99"),
            ratio("p99 with --max-rate, by that alone", asked, _SLOWED, _ALONE, "p99"),
        ],
        distributions={name: distribution(values) for name, values in seen.items()},
    )


class _Log(NamedTuple):
    """What is replayed."""

    topic: str
    events: int
    told: Any


async def _log(stage: Stage, options: Options) -> _Log:
    """Return the Google trace, or as many made-up events as are wanted, or as it has."""
    topic = None if options.replayed else await imported(stage)
    if topic is not None:
        return _Log(topic, ROWS, "the job events of the Google trace of 2011, part 1")
    events = options.replayed or ROWS
    load = Load(jobs=events // 4, under_way=min(20_000, events // 20))
    return _Log(await loaded(stage, load), load.events, load.as_parameters())


def _commands(settings: Settings) -> dict[str, list[str]]:
    """Return what is run, by what it is called."""
    replay = ["-m", "jobtrail", "replay"]
    nothing = format_position(dict.fromkeys(range(settings.partitions), 0))
    return {
        _BARE: ["-m", "benchmarks.reading"],
        _NOTHING: [*replay, "--until", nothing, "--to", str(settings.data_dir / "none.parquet")],
        _PARQUET: [*replay, "--to", str(settings.data_dir / "events.parquet")],
        _DUCKDB: [*replay, "--to", str(settings.data_dir / "all.duckdb")],
    }


async def _run(who: str, arguments: list[str], settings: Settings, events: int) -> dict[str, Any]:
    """Run a command to its end, on one core; return what it took."""
    for file in _files(arguments):
        file.unlink()
    printed = await run_to_end(["-m", "benchmarks.alone", *arguments], settings)
    took: dict[str, float] = msgspec.json.decode(printed)
    return {
        "who": who,
        **took,
        "events_per_second": events / took["seconds"],
        "cpu_us_of_an_event": 1e6 * took["cpu_seconds"] / events,
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
        taken = [("s", "seconds"), ("s of CPU", "cpu_seconds")]
        return [*(Row(who, t, middle([run[name] for run in mine])) for t, name in taken), peak]
    return [
        Row(who, "events/s", middle([run["events_per_second"] for run in mine])),
        Row(who, "µs of CPU each", middle([run["cpu_us_of_an_event"] for run in mine])),
        peak,
    ]
