"""What replay costs: the whole log to a file.

The command is run as analysts run it, whole and on one core; the broker has the others. Beside it
stands aiokafka, which reads the same log and does nothing with it, and a command that finds nothing
to read, which is what starting takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage, run_to_end
from benchmarks.stats import middle
from benchmarks.trace import ROWS, imported
from jobtrail.core.position import format_position
from jobtrail.settings import Settings

_BARE: Final = "aiokafka alone, nothing done"
_NOTHING: Final = "nothing to read"
_PARQUET: Final = "events to Parquet"
_DUCKDB: Final = "events, jobs, transitions to DuckDB"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    log = await replayed_log(stage, options)
    settings = await stage.settings(topic=log.topic)
    runs = []
    for _ in range(options.runs):
        for who, command in _commands(settings).items():
            stage.say(who)
            runs.append(await _run(who, command, settings, log.events))
    return Result(
        figure="replay",
        what="A whole log to a file, by one process on one core.",
        parameters={"load": log.told},
        runs=runs,
        rows=[row for who in _commands(settings) for row in _rows(who, runs)],
    )


class Replayed(NamedTuple):
    """What is replayed."""

    topic: str
    events: int
    told: Any


async def replayed_log(stage: Stage, options: Options) -> Replayed:
    """Return the Google trace, or as many made-up events as are wanted, or as it has."""
    topic = None if options.replayed else await imported(stage)
    if topic is not None:
        return Replayed(topic, ROWS, "the job events of the Google trace of 2011, part 1")
    events = options.replayed or ROWS
    load = Load(jobs=events // 4, under_way=min(20_000, events // 20))
    return Replayed(await loaded(stage, load), load.events, load.as_parameters())


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
