"""The programs in docs/examples do what they say, each as a user would run it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import pytest

from jobtrail.access.tokens import READ_ALL, WRITE, local_secret, make_token
from jobtrail.core.position import format_position
from jobtrail.settings import Settings
from tests.conftest import Served
from tests.e2e.service import get
from tests.faults.flows import read_log
from tests.processes import clean_environment

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class Place:
    """A service, and how a program finds it."""

    def __init__(self, settings: Settings, url: str) -> None:
        self.settings = settings
        self.url = url
        secret = local_secret(settings.data_dir)
        self.token = make_token(secret, "alice", (), [READ_ALL, WRITE])
        self.environment = {
            **clean_environment(),
            "PYTHONPATH": str(EXAMPLES.parents[1]),
            "JOBTRAIL_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "JOBTRAIL_TOPIC": settings.topic,
            "URL": url,
            "TOKEN": self.token,
        }

    async def start(self, name: str, *arguments: str) -> asyncio.subprocess.Process:
        """Start an example."""
        path = str(EXAMPLES / name)
        argv = [path] if name.endswith(".sh") else [sys.executable, path]
        return await asyncio.create_subprocess_exec(
            *argv,
            *arguments,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, name: str, *arguments: str) -> tuple[str, str]:
        """Run an example to its end; return what it printed and said."""
        process = await self.start(name, *arguments)
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode(), err.decode()

    async def end(self) -> str:
        """Return the end of the log."""
        return format_position((await read_log(self.settings)).ends())

    async def somebody_listens(self) -> None:
        """Return when the service has a listener."""
        async with aiohttp.ClientSession(self.url) as session, asyncio.timeout(30):
            while True:
                async with session.get("/metrics") as answer:
                    if "jobtrail_feeds 1.0" in await answer.text():
                        return


@pytest.fixture
async def place(served: Served) -> Place:
    return Place(served.settings, served.url)


async def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "worker_pool.py",
        "bulk_and_wait.py",
        "celery_app.py",
        "watch.py",
        "curl_producer.sh",
    }
    for path in EXAMPLES.iterdir():
        assert 10 <= len(path.read_text(encoding="utf-8").splitlines()) <= 34, path.name


async def test_the_examples_do_what_they_say(place: Place) -> None:
    watching = await place.start("watch.py", place.url, place.token, "9")
    assert watching.stdout is not None
    assert await watching.stdout.readline() == b"watching\n"
    await place.somebody_listens()
    _, said = await place.run("worker_pool.py")
    assert said.count("by zero") == 1
    printed, _ = await place.run("curl_producer.sh", "backup-1")
    answer = json.loads(printed)
    assert [event["accepted"] for event in answer["events"]] == [True, True, True]
    told, complaint = await watching.communicate()
    assert watching.returncode == 0, complaint.decode()
    states = [line.split()[1] for line in told.decode().splitlines()]
    assert (states.count("completed"), states.count("failed")) == (8, 1)

    printed, _ = await place.run("bulk_and_wait.py", place.url, place.token)
    assert printed.splitlines() == ["created 10000", "ended 1000", "10000 of 10000 completed"]
    printed, _ = await place.run("celery_app.py")
    assert printed.split() == ["picture-0.png", "picture-1.png", "picture-2.png"]
    headers = {"Authorization": f"Bearer {place.token}", "Jobtrail-Position": await place.end()}
    async with aiohttp.ClientSession(place.url, headers=headers) as session:
        counts = (await get(session, "/jobs/summary"))["jobType"]
    assert {(c["jobType"], c["completed"], c["failed"]) for c in counts} == {
        ("backup", 1, 0),
        ("mail", 10_000, 0),
        ("report", 7, 1),
        ("resize", 3, 0),
    }
