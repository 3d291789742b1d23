"""The broker as it is run: a real Kafka, started, stopped and killed, that keeps every event."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from jobtrail.settings import Settings
from services.broker.datadir import choose_port
from services.broker.java import bundled
from services.broker.topics import cluster_id, ensure_topics
from tests.e2e.brokers import (
    DEADLINE,
    ROOT,
    Broker,
    Start,
    batch,
    described,
    environment_of,
    kept,
    launch,
    refused,
    send,
    wait_for_death,
)
from tests.waiting import until


@pytest.fixture(name="start", scope="module")
async def start_brokers() -> AsyncIterator[Start]:
    """Give what starts a broker and waits until it serves; end those that are left."""
    started: list[asyncio.subprocess.Process] = []

    async def start(data_dir: Path, *arguments: str, **environ: str) -> Broker:
        process = await launch(data_dir, *arguments, **environ)
        started.append(process)
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while (line := (await process.stdout.readline()).decode()) == "alive\n":
                pass
        if not line:
            _, errors = await process.communicate()
            pytest.fail(errors.decode())
        word, address = line.split()
        assert word == "ready"
        return Broker(process, data_dir, address)

    yield start
    for process in started:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


@pytest.fixture(name="running", scope="module")
async def running_broker(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Broker:
    """A broker for the tests that leave it running."""
    return await start(tmp_path_factory.mktemp("running") / "broker")


# --- what is kept


async def test_stopping_and_starting_keeps_every_event_and_the_port(
    start: Start, tmp_path: Path
) -> None:
    broker = await start(tmp_path)
    java = broker.java
    await send(broker, batch("first"))
    await broker.stop()
    await wait_for_death(java)
    assert not (tmp_path / "broker.pid").exists()
    again = await start(tmp_path)
    assert again.address == broker.address
    assert await kept(again) == batch("first")
    await again.stop()


async def test_a_killed_java_is_said_and_the_next_start_has_every_event(
    start: Start, tmp_path: Path
) -> None:
    broker = await start(tmp_path)
    await send(broker, batch("first"))
    os.kill(broker.java, signal.SIGKILL)
    status, output, errors = await broker.ended()
    assert (status, output) == (1, "")
    assert errors.startswith("Kafka ended by itself (signal SIGKILL).")
    assert "The last lines of its log:\n" in errors
    again = await start(tmp_path)
    await send(again, batch("second"))
    assert await kept(again) == batch("first") + batch("second")
    await again.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start stops the Java")
async def test_a_killed_broker_takes_its_java_with_it(start: Start, tmp_path: Path) -> None:
    broker = await start(tmp_path)
    java = broker.java
    await send(broker, batch("first"))
    broker.process.kill()
    await broker.ended()
    await wait_for_death(java)
    again = await start(tmp_path)
    assert await kept(again) == batch("first")
    await again.stop()


async def test_a_java_that_outlived_its_broker_is_stopped_first(
    start: Start, tmp_path: Path
) -> None:
    broker = await start(tmp_path)
    command = psutil.Process(broker.java).cmdline()
    await send(broker, batch("first"))
    await broker.stop()
    with subprocess.Popen(command, cwd=tmp_path, umask=0o077) as left_over:
        (tmp_path / "broker.pid").write_text(f"{left_over.pid}\n")
        try:
            again = await start(tmp_path)
            assert left_over.wait(DEADLINE) != 0
        finally:
            left_over.kill()
    assert again.java != left_over.pid
    assert await kept(again) == batch("first")
    await again.stop()


async def test_kafka_runs_with_the_java_of_the_package(start: Start, tmp_path: Path) -> None:
    program = bundled()
    assert program is not None
    broker = await start(tmp_path, JAVA_HOME=str(program.parents[1]))
    assert Path(psutil.Process(broker.java).exe()) == program.resolve()
    await send(broker, batch("first"))
    assert await kept(broker) == batch("first")
    await broker.stop()
    assert (tmp_path / "logs" / "java.log").read_text() == ""


# --- how it ends, and what it refuses


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_an_early_signal_stops_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup, and so does the broker: it ignores SIGHUP")
    process = await launch(tmp_path)
    async with asyncio.timeout(DEADLINE):
        await until(lambda: (tmp_path / "broker.pid").exists())
        process.send_signal(number)
        output, errors = await process.communicate()
    assert (process.returncode, output, errors) == (0, b"", b"")
    assert not (tmp_path / "broker.pid").exists()


async def test_it_ends_with_its_parent_if_told_to(start: Start, tmp_path: Path) -> None:
    broker = await start(tmp_path, "--with-parent")
    java = broker.java
    assert broker.process.stdin is not None
    broker.process.stdin.close()
    status, said, errors = await broker.ended()
    assert (status, set(said.split()) - {"alive"}, errors) == (0, set(), "")
    await wait_for_death(java)


async def test_a_second_broker_on_the_same_directory_is_refused(running: Broker) -> None:
    assert "Another broker is running" in await refused(running.data_dir)
    assert running.process.returncode is None
    assert psutil.Process(running.java).is_running()


async def test_a_named_port_is_taken_or_refused(start: Start, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", choose_port()))
        other.listen()
        port = other.getsockname()[1]
        said = await refused(tmp_path, "--port", str(port))
    assert said.startswith(f"Port {port} is taken by another program.")
    broker = await start(tmp_path, "--port", str(port))
    assert broker.address == f"127.0.0.1:{port}"
    await broker.stop()


async def test_a_directory_of_a_newer_kafka_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broker.json").write_text(json.dumps({"kafka_version": "99.0.0", "port": None}))
    assert "written by a newer Kafka" in await refused(tmp_path)


async def test_a_torn_record_is_found_out_and_the_port_stays(start: Start, tmp_path: Path) -> None:
    broker = await start(tmp_path)
    await broker.stop()
    record = (tmp_path / "broker.json").read_text()
    for torn in ("{", None):
        if torn is None:
            (tmp_path / "broker.json").unlink()
        else:
            (tmp_path / "broker.json").write_text(torn)
        again = await start(tmp_path)
        assert again.address == broker.address
        again.process.terminate()
        status, _, said = await again.ended()
        assert status == 0
        assert "broker.json was damaged or missing and is written again: Kafka " in said
        assert json.loads((tmp_path / "broker.json").read_text()) == json.loads(record)


async def test_a_directory_that_cant_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "files can't be used" in await refused(tmp_path / "file" / "broker")


# --- topics


@pytest.mark.parametrize(("topic", "partitions"), [("job-events", 8), ("job-events-dead", 1)])
async def test_the_topics_are_there_and_keep_everything(
    running: Broker, topic: str, partitions: int
) -> None:
    count, configs = await described(running, topic)
    assert count == partitions
    assert configs["cleanup.policy"] == "delete"
    assert configs["retention.ms"] == configs["retention.bytes"] == "-1"
    assert configs["min.insync.replicas"] == "1"
    largest = {"job-events": (1 << 20) + 12, "job-events-dead": 2 << 20}[topic]
    assert configs["max.message.bytes"] == str(largest)


async def test_a_topic_that_is_there_is_left_as_it_is(running: Broker) -> None:
    await ensure_topics(running.address, Settings(partitions=3, **running.login))
    assert (await described(running, "job-events"))[0] == 8


async def test_a_dead_letter_topic_of_an_earlier_release_gets_room_and_keeps_the_rest(
    running: Broker,
) -> None:
    settings = Settings(topic="early", dead_topic="early-dead", partitions=1, **running.login)
    admin = AIOKafkaAdminClient(**running.client)
    await admin.start()
    try:
        early = {"retention.ms": "-1", "segment.ms": "123456789"}
        await admin.create_topics([NewTopic("early-dead", 1, 1, topic_configs=early)])
    finally:
        await admin.close()
    await ensure_topics(running.address, settings)
    configs = (await described(running, "early-dead"))[1]
    assert configs["max.message.bytes"] == str(2 << 20)
    assert {name: configs[name] for name in early} == early


async def test_topics_wait_for_a_broker_that_is_being_started(start: Start, tmp_path: Path) -> None:
    port = choose_port()
    waiting = asyncio.create_task(cluster_id(f"127.0.0.1:{port}", Settings()))
    broker = await start(tmp_path, "--port", str(port), "--open")
    assert await waiting
    await broker.stop()


async def test_topics_of_other_names_are_made_by_many_at_once(running: Broker) -> None:
    settings = Settings(topic="other", dead_topic="other-dead", partitions=3, **running.login)
    await asyncio.gather(*(ensure_topics(running.address, settings) for _ in range(4)))
    assert (await described(running, "other"))[0] == 3
    assert (await described(running, "other-dead"))[0] == 1


@pytest.mark.parametrize(
    ("replicas", "status", "output", "error"),
    [
        ("1", 0, "by-command by-command-dead\n", ""),
        ("3", 1, "", "The cluster can't have the topic by-command-3"),
    ],
)
async def test_topics_are_made_on_any_cluster_by_command(
    running: Broker, replicas: str, status: int, output: str, error: str
) -> None:
    topic = "by-command" if replicas == "1" else f"by-command-{replicas}"
    environ = {
        "JOBTRAIL_TOPIC": topic,
        "JOBTRAIL_DEAD_TOPIC": f"{topic}-dead",
        "JOBTRAIL_REPLICATION": replicas,
        **environment_of(running),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.broker.topics", "--bootstrap-servers", running.address),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE):
        said, errors = await process.communicate()
    assert (process.returncode, said.decode()) == (status, output)
    assert errors.decode().startswith(error)
    assert "Traceback" not in errors.decode()
