"""Real Celery tasks, a real worker and a real Kafka: what the log tells is what Celery says."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from celery import Celery, chain, chord, group
from celery.result import AsyncResult

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.job import Job
from jobtrail.core.position import format_position
from jobtrail.core.states import State
from jobtrail.core.trail import Verdict, read_trail
from jobtrail.integrations.celery import Tracker, track
from jobtrail.integrations.celery_calls import Call
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.celery_shop import FOLDER, SOURCE, shop
from tests.e2e.service import get
from tests.faults.flows import fold_of, read_log, until
from tests.processes import Process, api, projector

ROOT = Path(__file__).parents[2]
#: What Celery's states are in jobtrail's words.
STATES = {
    "SUCCESS": {State.COMPLETED},
    "FAILURE": {State.FAILED},
    "REVOKED": {State.CANCELLED, State.EXPIRED},
}


def worker(settings: Settings, folder: Path) -> Process:
    """Return a Celery worker of two processes, not started yet."""
    argv = [sys.executable, "-m", "celery", "-A", "tests.e2e.celery_shop", "worker"]
    argv += ["-P", "prefork", "-c", "2", "-l", "warning"]
    argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    environment = {**child_environment(settings), FOLDER: str(folder)}
    return Process(argv, environment, folder / "worker.log")


async def answers(app: Celery, folder: Path) -> None:
    """Wait until the worker listens to what it is told."""
    # Before, who asks may read the file of its queue half written.
    queue = folder / "control" / "celery.pidbox.exchange"
    await until(lambda: queue.exists() and queue.stat().st_size > 0, "the worker has a queue")
    await until(lambda: bool(app.control.ping(timeout=0.2)), "the worker answers")


def publish(app: Celery, folder: Path) -> dict[str, list[AsyncResult]]:
    """Publish a thousand tasks; return them by what becomes of them."""
    tasks = app.tasks
    revoked = [str(uuid.uuid4()) for _ in range(40)]
    # A worker that knows it before it gets the task revokes it for certain.
    assert app.control.revoke(revoked, reply=True, timeout=5)
    alice = {"jobtrail_owner": "alice", "jobtrail_viewers": ["group:stewards"]}
    many = group(tasks["shop.add"].s(n, 1) for n in range(200)).apply_async()
    steps = chain(tasks["shop.add"].s(1, 2), tasks["shop.add"].s(3)).apply_async(headers=alice)
    both = chord([tasks["shop.add"].s(n) for n in range(8)])(tasks["shop.total"].s())
    past = datetime(2026, 1, 1, tzinfo=UTC)
    return {
        "plain": [tasks["shop.add"].apply_async((n, 2), headers=alice) for n in range(500)],
        "group": list(many.results),
        "chain": [steps.parent, steps],
        "chord": [*both.parent.results, both],
        "retried": [tasks["shop.flaky"].delay(n % 3 + 1) for n in range(100)],
        "failed": [tasks["shop.boom"].delay() for _ in range(80)],
        "exhausted": [tasks["shop.hopeless"].delay() for _ in range(20)],
        "revoked": [tasks["shop.add"].apply_async((1,), task_id=task_id) for task_id in revoked],
        "expired": [tasks["shop.add"].apply_async((1,), expires=past) for _ in range(40)],
        "odd": [tasks["shop.odd"].delay(what) for what in ("big", "deep")],
        "replaced": [tasks["shop.replaced"].delay()],
        "unknown": [app.send_task("shop.unheard-of")],
    }


async def ended(results: list[AsyncResult]) -> None:
    """Wait until Celery says of all tasks that they have ended."""
    left = set(results)

    def over() -> bool:
        left.difference_update([result for result in left if result.ready()])
        return not left

    await until(over, "Celery has ended all tasks")


async def test_a_thousand_tasks_end_as_celery_says(
    make_log: MakeLog, tmp_path: Path, running: list[Process]
) -> None:
    settings, folder = await make_log(), tmp_path / "shop"
    app = shop(folder)
    # Nobody has told of these when the worker gets them.
    untold = [app.tasks["shop.add"].delay(n) for n in range(10)]
    rejected, ignored = app.tasks["shop.rejected"].delay(), app.tasks["shop.ignored"].delay()
    tracker = track(app, source=f"{SOURCE}/web", owner="web", settings=settings)
    try:
        process = worker(settings, folder)
        running.append(process)
        await process.spawn()
        await answers(app, folder)
        published = await asyncio.to_thread(publish, app, folder)
        hanging = app.tasks["shop.hang"].delay()
        published["terminated"] = [hanging]
        published["untold"] = untold
        every = [result for results in published.values() for result in results]
        await until(lambda: hanging.state == "STARTED", "a task hangs")
        app.control.revoke(hanging.id, terminate=True, signal="SIGTERM")
        await ended(every)
        assert await process.stop() == 0
        assert tracker.flush(10)
        assert tracker.dropped == 0
    finally:
        tracker.close()
    log = (folder / "worker.log").read_text()
    assert "event_dropped" not in log, log[-3000:]
    jobs = fold_of(await read_log(settings)).jobs
    differs = [
        (kind, result.id, result.state, jobs[result.id].state)
        for kind, results in published.items()
        for result in results
        if jobs[result.id].state not in STATES[result.state]
    ]
    assert differs == []
    assert set(jobs) == {rejected.id, ignored.id, *(result.id for result in every)}
    assert jobs[rejected.id].state is State.FAILED, "it will not be run again"
    assert jobs[ignored.id].state is State.ACTIVE, "what became of it, only the task knows"
    check_details(jobs, published)
    said = Counter(result.state for result in every)
    counted = await summary(settings, running)
    assert counted["completed"] == said["SUCCESS"]
    # And the one that Celery has no word for.
    assert counted["failed"] == said["FAILURE"] + 1
    assert counted["cancelled"] + counted["expired"] == said["REVOKED"]
    assert counted["total"] == len(every) + 2


async def summary(settings: Settings, running: list[Process]) -> Counter[str]:
    """Return how many jobs a service on this log counts in each state."""
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    await folding.start()
    url = await answering.start()
    token = make_token(local_secret(settings.data_dir), "root", (), [READ_ALL])
    position = format_position((await read_log(settings)).ends())
    headers = {"Authorization": f"Bearer {token}", "Jobtrail-Position": position}
    found: Counter[str] = Counter()
    async with aiohttp.ClientSession(url, headers=headers) as session:
        for entry in (await get(session, "/jobs/summary"))["jobType"]:
            del entry["jobType"]
            found.update(entry)
    return found


def check_details(jobs: dict[str, Job], published: dict[str, list[AsyncResult]]) -> None:
    """Compare what else is known of the tasks."""

    def of(kind: str) -> list[Job]:
        return [jobs[result.id] for result in published[kind]]

    assert {job.owner for job in of("plain")} == {"alice"}
    assert {job.viewers for job in of("plain")} == {("group:stewards",)}
    assert [json.loads(job.output or b"") for job in of("plain")] == [n + 2 for n in range(500)]
    assert {job.bulk_id for job in of("plain")} == {None}
    assert len({job.bulk_id for job in of("group")}) == 1
    assert None not in {job.bulk_id for job in of("group")}
    assert {job.owner for job in of("chain")} == {"alice"}, "the second is the first one's"
    assert Counter(job.attempt for job in of("retried")) == {1: 34, 2: 33, 3: 33}
    assert {job.attempt for job in of("exhausted")} == {1}
    assert {job.error for job in of("failed")} == {
        b'{"type":"ValueError","message":"no such article"}'
    }
    assert {job.state for job in of("expired")} == {State.EXPIRED}
    assert {job.state for job in of("revoked")} == {State.CANCELLED}
    assert {job.started_at for job in of("revoked")} == {None}
    assert {job.output for job in of("odd")} == {None}
    assert {job.output for job in of("replaced")} == {b"42"}
    assert {job.owner for job in of("unknown")} == {"web"}
    assert {job.job_type for job in of("unknown")} == {"shop.unheard-of"}
    assert {job.owner for job in of("untold")} == {"worker"}
    assert {len(read_trail(job.trail)) for job in of("plain") + of("untold")} == {3}


@pytest.fixture
async def tracked(
    make_log: MakeLog, tmp_path: Path
) -> AsyncIterator[tuple[Celery, Tracker, Settings]]:
    """Track an app whose tasks run where they are called."""

    def whose(call: Call) -> str | None:
        return call.kwargs.get("customer") or (f"number-{call.args[0]}" if call.args else "nobody")

    app, settings = shop(tmp_path / "shop"), await make_log()

    @app.task(name="shop.order", shared=False)
    def order(customer: str) -> object:
        return object()

    def tags(call: Call) -> dict[str, str]:
        return {"task": call.name}

    tracker = track(
        app,
        source=SOURCE,
        owner=whose,
        viewers=["user:bob"],
        tags=tags,
        tracebacks=True,
        settings=settings,
    )
    yield app, tracker, settings
    tracker.close()


async def test_a_callable_says_whose_a_task_is(
    tracked: tuple[Celery, Tracker, Settings],
) -> None:
    app, tracker, settings = tracked
    tasks = app.tasks
    order = tasks["shop.order"].apply(kwargs={"customer": "carol"})
    add = tasks["shop.add"].apply((7, 1))
    told = tasks["shop.add"].apply((7, 1), headers={"jobtrail_owner": "dave"})
    failed = tasks["shop.boom"].apply((3,))
    assert tracker.flush(10)
    jobs = fold_of(await read_log(settings)).jobs
    owners = [jobs[result.id].owner for result in (order, add, told, failed)]
    assert owners == ["carol", "number-7", "dave", "number-3"]
    assert jobs[order.id].output is None, "an object is no JSON"
    assert jobs[order.id].state is State.COMPLETED
    assert jobs[order.id].viewers == ("user:bob",)
    assert jobs[order.id].tags == {"task": "shop.order"}
    error = json.loads(jobs[failed.id].error or b"")
    assert "no such article" in error["traceback"]


async def test_a_task_that_is_delivered_again_changes_nothing(
    tracked: tuple[Celery, Tracker, Settings],
) -> None:
    app, tracker, settings = tracked
    for _ in range(2):
        app.tasks["shop.flaky"].apply((2,), task_id="again")
    assert tracker.flush(10)
    job = fold_of(await read_log(settings)).jobs["again"]
    assert (job.state, job.attempt, job.output) == (State.COMPLETED, 2, b"2")
    verdicts = [entry.verdict for entry in read_trail(job.trail)]
    assert verdicts == [Verdict.APPLIED] * 7 + [Verdict.DUPLICATE] * 7


async def test_a_strict_publisher_waits_for_kafka(make_log: MakeLog, tmp_path: Path) -> None:
    app, settings = shop(tmp_path / "shop"), await make_log()
    tracker = track(app, source=SOURCE, owner="alice", strict=True, settings=settings)
    try:
        result = await asyncio.to_thread(app.tasks["shop.add"].delay, 1, 2)
        job = fold_of(await read_log(settings)).jobs[result.id]
    finally:
        tracker.close()
    assert (job.state, job.owner, len(read_trail(job.trail))) == (State.CREATED, "alice", 1)
