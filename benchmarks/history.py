"""Whether answers get slower with the size of a user's history, with depth, or without matches.

Each row is one p50 by another, so 1 says that nothing gets slower. All of them are of requests of
one user each, since the tokens of many users would be part of the one side alone.
"""

from __future__ import annotations

from benchmarks.asking import (
    SEARCH,
    Requests,
    asked_load,
    fill,
    in_turns,
    of_service,
    ratio,
    told,
    warmed,
)
from benchmarks.client import Connection, get
from benchmarks.load import BIG_OWNER
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.sending import loaded
from benchmarks.stage import Stage
from benchmarks.stats import distribution
from tests.processes import api

#: Jobs of the page that is asked for everywhere, which a user with few has, too.
_PAGE = f"{SEARCH}?size=20"


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    load = asked_load(options)
    settings = await stage.settings(topic=await loaded(stage, load))
    await fill(stage, settings, load.events)
    service = api(settings)
    url = await stage.start(service)
    requests = Requests(load, settings)
    connection = await warmed(url)
    asked, ratios = await _asked(requests, connection)
    connection.close()
    kinds = [of_service(settings, url, [service.pid], *one) for one in asked.items()]
    runs, seen = await in_turns(kinds, options)
    return Result(
        figure="history",
        what="p50 of one kind of answer by that of another: of size, of depth, of no matches.",
        parameters=told(options, load),
        runs=runs,
        rows=[
            *(ratio(measure, runs, over, under) for measure, over, under in ratios),
            *(_p50(name, seen[name]) for name in seen),
        ],
        distributions={name: distribution(values) for name, values in seen.items()},
    )


async def _asked(
    requests: Requests, connection: Connection
) -> tuple[dict[str, list[bytes]], list[tuple[str, str, str]]]:
    """Return requests by kind; and what the ratios are called, with the kinds that they are of."""
    user = _ordinary(requests)
    few, many = (f"{len(requests.jobs_of[one]):,} jobs" for one in (user, BIG_OWNER))
    bearer, big = requests.bearers[user], requests.big
    first, first_of_few = f"first page, {many}", f"first page, {few}"
    deep, matching, none = f"at depth, {many}", f"all match, {many}", f"none match, {many}"
    total, total_of_few = f"summary, {many}", f"summary, {few}"
    asked = {
        first_of_few: [get(_PAGE, bearer)],
        first: [get(_PAGE, big)],
        deep: await requests.deep(connection),
        matching: [get(f"{_PAGE}&state=completed", big)],
        none: [get(f"{_PAGE}&state=failed", big)],
        total_of_few: [get("/jobs/summary", bearer)],
        total: [get("/jobs/summary", big)],
    }
    ratios = [
        (f"first page: {many} by {few}", first, first_of_few),
        (f"summary: {many} by {few}", total, total_of_few),
        (f"{many}: a page at depth by the first one", deep, first),
        (f"{many}: a filter that matches none by one that matches all", none, matching),
    ]
    return asked, ratios


def _ordinary(requests: Requests) -> str:
    """Return a user who has about as many jobs as most, and a page of them at least."""
    users = sorted(requests.bearers, key=lambda user: len(requests.jobs_of[user]))
    middle = users[len(users) // 2 :]
    return next((user for user in middle if len(requests.jobs_of[user]) >= 20), users[-1])


def _p50(name: str, seen: list[float]) -> Row:
    return Row(name, "ms", {"p50": distribution(seen)["p50"]})
