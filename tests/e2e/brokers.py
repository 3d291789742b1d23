"""The local broker as tests handle it: start it, get into it, read and write its log."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from jobtrail.local.kafka_login import login_of
from jobtrail.log.kafka import kafka_security
from jobtrail.settings import Settings, as_environment

ROOT = Path(__file__).parents[2]
#: Seconds after which a test gives up waiting for anything.
DEADLINE = 90


@dataclass
class Broker:
    """A broker process that a test has started, and where it serves."""

    process: asyncio.subprocess.Process
    data_dir: Path
    address: str

    @property
    def login(self) -> dict[str, Any]:
        """The settings that let a client in."""
        return login_of(self.data_dir / "client.properties").overrides

    @property
    def client(self) -> dict[str, Any]:
        """The arguments of aiokafka's clients."""
        return {"bootstrap_servers": self.address, **kafka_security(Settings(**self.login))}

    @property
    def java(self) -> int:
        """The process id of its Java."""
        return int((self.data_dir / "broker.pid").read_text())

    async def ended(self) -> tuple[int, str, str]:
        """Wait for its end; return status, standard output past `ready`, standard error."""
        async with asyncio.timeout(DEADLINE):
            output, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), errors.decode()

    async def stop(self) -> None:
        self.process.terminate()
        ended = await self.ended()
        assert ended == (0, "", ""), ended


Start = Callable[..., Awaitable[Broker]]


async def launch(data_dir: Path, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("JOBTRAIL_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.broker", "--data-dir", str(data_dir), *arguments),
        cwd=ROOT,
        env={**ours, "PYTHONPATH": str(ROOT), **environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def refused(data_dir: Path, *arguments: str) -> str:
    """Start a broker that can't start; return what it says: one line, and no stack trace."""
    async with asyncio.timeout(DEADLINE):
        process = await launch(data_dir, *arguments)
        output, errors = await process.communicate()
    assert (process.returncode, output) == (1, b"")
    (line,) = errors.decode().splitlines()
    return line


async def send(broker: Broker, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(**broker.client, acks="all", enable_idempotence=True)
    async with asyncio.timeout(DEADLINE), producer:
        for future in [await producer.send("job-events", value, key=value) for value in values]:
            await future


async def kept(broker: Broker) -> list[bytes]:
    """Return every value in the log, sorted."""
    consumer = AIOKafkaConsumer(**broker.client, auto_offset_reset="earliest")
    places = [TopicPartition("job-events", number) for number in range(Settings().partitions)]
    consumer.assign(places)
    async with asyncio.timeout(DEADLINE), consumer:
        left = sum((await consumer.end_offsets(places)).values())
        values: list[bytes] = []
        while len(values) < left:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                values += [record.value for record in records]
    return sorted(values)


async def wait_for_death(pid: int) -> None:
    """Wait until a process that need not be our child is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert await asyncio.to_thread(poll.poll, DEADLINE * 1000)
    finally:
        os.close(handle)


def environment_of(broker: Broker) -> dict[str, str]:
    """The variables that let a process in."""
    settings = as_environment(Settings(**broker.login))
    return {name: value for name, value in settings.items() if "SASL" in name or "SECUR" in name}


def batch(name: str, count: int = 500) -> list[bytes]:
    return [f"{name} {number:05}".encode() for number in range(count)]


async def described(broker: Broker, topic: str) -> tuple[int, dict[str, str]]:
    """Return a topic's number of partitions and its configuration."""
    admin = AIOKafkaAdminClient(**broker.client)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        (answer,) = await admin.describe_configs([resource])
    finally:
        await admin.close()
    ((_, _, _, _, entries),) = answer.resources
    return len(found["partitions"]), {entry[0]: entry[1] for entry in entries}
