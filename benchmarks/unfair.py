"""What one caller who asks for too much does to the others: a page of 20 beside it, and alone.

Kind by kind, then all kinds together: a greedy caller asks on some connections for the worst that
there is, as fast as it is answered; others ask for their pages at a steady rate meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.asking import (
    SEARCH,
    Requests,
    as_run,
    asked_load,
    carried_out,
    fill,
    rows_of,
    told,
    warmed,
)
from benchmarks.client import get, post
from benchmarks.greedy import Greedy
from benchmarks.hammer import Hammered
from benchmarks.load import BEGIN, BIG_OWNER, Load
from benchmarks.options import Options
from benchmarks.pacing import PacedTask
from benchmarks.results import Result, Row
from benchmarks.sending import send_to
from benchmarks.stage import Stage
from benchmarks.stats import distribution, latencies, middle
from benchmarks.usage import resident_kib
from jobtrail.access.tokens import local_secret, make_token
from jobtrail.settings import Settings
from tests.processes import api

ALONE: Final = "alone"
TOGETHER: Final = "all kinds together"
#: Connections of those who ask as always, and of the greedy one.
CONNECTIONS: Final = 8
GREEDY: Final = 16
UNREAD: Final = 30
WARM_UP: Final = 1.0
#: Whom others let see very many jobs, each of an audience of its own.
CROWDED: Final = "crowded"
FOREIGN: Final = "a-bulk-of-others"
#: Bytes of each output that is large, and how many there are.
OUTPUT: Final = 60_000


class _Kind(NamedTuple):
    """What a greedy caller asks for."""

    requests: list[bytes]
    unread: bytes | None = None


async def measure(stage: Stage, options: Options) -> Result:
    """Measure the figure."""
    # As it is set up anywhere: what one caller may ask for is a part of what is measured.
    settings = await stage.settings(max_request_rate=1_000.0, max_request_burst=2_000)
    load = asked_load(options)
    stage.say(f"sending {load.events:,} events")
    await send_to(settings, load)
    more = await send_records(settings, list(_hostile(options)))
    await fill(stage, settings, load.events + more)
    service = api(settings)
    url = await stage.start(service)
    requests = Requests(load, settings)
    pages = requests.of_users(f"{SEARCH}?size=20")[:500]
    (await warmed(url, pages)).close()
    task = PacedTask(
        url, [service.pid], CONNECTIONS, WARM_UP, options.unfair_seconds, pages, options.asked_rate
    )
    kinds = _kinds(settings, requests, load, options)
    together = [request for kind in kinds.values() for request in kind.requests]
    unread = next(kind.unread for kind in kinds.values() if kind.unread)
    everything = {ALONE: None, **kinds, TOGETHER: _Kind(together, unread)}
    runs: list[dict[str, Any]] = []
    seen: dict[str, list[float]] = {}
    for _ in range(options.runs):
        for name, kind in everything.items():
            stage.say(name)
            memory = resident_kib(service.pid)
            found, statuses = await _beside(stage, settings, task, kind)
            grown = (resident_kib(service.pid) - memory) / 1024
            runs.append(as_run(name, found) | {"greedy_answers": statuses, "grown_mib": grown})
            seen.setdefault(name, []).extend(found.latencies_ms)
    return Result(
        figure="unfair",
        what="Milliseconds of others' pages of 20 while one caller asks for too much.",
        parameters={
            **told(options, load),
            "seconds": options.unfair_seconds,
            "asked_rate": options.asked_rate,
            "connections": CONNECTIONS,
            "greedy_connections": GREEDY,
            "unread_connections": UNREAD,
            "crowd": options.crowd,
        },
        runs=runs,
        rows=_rows(runs, seen),
        distributions={name: distribution(values) for name, values in seen.items()},
    )


async def _beside(
    stage: Stage, settings: Settings, task: PacedTask, kind: _Kind | None
) -> tuple[Hammered, dict[str, int]]:
    """Ask for pages beside a greedy caller; return what was found, and what the greedy one got."""
    if kind is None:
        return await carried_out("benchmarks.pacing", task, settings), {}
    answers = settings.data_dir / "greedy.json"
    greedy = Greedy(
        task.url,
        GREEDY,
        kind.requests,
        UNREAD if kind.unread else 0,
        kind.unread or b"",
        str(answers),
    )
    process = await stage.start_told("greedy", greedy, settings)
    found = await carried_out("benchmarks.pacing", task, settings)
    if process.child.returncode is not None:
        raise RuntimeError(f"the greedy caller went away: {process.log.read_text()[-2000:]}")
    assert process.child.stdin is not None
    process.child.stdin.close()
    await process.child.wait()
    await stage.end(process)
    return found, msgspec.json.decode(answers.read_bytes(), type=dict[str, int])


def _kinds(
    settings: Settings, requests: Requests, load: Load, options: Options
) -> dict[str, _Kind]:
    secret = local_secret(settings.data_dir)
    big, crowded = requests.big, make_token(secret, CROWDED)
    tags = "&".join(f"tag=tenant-{number}:none" for number in range(31)) + "&tag=tenant:none"
    then = (BEGIN + timedelta(days=load.days / 2)).isoformat().replace("+00:00", "Z")
    ids = requests.jobs_of[BIG_OWNER][:1000]
    states = msgspec.json.encode({"jobIds": ids})
    waits = msgspec.json.encode({"jobIds": [f"none-{n}" for n in range(1000)], "wait": 1})
    return {
        "32 tags": _Kind([get(f"{SEARCH}?{tags}", big)]),
        "a tag that no job has": _Kind([get(f"{SEARCH}?tag=none:none", big)]),
        "updatedSince": _Kind([get(f"{SEARCH}?updatedSince=2100-01-01", big)]),
        "pages of 1,000": _Kind([get(f"{SEARCH}?size=1000", big)]),
        "a far offset": _Kind([get(f"{SEARCH}?offset={options.big_jobs - 10}", big)]),
        "a bulk of others": _Kind([get(f"/jobs?bulkId={FOREIGN}", big)]),
        "a wait for a bulk of others": _Kind([get(f"/jobs?bulkId={FOREIGN}&wait=-1", big)]),
        "a large bulk": _Kind([get(f"/jobs?bulkId={FOREIGN}", make_token(secret, "foreigner"))]),
        "1,000 statuses": _Kind([post("/jobs/statuses", big, states)]),
        "waits for 1,000 jobs": _Kind([post("/jobs/statuses", big, waits)]),
        "asOf": _Kind(
            [
                get(f"{SEARCH}?size=20&state=active&asOf={then}", big),
                get(f"/jobs/summary?asOf={then}&startDate=2026-01-03T05:00:00Z", big),
            ]
        ),
        "very many audiences": _Kind(
            [get(f"{SEARCH}?size=20", crowded), get("/jobs/summary", crowded)]
        ),
        "very many audiences, a state": _Kind([get(f"{SEARCH}?state=failed", crowded)]),
        "pages of 20": _Kind([get(f"{SEARCH}?size=20", big)]),
        "pages of large outputs, unread": _Kind(
            [], get(f"{SEARCH}?size=1000&jobType=large", crowded)
        ),
    }


def _hostile(options: Options) -> Iterator[tuple[str, bytes]]:
    """Make up jobs that let much be asked for."""
    now = datetime.now(UTC)
    for number in range(options.crowd):
        # Others name them as a viewer, each in a way of its own.
        yield _event(
            f"crowd-{number}", "created", now, owner=f"other-{number}", viewers=[f"user:{CROWDED}"]
        )
    for number in range(5 * options.crowd):
        yield _event(f"bulk-{number}", "created", now, owner="foreigner", bulkId=FOREIGN)
    for number in range(max(20, options.crowd // 10)):
        yield _event(f"large-{number}", "created", now, owner=CROWDED, jobType="large")
        yield _event(f"large-{number}", "completed", now, output="x" * OUTPUT)


def _event(job_id: str, kind: str, time: datetime, **data: Any) -> tuple[str, bytes]:
    if kind == "created":
        data = {"jobType": "hostile", **data}
    event = {
        "specversion": "1.0",
        "id": f"{job_id}-{kind}",
        "source": "//benchmarks.example/hostile",
        "type": f"job.{kind}",
        "subject": job_id,
        "time": time.isoformat(timespec="milliseconds")[:-6] + "Z",
        "data": data,
    }
    return job_id, msgspec.json.encode(event)


async def send_records(settings: Settings, records: list[tuple[str, bytes]]) -> int:
    """Send events, and return how many there were."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, linger_ms=5)
    await producer.start()
    try:
        sent = [
            await producer.send(settings.topic, value, key=job_id.encode())
            for job_id, value in records
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(records)


def _rows(runs: list[dict[str, Any]], seen: dict[str, list[float]]) -> list[Row]:
    rows = rows_of(ALONE, runs, seen[ALONE])[1:3]
    for name, values in seen.items():
        if name == ALONE:
            continue
        mine = [run for run in runs if run["kind"] == name]
        alone = [run["latencies_ms"]["p99"] for run in runs if run["kind"] == ALONE]
        ratios = [
            run["latencies_ms"]["p99"] / before for run, before in zip(mine, alone, strict=True)
        ]
        shown = latencies(values)
        rows += [
            Row(name, "ms", {step: shown[step] for step in ("p50", "p99")}),
            Row(name, "times p99 alone", middle(ratios)),
        ]
        if "unread" in name or name == TOGETHER:
            rows.append(Row(name, "MiB more", middle([run["grown_mib"] for run in mine])))
    return rows
