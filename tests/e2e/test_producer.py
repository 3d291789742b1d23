"""`JobProducer`, both of its faces, against a real Kafka: what it was given is in the log."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, use_span

from jobtrail import JobProducer, SyncJobProducer
from jobtrail.core.errors import EventError, LogUnavailable, NotRunning
from jobtrail.core.events import MAX_EVENT_BYTES, TYPE_NAMES, decode
from jobtrail.core.job import Job
from jobtrail.core.position import holds, parse_position
from jobtrail.core.states import State
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.faults.flows import fold_of, read_log
from tests.processes import clean_environment

ROOT = Path(__file__).parents[2]
SOURCE = "//tests/producer"
NOON = datetime(2026, 11, 23, 13, tzinfo=UTC)


async def folded(settings: Settings) -> dict[str, Job]:
    """Return the jobs that a log tells of."""
    return fold_of(await read_log(settings)).jobs


async def events_in(settings: Settings) -> list[dict[str, Any]]:
    """Return the events of a log."""
    log = await read_log(settings)
    return [json.loads(record.value) for records in log.records.values() for record in records]


async def test_every_kind_of_event_says_what_it_was_given(make_log: MakeLog) -> None:
    settings = await make_log()
    async with JobProducer(SOURCE, settings=settings) as producer:
        await producer.created(
            "job-1",
            job_type="nightly",
            owner="alice",
            bulk_id="bulk",
            viewers=["user:bob"],
            tags={"tenant": "acme"},
            time=NOON,
            event_id="e-1",
        )
        await producer.active("job-1", worker="worker-7")
        await producer.progress("job-1", 0.4, message="going on")
        await producer.retry("job-1", error={"code": 504}, retry_at=NOON)
        await producer.active("job-1", attempt=1)
        position = await producer.completed("job-1", output={"rows": [1, 2], "at": NOON})
        for number, how in enumerate(("failed", "cancelled", "expired")):
            await producer.created(f"job-{how}", job_type="t", owner="alice")
            about = {"error": "boom"} if how == "failed" else {"reason": "late"}
            await getattr(producer, how)(f"job-{how}", **about, attempt=number)
    jobs, sent = await folded(settings), await events_in(settings)
    job = jobs["job-1"]
    assert (job.state, job.attempt, job.owner) == ("completed", 1, "alice")
    assert job.viewers == ("user:bob",)
    assert msgspec.json.decode(job.output or b"") == {"rows": [1, 2], "at": "2026-11-23T13:00:00Z"}
    assert {name: job.state for name, job in jobs.items() if name != "job-1"} == {
        "job-failed": State.FAILED,
        "job-cancelled": State.CANCELLED,
        "job-expired": State.EXPIRED,
    }
    assert {event["type"] for event in sent} == set(TYPE_NAMES)
    assert {event["source"] for event in sent} == {SOURCE}
    assert len({event["id"] for event in sent}) == len(sent)
    (first,) = [event for event in sent if event["id"] == "e-1"]
    assert first["time"] == "2026-11-23T13:00:00Z"
    log = await read_log(settings)
    assert holds(log.ends(), parse_position(position))


async def test_what_is_no_event_is_refused_and_not_sent(make_log: MakeLog) -> None:
    settings = await make_log()
    async with JobProducer(SOURCE, settings=settings) as producer:
        for wrong in (
            producer.created("", job_type="t", owner="alice"),
            producer.created("j", job_type="t", owner="a\x00b"),
            producer.created("j", job_type="t", owner="alice", viewers=["bob"]),
            producer.progress("j", 1.5),
            producer.completed("j", output="x" * MAX_EVENT_BYTES),
            producer.completed("j", output=object()),
            producer.active("j", time=datetime(2026, 1, 1)),
            producer.active("j", attempt=-1),
        ):
            with pytest.raises(EventError):
                await wrong
        await producer.active("good")
    assert [event["subject"] for event in await events_in(settings)] == ["good"]


async def test_many_events_are_sent_together(make_log: MakeLog) -> None:
    settings = await make_log()
    async with JobProducer(SOURCE, settings=settings) as producer:
        make = producer.events
        position = await producer.send_all(
            make.created(f"job-{n}", job_type="t", owner="alice") for n in range(25_000)
        )
        assert await producer.send_all([]) == ""
        with pytest.raises(EventError):
            await producer.send_all([make.active("job-0"), make.progress("job-0", 7)])
    log = await read_log(settings)
    assert sum(log.ends().values()) == 25_001
    assert sum(parse_position(position).values()) == 25_000
    assert len(fold_of(log).jobs) == 25_000


async def test_the_body_of_a_job_says_how_it_ended(make_log: MakeLog) -> None:
    settings = await make_log()
    async with JobProducer(SOURCE, settings=settings) as producer:
        async with producer.job("nightly", owner="alice", worker="w", bulk_id="b") as well:
            await well.progress(0.5, "half")
            well.output = {"rows": 3}
        with pytest.raises(ZeroDivisionError):
            async with producer.job("nightly", owner="alice", job_id="badly"):
                _ = 1 / 0
        begun = asyncio.Event()

        async def endless() -> None:
            async with producer.job("nightly", owner="alice", job_id="stopped"):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(endless())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    jobs = await folded(settings)
    assert (jobs[well.id].state, jobs[well.id].output) == ("completed", b'{"rows":3}')
    assert (jobs[well.id].progress, jobs[well.id].bulk_id) == (0.5, "b")
    assert jobs["badly"].state == "failed"
    assert json.loads(jobs["badly"].error or b"") == {
        "type": "ZeroDivisionError",
        "message": "division by zero",
    }
    assert jobs["stopped"].state == "cancelled"


async def test_the_same_event_twice_changes_nothing(make_log: MakeLog) -> None:
    settings = await make_log()
    async with JobProducer(SOURCE, settings=settings) as producer:
        event = producer.events.created("job-1", job_type="t", owner="alice")
        await producer.send(event)
        await producer.active("job-1")
        before = (await folded(settings))["job-1"]
        await producer.send(event)
    after = (await folded(settings))["job-1"]
    assert after.trail.startswith(before.trail)
    before.trail = after.trail = b""
    assert after == before


async def test_threads_share_one_synchronous_producer(make_log: MakeLog) -> None:
    settings = await make_log()

    def work(producer: SyncJobProducer, number: int) -> None:
        with producer.job("t", owner="alice", job_id=f"job-{number}") as job:
            for step in range(5):
                job.progress(step / 5)
            job.output = number

    def run() -> None:
        with SyncJobProducer(SOURCE, settings=settings) as producer:
            threads = [begun(work, producer, n) for n in range(20)]
            for thread in threads:
                thread.join()
            with pytest.raises(EventError):
                producer.progress("job-1", 2)

    await asyncio.to_thread(run)
    jobs = await folded(settings)
    assert {job.id: json.loads(job.output or b"") for job in jobs.values()} == {
        f"job-{n}": n for n in range(20)
    }


def begun(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments)
    thread.start()
    return thread


FORKING = """
import os, sys
from jobtrail import SyncJobProducer
producer = SyncJobProducer("//tests/fork", bootstrap_servers=sys.argv[1])
producer.created("parent", job_type="t", owner="alice")
children = []
for number in range(3):
    child = os.fork()
    if not child:
        producer.created(f"child-{number}", job_type="t", owner="alice")
        producer.close()
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
producer.active("parent")
producer.close()
producer.completed("parent")
producer.close()
"""


async def test_a_producer_works_on_in_processes_that_are_forked(make_log: MakeLog) -> None:
    """As a web server or a pool of workers does after it has loaded the program."""
    settings = await make_log()
    environment = {**clean_environment(), "JOBTRAIL_TOPIC": settings.topic}
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FORKING, settings.bootstrap_servers],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    jobs = await folded(settings)
    assert {job.id: job.state for job in jobs.values()} == {
        "parent": "completed",
        **{f"child-{number}": "created" for number in range(3)},
    }


async def test_an_event_carries_the_trace_that_it_belongs_to(make_log: MakeLog) -> None:
    settings = await make_log()
    tracer = TracerProvider().get_tracer("tests")

    def run(span: Span) -> None:
        with use_span(span), SyncJobProducer(SOURCE, settings=settings) as producer:
            producer.active("in-a-thread")

    async with JobProducer(SOURCE, settings=settings) as producer:
        await producer.active("outside")
        with tracer.start_as_current_span("span") as span:
            await producer.active("inside")
            await asyncio.to_thread(run, span)
    context = span.get_span_context()
    flags = f"{int(context.trace_flags):02x}"
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"
    found = {event["subject"]: event.get("traceparent") for event in await events_in(settings)}
    assert found == {"outside": None, "inside": expected, "in-a-thread": expected}
    log = await read_log(settings)
    assert all(decode(r.value) for records in log.records.values() for r in records)


async def test_a_kafka_that_is_not_there_is_said_in_time() -> None:
    settings = Settings(bootstrap_servers="127.0.0.1:1")
    async with JobProducer(SOURCE, settings=settings, within=0.5) as producer:
        event = producer.events.active("job-1")
        with pytest.raises(LogUnavailable) as refused:
            await producer.send(event)
        assert refused.value.retriable
        assert refused.value.outcome_unknown is False
        assert refused.value.event is event
        with pytest.raises(LogUnavailable):
            await producer.send_all([event, event])
        with pytest.raises(LogUnavailable):
            async with producer.job("t", owner="alice"):
                pytest.fail("the body began although the job is not known")


def test_without_a_kafka_to_be_found_there_is_no_producer(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        JobProducer(SOURCE, settings=Settings(data_dir=tmp_path))


async def test_what_is_submitted_is_in_the_log_in_its_order(make_log: MakeLog) -> None:
    settings = await make_log()
    with SyncJobProducer(SOURCE, settings=settings) as producer:
        # More than a batch holds, so that some have to wait for room in it.
        futures = [
            producer.submit(producer.events.progress("job-1", message=f"{number} {'x' * 3000}"))
            for number in range(500)
        ]
        positions = [await asyncio.wrap_future(future) for future in futures]
    told = [int(event["data"]["message"].split()[0]) for event in await events_in(settings)]
    assert told == list(range(500))
    assert len(set(positions)) == 500


def test_submitting_never_waits_for_a_kafka_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nowhere = f"127.0.0.1:{server.getsockname()[1]}"
        producer = SyncJobProducer(SOURCE, bootstrap_servers=nowhere, within=0.3)
        events = [producer.events.progress("job-1") for _ in range(3)]
        futures = [producer.submit(event) for event in events]
        assert not any(future.done() for future in futures)
        errors = [future.exception(timeout=30) for future in futures]
        producer.close()
    assert [error.event for error in errors if isinstance(error, LogUnavailable)] == events
