"""`GET /jobs`: a whole bulk, however large, and waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.api.limits.limits import Timeouts
from services.api.routes.bulk import PAGE
from tests.contract.api_service import PATIENT, Answer, Api, held, running


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        yield api


def states(answer: Answer) -> dict[str, str]:
    assert answer.status == 200, answer.body
    return {job: entry["state"] for job, entry in answer.json.items()}


async def test_a_bulk_is_a_map_like_statuses(api: Api) -> None:
    api.emit("a", "created", bulkId="b")
    api.emit("a", "completed", output={"n": 1})
    api.emit("c", "created", bulkId="b", jobType="export")
    api.emit("d", "created", bulkId="other")
    api.emit("e", "created")
    await api.project()
    assert (await api.get("/jobs?bulkId=b")).json == {
        "a": {"id": "a", "state": "completed", "output": {"n": 1}},
        "c": {"id": "c", "state": "created", "output": None},
    }
    assert states(await api.get("/jobs?bulkId=b&jobType=export,x")) == {"c": "created"}
    assert (await api.get("/jobs?bulkId=b&jobType=x")).status == 404


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 500])
async def test_a_large_bulk_is_answered_whole(api: Api, count: int) -> None:
    for n in range(count):
        # Many at the same instant, so that pages part between them.
        api.emit(f"j{n:05}", "created", at=1_795_438_800 + n % 3, bulkId="b")
    await api.project()
    answer = await api.get("/jobs?bulkId=b")
    assert states(answer) == {f"j{n:05}": "created" for n in range(count)}
    assert answer.body.count(b'"id":') == count
    head = await api.ask("HEAD", "/jobs?bulkId=b")
    assert (head.status, head.body) == (200, b"")


async def wait_for_bulk(api: Api, wait: int = -1, user: str = "alice") -> asyncio.Task[Answer]:
    task = asyncio.create_task(api.get(f"/jobs?bulkId=b&wait={wait}", api.bearer(user)))
    await held(api, 1)
    return task


async def test_a_wait_is_answered_when_every_job_of_the_bulk_has_ended(api: Api) -> None:
    for job in ("a", "c"):
        api.emit(job, "created", bulkId="b")
    api.emit("d", "created", bulkId="b", owner="eve")
    await api.project()
    api.show()
    task = await wait_for_bulk(api)
    api.emit("a", "completed")
    api.show()
    await held(api, 1)
    assert not task.done()
    api.emit("c", "failed")
    api.show()
    # The projections need not have got there.
    answer = await task
    assert states(answer) == {"a": "completed", "c": "failed"}
    assert answer.headers["Jobtrail-Position"] == api.end


async def test_jobs_that_join_a_bulk_are_waited_for(api: Api) -> None:
    api.emit("a", "created", bulkId="b")
    await api.project()
    api.show()
    task = await wait_for_bulk(api)
    api.emit("c", "created", bulkId="b")
    await api.project()
    api.emit("a", "completed")
    api.show()
    await held(api, 1)
    assert not task.done()
    api.emit("c", "completed")
    api.show()
    assert states(await task) == {"a": "completed", "c": "completed"}


async def test_a_bulk_that_has_ended_is_not_waited_for(api: Api) -> None:
    api.emit("a", "created", bulkId="b")
    api.emit("a", "completed")
    await api.project()
    assert states(await api.get("/jobs?bulkId=b&wait=-1")) == {"a": "completed"}


async def test_a_bulk_whose_time_is_up_is_answered_as_it_is(api: Api) -> None:
    api.emit("a", "created", bulkId="b")
    await api.project()
    api.emit("a", "active")
    api.show()
    assert states(await api.get("/jobs?bulkId=b&wait=1")) == {"a": "active"}
    assert states(await api.get("/jobs?bulkId=b")) == {"a": "created"}


async def test_a_bulk_whose_first_event_is_under_way_is_waited_for(api: Api) -> None:
    task = asyncio.create_task(api.get("/jobs?bulkId=b&wait=-1", api.bearer("alice")))
    api.emit("a", "created", bulkId="b")
    api.show()
    await api.project()
    await held(api, 1)
    api.emit("a", "completed")
    api.show()
    assert states(await task) == {"a": "completed"}


async def test_more_unended_jobs_than_a_page_are_waited_for_in_turn(api: Api) -> None:
    count = PAGE + 10
    for n in range(count):
        api.emit(f"j{n}", "created", bulkId="b")
    await api.project()
    api.show()
    task = await wait_for_bulk(api)
    assert await api.metric("jobtrail_watched_jobs") == PAGE
    for n in range(count):
        api.emit(f"j{n}", "completed")
    api.show()
    assert states(await task) == {f"j{n}": "completed" for n in range(count)}
    assert api.service.waits.held == 0


async def test_a_long_wait_for_a_bulk_shows_that_it_is_alive(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=Timeouts(sign_of_life=0.01)) as api:
        api.make_store()
        api.follow()
        for n in range(PAGE + 1):
            api.emit(f"j{n}", "created", bulkId="b")
        await api.project()
        api.show()
        url, headers = f"{api.url}/jobs?bulkId=b&wait=-1", api.bearer("alice")
        async with api.session.get(url, headers=headers) as response:
            for _ in range(3):
                assert await response.content.readexactly(1) == b"\n"
            for n in range(PAGE + 1):
                api.emit(f"j{n}", "completed")
            api.show()
            assert {entry["state"] for entry in (await response.json()).values()} == {"completed"}


async def test_a_client_that_goes_away_in_the_middle_frees_its_wait(api: Api) -> None:
    api.emit("a", "created", bulkId="b")
    await api.project()
    for _ in range(5):
        task = await wait_for_bulk(api)
        task.cancel()
        await held(api, 0)
