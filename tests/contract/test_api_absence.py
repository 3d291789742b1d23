"""That a job is not found is an answer only where the log is known to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from jobtrail.core.partitions import partition_of
from services.api.limits.limits import Timeouts
from services.api.problems.problems import BEHIND
from tests.contract.api_service import PARTITIONS, PATIENT, Answer, Api, held, running

#: Ways in which this process may not know the log to its end.
STATES = ("no tail", "tail began ahead", "log silent", "buffer full")


def ids_in(partition: int) -> list[str]:
    """Return ids of jobs in one partition."""
    ids = (f"j{n}" for n in range(999))
    return [job for job in ids if partition_of(job, PARTITIONS) == partition]


JOB, FOREIGN, UNKNOWN, FULL = ids_in(0)[:4]


async def become(api: Api, state: str) -> None:
    """Bring a service into one of the states: a job of alice and one of eve are in the log."""
    api.make_store()
    if state != "no tail":
        api.follow()
    if state == "tail began ahead":
        # The projections are behind where the tail begins.
        api.emit(JOB, "created", bulkId="b")
        api.emit(FOREIGN, "created", owner="eve")
        api.follow()
        return
    api.emit(FOREIGN, "created", owner="eve")
    await api.project()
    if state != "no tail":
        api.show()
    api.emit(JOB, "created", bulkId="b")
    if state == "log silent":
        api.deafen()
    if state == "buffer full":
        for _ in range(40):
            api.emit(FULL, "failed", output="x" * 60_000)
        api.show()
        assert not api.service.buffer.covers(0, api.projected[0])


Ask = Callable[[Api, str], Awaitable[Answer]]


async def _job(api: Api, job: str) -> Answer:
    return await api.get(f"/jobs/{job}", api.bearer("alice"))


async def _history(api: Api, job: str) -> Answer:
    return await api.get(f"/jobs/{job}/history", api.bearer("alice"))


async def _job_then(api: Api, job: str) -> Answer:
    return await api.get(f"/jobs/{job}?asOf=2027-01-01", api.bearer("alice"))


async def _statuses(api: Api, job: str) -> Answer:
    return await api.statuses(job, headers=api.bearer("alice"))


async def _include_unknown(api: Api, job: str) -> Answer:
    return await api.statuses(job, headers=api.bearer("alice"), includeUnknown=True)


async def _wait(api: Api, job: str) -> Answer:
    return await api.statuses(job, headers=api.bearer("alice"), wait=1)


ASKS: dict[str, Ask] = {
    "job": _job,
    "history": _history,
    "job then": _job_then,
    "statuses": _statuses,
    "includeUnknown": _include_unknown,
    "wait": _wait,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
async def test_what_is_not_known_is_not_answered(tmp_path: Path, ask: Ask, state: str) -> None:
    timeouts = Timeouts(unknown=0.05, position=0.1)
    async with running(tmp_path, timeouts=timeouts, tail_buffer_bytes=1 << 20) as api:
        await become(api, state)
        refused = [await ask(api, job) for job in (JOB, FOREIGN, UNKNOWN)]
        for answer in refused:
            assert (answer.status, answer.json["type"]) == (503, BEHIND.type)
            assert answer.headers["Retry-After"] == "1"
        assert refused[1].body == refused[2].body
        # As soon as it is known, it is told.
        await api.project()
        api.follow()
        for job in (FOREIGN, UNKNOWN):
            answer = await ask(api, job)
            assert answer.status in (200, 404)
            assert b"owner" not in answer.body
        if ask is not _history:
            assert (await ask(api, JOB)).json != {}


@pytest.mark.parametrize("ask", [_job, _statuses, _wait], ids=["job", "statuses", "wait"])
async def test_a_read_waits_until_it_is_known(tmp_path: Path, ask: Ask) -> None:
    async with running(tmp_path, timeouts=Timeouts(unknown=0.05, position=60)) as api:
        await become(api, "tail began ahead")
        found = asyncio.create_task(ask(api, JOB))
        missing = asyncio.create_task(ask(api, UNKNOWN)) if ask is not _wait else None
        while not api.service.progress.waiting and not api.service.waits.held:
            await api.metric("jobtrail_waits_held")
        assert not found.done()
        await api.project()
        assert (await found).status == 200
        assert b"created" in (await found).body
        if missing is not None:
            assert (await missing).status == (404 if ask is _job else 200)


@pytest.mark.parametrize("state", STATES)
async def test_no_bulk_is_missing_before_the_log_was_looked_at(tmp_path: Path, state: str) -> None:
    timeouts = Timeouts(unknown=0.05, position=0.1)
    async with running(tmp_path, timeouts=timeouts, tail_buffer_bytes=1 << 20) as api:
        await become(api, state)
        for path in ("/jobs?bulkId=b", "/jobs?bulkId=b&wait=1", "/jobs?bulkId=none"):
            answer = await api.get(path)
            assert (answer.status, answer.json["type"]) == (503, BEHIND.type)
        await api.project()
        api.follow()
        assert (await api.get("/jobs?bulkId=none")).status == 404
        assert (await api.get("/jobs?bulkId=b")).json.keys() == {JOB}


async def test_a_bulk_that_only_the_tail_has_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        await become(api, "log silent")
        api.service.liveness.note_answer(-1e9)
        api.show()
        task = asyncio.create_task(api.get("/jobs?bulkId=b"))
        while not api.service.progress.waiting:
            await api.metric("jobtrail_waits_held")
        await api.project()
        assert (await task).json.keys() == {JOB}


# --- waits


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Api]:
    """Return a service whose tail began ahead of the projections."""
    timeouts = Timeouts(unknown=0.01, position=0.2, sign_of_life=0.02)
    async with running(tmp_path, timeouts=timeouts) as api:
        await become(api, "tail began ahead")
        yield api


async def begun(api: Api, *ids: str, wait: int = -1, until: str = "all") -> aiohttp.ClientResponse:
    """Return the answer of a wait that has shown a sign of life."""
    response = await api.session.post(
        f"{api.url}/jobs/statuses",
        json={"jobIds": ids, "wait": wait, "until": until},
        headers=api.bearer("alice"),
    )
    assert response.status == 200
    assert await response.content.readexactly(1) == b"\n"
    return response


async def test_a_wait_goes_on_while_its_job_may_be_there(behind: Api) -> None:
    response = await begun(behind, JOB)
    for _ in range(5):
        assert await response.content.readexactly(1) == b"\n"
    await behind.project()
    behind.emit(JOB, "completed")
    behind.show()
    assert (await response.json())[JOB]["state"] == "completed"


async def test_a_wait_whose_answer_has_begun_is_cut_where_it_is_not_known(behind: Api) -> None:
    response = await begun(behind, UNKNOWN, wait=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()
    assert behind.service.waits.held == 0


async def test_who_waits_for_any_is_not_told_that_others_are_not_there(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=Timeouts(unknown=60, position=0.1)) as api:
        await become(api, "tail began ahead")
        other = ids_in(1)[0]
        api.emit(other, "completed", owner="alice")
        await api.project()
        api.show()
        known = await api.statuses(other, UNKNOWN, wait=-1, until="any")
        assert known.json.keys() == {other}
        api.deafen()
        unknown = await api.statuses(other, UNKNOWN, wait=-1, until="any")
        assert (unknown.status, unknown.json["type"]) == (503, BEHIND.type)
        # Those that are all there do not depend on it.
        assert (await api.statuses(other, wait=-1, until="any")).json.keys() == {other}


async def test_a_job_never_goes_back_for_who_waits_for_it(tmp_path: Path) -> None:
    """The tail loses records that the projections don't hold yet."""
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        api.emit(JOB, "created")
        await api.project()
        api.emit(JOB, "active")
        api.show()
        task = asyncio.create_task(
            api.statuses(JOB, headers=api.bearer("alice") | {"Jobtrail-Position": "0:2"}, wait=1)
        )
        await held(api, 1)
        api.follow()
        answer = await task
        assert answer.json[JOB]["state"] == "active"
        assert answer.headers["Jobtrail-Position"].startswith("0:2,")
