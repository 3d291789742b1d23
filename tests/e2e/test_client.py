"""The client, both of its faces, and the commands that use it, against a running service."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.client import ApiError, Client, ServiceUnavailable, SyncClient
from jobtrail.core.errors import JobtrailError
from jobtrail.core.position import format_position
from jobtrail.core.states import State
from jobtrail.produce.log_writer import LogWriter
from jobtrail.settings import Settings
from tests.conftest import Served
from tests.e2e.service import command
from tests.processes import clean_environment

JOBS = 1_203


class Place:
    """A service with jobs in it, and tokens for it."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url
        self.settings = settings
        self.position = ""

    def token(self, user: str = "alice") -> str:
        return make_token(local_secret(self.settings.data_dir), user)

    async def write(self, events: list[dict[str, Any]]) -> None:
        async with LogWriter(self.settings) as writer:
            for event in events:
                await writer.append(event["subject"], json.dumps(event).encode())
            await writer.settle()
        self.position = format_position(writer.position)

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *command("--data-dir", str(self.settings.data_dir), *arguments, "--url", self.url),
            env={**clean_environment(), "JOBTRAIL_TOKEN": self.token()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


def event(kind: str, job_id: str, second: int = 0, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{job_id}.{kind}",
        "source": "//tests",
        "type": f"job.{kind}",
        "subject": job_id,
        "time": f"2026-11-{1 + second % 28:02}T13:00:00Z",
        "data": data,
    }


@pytest.fixture
async def place(served: Served) -> Place:
    place = Place(served.url, served.settings)
    jobs = [
        event("created", f"j{n}", n, jobType=f"t{n % 2}", owner="alice", tags={"n": str(n % 3)})
        for n in range(JOBS)
    ]
    done = [event("completed", f"j{n}", n, output={"n": n}) for n in range(0, JOBS, 4)]
    await place.write([*jobs, *done])
    return place


async def test_client_reads_all_of_it(place: Place) -> None:
    async with Client(place.url, place.token()) as client:
        client.position = place.position
        found = [job async for job in client.search(page_size=100)]
        assert len({job.id for job in found}) == len(found) == JOBS
        assert [job.created_at for job in found] == sorted(
            (job.created_at for job in found), reverse=True
        )
        some = [
            job.id
            async for job in client.search(
                states=[State.COMPLETED], job_types=["t0"], tags={"n": "0"}, end="2026-11-05"
            )
        ]
        assert set(some) == {f"j{n}" for n in range(0, JOBS, 4) if n % 3 == 0 and 1 + n % 28 <= 5}
        counts = {count.job_type: count for count in await client.summary()}
        assert sum(count.total for count in counts.values()) == JOBS
        assert counts["t0"].completed == len(range(0, JOBS, 4))
        ids = [f"j{n}" for n in range(JOBS)]
        statuses = await client.statuses([*ids, "none"], include_unknown=True)
        assert len(statuses) == JOBS + 1
        assert (statuses["j4"].state, statuses["j4"].output) == (State.COMPLETED, {"n": 4})
        assert statuses["none"].state is None
        assert (await client.job("j4")).output == {"n": 4}
        seen = [entry.type async for entry in client.history("j4", page_size=1)]
        assert seen == ["job.created", "job.completed"]


async def test_a_wait_ends_with_its_job_or_its_time(place: Place) -> None:
    async with Client(place.url, place.token()) as client:
        waiting = asyncio.create_task(client.wait(["j1", "j2"], within=60))
        first = asyncio.create_task(client.wait(["j1", "j2"], until="any", within=60))
        await place.write([event("failed", "j1", error="no")])
        assert (await first)["j1"].state is State.FAILED
        assert not waiting.done()
        await place.write([event("completed", "j2")])
        ended = await waiting
        assert {status.state for status in ended.values()} == {State.FAILED, State.COMPLETED}
        assert (await client.wait(["j3"], within=1))["j3"].state is State.CREATED


async def test_problems_are_exceptions_with_their_fields(place: Place) -> None:
    async with Client(place.url, place.token()) as client:
        with pytest.raises(ApiError) as refused:
            await client.summary(start="yesterday", end="tomorrow")
        assert refused.value.status == 400
        assert not refused.value.retriable
        assert {fault["parameter"] for fault in refused.value.errors} == {"startDate", "endDate"}
        with pytest.raises(ApiError) as missing:
            await client.bulk("none")
        assert (missing.value.status, missing.value.type) == (404, "urn:jobtrail:problem:not-found")
    async with Client(place.url, "no token") as client:
        with pytest.raises(ApiError) as unknown:
            await client.summary()
        assert unknown.value.status == 401
    async with Client("http://127.0.0.1:1", place.token(), patience=0.5) as client:
        with pytest.raises(ServiceUnavailable) as unreached:
            await client.summary()
    assert unreached.value.retriable
    assert isinstance(unreached.value, JobtrailError)


async def test_the_synchronous_face_does_the_same(place: Place) -> None:
    def ask() -> None:
        with SyncClient(place.url, place.token()) as client:
            client.position = place.position
            assert sum(1 for _ in client.search(page_size=500)) == JOBS
            assert sum(count.total for count in client.summary()) == JOBS
            assert client.wait(["j0"])["j0"].output == {"n": 0}
            with pytest.raises(ApiError):
                client.bulk("none")

    await asyncio.to_thread(ask)


async def test_commands_answer_in_json_in_a_pipe(place: Place) -> None:
    status, out, err = await place.command("search", "--state", "completed", "--limit", "7")
    assert (status, err) == (0, "")
    assert {json.loads(line)["state"] for line in out.splitlines()} == {"completed"}
    assert len(out.splitlines()) == 7
    status, out, err = await place.command("summary", "--job-type", "t1")
    assert (status, [row["jobType"] for row in json.loads(out)], err) == (0, ["t1"], "")
    status, out, _ = await place.command("get", "j0", "none")
    assert (status, json.loads(out)["none"]["state"]) == (1, None)
    status, out, _ = await place.command("wait", "j0", "--within", "5")
    assert (status, json.loads(out)["j0"]["state"]) == (0, "completed")
    status, _, _ = await place.command("wait", "j1", "--within", "1")
    assert status == 1
    status, out, _ = await place.command("explain", "j0")
    explained = json.loads(out)
    assert (status, explained["state"]) == (0, "completed")
    assert [told["words"] for told in explained["events"]] == [
        "created as t0 of alice",
        'completed with {"n":0}',
    ]
    status, _, err = await place.command("explain", "none")
    assert (status, err[:6]) == (1, "error:")
    status, _, err = await place.command("summary", "--start", "yesterday")
    assert status == 1
    assert err.startswith("error: The request is not valid.")
    assert (await place.command("search", "--tag", "broken"))[0] == 2


async def test_a_job_that_is_unknown_has_not_ended(place: Place) -> None:
    async with Client(place.url, place.token()) as client:
        assert await client.wait(["later"], within=1) == {}
        found = await client.wait(["j0", "later"], within=1)
        assert found.keys() == {"j0"}
        assert (await client.wait(["later", "j0"], until="any")).keys() == {"j0"}
        waiting = asyncio.create_task(client.wait(["later", "j0"]))
        assert (await client.wait(["later"], within=7)) == {}
        assert not waiting.done()
        await place.write([event("created", "later", jobType="t", owner="alice")])
        await place.write([event("completed", "later")])
        assert (await waiting)["later"].state is State.COMPLETED
    status, out, _ = await place.command("wait", "none", "--within", "1")
    assert (status, json.loads(out)) == (1, {})
