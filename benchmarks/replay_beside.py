"""What an export of a long log does to the API's answers from the same cores.

Pages are asked for at a rate that a live service has, where a core is free most of the time; and in
a closed loop that takes all there is, where whoever comes beside it has to cost something. Each is
done alone, while an export runs again and again, and while one does at a bounded rate, in turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, Final

from benchmarks.asking import (
    CONNECTIONS,
    SEARCH,
    WARM_UP,
    Requests,
    as_run,
    asked_load,
    carried_out,
    fill,
    hammered,
    ratio,
    rows_of,
    told,
    warmed,
)
from benchmarks.hammer import Hammered
from benchmarks.options import Options
from benchmarks.pacing import PacedTask
from benchmarks.replay import replayed_log
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import distribution, middle
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.processes import Process, api

#: Records a second of an export that is told to take its time.
_MAX_RATE: Final = 25_000
_PACED: Final = "search at a steady rate"
_FULL: Final = "search as fast as it goes"
_ALONE: Final = "alone"
_BESIDE: Final = "beside an export"
_SLOWED: Final = "beside one at --max-rate"
#: By when it is asked: at how many records a second the export reads; 0: as fast as it goes.
_SIDES: Final = {_ALONE: None, _BESIDE: 0, _SLOWED: _MAX_RATE}


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    long = await replayed_log(stage, options)
    log = await stage.settings(topic=long.topic)
    load = asked_load(options)
    settings = await stage.settings(topic=await loaded(stage, load))
    await fill(stage, settings, load.events)
    service = api(settings)
    url = await stage.start(service)
    pages = Requests(load, settings).of_users(f"{SEARCH}?size=20")
    (await warmed(url, pages)).close()
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = {}
    exports = _Exports(log)
    for how in (_PACED, _FULL):
        for _ in range(options.runs):
            for when, rate in _SIDES.items():
                name = f"{how}, {when}"
                stage.say(name)
                async with exports.going_on(rate):
                    found = await _asked(how, settings, url, service, pages, options)
                runs.append({**as_run(name, found), "exports": exports.whole})
                seen.setdefault(name, []).extend(found.latencies_ms)
    await stage.end(service)
    return Result(
        figure="replay_beside",
        what="Answers of the API while an export of a long log runs on the same cores.",
        parameters={
            **told(options, load),
            "replayed": long.told,
            "asked_rate": options.asked_rate,
            "beside_seconds": options.beside_seconds,
            "max_rate": _MAX_RATE,
        },
        runs=runs,
        rows=_rows(runs, seen),
        distributions={name: distribution(values) for name, values in seen.items()},
    )


async def _asked(
    how: str,
    settings: Settings,
    url: str,
    service: Process,
    pages: list[bytes],
    options: Options,
) -> Hammered:
    """Ask for pages in one of the two ways."""
    seconds = options.beside_seconds
    if how == _FULL:
        return await hammered(settings, url, [service.pid], pages, seconds)
    task = PacedTask(
        url=url,
        pids=[service.pid],
        connections=CONNECTIONS,
        warm_up=WARM_UP,
        seconds=seconds,
        requests=pages,
        rate=options.asked_rate,
    )
    return await carried_out("benchmarks.pacing", task, settings)


class _Exports:
    """Exports a log to Parquet, again and again.

    Args:
        log: Whose log.
    """

    def __init__(self, log: Settings) -> None:
        self._log = log
        #: How many came to their end while they last went on.
        self.whole = 0

    @contextlib.asynccontextmanager
    async def going_on(self, rate: int | None) -> Any:
        """Export for as long as the block lasts; None: do not."""
        self.whole = 0
        if rate is None:
            yield
            return
        task = asyncio.create_task(self._export(rate))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _export(self, rate: int) -> None:
        slowly = ["--max-rate", str(rate)] if rate else []
        to = str(self._log.data_dir / "beside.parquet")
        while True:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "jobtrail", "replay", *slowly, "--to", to),
                env=child_environment(self._log),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                # As from another terminal than the service's.
                start_new_session=True,
            )
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if status:
                raise RuntimeError(f"an export ended with {status}")
            self.whole += 1


def _rows(runs: list[dict[str, Any]], seen: dict[str, list[float]]) -> list[Row]:
    rows = []
    for how in (_PACED, _FULL):
        alone = f"{how}, {_ALONE}"
        for when in _SIDES:
            name = f"{how}, {when}"
            rows += rows_of(name, runs, seen[name])
            if when != _ALONE:
                rows.append(ratio(f"{how}: p99 {when}, by that alone", runs, name, alone, "p99"))
                exports = [run["exports"] for run in runs if run["kind"] == name]
                rows.append(Row(name, "exports meanwhile", middle(exports)))
    return rows
