"""The main job on real traffic: what the API answers equals what SQL says of the CSV.

`TRACE_EVENTS=1007362` takes the whole file (minutes); the default is a part of it.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from jobtrail.core.position import holds, parse_position
from tests.e2e.oracle import Oracle
from tests.e2e.service import Service, get, pages
from tests.processes import Process
from tests.trace_part import first_rows
from tests.waiting import look_again

EVENTS: Final = int(os.environ.get("TRACE_EVENTS", "60000"))
KILL_ROUNDS: Final = 2
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def part(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of the trace as a file of their own."""
    return first_rows(trace, tmp_path_factory.mktemp("trace"), EVENTS)


@pytest.fixture(scope="module")
def oracle(part: Path) -> Oracle:
    return Oracle(part, EVENTS)


async def finished(process: Process) -> tuple[int, str]:
    """Wait for a command; return its exit status and what it printed."""
    out, _ = await process.child.communicate()
    return process.child.returncode or 0, out.decode()


async def start_import(service: Service, part: Path) -> Process:
    process = service.command("import", "google-2011", str(part), "--wait")
    await process.spawn()
    return process


async def compare(service: Service, oracle: Oracle) -> None:
    """Hold every endpoint that lists or counts against the CSV."""
    users = oracle.users(10)
    middle = datetime(2011, 5, 2, 7, 30, tzinfo=UTC)
    ranges: list[dict[str, Any]] = [
        {},
        {"first": middle},
        {"first": middle, "last": middle + timedelta(hours=13, minutes=5)},
        {"last": datetime(2011, 5, 2, 23, 59, 59, 999999, tzinfo=UTC)},
    ]
    types: list[tuple[str, ...]] = [(), ("scheduling-class-1",), ("scheduling-class-0", "none")]
    for owner in (None, *users):
        session = service.admin() if owner is None else service.client(owner)
        async with session:
            for bounds in ranges:
                for job_types in types:
                    params = [("jobType", name) for name in job_types]
                    params += [
                        ({"first": "startDate", "last": "endDate"}[name], at.isoformat())
                        for name, at in bounds.items()
                    ]
                    found = await get(session, "/jobs/summary", params)
                    expected = oracle.summary(owner, job_types, **bounds)
                    assert found == {"jobType": expected}, (owner, bounds, job_types)
    bulk_id = oracle.largest_bulk()
    async with service.admin() as session:
        assert await get(session, "/jobs", [("bulkId", bulk_id)]) == oracle.bulk(bulk_id)
    lister = users[min(2, len(users) - 1)]
    listed: list[Any] = []
    async with service.client(lister) as session:
        async for page in pages(session, "/jobs/search?size=997"):
            listed += page
    assert listed == oracle.listing(lister)


async def test_imported_trace_equals_the_csv(part: Path, oracle: Oracle, tmp_path: Path) -> None:
    service = Service(tmp_path / "data")
    await service.start()
    try:
        for _again in range(2):  # importing again changes nothing
            status, out = await finished(await start_import(service, part))
            assert status == 0, service.data_dir
            assert out.startswith(f"{EVENTS} events acknowledged, projected, position ")
            await compare(service, oracle)
        assert await service.process.stop() == 0
    finally:
        await service.process.kill()


async def test_killed_processes_lose_nothing_and_apply_nothing_twice(
    part: Path, oracle: Oracle, tmp_path: Path
) -> None:
    """SIGKILL of projector, API and broker in the middle of the import, several times."""
    service = Service(tmp_path / "data")
    await service.start()
    chance = random.Random(20110501)
    try:
        importing = await start_import(service, part)
        for _ in range(KILL_ROUNDS):
            for words in ("-m projections", "-m services.api", "kafka.Kafka"):
                await reach(service, chance.randrange(1, EVENTS // 8))
                (victim,) = service.children(words)
                victim.kill()
        status, _ = await finished(importing)
        # An importer that lost its acknowledgements says so; importing again is harmless.
        for _ in range(3):
            if status == 0:
                break
            status, _ = await finished(await start_import(service, part))
        assert status == 0, (service.data_dir / "import.log").read_text()
        await compare(service, oracle)
        assert await service.process.stop() == 0
    finally:
        await service.process.kill()


async def reach(service: Service, more: int) -> None:
    """Wait until the projections hold so many more events than now, or all of them."""
    async with service.admin() as session:
        start = await held(session)
        while (now := await held(session)) < min(start + more, EVENTS):
            await look_again()
        assert now > 0


async def held(session: Any) -> int:
    """How many events the projections hold; 0 while nobody can say."""
    import aiohttp

    try:
        async with session.get("/jobs/search?size=1") as answer:
            position = parse_position(answer.headers.get("Jobtrail-Position", "0:0"))
            assert holds(position, {})
            return sum(position.values())
    except aiohttp.ClientError:
        return 0
