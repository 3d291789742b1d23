"""`jobtrail up` from its start to every way it can end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest

from tests.conftest import MakeLog
from tests.contract.store_streams import event
from tests.e2e.service import Service
from tests.e2e.test_emit import Outcome, outcome
from tests.faults.flows import DEADLINE, until
from tests.waiting import look_again

pytestmark = pytest.mark.timeout(420)

#: What every child's command line says of it.
WORDS: Final = ("-m services.broker", "-m projections", "-m services.api", "kafka.Kafka")


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """Give what starts a service on a folder of the test; kill what a failure left over."""
    services: list[Service] = []

    async def start(
        *options: str, folder: str = "data", settings: Mapping[str, str] = {}
    ) -> Service:
        service = Service(tmp_path / folder, *options, settings=settings)
        services.append(service)
        await service.start()
        return service

    yield start
    for service in services:
        await service.process.kill()


def alive(process: psutil.Process) -> bool:
    """Tell whether a process runs; a dead one that nobody has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def below(service: Service, words: str = "") -> list[psutil.Process]:
    """Return the processes below an `up` whose command line holds these words."""
    found = []
    for child in psutil.Process(service.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if words in " ".join(child.cmdline()):
                found.append(child)
    return found


def family(service: Service) -> list[psutil.Process]:
    """Return all processes below an `up`, after a look that each kind is there."""
    for words in WORDS:
        assert below(service, words), words
    return below(service)


async def until_gone(processes: list[psutil.Process]) -> None:
    await until(lambda: not any(map(alive, processes)), "no process of the service is left")


async def run(service: Service, *arguments: str, given: bytes = b"") -> Outcome:
    """Run a command on a service's data folder."""
    process = service.command(*arguments)
    process.log.unlink(missing_ok=True)
    await process.spawn()
    return await outcome(process, given)


async def refused(tmp_path: Path, folder: str, *options: str) -> str:
    """Run an `up` that can't start; return what it says."""
    service = Service(tmp_path / folder, *options)
    service.process.log = tmp_path / f"{folder}-refused.log"
    await service.process.spawn()
    try:
        found = await outcome(service.process)
    finally:
        await service.process.kill()
    assert (found.status, found.out) == (1, ""), found
    assert "Traceback" not in found.err
    return found.err


async def emitted(service: Service, names: list[str]) -> None:
    """Write an event of a job for each name, as often as it takes, until reads hold it."""
    lines = b"\n".join(event("progress", f"job-{name}", name) for name in names)
    async with asyncio.timeout(DEADLINE):
        while (found := await run(service, "emit", "--json", given=lines)).status:
            assert "error: Kafka " in found.err
    said = json.loads(found.out)
    assert said["acknowledged"] == len(names)
    await holding(service, said["position"])


async def holding(service: Service, position: str) -> None:
    """Wait until the service's reads hold a position."""
    async with asyncio.timeout(DEADLINE), service.admin() as session:
        status = 0
        while status != 200:
            try:
                headers = {"Jobtrail-Position": position}
                async with session.get("/jobs/search?size=1", headers=headers) as answer:
                    status = answer.status
            except aiohttp.ClientError:
                await look_again()


async def ids(service: Service) -> list[str]:
    async with service.admin() as session, session.get("/jobs/search?size=100") as answer:
        assert answer.status == 200
        return sorted(job["id"] for job in (await answer.json())["jobs"])


async def come_back(service: Service, *kinds: str) -> None:
    """Kill a process of each kind below `up`, and wait for those that take their place."""
    before = {words: below(service, words) for words in kinds}
    for victim, *_ in before.values():
        victim.kill()

    def replaced(words: str) -> bool:
        now = below(service, words)
        return len(now) == len(before[words]) and before[words][0] not in now

    await until(lambda: all(map(replaced, kinds)), f"{kinds} are started anew")


def check_status(found: Outcome, service: Service, jobs: int) -> None:
    """Hold the status of a ready service that is level against its promised shape."""
    assert (found.status, found.err) == (0, "")
    status: dict[str, Any] = json.loads(found.out)
    assert status.keys() == {
        "url", "ready", "health", "partitions", "jobs", "versions", "pid", "bootstrapServers",
        "clientProperties", "processes", "reasons", "deadLetters", "verified",
    }  # fmt: skip
    assert status["reasons"] == []
    assert status["deadLetters"] == {"open": 0, "newestAt": None}
    assert status["verified"] is None
    for row in status["processes"]:
        assert (row["state"], row["trouble"], row["restarts"]) == ("ready", None, 0)
        assert (row["lastEnd"], psutil.pid_exists(row["pid"])) == (None, True)
    assert (status["url"], status["ready"]) == (service.url, True)
    assert status["pid"] == service.process.pid
    assert status["versions"]["jobtrail"]
    assert status["clientProperties"] == str(service.data_dir / "broker" / "client.properties")
    assert status["bootstrapServers"].startswith("127.0.0.1:")
    assert [row["partition"] for row in status["partitions"]] == list(range(8))
    for row in status["partitions"]:
        assert row.keys() == {"partition", "end", "projected", "proven", "lag"}
        assert row["lag"] == row["end"] - row["projected"] == 0
    assert sum(status["jobs"].values()) == 2 * jobs
    assert status["jobs"]["total"] == jobs


async def test_whatever_is_killed_comes_back_and_all_data_stays(
    started: Callable[..., Awaitable[Service]],
) -> None:
    """A process of each kind, then the whole service: that leaves no process behind."""
    several = ("--projectors", "2", "--api-processes", "2")
    # What is for processes of one's own does not count here: two would want the port.
    service = await started(
        *several, settings={"JOBTRAIL_HEALTH_PORT": "8041", "JOBTRAIL_DRAIN": "600"}
    )
    assert len(below(service, "-m projections")) == len(below(service, "-m services.api")) == 2
    await emitted(service, [str(n) for n in range(30)])
    check_status(await run(service, "status", "--json"), service, 30)
    for_people = await run(service, "status")
    assert for_people.out.startswith(f"{service.url}: ready\n")
    await come_back(service, "-m projections", "-m services.api")
    await emitted(service, ["after a kill"])
    await come_back(service, "kafka.Kafka")
    await emitted(service, ["after another"])
    processes = family(service)
    await service.process.kill()
    await until_gone(processes)
    found = await run(service, "status")
    assert (found.status, found.out) == (1, "")
    assert found.err.startswith("error: No local service is running.")
    service = await started(*several)
    await emitted(service, ["after the last"])
    assert len(await ids(service)) == 33
    processes = family(service)
    service.process.signal(signal.SIGINT)
    found = await outcome(service.process)
    assert (found.status, found.out) == (0, "")
    await until_gone(processes)
    assert (await run(service, "status")).status == 1


async def test_what_is_taken_is_said_and_stays_as_it_is(
    started: Callable[..., Awaitable[Service]], make_log: MakeLog, tmp_path: Path
) -> None:
    """The data folder of another service, its port, and a port of another program."""
    kafka = ("--bootstrap-servers", (await make_log()).bootstrap_servers)
    service = await started(*kafka)
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [service.url.rpartition(":")[2], str(other.getsockname()[1])]
        folder, *said = await asyncio.gather(
            refused(tmp_path, "data", *kafka),
            *(refused(tmp_path, f"for-{port}", "--port", port) for port in ports),
        )
    assert folder.startswith("error: Another `jobtrail up` is running on this data folder.")
    assert f"Where: {service.data_dir}." in folder
    for port, text in zip(ports, said, strict=True):
        assert text.startswith("error: ")
        assert f"127.0.0.1:{port}" in text
    assert (await run(service, "status")).status == 0
    processes = below(service)
    assert await service.process.stop() == 0
    await until_gone(processes)


async def test_a_service_that_is_stopped_while_it_starts(tmp_path: Path) -> None:
    service = Service(tmp_path / "data")
    await service.process.spawn()
    try:
        await until(lambda: bool(below(service, "kafka.Kafka")), "Kafka is being started")
        processes = below(service)
        service.process.signal(signal.SIGTERM)
        found = await outcome(service.process)
    finally:
        await service.process.kill()
    assert (found.status, found.out, found.err) == (0, "", "")
    await until_gone(processes)
