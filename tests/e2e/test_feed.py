"""The feed over a real Kafka: who comes back goes on where they were, without a gap or a repeat."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.client import ApiError, Change, Client, SyncClient
from jobtrail.core.position import format_position
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from services.api.feed.feed import AT_ONCE
from tests.conftest import MakeLog
from tests.feed_reader import listen
from tests.processes import Process
from tests.processes import api as api_process
from tests.processes import projector as projector_process

#: More than a process keeps for those who are a little behind.
MANY = 6_000
KINDS = ("created", "active", "progress", "completed")


class Place:
    """A log, a projector and two API processes."""

    def __init__(self, settings: Settings, writer: LogWriter, session: Any) -> None:
        self.settings = settings
        self.writer = writer
        self.session: aiohttp.ClientSession = session
        self.projector = projector_process(settings)
        self.apis: list[Process] = []
        self.urls: list[str] = []
        secret = local_secret(settings.data_dir)
        self.token = make_token(secret, "root", (), [READ_ALL])
        self.headers = {"Authorization": f"Bearer {self.token}"}
        self._numbers = itertools.count()

    async def start_api(self) -> str:
        process = api_process(self.settings, len(self.apis))
        self.apis.append(process)
        url = await process.start()
        self.urls.append(url)
        while True:
            async with self.session.get(f"{url}/readyz") as answer:
                if answer.status == 200:
                    return url

    async def write(self, count: int) -> list[tuple[str, str]]:
        """Write events of new jobs, four each; return job and type of each in their order."""
        written = []
        for n in range(count):
            if n % len(KINDS) == 0:
                job = f"job-{next(self._numbers)}"
            kind = KINDS[n % len(KINDS)]
            await self.writer.append(job, encoded(job, kind))
            written.append((job, f"job.{kind}"))
        await self.writer.settle()
        return written

    async def until_projected(self, url: str) -> str:
        """Return the position behind all that was written, once the projections hold it."""
        headers = dict(self.headers)
        if self.writer.position:
            headers["Jobtrail-Position"] = format_position(self.writer.position)
        async with self.session.get(f"{url}/jobs/search?size=1", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return answer.headers["Jobtrail-Position"]


def encoded(job: str, kind: str, owner: str = "alice") -> bytes:
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{job}.{kind}",
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": job,
        "time": "2026-11-23T13:00:00Z",
    }
    if kind == "created":
        event["data"] = {"jobType": "t", "owner": owner}
    return json.dumps(event).encode()


def by_job(told: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the types of each job's events in their order: the order that is promised."""
    found: dict[str, list[str]] = {}
    for job, kind in told:
        found.setdefault(job, []).append(kind)
    return found


def place_of(change: Change) -> tuple[int, int]:
    return change.partition, change.offset


@pytest.fixture
async def place(make_log: MakeLog, tmp_path: Path) -> AsyncIterator[Place]:
    update = {"data_dir": tmp_path, "port": 0, "tail_buffer_bytes": 1 << 20}
    settings = (await make_log()).model_copy(update=update)
    async with LogWriter(settings) as writer, aiohttp.ClientSession() as session:
        place = Place(settings, writer, session)
        await place.projector.start()
        try:
            yield place
        finally:
            for process in (place.projector, *place.apis):
                await process.kill()


async def test_who_comes_back_goes_on_where_he_was(place: Place) -> None:
    """Their process is killed under load; they go to another one, and to one that starts later."""
    url = await place.start_api()
    other = await place.start_api()
    written: list[tuple[str, str]] = []
    told: list[tuple[str, str]] = []
    async with listen(place.session, f"{url}/jobs/events", place.headers) as reader:
        written += await place.write(4 * AT_ONCE)
        told += await reader.told(AT_ONCE)
        last_id = reader.last_id
    await place.apis[0].kill()
    written += await place.write(AT_ONCE)
    headers = place.headers | {"Last-Event-ID": last_id}
    async with listen(place.session, f"{other}/jobs/events", headers) as reader:
        told += await reader.told(2 * AT_ONCE)
        last_id = reader.last_id
    await place.apis[1].kill()
    written += await place.write(AT_ONCE)
    third = await place.start_api()
    headers = place.headers | {"Last-Event-ID": last_id}
    async with listen(place.session, f"{third}/jobs/events", headers) as reader:
        written += await place.write(AT_ONCE)
        told += await reader.told(len(written) - len(told))
    assert len(told) == len(set(told)), "something was told twice"
    assert by_job(told) == by_job(written)


async def test_who_reads_slowly_misses_nothing(place: Place) -> None:
    url = await place.start_api()
    async with (
        listen(place.session, f"{url}/jobs/events", place.headers) as slow,
        listen(place.session, f"{url}/jobs/events?state=completed", place.headers) as fast,
    ):
        written: list[tuple[str, str]] = []
        for _ in range(4):
            written += await place.write(MANY // 2)
            await fast.told(MANY // 2 // len(KINDS))
        assert by_job(await slow.told(len(written))) == by_job(written)


async def test_what_the_tail_had_no_room_for_is_told_too(place: Place) -> None:
    """The projections are away for longer than the tail can keep what they do not hold."""
    url = await place.start_api()
    async with listen(place.session, f"{url}/jobs/events", place.headers) as reader:
        await place.projector.kill()
        written = await place.write(MANY)
        async with asyncio.timeout(30):
            while await metric(place, url, "jobtrail_tail_dropped_records") == 0:
                pass
        place.projector = projector_process(place.settings)
        await place.projector.start()
        assert by_job(await reader.told(MANY)) == by_job(written)


async def metric(place: Place, url: str, name: str) -> float:
    async with place.session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_the_whole_history_is_told_from_its_beginning(place: Place) -> None:
    url = await place.start_api()
    written = await place.write(2 * MANY)
    await place.until_projected(url)
    begin = ",".join(f"{partition}:0" for partition in range(place.settings.partitions))
    headers = place.headers | {"Last-Event-ID": begin}
    async with listen(place.session, f"{url}/jobs/events", headers) as reader:
        assert by_job(await reader.told(len(written))) == by_job(written)


async def test_the_client_takes_the_stream_up_again(place: Place) -> None:
    url = await place.start_api()
    port = int(url.rpartition(":")[2])
    place.settings = place.settings.model_copy(update={"port": port})
    position = await place.until_projected(url)
    changes: list[Change] = []
    async with Client(url, place.token) as client:
        events = client.events(after=position, job_types=["t"])
        written = await place.write(AT_ONCE)
        while len(changes) < AT_ONCE:
            changes.append(await anext(events))
        await place.apis[0].kill()
        pending = asyncio.ensure_future(anext(events))
        await place.start_api()
        written += await place.write(AT_ONCE)
        changes.append(await pending)
        while len(changes) < len(written):
            changes.append(await anext(events))
        await events.aclose()
        assert by_job([(c.job.id, c.type) for c in changes]) == by_job(written)
        again = client.events(after=changes[AT_ONCE - 1].position)
        rest = [await anext(again) for _ in range(AT_ONCE)]
        await again.aclose()
        # Among partitions the order may be another.
        assert sorted(map(place_of, rest)) == sorted(map(place_of, changes[AT_ONCE:]))
        with pytest.raises(ApiError) as refused:
            await anext(client.events(states=["nonsense"]))
        assert refused.value.status == 400


async def test_the_synchronous_client_listens_too(place: Place) -> None:
    url = await place.start_api()
    position = await place.until_projected(url)
    written = await place.write(len(KINDS))
    found: list[Change] = []

    def read() -> None:
        with SyncClient(url, place.token) as client:
            for change in client.events(after=position):
                found.append(change)
                if len(found) == len(written):
                    break
            # The connection is free again.
            client.summary()

    thread = threading.Thread(target=read)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [(c.job.id, c.type) for c in found] == written
    assert found[-1].state == "completed"
