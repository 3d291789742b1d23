"""The API over a log that changes under it, and over one whose offsets have gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiokafka.admin import NewPartitions

from jobtrail.access.tokens import READ_ALL, local_secret, make_token
from jobtrail.client import ApiError, Client
from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.contract.store_streams import PARTITIONS, Log, event
from tests.faults.conftest import OwnBroker
from tests.faults.flows import DEADLINE, LOOK, ends_of, held, producer, until, write
from tests.faults.test_log_changes import LOST, admin, cut_in_half, make_again, started
from tests.processes import Process
from tests.processes import api as api_process


class Place:
    """A log with a projector and an API process, and who asks it."""

    def __init__(
        self, settings: Settings, url: str, session: aiohttp.ClientSession, folding: Process
    ) -> None:
        self.folding = folding
        self.settings = settings
        self.url = url
        self.session = session
        self.token = make_token(local_secret(settings.data_dir), "root", (), [READ_ALL])
        self.headers = {"Authorization": f"Bearer {self.token}"}

    async def get(self, path: str, **headers: str) -> tuple[int, Any, str]:
        """Return status, content and position of an answer."""
        url = self.url + path
        async with self.session.get(url, headers={**self.headers, **headers}) as answer:
            return answer.status, await answer.json(), answer.headers.get("Jobtrail-Position", "")

    async def listening(self, position: str) -> tuple[int, str]:
        """Return status and problem of a feed from a position."""
        headers = {**self.headers, "Last-Event-ID": position}
        async with self.session.get(f"{self.url}/jobs/events", headers=headers) as answer:
            if answer.status == 200:
                return 200, ""
            return answer.status, (await answer.json())["type"].rpartition(":")[2]

    async def level(self) -> str:
        """Wait until the projections hold the log; return the position of an answer then."""
        ends = await ends_of(self.settings)
        await until(lambda: held(self.settings).position == ends, "the store is level")
        async with asyncio.timeout(DEADLINE):
            while True:
                status, _, position = await self.get("/jobs/search")
                if status == 200:
                    return position
                await asyncio.sleep(LOOK)

    async def total(self) -> int:
        status, content, _ = await self.get("/jobs/summary")
        assert status == 200
        return sum(entry["total"] for entry in content["jobType"])


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def served(
    settings: Settings, running: list[Process], session: aiohttp.ClientSession
) -> Place:
    folding = await started(settings, running)
    process = api_process(settings)
    running.append(process)
    return Place(settings, await process.start(), session, folding)


def jobs(name: str, count: int) -> list[Any]:
    return [Log().tell("created", f"{name}-{number}") for number in range(count)]


async def check_other_log(place: Place, before: str, cursor: str, count: int) -> None:
    """Check that what was made from the log before is refused, and what is there is answered."""
    await place.level()
    assert await place.total() == count
    for header in ("Jobtrail-Position", "Last-Event-ID"):
        path = "/jobs/events" if header == "Last-Event-ID" else "/jobs/summary"
        status, problem, _ = await place.get(path, **{header: before})
        assert (status, problem["type"]) == (410, "urn:jobtrail:problem:log-changed"), header
    status, problem, _ = await place.get(f"/jobs/summary?asOf={before}")
    assert (status, problem["type"]) == (410, "urn:jobtrail:problem:log-changed")
    status, problem, _ = await place.get(cursor)
    assert (status, problem["type"]) == (410, "urn:jobtrail:problem:log-changed")
    # As it says: from what is there, it goes on.
    now = (await place.get("/jobs/search"))[2]
    assert await place.listening(now) == (200, "")


@pytest.mark.timeout(300)
async def test_positions_of_a_topic_that_was_made_again_are_refused(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    settings = await make_log()
    place = await served(settings, running, session)
    await write(settings, jobs("old", 300))
    before = await place.level()
    assert "." in before
    assert await place.listening(before) == (200, "")
    cursor = (await place.get("/jobs/search?size=10"))[1]["next"]
    assert (await place.get(cursor))[0] == 200
    async with Client(place.url, place.token) as client:
        # Whoever waits is not told of jobs of a log that is gone.
        waiting = asyncio.create_task(client.wait(["old-1", "new-1"]))
        await place.folding.kill()
        await make_again(settings)
        await write(settings, jobs("new", 700))
        await started(settings, running)
        await check_other_log(place, before, cursor, 700)
        status, _, _ = await place.get("/jobs/old-1")
        assert status == 404
        assert not waiting.done()
        log = Log()
        _, *ended = [log.tell("completed", name) for name in ("other", "old-1", "new-1")]
        await write(settings, ended)
        found = await waiting
        assert {status.state for status in found.values()} == {"completed"}
        assert len(found) == 2


@pytest.mark.timeout(300)
async def test_positions_of_a_log_that_lost_its_end_are_refused(
    make_log: MakeLog,
    running: list[Process],
    session: aiohttp.ClientSession,
    own_broker: OwnBroker,
) -> None:
    settings = await make_log(bootstrap_servers=own_broker.servers)
    place = await served(settings, running, session)
    await write(settings, jobs("old", 400))
    before = await place.level()
    cursor = (await place.get("/jobs/search?size=10"))[1]["next"]
    await own_broker.cut_power()
    # Nobody is level with a log that does not answer.
    async with asyncio.timeout(DEADLINE):
        while True:
            async with session.get(f"{place.url}/jobs/search", headers=place.headers) as answer:
                if answer.headers["Jobtrail-Lag"] == "unknown":
                    break
            await asyncio.sleep(LOOK)
    async with session.get(f"{place.url}/readyz") as answer:
        assert answer.status == 503
        assert "The log does not answer." in (await answer.json())["reasons"]
    cut_in_half(own_broker.segment(settings.topic, LOST))
    await own_broker.start()
    kept = sum((await ends_of(settings)).values())
    await write(settings, jobs("new", 900))
    await check_other_log(place, before, cursor, kept + 900)


@pytest.mark.timeout(300)
async def test_another_number_of_partitions_is_answered_with_one_sentence(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    settings = await make_log()
    place = await served(settings, running, session)
    await write(settings, jobs("old", 50))
    await place.level()
    grow = {settings.topic: NewPartitions(PARTITIONS + 4)}
    await admin(settings, lambda client: client.create_partitions(grow))
    async with asyncio.timeout(DEADLINE):
        while (await place.get("/jobs/search"))[0] == 200:
            await asyncio.sleep(LOOK)
    for path in ("/jobs/search", "/jobs/summary", "/jobs/old-1"):
        status, problem, _ = await place.get(path)
        assert status == 503
        assert f"{PARTITIONS + 4} partitions" in problem["detail"]


def told(job_id: str, kind: str) -> dict[str, Any]:
    """Return an event as aiokafka's producer takes it."""
    return {"key": job_id.encode(), "value": event(kind, job_id, f"{job_id}#{kind}")}


@pytest.mark.timeout(300)
async def test_transactions_are_passed_over_and_what_is_aborted_is_shown_nowhere(
    make_log: MakeLog, running: list[Process], session: aiohttp.ClientSession
) -> None:
    settings = await make_log()
    place = await served(settings, running, session)
    names = [f"job-{number}" for number in range(20)]
    async with Client(place.url, place.token) as client:
        seen: list[str] = []
        begin = await place.level()

        async def listen() -> None:
            async for change in client.events(after=begin):
                seen.append(f"{change.job.id} {change.type}")
                if change.job.id == "last":
                    return

        listening = asyncio.create_task(listen())
        waiting = asyncio.create_task(client.wait(names))
        async with producer(settings, transactional_id=f"t-{settings.topic}") as to:
            for kind in ("created", "active"):
                async with to.transaction():
                    for name in names:
                        await to.send(settings.topic, **told(name, kind))
                await to.begin_transaction()
                for name in names:
                    await to.send(settings.topic, **told(name, "failed"))
                    await to.send(settings.topic, **told(f"aborted-{name}", "created"))
                await to.flush()
                await to.abort_transaction()
            await place.level()
            assert not waiting.done()
            assert {s.state for s in (await client.statuses(names)).values()} == {"active"}
            with pytest.raises(ApiError) as missing:
                await client.job("aborted-job-1")
            assert missing.value.status == 404
            async with to.transaction():
                for name in names:
                    await to.send(settings.topic, **told(name, "completed"))
        assert {s.state for s in (await waiting).values()} == {"completed"}
        await write(settings, [Log().tell("created", "last")])
        await listening
        assert sorted(seen) == sorted(
            [f"{n} job.{kind}" for n in names for kind in ("created", "active", "completed")]
            + ["last job.created"]
        )
        history = [entry.type async for entry in client.history("job-1", page_size=2)]
        assert history == ["job.created", "job.active", "job.completed"]
        # What was given out can be given back, and says no more than is true.
        position = (await place.get("/jobs/search"))[2]
        assert (await place.get("/jobs/summary", **{"Jobtrail-Position": position}))[0] == 200
        assert await place.listening(begin) == (200, "")
