"""How the cost of an event changes with the size of the projections.

Two projectors bring a new store from the start of a long log to its end, and slice by slice it is
read what they took: CPU time and memory. `benchmarks.picture` draws it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from benchmarks.load import Load
from benchmarks.options import Options
from benchmarks.projection import Projection
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import middle
from benchmarks.usage import Meter, read, resident
from tests.processes import Process, projector

#: Numbers of jobs around which the cost is told, beside that at the end.
MARKS: Final = (100_000, 500_000, 1_000_000, 2_000_000, 5_000_000)
#: How far around such a number is looked, as a share of it: a slice alone is noisy.
_AROUND: Final = 0.2
#: A slice has at least so many events: one step of the checkpoints of each projector ...
_LEAST: Final = 200_000
#: ... but there are so many of them in any log.
_SLICES: Final = 20
#: Later ones are this share of what is applied: as long as each other on a logarithmic axis.
_GROWTH: Final = 0.04
#: A projector that takes a smaller share of the other one's CPU time has nothing to do.
_AT_WORK: Final = 1 / 3
#: Slices after each of which it is said how far the projectors are.
_TOLD: Final = 5


class Moment(msgspec.Struct, frozen=True):
    """What is seen when so many events are applied."""

    events: int
    at: float
    #: Of each projector: seconds of CPU so far, and MiB of memory where the system tells it.
    cpu: list[float]
    anonymous: list[float | None]
    mapped: list[float | None]


class Slice(msgspec.Struct, frozen=True):
    """A part of the run, and the memory at its end.

    Attributes:
        events: Where it ends: how many events are applied.
        jobs: How many jobs the store holds in its middle.
        seconds: How long it took.
        cpu_seconds: CPU time of each projector in it.
        applied: How many events were applied in it.
        anonymous_mib: Memory of each projector that no file holds.
        mapped_mib: Memory of each projector that files hold.
    """

    events: int
    jobs: int
    seconds: float
    cpu_seconds: list[float]
    applied: int
    anonymous_mib: list[float | None]
    mapped_mib: list[float | None]

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.applied / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of CPU an event."""
        return 1e6 * sum(self.cpu_seconds) / self.applied

    @property
    def together(self) -> bool:
        """Whether both projectors were at work: one may join later, or be done before the other."""
        return min(self.cpu_seconds) >= _AT_WORK * max(self.cpu_seconds)


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure, once."""
    jobs = options.sized_jobs
    load = Load(jobs=jobs, under_way=min(20_000, jobs // 5), life=("created", "completed"))
    topic = await loaded(stage, load)
    run = await _catch_up(stage, topic, load)
    slices = [msgspec.convert(found, Slice) for found in run["slices"]]
    return Result(
        figure="size",
        what="Events a second and CPU of an event while the store grows, with 2 projectors.",
        parameters={"load": load.as_parameters(), "projectors": 2, "shards": 2, "runs": 1},
        runs=[run],
        rows=[*_points(shown(slices, run["joined_at"]), jobs), *_whole(run)],
    )


async def _catch_up(stage: Stage, topic: str, load: Load) -> dict[str, Any]:
    settings = await stage.settings(topic=topic)
    projectors = [projector(settings, number) for number in range(2)]
    projection = Projection(settings, projectors)

    async def start_all() -> int:
        await asyncio.gather(*(stage.start(process) for process in projectors))
        return projection.applied()

    starting = asyncio.create_task(start_all())
    try:
        first = _look(await projection.reaches(1), projectors)
        meter = Meter({f"projector-{n}": process.pid for n, process in enumerate(projectors)})
        moments = [first]
        await _follow(stage, projection, projectors, load, moments)
        processes = meter.stop()
        joined_at = await starting
    finally:
        starting.cancel()
        projection.close()
    # They let go of the store in order, so that nothing is left in SQLite's logs.
    await asyncio.gather(*(process.stop() for process in projectors))
    await stage.end(*projectors)
    size = sum(path.stat().st_size for path in settings.store_folder.rglob("*") if path.is_file())
    last = moments[-1]
    return {
        "events_per_second": (last.events - first.events) / (last.at - first.at),
        "applied": last.events - first.events,
        "seconds": last.at - first.at,
        "joined_at": joined_at,
        "store_bytes": size,
        "store_bytes_per_job": size / load.jobs,
        "processes": processes,
        "anonymous_peak_mib": _peaks([moment.anonymous for moment in moments]),
        "mapped_peak_mib": _peaks([moment.mapped for moment in moments]),
        "slices": [msgspec.to_builtins(found) for found in cut(moments, load)],
    }


async def _follow(
    stage: Stage,
    projection: Projection,
    projectors: Sequence[Process],
    load: Load,
    moments: list[Moment],
) -> None:
    """Look at the end of each slice, and add it to the first moment."""
    least = max(1, min(_LEAST, load.events // _SLICES))
    while (applied := moments[-1].events) < load.events:
        wanted = applied + max(least, int(applied * _GROWTH))
        # What is left behind the last slice is part of it, when it is only a little.
        wanted = wanted if wanted + least <= load.events else load.events
        moments.append(_look(await projection.reaches(wanted), projectors))
        if len(moments) % _TOLD == 0:
            found = cut(moments[-2:], load)[0]
            stage.say(
                f"{found.jobs:,} jobs: {found.rate:,.0f} events/s, {found.cost:.1f} µs of CPU each"
            )


def _look(events: int, projectors: Sequence[Process]) -> Moment:
    memory = [resident(process.pid) for process in projectors]
    return Moment(
        events=events,
        at=time.perf_counter(),
        cpu=[read(process.pid).cpu for process in projectors],
        anonymous=[found.anonymous for found in memory],
        mapped=[found.mapped for found in memory],
    )


def jobs_at(load: Load, events: int) -> int:
    """Return how many jobs have begun in a log's first events, where a life has two.

    At first each event begins a job, then every second one: the others end one.
    """
    return min(load.jobs, events, (events + load.under_way) // 2)


def cut(moments: Sequence[Moment], load: Load) -> list[Slice]:
    """Return what lies between each moment and the next one."""
    return [
        Slice(
            events=after.events,
            jobs=jobs_at(load, (before.events + after.events) // 2),
            seconds=after.at - before.at,
            cpu_seconds=[b - a for a, b in zip(before.cpu, after.cpu, strict=True)],
            applied=after.events - before.events,
            anonymous_mib=after.anonymous,
            mapped_mib=after.mapped,
        )
        for before, after in itertools.pairwise(moments)
    ]


def around(slices: Sequence[Slice], jobs: int) -> tuple[float, float] | None:
    """Return events a second and microseconds of CPU an event while there were about so many jobs.

    Args:
        slices: Those that are shown.
        jobs: How many.

    Returns:
        None: there were never so many.
    """
    near = [found for found in slices if abs(found.jobs - jobs) <= _AROUND * jobs]
    # Half of what is looked at has to be there, at the end of the log too.
    if not near or max(found.jobs for found in slices) < jobs * (1 - _AROUND / 2):
        return None
    applied = sum(found.applied for found in near)
    seconds = sum(found.seconds for found in near)
    return applied / seconds, sum(found.cost * found.applied for found in near) / applied


def shown(slices: Sequence[Slice], joined_at: int) -> list[Slice]:
    """Return the slices whose cost tells something: both projectors were at work.

    Args:
        slices: All of a run.
        joined_at: How many events were applied when both were ready. Starting takes CPU time, too.
    """
    return [
        found for found in slices if found.events - found.applied >= joined_at and found.together
    ]


def _points(slices: Sequence[Slice], jobs: int) -> list[Row]:
    """Return the rows of some sizes, and how the last is to the first one."""
    rows, costs = [], []
    for mark in sorted({*(mark for mark in MARKS if mark <= jobs), jobs}):
        if (found := around(slices, mark)) is not None:
            rate, cost = found
            rows.append(Row(f"around {mark:,} jobs", "events/s", middle([rate])))
            rows.append(Row(f"around {mark:,} jobs", "µs of CPU each", middle([cost])))
            costs.append((mark, cost))
    if len(costs) > 1:
        (small, before), (_, after) = costs[0], costs[-1]
        told = f"CPU of an event at the end, by that around {small:,} jobs"
        rows.append(Row(told, "", middle([after / before])))
    return rows


def _whole(run: dict[str, Any]) -> list[Row]:
    cpu = sum(used["cpu_seconds"] for used in run["processes"].values())
    rows = [
        Row("all of it", "events/s", middle([run["events_per_second"]])),
        Row("all of it", "µs of CPU each", middle([1e6 * cpu / run["applied"]])),
    ]
    for number, (name, used) in enumerate(run["processes"].items()):
        rows.append(Row(f"{name}, at most", "MiB", middle([used["peak_mib"]])))
        anonymous = run["anonymous_peak_mib"][number]
        if anonymous is not None:
            rows.append(Row(f"{name}, at most", "MiB without mapped files", middle([anonymous])))
    return [*rows, Row("the store", "bytes a job", middle([run["store_bytes_per_job"]]))]


def _peaks(looks: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the most of each projector."""
    return [
        max((found for found in mine if found is not None), default=None)
        for mine in zip(*looks, strict=True)
    ]
