"""What a second API process on the same port brings, as `jobtrail up --api-processes 2` runs it.

One process alone and two that share a port are asked by turns, with as many connections, which the
kernel shares out. The load process and the two want more than two cores have.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.asking import (
    SEARCH,
    Requests,
    asked_load,
    fill,
    in_turns,
    of_service,
    rows_of,
    told,
    warmed,
)
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import distribution, middle
from jobtrail.settings import Settings
from tests.processes import api

_ONE = "one process"
_TWO = "two processes"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = asked_load(options)
    settings = await stage.settings(topic=await loaded(stage, load))
    await fill(stage, settings, load.events)
    services = [await _started(stage, settings, count) for count in (1, 2)]
    requests = Requests(load, settings)
    asked = {
        "search, page of 20": requests.of_users(f"{SEARCH}?size=20"),
        "summary of a user": requests.of_users("/jobs/summary"),
        "statuses of 10 jobs": requests.statuses(),
    }
    kinds = [
        of_service(settings, url, pids, f"{name}: {who}", prepared)
        for name, prepared in asked.items()
        for who, (url, pids) in zip((_ONE, _TWO), services, strict=True)
    ]
    runs, seen = await in_turns(kinds, options)
    rows = []
    for name in asked:
        for who in (_ONE, _TWO):
            kind = f"{name}: {who}"
            rows += rows_of(kind, runs, seen[kind])
        rows += [_gain(name, runs), _room(name, runs)]
    return Result(
        figure="answers_two",
        what="Answers a second of two API processes that share a port, by those of one.",
        parameters={**told(options, load), "cores": os.cpu_count()},
        runs=runs,
        rows=rows,
        distributions={name: distribution(values) for name, values in seen.items()},
    )


async def _started(stage: Stage, settings: Settings, count: int) -> tuple[str, list[int]]:
    """Start so many API processes on one port; return their URL and their process ids."""
    first = api(settings, 10 * count)
    url = await stage.start(first)
    pids = [first.pid]
    sharing = settings.model_copy(update={"port": int(url.rsplit(":", 1)[1])})
    for number in range(1, count):
        sibling = api(sharing, 10 * count + number)
        await stage.start(sibling)
        pids.append(sibling.pid)
    (await warmed(url)).close()
    return url, pids


def _room(name: str, runs: list[dict[str, Any]]) -> Row:
    """Return how many cores there are for two processes, as the load process needs a share too."""
    loads = [
        run["processes"]["load"]["cpu_share"] for run in runs if run["kind"] == f"{name}: {_TWO}"
    ]
    cores = os.cpu_count() or 1
    return Row(
        f"{name}: cores that the load process leaves to two",
        "",
        middle([min(2.0, cores - load) for load in loads]),
    )


def _gain(name: str, runs: list[dict[str, Any]]) -> Row:
    """Return the answers of two processes by those of one, run by run."""
    one, two = (
        [run["answers_per_second"] for run in runs if run["kind"] == f"{name}: {who}"]
        for who in (_ONE, _TWO)
    )
    gains = [b / a for a, b in zip(one, two, strict=True)]
    return Row(f"{name}: two by one", "times as many", middle(gains))
