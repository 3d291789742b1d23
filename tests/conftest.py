"""One Kafka per process of a test run, and a log of its own for every test that asks for one.

Where a Docker engine answers, Kafka is testcontainers'; elsewhere it is the broker that
`jobtrail up` runs. Neither is ever skipped: a Kafka that does not start fails the test.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from jobtrail.settings import Settings, load
from services.broker.jars import read_lock
from services.broker.topics import ensure_topics
from tests.processes import Process, api, clean_environment, module, projector

if TYPE_CHECKING:
    from playwright.async_api import Page

MakeLog = Callable[..., Awaitable[Settings]]
TRACE = Path(__file__).parents[2] / "shared" / "data" / "google-2011-job-events-part1.csv.gz"

#: A browser that does nothing but what it is told: no updates, no accounts, no look at the network.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def docker_answers() -> bool:
    """Tell whether a Docker engine is there to run Kafka in."""
    import docker  # slow, and only wanted here

    try:
        return bool(docker.from_env(timeout=5).ping())
    except docker.errors.DockerException:
        return False


@pytest.fixture(scope="session", autouse=True)
def _own_settings() -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name in set(os.environ) - set(clean_environment()):
        del os.environ[name]


@pytest.fixture(scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Run one real Kafka for all tests of this process; the value is its bootstrap servers."""
    if docker_answers():
        with kafka_container() as servers:
            yield servers
        return
    broker = managed_broker(tmp_path_factory.mktemp("kafka"))
    try:
        yield await broker.start()
    finally:
        await broker.stop()


@contextlib.contextmanager
def kafka_container() -> Iterator[str]:
    """Run the image of the local broker's version, reached at a port that was free."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    container = DockerContainer(f"apache/kafka:{read_lock().kafka_version}")
    container.with_bind_ports(port, port)
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:29093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:29093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        container.with_env(name, value)
    with container:
        wait_for_logs(container, "Kafka Server started", timeout=60)
        yield f"127.0.0.1:{port}"


def managed_broker(folder: Path, *arguments: str) -> Process:
    """Return the local broker on a folder, not started yet; like a container's it is open."""
    settings = Settings(data_dir=folder)
    options = ("--data-dir", str(folder / "broker"), "--with-parent", "--open", *arguments)
    return module("services.broker", settings, folder / "logs", *options, label="broker")


@pytest.fixture
def make_log(kafka: str, tmp_path: Path) -> MakeLog:
    """Return what makes a log of its own, and the settings to reach it."""

    async def make(**overrides: object) -> Settings:
        name = uuid.uuid4().hex[:12]
        values: dict[str, object] = {
            "data_dir": tmp_path / name,
            "bootstrap_servers": kafka,
            "topic": f"job-events-{name}",
            "dead_topic": f"job-events-dead-{name}",
            "group": f"projector-{name}",
            "port": 0,
        }
        settings = load(**{**values, **overrides})
        settings.data_dir.mkdir(mode=0o700, parents=True)
        await ensure_topics(settings.bootstrap_servers, settings)
        return settings

    return make


@pytest.fixture
async def running() -> AsyncIterator[list[Process]]:
    """Collect processes that a test starts; the last started is ended first."""
    processes: list[Process] = []
    yield processes
    for process in reversed(processes):
        await process.kill()


class Served(NamedTuple):
    """A log of its own with a projector and an API process on it."""

    settings: Settings
    url: str


@pytest.fixture
async def served(make_log: MakeLog, running: list[Process]) -> Served:
    """Serve a new log."""
    settings = await make_log()
    folding, answering = projector(settings), api(settings)
    running += [folding, answering]
    await folding.start()
    return Served(settings, await answering.start())


@pytest.fixture(scope="session")
def trace() -> Path:
    """Return the file of the Google trace: skipped where it is absent, never in CI."""
    if not TRACE.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the trace is missing: {TRACE}")
        pytest.skip("the Google trace is not beside the checkout: ../shared/data")
    return TRACE


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of Chromium: skipped where there is none, never in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    missing = "no Chromium is installed; on Debian and Ubuntu: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture
async def page(chromium: str, tmp_path: Path) -> AsyncIterator[Page]:
    """Return a page of a browser that nobody has used yet."""
    from playwright.async_api import async_playwright  # slow, and only wanted here

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=chromium, headless=True, args=CHROMIUM_FLAGS
        )
        yield await browser.new_page()
        await browser.close()
