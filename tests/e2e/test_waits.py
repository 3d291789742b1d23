"""Waits and read-your-writes over a real Kafka, with projector and API as processes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.core.position import format_position
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from services.broker.topics import ensure_topics
from tests.conftest import managed_broker
from tests.processes import Process
from tests.processes import api as api_process
from tests.processes import projector as projector_process

CALLERS = 1000
MakeLog = Callable[..., Awaitable[Settings]]


class Service:
    """A log, a projector, two API processes on ports of their own, and a client of each."""

    def __init__(self, settings: Settings, log: LogWriter, running: list[Process]) -> None:
        self.settings = settings
        self.running = running
        self.projector = projector_process(settings)
        self.apis = [api_process(settings, number) for number in range(2)]
        self.urls: list[str] = []
        secret = local_secret(settings.data_dir)
        self.bearer = {"Authorization": f"Bearer {make_token(secret, 'root', (), [READ_ALL])}"}
        connector = aiohttp.TCPConnector(limit=0)
        self.session = aiohttp.ClientSession(connector=connector)
        self.log = log
        self._events = 0

    async def start(self) -> None:
        await self.start_projector()
        for process in self.apis:
            self.running.append(process)
            self.urls.append(await process.start())
        await self.until_ready()

    async def start_projector(self) -> None:
        self.running.append(self.projector)
        await self.projector.start()

    async def until_ready(self) -> None:
        for url in self.urls:
            while True:
                async with self.session.get(f"{url}/readyz") as answer:
                    if answer.status == 200:
                        break

    async def write(self, job: str, kind: str) -> None:
        """Write an event, which may still be under way afterwards."""
        self._events += 1
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"event-{self._events}",
            "source": "//test",
            "type": f"job.{kind}",
            "subject": job,
        }
        if kind == "created":
            event["data"] = {"jobType": "t", "owner": "alice", "bulkId": "b"}
        await self.log.append(job, json.dumps(event).encode())

    async def emit(self, *events: tuple[str, str]) -> str:
        """Write (job, kind) events; return the position behind them."""
        for job, kind in events:
            await self.write(job, kind)
        await self.log.settle()
        return format_position(self.log.position)

    async def statuses(self, *ids: str, api: int = 0, **fields: Any) -> dict[str, str]:
        async with self.session.post(
            f"{self.urls[api]}/jobs/statuses",
            json={"jobIds": ids, **fields},
            headers=self.bearer,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            assert answer.status == 200, await answer.text()
            return {job: entry["state"] for job, entry in (await answer.json()).items()}

    async def get(self, path: str, api: int = 0, **headers: str) -> Any:
        async with self.session.get(
            self.urls[api] + path, headers={**self.bearer, **headers}
        ) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def metric(self, name: str, api: int = 0) -> float:
        async with self.session.get(f"{self.urls[api]}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))

    async def holds(self, number: int, api: int = 0) -> None:
        """Return when an API process holds as many waits."""
        while await self.metric("jobtrail_waits_held", api) != number:
            pass


@pytest.fixture
async def service(make_log: MakeLog, running: list[Process]) -> AsyncIterator[Service]:
    settings = await make_log()
    async with LogWriter(settings) as log:
        service = Service(settings, log, running)
        async with service.session:
            await service.start()
            yield service


async def test_a_wait_wakes_when_its_last_job_has_ended(service: Service) -> None:
    await service.emit(("a", "created"), ("b", "created"), ("c", "created"), ("c", "failed"))
    waits = [
        asyncio.create_task(service.statuses("a", "b", "c", wait=-1, api=api)) for api in (0, 1)
    ]
    for api in (0, 1):
        await service.holds(1, api)
    await service.emit(("a", "completed"), ("b", "active"))
    while (await service.statuses("a", "b"))["b"] != "active":
        pass
    await service.holds(1)
    assert not any(task.done() for task in waits)
    await service.emit(("b", "cancelled"))
    for task in waits:
        assert await task == {"a": "completed", "b": "cancelled", "c": "failed"}


async def test_a_wait_for_any_wakes_with_the_first(service: Service) -> None:
    wait = asyncio.create_task(service.statuses("a", "b", wait=-1, until="any"))
    await service.holds(1)
    await service.emit(("a", "created"), ("b", "created"), ("b", "completed"))
    assert (await wait)["b"] == "completed"


async def test_a_wait_for_a_bulk_wakes_when_all_of_it_has_ended(service: Service) -> None:
    position = await service.emit(*((f"j{n}", "created") for n in range(50)))
    await service.get("/jobs/search", **{"Jobtrail-Position": position})
    wait = asyncio.create_task(service.get("/jobs?bulkId=b&wait=-1"))
    await service.holds(1)
    await service.emit(*((f"j{n}", "completed") for n in range(50)))
    assert Counter(entry["state"] for entry in (await wait).values()) == {"completed": 50}


async def test_waits_wake_while_no_projector_runs(service: Service) -> None:
    """Waits hang on the log: they need the projections to begin with, not to be woken."""
    position = await service.emit(("j", "created"))
    # The projector must have it before it is killed, or there is nothing to count below.
    await service.get("/jobs/summary", **{"Jobtrail-Position": position})
    wait = asyncio.create_task(service.statuses("j", wait=-1))
    await service.holds(1)
    await service.projector.kill()
    await service.emit(("j", "completed"), ("k", "created"))
    assert await wait == {"j": "completed"}
    while await service.statuses("j", "k") != {"j": "completed", "k": "created"}:
        pass
    found = await service.get("/jobs/summary")
    assert found["jobType"][0]["total"] == 1


async def test_a_thousand_callers_wake_each_with_its_own_job(service: Service) -> None:
    jobs = [f"j{n}" for n in range(CALLERS)]
    await service.emit(*((job, "created") for job in jobs))
    ended: set[str] = set()
    woken: list[str] = []

    async def wait(number: int) -> None:
        job = jobs[number]
        assert await service.statuses(job, wait=-1, api=number % 2) == {job: "completed"}
        assert job in ended, "woken before its job had ended"
        woken.append(job)

    tasks = [asyncio.create_task(wait(number)) for number in range(CALLERS)]
    for api in (0, 1):
        await service.holds(CALLERS // 2, api)
    for job in jobs:
        ended.add(job)
        await service.write(job, "completed")
    await asyncio.gather(*tasks)
    assert sorted(woken) == sorted(jobs)
    for api in (0, 1):
        assert await service.metric("jobtrail_waits_held", api) == 0
        assert await service.metric("jobtrail_watched_jobs", api) == 0


async def test_callers_that_go_away_free_their_waits(service: Service) -> None:
    await service.emit(("j", "created"))
    tasks = [asyncio.create_task(service.statuses("j", f"u{n}", wait=-1)) for n in range(100)]
    await service.holds(100)
    assert await service.metric("jobtrail_watched_jobs") == 101
    for task in tasks[:-1]:
        task.cancel()
    await service.holds(1)
    assert await service.metric("jobtrail_watched_jobs") == 2
    await service.emit(("j", "completed"), ("u99", "completed"))
    assert await tasks[-1] == {"j": "completed", "u99": "completed"}


async def test_a_client_reads_its_own_writes(service: Service) -> None:
    for n in range(50):
        position = await service.emit((f"j{n}", "created"))
        wanted = {"Jobtrail-Position": position}
        api = n % 2
        found = await service.get("/jobs/search?size=1000", api, **wanted)
        assert len(found["jobs"]) == n + 1
        assert len(await service.get("/jobs?bulkId=b", api, **wanted)) == n + 1
        counted = await service.get("/jobs/summary", api, **wanted)
        assert counted["jobType"][0]["total"] == n + 1


@pytest.mark.parametrize("how", ["told", "its parent was killed"])
async def test_a_process_that_ends_says_so_to_its_waits(service: Service, how: str) -> None:
    await service.emit(("j", "created"))

    async def refused() -> tuple[int, str]:
        body = {"jobIds": ["j"], "wait": -1}
        url = f"{service.urls[0]}/jobs/statuses"
        async with service.session.post(url, json=body, headers=service.bearer) as answer:
            return answer.status, (await answer.json())["type"]

    waits = [asyncio.create_task(refused()) for _ in range(20)]
    await service.holds(20)
    process = service.apis[0]
    if how == "told":
        assert await process.stop() == 0
    else:
        assert process.child.stdin is not None
        process.child.stdin.close()
        assert await process.child.wait() == 0
    for wait in waits:
        assert await wait == (503, "urn:jobtrail:problem:stopping")
    assert await service.statuses("j", api=1) == {"j": "created"}


async def test_waits_outlive_an_outage_of_the_log(running: list[Process], tmp_path: Path) -> None:
    broker = managed_broker(tmp_path / "kafka")
    running.append(broker)
    settings = Settings(data_dir=tmp_path, bootstrap_servers=await broker.start(), port=0)
    await ensure_topics(settings.bootstrap_servers, settings)
    async with LogWriter(settings) as log:
        service = Service(settings, log, running)
        await service.start()
        position = await service.emit(("j", "created"))
        # The projector must have it before the log is gone, or there is nothing to count below.
        await service.get("/jobs/summary", **{"Jobtrail-Position": position})
        wait = asyncio.create_task(service.statuses("j", wait=-1))
        await service.holds(1)
    async with service.session:
        await broker.kill()
        assert (await service.get("/jobs/summary"))["jobType"][0]["total"] == 1
        assert await service.statuses("j") == {"j": "created"}
        # One that starts without a log answers, and is not ready.
        await service.apis[1].kill()
        late = api_process(settings, 2)
        running.append(late)
        service.urls[1] = await late.start()
        assert await service.statuses("j", api=1) == {"j": "created"}
        async with service.session.get(f"{service.urls[1]}/readyz") as answer:
            assert answer.status == 503
        late_wait = asyncio.create_task(service.statuses("j", wait=-1, api=1))
        await service.holds(1, api=1)
        assert await broker.start() == settings.bootstrap_servers
        await service.until_ready()
        async with LogWriter(settings) as log:
            service.log = log
            await service.emit(("j", "completed"))
        assert await wait == await late_wait == {"j": "completed"}


async def test_a_process_ends_with_its_parent(service: Service) -> None:
    child = service.apis[0].child
    assert child.stdin is not None
    child.stdin.close()
    assert await child.wait() == 0


async def test_processes_share_a_port(make_log: MakeLog, running: list[Process]) -> None:
    settings = await make_log()
    first = api_process(settings)
    running.append(first)
    url = await first.start()
    port = int(url.rpartition(":")[2])
    second = api_process(settings.model_copy(update={"port": port}), 1)
    running.append(second)
    assert await second.start() == url
    async with aiohttp.ClientSession() as session:
        await first.stop()
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
