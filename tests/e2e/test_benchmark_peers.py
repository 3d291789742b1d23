"""What the figures are compared with can be run, and does what is said of it."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from benchmarks.catch_up_peers import PEERS, Peer
from benchmarks.load import Load
from jobtrail.partitions import partition_of
from jobtrail.process import child_environment
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.e2e.streams_dump import expected, found, unruly
from tests.processes import Process, clean_environment

ROOT = Path(__file__).parents[2]
BY_NAME = {peer.name: peer for peer in PEERS}


async def test_the_server_that_does_nothing_answers(tmp_path: Path, running: list[Process]) -> None:
    argv = [sys.executable, "-m", "benchmarks.peers.aiohttp_noop"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    peer = Process(argv, environment, tmp_path / "peer.log")
    running.append(peer)
    url = await peer.start()
    async with aiohttp.ClientSession(url) as session, session.get("/nothing") as answer:
        assert (answer.status, await answer.json()) == (200, {})


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
