"""What is asked of the past of real traffic, the Google trace of 2011, over HTTP.

Counts, pages and single jobs as they were at twenty instants, for ten users, of whom half have the
most jobs, and for one who sees all: with one request under way, and with four. The trace is no part
of the repository; where it is absent, the figure says so.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple

from benchmarks.asking import WARM_UP, as_run, carried_out, fill, warmed
from benchmarks.client import get
from benchmarks.hammer import Task
from benchmarks.options import Options
from benchmarks.results import Result, Row
from benchmarks.stage import Stage, Tokens
from benchmarks.stats import distribution, latencies, middle
from benchmarks.trace import TRACE, imported
from jobtrail.access.tokens import READ_ALL
from tests.processes import api

#: What the trace's clock counts from.
_START: Final = datetime(2011, 5, 1, 22, 50, tzinfo=UTC)
_SUBMIT: Final = "0"
_INSTANTS: Final = 20
_USERS: Final = 10
_JOBS_OF_EACH: Final = 10
_AT_ONCE: Final = (1, 4)


class _Seen(NamedTuple):
    """What the trace has: its rows' times, and each user's jobs with the time of their first."""

    times: list[int]
    jobs: dict[str, list[tuple[int, str]]]


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    parameters: dict[str, Any] = {"rows": options.traced, "users": _USERS, "instants": _INSTANTS}
    what = "Answers of what was true in the Google trace at twenty instants."
    topic = await imported(stage, options.traced)
    if topic is None:
        left_out = Row("left out: the Google trace is not beside the checkout", "", {})
        return Result("past", what, parameters, [], [left_out])
    settings = await stage.settings(topic=topic)
    await fill(stage, settings, options.traced)
    service = api(settings)
    url = await stage.start(service)
    asked = _requests(_seen(options.traced), Tokens(settings))
    runs: list[dict[str, Any]] = []
    found: dict[str, list[float]] = defaultdict(list)
    for requests in asked.values():
        (await warmed(url, requests[:: len(requests) // 20 or 1])).close()
    for _ in range(options.runs):
        for kind, requests in asked.items():
            for at_once in _AT_ONCE:
                name = kind if at_once == 1 else f"{kind}, {at_once} at once"
                stage.say(name)
                task = Task(url, [service.pid], at_once, WARM_UP, options.asking, requests)
                hammered = await carried_out("benchmarks.hammer", task, settings)
                runs.append(as_run(name, hammered))
                found[name] += hammered.latencies_ms
    await stage.end(service)
    return Result(
        figure="past",
        what=what,
        parameters={**parameters, "runs": options.runs, "seconds": options.asking},
        runs=runs,
        rows=[row for name in found for row in _rows(name, runs, found[name])],
        distributions={name: distribution(values) for name, values in found.items()},
    )


def _seen(rows: int) -> _Seen:
    """Read the trace again."""
    seen = _Seen([], defaultdict(list))
    known = set()
    with gzip.open(TRACE, "rt", encoding="utf-8") as lines:
        for row in islice(csv.DictReader(lines), rows):
            time = int(row["time_us"])
            seen.times.append(time)
            if row["job_id"] not in known:
                known.add(row["job_id"])
                seen.jobs[row["user"]].append((time, row["job_id"]))
    return seen


def _requests(seen: _Seen, tokens: Tokens) -> dict[str, list[bytes]]:
    """Return requests by kind."""
    users = _some_users(seen)
    bearers = {user: tokens.of(user) for user in users}
    of_users, of_all = list(bearers.values()), [tokens.of("admin", READ_ALL)]
    last = len(seen.times) - 1
    instants = [seen.times[last * number // (_INSTANTS - 1)] for number in range(_INSTANTS)]
    # A part of a day on both sides of whole ones.
    first, end = (_said(seen.times[-1] * share // 7) for share in (1, 6))
    ranged = f"startDate={first}&endDate={end}&"
    found = {}
    for whose, those in (("a user", of_users), ("all", of_all)):
        for name, path in {
            f"summary of {whose}": "/jobs/summary?",
            f"summary of {whose}, a range of dates": f"/jobs/summary?{ranged}",
            f"search, page of 20 of {whose}": "/jobs/search?size=20&",
            f"search of active jobs, page of 20 of {whose}": "/jobs/search?size=20&state=active&",
        }.items():
            found[name] = [
                get(f"{path}asOf={_said(time)}", bearer) for time in instants for bearer in those
            ]
    found["one job"] = [
        get(f"/jobs/{job}?asOf={_said(time)}", bearers[user])
        for user in users
        for created, job in _spread(seen.jobs[user], _JOBS_OF_EACH)
        for time in instants
        if time >= created
    ]
    return found


def _some_users(seen: _Seen) -> list[str]:
    """Return some users: those with the most jobs, and every so many-th of the others."""
    counts = Counter({user: len(jobs) for user, jobs in seen.jobs.items()})
    names = [user for user, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))]
    half = _USERS // 2
    return names[:half] + _spread(names[half:], _USERS - half)


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    return list(values[:: max(len(values) // count, 1)][:count])


def _said(time_us: int) -> str:
    return (_START + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


def _rows(name: str, runs: Sequence[dict[str, Any]], seen: Sequence[float]) -> list[Row]:
    shown = latencies(seen)
    mine = [run["answers_per_second"] for run in runs if run["kind"] == name]
    return [
        Row(name, "ms", {step: shown[step] for step in ("p50", "p99", "max")}),
        Row(name, "answers/s", middle(mine)),
    ]
