"""Bytes of answers that are in memory for clients are counted from when they are made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from services.api.http.outgoing import LARGE
from services.api.limits.limits import Timeouts
from tests.contract.api_service import PATIENT, Answer, Api, running
from tests.waiting import until

MOST: Final = 1 << 20
OUTPUT: Final = "x" * 60_000
#: With what is around it, it is counted.
LARGE_OUTPUT: Final = "x" * (LARGE - 10)
JOBS: Final = [f"job-{number:03}" for number in range(120)]
PATHS: Final = {
    "statuses": lambda api: api.statuses(*JOBS, headers=api.bearer("alice")),
    "bulk": lambda api: api.get("/jobs?bulkId=all", api.bearer("alice")),
}


@contextlib.asynccontextmanager
async def service(folder: Path, timeouts: Timeouts = PATIENT) -> AsyncIterator[Api]:
    """Run a service that has jobs of alice with large outputs, two of which have not ended."""
    bounds: dict[str, Any] = {"max_outgoing_bytes_per_caller": MOST, "max_page_bytes": MOST // 2}
    async with running(folder, timeouts=timeouts, **bounds) as api:
        api.make_store()
        for job in JOBS:
            api.emit(job, "created", owner="alice", bulkId="all")
            api.emit(job, "completed", output=OUTPUT)
        for job in ("first", "second"):
            api.emit(job, "created", owner="alice")
        await api.project()
        api.follow()
        yield api


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_without_room_is_refused_before_it_begins(
    tmp_path: Path, path: str
) -> None:
    async with service(tmp_path) as api, asyncio.timeout(30):
        outgoing = api.service.outgoing
        # Less than may be under way: what is made of this answer is too much.
        outgoing.take("alice", MOST - 1)
        answer: Answer = await PATHS[path](api)
        assert (answer.status, answer.json["type"].rpartition(":")[2]) == (429, "too-many-bytes")
        assert outgoing.size == MOST - 1
        outgoing.free("alice", MOST - 1)
        assert (await PATHS[path](api)).status == 200
        assert outgoing.size == 0


async def begun_wait(api: Api, job: str) -> aiohttp.ClientResponse:
    """Wait for a job; return the answer once it has begun, with a sign of life."""
    headers = api.bearer("alice")
    body = {"jobIds": [job], "wait": -1}
    return await api.session.post(f"{api.url}/jobs/statuses", json=body, headers=headers)


async def test_as_many_bytes_wait_as_may_be_under_way_and_more_are_cut_off(tmp_path: Path) -> None:
    async with service(tmp_path, Timeouts(sign_of_life=0.05)) as api, asyncio.timeout(30):
        outgoing = api.service.outgoing
        first, second = [await begun_wait(api, job) for job in ("first", "second")]
        outgoing.take("alice", MOST)
        outgoing._held_back["alice"] += MOST - 1
        api.emit("first", "completed", output=LARGE_OUTPUT)
        api.show()
        with pytest.raises(aiohttp.ClientPayloadError):
            await first.read()
        outgoing._held_back["alice"] -= MOST - 1
        api.emit("second", "completed", output=LARGE_OUTPUT)
        api.show()
        await until(lambda: outgoing._held_back["alice"])
        outgoing.free("alice", MOST)
        assert (await second.json())["second"]["state"] == "completed"
        await until(lambda: not outgoing.size)
        assert outgoing._held_back.total() == 0
