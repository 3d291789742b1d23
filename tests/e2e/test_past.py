"""The past over the wire, with a real log: client, commands, and what the log has lost."""

from __future__ import annotations

import json

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from jobtrail.client import ApiError, Client
from jobtrail.core.position import parse_position
from jobtrail.settings import Settings
from tests.conftest import Served
from tests.e2e.test_client import Place, event

JOBS = 60


@pytest.fixture
async def place(served: Served) -> Place:
    place = Place(served.url, served.settings)
    about = {"jobType": "t", "owner": "alice", "tags": {"n": "1"}}
    await place.write([event("created", f"j{n}", n % 10, **about) for n in range(JOBS)])
    return place


async def delete_before(settings: Settings, position: dict[int, int]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records(
            {
                TopicPartition(settings.topic, partition): RecordsToDelete(before_offset=end)
                for partition, end in position.items()
            }
        )
    finally:
        await admin.close()


async def test_the_past_is_told_from_the_log(place: Place) -> None:
    before = place.position
    await place.write([event("active", f"j{n}", 14, worker="w") for n in range(0, JOBS, 2)])
    done = [
        event("completed", f"j{n}", 19, output={"n": n}, tags={"n": "2"}) for n in range(0, JOBS, 4)
    ]
    await place.write(done)
    async with Client(place.url, place.token()) as client:
        client.position = place.position
        for then, states in (
            (before, {"created"}),
            ("2026-11-14", {"created"}),
            ("2026-11-15", {"created", "active"}),
            ("2026-11-20", {"created", "active", "completed"}),
        ):
            jobs = [job async for job in client.search(as_of=then, page_size=17)]
            assert len({job.id for job in jobs}) == len(jobs) == JOBS
            assert {job.state for job in jobs} == states
            (counts,) = await client.summary(as_of=then)
            for state in ("created", "active", "completed"):
                assert getattr(counts, state) == sum(job.state == state for job in jobs)
            by_id = {job.id: job for job in jobs}
            assert by_id["j4"] == await client.job("j4", as_of=then)
        assert (await client.job("j4", as_of="2026-11-15")).tags == {"n": "1"}
        old = [job.id async for job in client.search(as_of="2026-11-19", tags={"n": "1"})]
        assert len(old) == JOBS
        with pytest.raises(ApiError) as missing:
            await client.job("j5", as_of="2026-10-31")
        assert missing.value.status == 404
    await check_commands(place)
    await check_loss(place, before)


async def check_commands(place: Place) -> None:
    status, out, _ = await place.command("get", "j0", "none", "--as-of", "2026-11-15")
    found = json.loads(out)
    assert (status, found["j0"]["state"], found["none"]["state"]) == (1, "active", None)
    status, out, _ = await place.command("summary", "--as-of", "2026-11-15")
    assert (status, json.loads(out)[0]["active"]) == (0, JOBS // 2)
    status, out, _ = await place.command(
        "search", "--as-of", "2026-11-15", "--state", "active", "--limit", "3"
    )
    assert (status, len(out.splitlines())) == (0, 3)
    status, _, err = await place.command("get", "j0", "--as-of", "soon")
    assert (status, "asOf" in err) == (1, True)


async def check_loss(place: Place, before: str) -> None:
    await delete_before(place.settings, parse_position(before))
    async with Client(place.url, place.token()) as client:
        for gone in (client.job("j4", as_of="2026-11-15"), anext(client.search(as_of=before))):
            with pytest.raises(ApiError) as lost:
                await gone
            assert (lost.value.status, lost.value.type) == (410, "urn:jobtrail:problem:past-gone")
        assert (await client.job("j5", as_of="2026-11-15")).state == "created"
        (counts,) = await client.summary(as_of="2026-11-15")
        assert (counts.created, counts.active) == (JOBS // 2, JOBS // 2)
        told = [entry.event async for entry in client.history("j4")]
        assert [body and body["type"] for body in told] == [None, "job.active", "job.completed"]
