"""Waits that are held for long: signs of life, and what they are told when the service ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from services.api.limits.limits import Timeouts
from tests.contract.api_service import PATIENT, held, running, wait_for

COMPLETED = {"id": "j", "state": "completed", "output": None}


async def test_a_long_wait_shows_that_it_is_alive(tmp_path: Path) -> None:
    timeouts = Timeouts(unknown=60, sign_of_life=0.01)
    async with running(tmp_path, timeouts=timeouts) as api:
        api.make_store()
        api.follow()
        api.emit("j", "created")
        await api.project()
        api.show()
        async with api.session.post(
            f"{api.url}/jobs/statuses",
            json={"jobIds": ["j"], "wait": -1},
            headers=api.bearer("alice"),
        ) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["Jobtrail-Position"] == api.end
            for _ in range(3):
                assert await response.content.readexactly(1) == b"\n"
            api.emit("j", "completed")
            api.show()
            assert await response.json() == {"j": COMPLETED}
        assert api.service.waits.held == 0


async def test_a_service_that_ends_says_so_to_its_waits(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        api.emit("j", "created", bulkId="b")
        await api.project()
        tasks = [await wait_for(api, "j") for _ in range(5)]
        tasks.append(asyncio.create_task(api.get("/jobs?bulkId=b&wait=-1")))
        await held(api, 6)
        # These wait for something else than jobs.
        ahead = {"Jobtrail-Position": "0:9"}
        tasks += [asyncio.create_task(api.get("/jobs/summary", ahead)) for _ in range(2)]
        while len(api.service.progress.waiting) < 2:
            await api.metric("jobtrail_waits_held")
    for task in tasks:
        answer = await task
        assert (answer.status, answer.json["type"]) == (503, "urn:jobtrail:problem:stopping")
        assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/jobs/statuses", "/jobs?bulkId=b&wait=-1"])
async def test_a_wait_that_has_begun_its_answer_is_cut_off(tmp_path: Path, path: str) -> None:
    """A client can tell: the chunked body has no end."""
    body = {"jobIds": ["j"], "wait": -1} if path == "/jobs/statuses" else None
    async with running(tmp_path, timeouts=Timeouts(unknown=60, sign_of_life=0.01)) as api:
        api.make_store()
        api.follow()
        api.emit("j", "created", bulkId="b")
        await api.project()
        method = "POST" if body else "GET"
        response = await api.session.request(
            method, api.url + path, json=body, headers=api.bearer("alice")
        )
        assert response.status == 200
        assert await response.content.readexactly(1) == b"\n"
    with pytest.raises(aiohttp.ClientPayloadError):
        await response.read()
