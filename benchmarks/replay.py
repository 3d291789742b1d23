"""What replay costs: the whole log to a file.

The command is run as analysts run it. Beside it stands aiokafka, which reads the same log and does
nothing with it, and a command that finds nothing to read, which is what starting takes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import middle
from jobtrail.position import format_position
from jobtrail.process import child_environment
from jobtrail.settings import Settings

_BARE: Final = "aiokafka alone, nothing done"
_NOTHING: Final = "nothing to read"
_PARQUET: Final = "events to Parquet"
_DUCKDB: Final = "events, jobs, transitions to DuckDB"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = replayed_load(options)
    settings = await stage.settings(topic=await loaded(stage, load))
    runs = []
    for _ in range(options.runs):
        for who, command in _commands(settings, load).items():
            stage.say(who)
            runs.append(await asyncio.to_thread(_run, who, command, settings, load.events))
    return Result(
        figure="replay",
        what="A whole log to a file, by one process.",
        parameters={"load": load.as_parameters()},
        runs=runs,
        rows=[row for who in _commands(settings, load) for row in _rows(who, runs)],
    )


def replayed_load(options: Options) -> Load:
    """Return the log that is replayed."""
    return Load(jobs=options.replayed // 4, under_way=min(20_000, options.replayed // 20))


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
