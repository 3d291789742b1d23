"""What the figures are compared with can be run, and does what is said of it."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import aiohttp
import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from benchmarks.catch_up_peers import PEERS, Peer
from benchmarks.client import get
from benchmarks.hammer import Task, hammer
from benchmarks.load import Load
from benchmarks.pacing import PacedTask, pace
from benchmarks.peers import jobs_table
from benchmarks.sending import send_to
from jobtrail.core.partitions import partition_of
from jobtrail.processes.runtime import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.streams_dump import expected, found, unruly
from tests.pgboss.servers import programs
from tests.postgres import Postgres
from tests.processes import Process, clean_environment

ROOT = Path(__file__).parents[2]
BY_NAME = {peer.name: peer for peer in PEERS}


async def test_the_server_that_does_nothing_answers_whoever_asks(
    tmp_path: Path, running: list[Process]
) -> None:
    argv = [sys.executable, "-m", "benchmarks.peers.aiohttp_noop"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    peer = Process(argv, environment, tmp_path / "peer.log")
    running.append(peer)
    url = await peer.start()
    async with aiohttp.ClientSession(url) as session, session.get("/nothing") as answer:
        assert (answer.status, await answer.json()) == (200, {})
    asked = {
        "url": url,
        "pids": [peer.pid],
        "connections": 4,
        "warm_up": 0.1,
        "seconds": 0.3,
        "requests": [get("/nothing", "no token")],
    }
    for seen in await hammer(Task(**asked)), await pace(PacedTask(**asked, rate=200.0)):
        assert seen.errors == 0
        assert seen.latencies_ms
        assert seen.received == len(b"{}") * len(seen.latencies_ms)


async def a_log(make_log: MakeLog, records: list[tuple[str, bytes]]) -> Settings:
    settings = await make_log()
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers, linger_ms=5)
    async with producer:
        for job_id, value in records:
            partition = partition_of(job_id, settings.partitions)
            await producer.send(settings.topic, value, job_id.encode(), partition=partition)
    return settings


def a_peer(peer: Peer, settings: Settings, *arguments: str) -> Process:
    argv = [sys.executable, "-m", f"benchmarks.peers.{peer.module}", *peer.arguments, *arguments]
    return Process(argv, child_environment(settings), settings.data_dir / "peer.log")


@pytest.mark.parametrize(
    "peer", [peer for peer in PEERS if peer.module == "kafka_streams"], ids=lambda p: p.arguments[0]
)
async def test_kafka_streams_holds_what_the_services_own_fold_says(
    peer: Peer, make_log: MakeLog, running: list[Process]
) -> None:
    if missing := peer.missing():
        pytest.skip(missing)
    peer.build()
    records = [*Load(jobs=300, owners=20, under_way=50).records(), *unruly(jobs=60, events=1_500)]
    settings = await a_log(make_log, records)
    dump = settings.data_dir / "dump"
    process = a_peer(peer, settings, "--events", str(len(records)), "--dump", str(dump))
    running.append(process)
    measured = msgspec.json.decode(await process.start())
    assert measured["seconds"] > 0
    assert measured["cpu_seconds"] > 0
    wanted, held = expected(records), found(dump.read_text().splitlines())
    for store, entries in wanted.items():
        for key, entry in entries.items():
            assert held[store].pop(key, None) == entry, (store, key)
        assert held[store] == {}, store


@pytest.mark.parametrize("name", ["stock Faust, does nothing", "stock Faust, jobs in a table"])
async def test_stock_faust_comes_to_the_end(
    name: str, make_log: MakeLog, running: list[Process]
) -> None:
    records = list(Load(jobs=50, under_way=10).records())
    settings = await a_log(make_log, records)
    process = a_peer(BY_NAME[name], settings, "--events", str(len(records)))
    running.append(process)
    measured = msgspec.json.decode(await process.start(within=30))
    assert measured["seconds"] > 0
    assert measured["peak_mib"] > 0


async def test_the_table_takes_events_and_leaves_nothing(
    make_log: MakeLog, running: list[Process]
) -> None:
    programs()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        # PostgreSQL runs as another user than root.
        place.chmod(0o711)
        settings = await make_log(data_dir=place / "data", partitions=8)
        load = Load(jobs=500, owners=50, under_way=100)
        await send_to(settings, load)
        argv = [sys.executable, "-m", "benchmarks.peers.postgres_table", "--events", "1900"]
        peer = Process(argv, child_environment(settings), place / "peer.log")
        running.append(peer)
        found = msgspec.json.decode(await peer.start(), type=dict[str, float])
        assert found["seconds"] > 0
        assert found["peak_mib"] > 20
        assert list(settings.data_dir.glob("jobtrail-pg-*")) == []


async def test_the_table_answers_as_the_service_would() -> None:
    load = Load(jobs=660, owners=20, under_way=50, life=("created", "completed"), big_every=11)
    jobs = [load.job(number) for number in range(load.jobs)]
    user, count = Counter(job.owner for job in jobs).most_common(2)[1]
    team = next(job.team for job in jobs if job.team is not None and job.owner != user)
    postgres = await Postgres(programs()).start()
    try:
        connection = await asyncpg.connect(await postgres.make("jobs"))
        await jobs_table.fill(connection, load)
        sees = {job.id for job in jobs if job.owner == user or job.team == team}
        assert count < len(sees) < load.jobs
        caller = (user, [f"user:{user}", team])
        page = await connection.fetch(jobs_table.PAGE, *caller, 1000)
        assert {row["id"] for row in page} == sees
        order = [(-row["created_at"].timestamp(), row["id"]) for row in page]
        assert order == sorted(order)
        first = await connection.fetch(jobs_table.PAGE, *caller, 20)
        assert first == page[:20]
        assert await connection.fetch(jobs_table.PAGE_OF_STATE, *caller, 20, "failed") == []
        summary = await connection.fetch(jobs_table.SUMMARY, *caller)
        assert sum(row["count"] for row in summary) == len(sees)
        assert len(await connection.fetch(jobs_table.SUMMARY_OF_ALL)) == 4
        statuses = await connection.fetch(jobs_table.STATUSES, [job.id for job in jobs], *caller)
        assert {row["id"] for row in statuses} == sees
        await connection.close()
    finally:
        await postgres.remove()
