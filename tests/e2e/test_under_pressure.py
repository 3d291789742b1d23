"""One service, very many jobs and clients that behave badly: nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import aiohttp
import psutil
import pytest

from jobtrail.access.tokens import READ_ALL, WRITE, local_secret, make_token
from jobtrail.client import Client
from jobtrail.core.position import format_position
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from services.broker.topics import ensure_topics
from tests.e2e import clients
from tests.e2e.service import Service, get

JOBS: Final = 100_000
CLIENTS: Final = 1_000
#: Seconds after which a test gives up waiting for anything.
DEADLINE: Final = 120.0
#: Seconds between two rounds of the writer, and between two bytes of a slow client.
WRITE_EVERY: Final = 0.02
DRIP_EVERY: Final = 1.0
NOON: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
HELD: Final = re.compile(r"^jobtrail_(waits_held|watched_jobs) ([0-9.e+]+)$", re.MULTILINE)
MIB: Final = 1 << 20


class Busy:
    """A service with very many jobs of one user, alice, all of one bulk."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self._names = map(str, itertools.count())
        (self.api,) = service.children("-m services.api")

    def event(self, kind: str, job: str, owner: str, at: datetime = NOON, **data: Any) -> bytes:
        """An event that nothing else is like."""
        if kind == "created":
            data = {"jobType": "scan", "owner": owner} | data
        body = {"specversion": "1.0", "id": next(self._names), "source": "//t", "subject": job}
        return json.dumps(
            body | {"type": f"job.{kind}", "time": at.isoformat(), "data": data}
        ).encode()

    def bearer(self, user: str, *permissions: str) -> str:
        return make_token(local_secret(self.settings.data_dir), user, (), permissions)

    def head(self, method: str, path: str, *headers: str) -> bytes:
        """The head of alice's request, without the line that ends it."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
        return "\r\n".join([*lines, f"Authorization: Bearer {self.bearer('alice')}", ""]).encode()

    async def holds(self, number: int) -> None:
        """Return when the service holds as many waits, each for one job."""
        async with self.service.admin() as session, asyncio.timeout(DEADLINE):
            while True:
                async with session.get("/metrics") as answer:
                    found = dict(HELD.findall(await answer.text()))
                if {float(value) for value in found.values()} == {number}:
                    return

    def memory(self) -> float:
        """Resident memory of the API process, in MiB."""
        return float(self.api.memory_info().rss / MIB)

    async def fill(self, numbers: range) -> None:
        """Give alice these jobs, and wait until they are there."""
        async with LogWriter(self.settings) as writer:
            for n in numbers:
                at = NOON - timedelta(seconds=n // 3)
                value = self.event("created", f"old-{n}", "alice", at, bulkId="big")
                await writer.append(f"old-{n}", value)
            await writer.settle()
        position = {"Jobtrail-Position": format_position(writer.position)}
        async with self.service.admin() as session, asyncio.timeout(DEADLINE):
            while (await session.get("/jobs/summary", headers=position)).status != 200:
                pass


class Loiterers(NamedTuple):
    """Clients that connect and hardly do anything, and what each of them got in the end."""

    silent: list[asyncio.Task[bytes]]
    half: list[asyncio.Task[bytes]]
    reader: asyncio.Task[bytes]


@pytest.fixture(scope="module")
async def begun(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Busy]:
    folder = tmp_path_factory.mktemp("busy")
    names = {"topic": "busy", "dead_topic": "busy-dead", "group": "busy"}
    settings = Settings(data_dir=folder, bootstrap_servers=kafka, **names)
    await ensure_topics(kafka, settings)
    environment = {f"JOBTRAIL_{name.upper()}": value for name, value in names.items()}
    # One user asks for all: their share is not what is tried here.
    environment |= {"JOBTRAIL_MAX_REQUEST_RATE": "1e9", "JOBTRAIL_MAX_REQUEST_BURST": "1000000000"}
    service = Service(folder, "--bootstrap-servers", kafka, settings=environment)
    try:
        await service.start()
        busy = Busy(service, settings)
        await busy.fill(range(JOBS // 5))
        yield busy
        assert await service.process.stop() == 0
    finally:
        await service.process.kill()


@pytest.fixture(scope="module")
async def loiterers(begun: Busy) -> Loiterers:
    """They come before the first test, and are still there during all the others."""
    url = begun.service.url
    groups: list[list[asyncio.Task[bytes]]] = [[], []]
    for number in range(400):
        sock = await clients.connect(url)
        if number % 2:
            await clients.send(sock, begun.head("GET", "/jobs/search"))
        groups[number % 2].append(asyncio.create_task(clients.until_end(sock)))
    sock = await clients.connect(url, receives=4096)
    await clients.send(sock, begun.head("GET", "/jobs?bulkId=big") + b"\r\n")
    reading = clients.until_end(sock, at_once=1024, pause=1.0)
    return Loiterers(*groups, asyncio.create_task(reading))


@pytest.fixture(scope="module")
async def busy(begun: Busy, loiterers: Loiterers) -> Busy:
    assert not loiterers.reader.done()
    await begun.fill(range(JOBS // 5, JOBS))
    return begun


async def keep_writing(busy: Busy, ids: list[str]) -> None:
    """Write a thousand events a second: new jobs of alice, half of them backdated, and changes."""
    async with LogWriter(busy.settings) as writer:
        for round_ in itertools.count():
            for n in range(10):
                job = f"new-{round_}-{n}"
                at = datetime.now(UTC) if n % 2 else NOON - timedelta(seconds=round_ * 40 + n)
                await writer.append(job, busy.event("created", job, "alice", at))
                old = ids[(round_ * 7919 + n * 104_729) % len(ids)]
                await writer.append(old, busy.event("active" if n % 2 else "failed", old, "alice"))
            await asyncio.sleep(WRITE_EVERY)


async def test_paging_shows_every_job_once_while_others_come_and_change(busy: Busy) -> None:
    ids = [f"old-{n}" for n in range(JOBS)]
    seen: Counter[str] = Counter()
    places: list[tuple[datetime, str]] = []
    async with Client(busy.service.url, busy.bearer("alice")) as client:
        pages = client.search(page_size=400)
        writing: asyncio.Task[None] | None = None
        async with asyncio.timeout(DEADLINE):
            async for job in pages:
                # From the first page on: what was there before has to be shown.
                writing = writing or asyncio.create_task(keep_writing(busy, ids))
                assert not writing.done()
                seen[job.id] += 1
                places.append((job.created_at, job.id))
        assert writing is not None
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        totals = await client.summary()
    assert [job for job in ids if seen[job] != 1] == []
    assert max(seen.values()) == 1
    assert [at for at, _ in places] == sorted((at for at, _ in places), reverse=True)
    # Otherwise nothing came and changed meanwhile.
    (total,) = totals
    assert total.total > JOBS + 100
    assert total.active + total.failed > 100


async def test_who_writes_reads_what_he_wrote_a_thousand_times(busy: Busy) -> None:
    async def write_and_read(number: int) -> None:
        user = f"writer-{number}"
        bearer = {"Authorization": f"Bearer {busy.bearer(user, WRITE)}"}
        async with aiohttp.ClientSession(busy.service.url, headers=bearer) as session:
            for step in range(50):
                job, state = f"{user}-{step // 2}", ("created", "completed")[step % 2]
                at = NOON + timedelta(seconds=step // 2)
                form = {"Content-Type": "application/cloudevents+json"}
                value = busy.event(state, job, user, at)
                async with session.post("/events", data=value, headers=form) as answer:
                    assert answer.status == 200, await answer.text()
                    session.headers["Jobtrail-Position"] = answer.headers["Jobtrail-Position"]
                # Every way to read sees both kinds of change.
                await READS[step // 2 % len(READS)](session, job, state, step // 2 + 1)

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as writers:
        for number in range(20):
            writers.create_task(write_and_read(number))


async def by_search(session: aiohttp.ClientSession, job: str, state: str, jobs: int) -> None:
    found = (await get(session, "/jobs/search"))["jobs"]
    assert (found[0]["id"], found[0]["state"], len(found)) == (job, state, jobs)


async def by_summary(session: aiohttp.ClientSession, job: str, state: str, jobs: int) -> None:
    (found,) = (await get(session, "/jobs/summary"))["jobType"]
    assert (found["total"], found["created"]) == (jobs, state == "created"), job


async def by_id(session: aiohttp.ClientSession, job: str, state: str, jobs: int) -> None:
    assert (await get(session, f"/jobs/{job}"))["state"] == state, jobs


async def by_statuses(session: aiohttp.ClientSession, job: str, state: str, jobs: int) -> None:
    async with session.post("/jobs/statuses", json={"jobIds": [job]}) as answer:
        assert await answer.json() == {job: {"id": job, "state": state, "output": None}}, jobs


READS: Final = (by_search, by_summary, by_id, by_statuses)


async def test_clients_that_vanish_while_they_wait_leave_nothing_behind(busy: Busy) -> None:
    position = None
    async with LogWriter(busy.settings) as writer:
        for n in range(CLIENTS):
            await writer.append(f"wait-{n}", busy.event("created", f"wait-{n}", "alice"))
        await writer.settle()
        position = format_position(writer.position)
    after: list[float] = []
    for round_ in range(10):
        socks: list[socket.socket] = []
        for n in range(CLIENTS):
            body = json.dumps({"jobIds": [f"wait-{n}"], "wait": 600}).encode()
            length = f"Content-Length: {len(body)}"
            wanted = f"Jobtrail-Position: {position}"
            sock = await clients.connect(busy.service.url)
            request = busy.head("POST", "/jobs/statuses", length, wanted) + b"\r\n" + body
            await clients.send(sock, request)
            socks.append(sock)
        await busy.holds(CLIENTS)
        for sock in socks:
            if round_ % 2:
                clients.reset(sock)
            else:
                sock.close()
        await busy.holds(0)
        after.append(busy.memory())
    # One round's waits take some 16 MiB. What is made once, and room that is used again, is there
    # after the first half.
    assert after[-1] - after[4] < 8, after


async def drip(sock: socket.socket) -> None:
    """Send a byte a second."""
    while True:
        await clients.send(sock, b" ")
        await asyncio.sleep(DRIP_EVERY)


async def test_bad_requests_are_refused_while_good_ones_are_answered(busy: Busy) -> None:
    url, before = busy.service.url, busy.memory()
    dripping = []
    post = busy.head("POST", "/jobs/statuses", "Content-Length: 1000") + b"\r\n"
    for _ in range(50):
        sock = await clients.connect(url)
        await clients.send(sock, post)
        dripping.append((sock, asyncio.create_task(drip(sock))))
    # A bomb is refused before a byte of it is sent, and not read when it is.
    vast = ("Content-Length: 1000000000", "Content-Encoding: gzip")
    bombs = []
    for number in range(20):
        sock = await clients.connect(url)
        await clients.send(sock, busy.head("POST", "/jobs/statuses", *vast) + b"\r\n")
        async with asyncio.timeout(DEADLINE):
            assert await clients.status_of(sock) == 415
        bombs.append(asyncio.create_task(clients.send(sock, b"\x1f\x8b" * (4 * MIB + number))))
    for line, status in ((b"GET /jobs?x=" + b"y" * 65536, 414), (b"X: " + b"y" * 65536, 431)):
        for _ in range(20):
            with await clients.connect(url) as sock:
                request = line if status == 414 else busy.head("GET", "/jobs") + line
                await clients.send(sock, request)
                async with asyncio.timeout(DEADLINE):
                    assert await clients.status_of(sock) == status
    async with busy.service.client("alice") as session, asyncio.timeout(DEADLINE):
        for _ in range(100):
            assert len((await get(session, "/jobs/search"))["jobs"]) == 100
            assert (await session.get("/readyz")).status == 200
        for sock, sending in dripping:
            with sock:
                assert await clients.status_of(sock) == 408
            sending.cancel()
    for task in bombs:
        task.cancel()
    await asyncio.gather(*bombs, return_exceptions=True)
    assert busy.memory() - before < 64


async def test_loiterers_are_hung_up_on(busy: Busy, loiterers: Loiterers) -> None:
    async with asyncio.timeout(DEADLINE):
        for task in (*loiterers.silent, *loiterers.half):
            assert await task == b""
        found = await loiterers.reader
    assert found.startswith(b"HTTP/1.1 200 ")
    assert not found.endswith(b"0\r\n\r\n")
    assert psutil.pid_exists(busy.api.pid)
    async with busy.service.client("root", permissions=[READ_ALL]) as session:
        assert (await session.get("/readyz")).status == 200
