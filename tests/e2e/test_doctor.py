"""`jobtrail doctor`: nothing is wrong with a service that is well, and each fault has its mend."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner

from jobtrail.cli import main
from jobtrail.core.position import mark_of
from jobtrail.local.checks import examine
from jobtrail.local.checks.finding import Finding
from jobtrail.local.running import FILE, Running
from jobtrail.log.dead_letters import DETAIL, DONE, LETTER, MARK, PLACE, REASON
from jobtrail.processes.pids import birth_of
from jobtrail.processes.process_states import End, Processes, ProcessState
from jobtrail.settings import Settings
from projections.sqlite.files import schema
from projections.sqlite.files.schema import SCHEMA_VERSION, Layout
from tests.conftest import MakeLog, Served
from tests.faults.flows import DEADLINE


def wrong(findings: list[Finding], check: str, level: str = "problem") -> str:
    """Return what a check found that is wrong: one thing, with its mend."""
    (found,) = [f for f in findings if f.check == check and f.level != "ok"]
    assert found.level == level
    assert found.mend
    return found.found


def problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "problem"]


@asynccontextmanager
async def administering(settings: Settings) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def configure(settings: Settings, **configs: str) -> None:
    """Give the log's topic these settings and no others."""
    named = {name.replace("_", "."): value for name, value in configs.items()}
    resource = ConfigResource(ConfigResourceType.TOPIC, settings.topic, configs=named)
    async with administering(settings) as admin:
        await admin.alter_configs([resource])


async def until_found(settings: Settings, holds: Callable[[list[Finding]], bool]) -> list[Finding]:
    """Examine until the cluster has taken up what was changed."""
    async with asyncio.timeout(DEADLINE):
        while not holds(findings := await examine(settings)):
            pass
    return findings


async def produce(settings: Settings, topic: str, value: bytes | None, **where: Any) -> None:
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers) as producer:
        await producer.send_and_wait(topic, value, **where)


KEPT = {"retention_ms": "-1", "retention_bytes": "-1"}


async def test_a_log_that_is_folded_and_what_can_be_wrong_with_it(served: Served) -> None:
    settings = served.settings
    findings = await until_found(settings, lambda found: not problems(found))
    assert {"topics", "group", "progress", "clock", "store", "disk"} <= {
        finding.check for finding in findings if finding.level == "ok"
    }
    await configure(settings, cleanup_policy="compact", **KEPT)
    findings = await until_found(settings, lambda found: bool(problems(found)))
    assert wrong(findings, "compaction").startswith(f"{settings.topic} has cleanup.policy=compact")
    await configure(settings, retention_ms="60000", min_insync_replicas="2")
    findings = await until_found(settings, lambda found: len(problems(found)) == 2)
    assert "retention.ms=60000" in wrong(findings, "retention")
    assert "min.insync.replicas=2" in wrong(findings, "replicas")
    await configure(settings, max_message_bytes="1000", **KEPT)
    findings = await until_found(settings, lambda found: len(problems(found)) == 1)
    assert "1,000 bytes" in wrong(findings, "message-size")
    await configure(settings, **KEPT)
    await until_found(settings, lambda found: not problems(found))
    # A letter, and one more that was dropped: its mark lies in the same topic.
    for offset in (b"1", b"2"):
        place = settings.topic.encode() + b"/0/" + offset
        headers = [(REASON, b"invalid"), (DETAIL, b""), (PLACE, place)]
        await produce(settings, settings.dead_topic, b"x", headers=headers)
    mark = f"{mark_of(None, b'x'):08x}".encode()
    headers = [(LETTER, place), (MARK, mark), (DONE, b"dropped")]
    await produce(settings, settings.dead_topic, None, key=place, headers=headers)
    ahead = int((time.time() + 3600) * 1000)
    await produce(settings, settings.topic, b"{}", partition=3, timestamp_ms=ahead)
    findings = await until_found(
        settings, lambda found: "clock" in {f.check for f in found if f.level == "warning"}
    )
    assert wrong(findings, "clock", "warning").endswith("partition:offset 3:0")
    # Of these three letters, one was dropped.
    open_letters = f"dead letters for 2 records are open in {settings.dead_topic}"
    await until_found(settings, lambda found: open_letters in {f.found for f in found})
    async with administering(settings) as admin:
        await admin.create_partitions({settings.topic: NewPartitions(12)})
    findings = await until_found(
        settings, lambda found: "partitions" in {f.check for f in problems(found)}
    )
    said = {f.found for f in findings if f.check == "partitions"}
    assert f"the log {settings.topic} has 12 partitions, the store 8" in said


async def test_a_log_that_nobody_folds(make_log: MakeLog) -> None:
    settings = await make_log()
    findings = await examine(settings)
    assert "has no member" in wrong(findings, "group")
    missing = settings.model_copy(update={"topic": "none-such", "dead_topic": "nor-such"})
    found = problems(await examine(missing))
    assert [f.check for f in found] == ["topics", "topics"]


async def test_a_store_ahead_of_its_log_is_named(make_log: MakeLog) -> None:
    settings = await make_log()
    offsets = dict.fromkeys(range(settings.partitions), 5)
    layout = Layout(SCHEMA_VERSION, 2, settings.partitions)
    schema.create(settings.store_folder, layout, offsets, offsets)
    findings = await examine(settings)
    found = [f for f in findings if f.check == "progress" and f.level != "ok"]
    assert len(found) == settings.partitions, findings
    assert "partition 0 is folded to 5, and its log ends at 0" in found[0].found


async def test_a_projector_that_is_silent_or_stands_still_is_named(make_log: MakeLog) -> None:
    settings = await make_log()
    db = schema.connect(make_store(settings) / "shard-1.db")
    db.execute(
        "CREATE TABLE IF NOT EXISTS beats(partition INTEGER PRIMARY KEY, at INTEGER NOT NULL,"
        " proved INTEGER NOT NULL, stopped TEXT NOT NULL)"
    )
    now = time.time_ns() // 1000
    db.execute(
        "INSERT INTO beats VALUES(1, ?, 0, ''), (3, ?, 0, 'a hole')", (now - 90_000_000, now)
    )
    db.close()
    findings = await examine(settings)
    assert wrong(findings, "heartbeats").startswith("no projector had a heartbeat for 9")
    assert wrong(findings, "heartbeats").endswith("at partitions 1")
    assert wrong(findings, "stopped") == "partition 3 stands still: a hole"


async def test_a_kafka_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    settings = Settings(data_dir=tmp_path, bootstrap_servers=f"127.0.0.1:{port}")
    assert f"Kafka at 127.0.0.1:{port} does not answer" in wrong(await examine(settings), "log")


# --- without a Kafka: what the files say


@pytest.fixture(name="settings")
def local(tmp_path: Path) -> Settings:
    """Return the settings of a service on a folder, which is not running."""
    (tmp_path / "broker").mkdir()
    return Settings(data_dir=tmp_path, port=0)


Break = Callable[[Settings], object]


def make_store(settings: Settings) -> Path:
    offsets = dict.fromkeys(range(8), 0)
    schema.create(settings.store_folder, Layout(SCHEMA_VERSION, 2, 8), offsets, offsets)
    return settings.store_folder


def store_says(content: str) -> Break:
    def tear(settings: Settings) -> None:
        (make_store(settings) / "store.json").write_text(content)

    return tear


def damage_shard(settings: Settings) -> None:
    (make_store(settings) / "shard-1.db").write_bytes(b"\0" * 8192)


def stale_run(settings: Settings) -> None:
    running = Running(os.getpid(), "another", "http://127.0.0.1:1", "127.0.0.1:2", "1")
    (settings.data_dir / FILE).write_bytes(msgspec.json.encode(running))


def processes_say(process: ProcessState) -> Break:
    def say(settings: Settings) -> None:
        said = Processes(os.getpid(), birth_of(os.getpid()) or "", (process,))
        (settings.data_dir / "processes.json").write_bytes(msgspec.json.encode(said))

    return say


def write(name: str, content: str, mode: int = 0o600) -> Break:
    def put(settings: Settings) -> None:
        path = settings.data_dir / name
        path.write_text(content)
        path.chmod(mode)

    return put


def from_the_future(settings: Settings) -> None:
    (settings.data_dir / "x").touch()
    os.utime(settings.data_dir / "x", (time.time() + 3600,) * 2)


def store_is_a_file(settings: Settings) -> None:
    settings.store_folder.touch()


OFTEN = tuple(End(time.time() + n, "exit status 1", "it hurts") for n in range(3))
FALLEN = ProcessState("api-0", "ready", since=1.0, pid=os.getpid(), restarts=1, ends=OFTEN[:1])


@pytest.mark.parametrize(
    ("break_it", "check", "level", "found"),
    [
        (store_says("{"), "layout", "problem", "store.json is missing or torn"),
        (
            store_says(f'{{"schema":{SCHEMA_VERSION},"shards":1,"partitions":8}}'),
            "layout",
            "problem",
            "store.json does not agree with the shards",
        ),
        (
            store_says('{"schema":1,"shards":2,"partitions":8}'),
            "schema",
            "problem",
            f"has schema 1, this jobtrail has {SCHEMA_VERSION}",
        ),
        (damage_shard, "shards", "problem", "shard-1.db is missing or damaged"),
        (store_is_a_file, "store-folder", "problem", "can't be written: Not a directory"),
        (stale_run, "pids", "warning", "names a process that has ended"),
        (write("broker/broker.pid", f"{os.getpid()}"), "pids", "warning", "this folder's Kafka"),
        (write("broker/broker.pid", "x"), "pids", "warning", "can't be read"),
        (write("broker/broker.json", "{"), "torn-file", "warning", "broker.json can't be read"),
        (write("secret", "ab" * 32, 0o644), "secret", "problem", "mode 0644"),
        (write("secret", "torn"), "secret", "problem", "no secret of a local service"),
        (write("keys.json", "{"), "keys", "problem", "This file has no API keys."),
        (from_the_future, "clock", "problem", "x by 3"),
        (
            processes_say(ProcessState("api-0", "waiting", ends=OFTEN)),
            "processes",
            "problem",
            "again and again, 3 times in the last 10 minutes: exit status 1; its last words: it "
            "hurts",
        ),
        (
            processes_say(ProcessState("api-0", "ready", since=1.0, pid=os.getpid(), birth="x")),
            "pids",
            "problem",
            "which is gone",
        ),
        (
            processes_say(msgspec.structs.replace(FALLEN, birth=birth_of(os.getpid()))),
            "restarts",
            "warning",
            "api-0 was started again 1 times",
        ),
        (
            processes_say(
                ProcessState("api-0", "ready", since=1.0, log_fault="x.log can't be written: full")
            ),
            "logs",
            "problem",
            "x.log can't be written: full",
        ),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_the_files_is_named(
    settings: Settings, break_it: Break, check: str, level: str, found: str
) -> None:
    assert not problems(await examine(settings))
    break_it(settings)
    assert found in wrong(await examine(settings), check, level)


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = await examine(Settings(data_dir=tmp_path, port=port))
        assert f"127.0.0.1:{port}" in wrong(found, "ports")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_the_command_says_all_of_it_and_ends_as_it_should(tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path))
    done = run(*folder)
    assert done.exit_code == 0
    assert "warning  service: it is not running\n" in done.stdout
    assert "         mend: Start it with `jobtrail up`.\n" in done.stdout
    write("keys.json", "{")(Settings(data_dir=tmp_path))
    done = run(*folder, "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert {frozenset(finding) for finding in found} == {
        frozenset({"check", "level", "found", "mend"})
    }
    assert [f["check"] for f in found if f["level"] == "problem"] == ["keys"]
    assert run(*folder, "--none").exit_code == 2
