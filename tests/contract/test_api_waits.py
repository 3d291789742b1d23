"""Waits for the end of jobs, against a log and projections that a test moves by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobtrail.core.partitions import partition_of
from services.api.limits.limits import Timeouts
from tests.contract.api_service import PARTITIONS, PATIENT, Api, held, running, wait_for
from tests.waiting import let_all_run

COMPLETED = {"id": "j", "state": "completed", "output": None}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=PATIENT, max_waits=6, max_waits_per_caller=3) as api:
        api.make_store()
        api.follow()
        yield api


def in_partition(partition: int, count: int) -> list[str]:
    """Return ids of jobs in one partition."""
    ids = (f"p{partition}-{n}" for n in range(10_000))
    found = [job for job in ids if partition_of(job, PARTITIONS) == partition]
    return found[:count]


async def test_a_wait_is_answered_when_its_last_job_has_ended(api: Api) -> None:
    for job in ("a", "b", "c"):
        api.emit(job, "created")
    api.emit("a", "completed")
    await api.project()
    api.show()
    task = await wait_for(api, "a", "b", "c")
    api.emit("b", "failed", output=[1])
    api.show()
    api.emit("c", "active")
    api.show()
    assert (await api.statuses("c", headers=api.bearer("alice"))).json["c"]["state"] == "active"
    assert not task.done()
    api.emit("c", "expired")
    api.show()
    answer = await task
    assert [(job, entry["state"]) for job, entry in answer.json.items()] == [
        ("a", "completed"),
        ("b", "failed"),
        ("c", "expired"),
    ]
    assert answer.json["b"]["output"] == [1]
    assert (answer.headers["Jobtrail-Position"], answer.headers["Jobtrail-Lag"]) == (api.end, "0")
    assert await api.metric("jobtrail_waits_held") == 0
    assert await api.metric("jobtrail_watched_jobs") == 0
    assert await api.metric("jobtrail_wake_seconds_count") == 1


async def test_a_wait_for_any_is_answered_by_the_first(api: Api) -> None:
    api.emit("a", "created")
    api.emit("b", "created")
    await api.project()
    task = await wait_for(api, "unknown", "a", "b", until="any")
    api.emit("b", "cancelled")
    api.show()
    states = {job: entry["state"] for job, entry in (await task).json.items()}
    assert states == {"a": "created", "b": "cancelled"}


@pytest.mark.parametrize("until", ["all", "any"])
async def test_what_has_ended_is_not_waited_for(api: Api, until: str) -> None:
    api.emit("j", "completed")
    await api.project()
    assert (await api.statuses("j", wait=-1, until=until)).json == {"j": COMPLETED}
    api.emit("k", "completed")
    api.show()
    assert (await api.statuses("j", "k", wait=-1, until=until)).json.keys() == {"j", "k"}


async def test_a_wait_whose_time_is_up_says_how_things_are(api: Api) -> None:
    api.emit("j", "created")
    await api.project()
    api.emit("j", "active")
    api.show()
    answer = await api.statuses("j", "unknown", wait=1, includeUnknown=True)
    assert {job: entry["state"] for job, entry in answer.json.items()} == {
        "j": "active",
        "unknown": None,
    }


async def test_an_unknown_id_is_waited_for_a_while_only(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=Timeouts(unknown=0.01)) as api:
        api.make_store()
        api.follow()
        api.emit("j", "completed")
        await api.project()
        for until in ("all", "any"):
            assert (await api.statuses("x", "y", wait=-1, until=until)).json == {}
        assert (await api.statuses("x", "j", wait=-1)).json.keys() == {"j"}


async def test_a_job_whose_first_event_was_under_way_is_waited_for(api: Api) -> None:
    task = await wait_for(api, "j")
    api.emit("j", "created", owner="alice")
    api.show()
    api.emit("j", "active")
    api.show()
    await held(api, 1)
    assert not task.done()
    api.emit("j", "completed")
    api.show()
    assert (await task).json == {"j": COMPLETED}


async def test_a_foreign_job_ends_no_wait(api: Api) -> None:
    api.emit("foreign", "created", owner="eve")
    api.emit("j", "created")
    await api.project()
    task = await wait_for(api, "foreign", "j", until="any")
    api.emit("foreign", "completed")
    api.show()
    await held(api, 1)
    assert not task.done()
    api.emit("j", "completed")
    api.show()
    assert (await task).json == {"j": COMPLETED}


async def test_a_job_that_is_taken_up_again_is_waited_for_again(api: Api) -> None:
    api.emit("a", "failed")
    api.emit("b", "created")
    await api.project()
    admin = asyncio.create_task(api.statuses("a", "b", wait=-1))
    await held(api, 1)
    api.emit("a", "retry")
    api.emit("b", "completed")
    api.show()
    await held(api, 1)
    assert not admin.done()
    api.emit("a", "completed")
    api.show()
    assert {e["state"] for e in (await admin).json.values()} == {"completed"}


@pytest.mark.parametrize("until", ["all", "any"])
async def test_a_wait_ends_at_the_first_moment_at_which_its_jobs_have_ended(
    api: Api, until: str
) -> None:
    """Also where they are taken up again within what the tail takes in at once."""
    for n in range(10):
        api.emit("other", "created")
        api.emit(f"j{n}", "created")
        api.emit(f"j{n}", "active")
        await api.project()
        api.show()
        task = await wait_for(api, f"j{n}", until=until)
        moment = api.emit(f"j{n}", "failed", error="no", output=n)
        api.emit(f"j{n}", "retry")
        api.emit(f"j{n}", "active")
        api.show()
        answer = await task
        assert answer.json == {f"j{n}": {"id": f"j{n}", "state": "failed", "output": n}}
        # What the answer holds is what there was then.
        assert moment in answer.headers["Jobtrail-Position"].split(",")
        assert (await api.statuses(f"j{n}")).json[f"j{n}"]["state"] == "active"


async def test_a_moment_is_seen_by_waits_that_the_tail_catches_up_with(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        # The tail begins before what is projected, and brings all at once what came since.
        api.follow()
        api.emit("j", "created")
        await api.project()
        task = await wait_for(api, "j")
        api.emit("j", "failed")
        api.emit("j", "retry")
        api.show()
        assert (await task).json["j"]["state"] == "failed"


async def test_waits_for_one_job_share_its_watch(api: Api) -> None:
    api.emit("j", "created")
    await api.project()
    tasks = [await wait_for(api, "j", user="alice") for _ in range(3)]
    assert await api.metric("jobtrail_watched_jobs") == 1
    tasks[0].cancel()
    await held(api, 2)
    assert await api.metric("jobtrail_watched_jobs") == 1
    api.emit("j", "completed")
    api.show()
    for task in tasks[1:]:
        assert (await task).json == {"j": COMPLETED}


async def test_a_client_that_goes_away_frees_its_wait(api: Api) -> None:
    api.emit("j", "created")
    await api.project()
    for _ in range(10):
        task = await wait_for(api, "j")
        task.cancel()
        await held(api, 0)
    assert await api.metric("jobtrail_watched_jobs") == 0
    text = (await api.send("GET", "/metrics", {})).body.decode()
    assert 'jobtrail_http_requests_total{method="POST",route="statuses",status="499"} 10.0' in text


async def test_waits_are_capped_per_caller_and_in_all(api: Api) -> None:
    for job in ("j", "k"):
        api.emit(job, "created", viewers=["user:bob", "user:carol"])
    await api.project()
    tasks = [await wait_for(api, "j", user="alice") for _ in range(3)]
    refused = await api.statuses("k", headers=api.bearer("alice"), wait=1)
    assert (refused.status, refused.json["type"]) == (429, "urn:jobtrail:problem:too-many-waits")
    assert "Retry-After" in refused.headers
    # Others, and who does not wait, are served.
    assert (await api.statuses("k", headers=api.bearer("alice"))).status == 200
    tasks += [await wait_for(api, "j", user="bob") for _ in range(3)]
    assert (await api.statuses("k", headers=api.bearer("carol"), wait=1)).status == 429
    tasks.pop().cancel()
    await held(api, 5)
    tasks.append(await wait_for(api, "j", user="carol"))
    api.emit("j", "completed")
    api.show()
    for task in tasks:
        assert (await task).status == 200
    assert api.service.waits.held == 0


# --- when tail and projections are not level


async def test_no_wake_up_is_missed_whoever_is_ahead(api: Api) -> None:
    """The projections have what the tail has not seen, and the other way round."""
    api.emit("j", "created")
    await api.project()
    # The projections are ahead: the tail will bring the event later.
    task = await wait_for(api, "j")
    api.emit("j", "active")
    await api.project()
    other = await wait_for(api, "j")
    api.show()
    # The tail is ahead.
    api.emit("j", "completed")
    api.show()
    assert (await task).json == (await other).json == {"j": COMPLETED}
    # And ended in the projections before the tail knows of it.
    api.emit("k", "completed")
    await api.project()
    assert (await api.statuses("k", wait=-1)).json["k"]["state"] == "completed"
    api.show()


async def test_a_wait_joins_others_that_know_less(api: Api) -> None:
    """The projections have gone past the watch that is there: it has to be brought up."""
    api.emit("j", "created")
    await api.project()
    first = await wait_for(api, "j")
    api.emit("j", "completed")
    await api.project()
    assert (await api.statuses("j", wait=-1)).json == {"j": COMPLETED}
    assert (await first).json == {"j": COMPLETED}


async def test_before_the_tail_is_there_waits_go_by_the_projections(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.emit("j", "created")
        await api.project()
        task = await wait_for(api, "j")
        api.emit("j", "completed")
        await api.project()
        assert (await task).json == {"j": COMPLETED}


async def test_a_tail_that_begins_ahead_of_the_projections_misses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.emit("j", "created")
        await api.project()
        early = await wait_for(api, "j")
        api.emit("j", "active")
        api.follow()
        late = await wait_for(api, "j")
        api.emit("j", "completed")
        api.show()
        # Between what is projected and where the tail began, something is not known.
        assert (await api.statuses("j")).json["j"]["state"] == "created"
        await api.project()
        assert (await early).json == (await late).json == {"j": COMPLETED}


async def test_a_tail_that_lost_records_goes_by_the_projections(api: Api) -> None:
    api.emit("j", "created")
    await api.project()
    api.show()
    task = await wait_for(api, "j")
    api.emit("j", "completed")
    # The tail begins anew behind the event that ended the job.
    api.follow()
    assert api.service.buffer.size == 0
    await api.project()
    assert (await task).json == {"j": COMPLETED}


async def test_the_tail_refuses_what_the_projector_refuses(api: Api) -> None:
    api.emit("j", "created")
    await api.project()
    partition = partition_of("j", PARTITIONS)
    good = api.records[partition][0].value
    assert good is not None
    ended = good.replace(b"job.created", b"job.failed").replace(b"event-1", b"event-x")
    api.write(b"j", b"nonsense", partition)
    api.write(b"j", None, partition)
    api.write(None, ended, partition)
    api.write(b"j", ended, (partition + 1) % PARTITIONS)
    api.write(b"j", ended.replace(b'"j"', b'"k"'), partition)
    api.write(b"k", ended, partition_of("k", PARTITIONS))
    task = await wait_for(api, "j")
    api.show()
    assert (await api.statuses("j", "k")).json["j"]["state"] == "created"
    api.emit("j", "completed")
    api.show()
    assert (await task).json == {"j": COMPLETED}
    await api.project()
    assert len(api.dead) == 6
    assert (await api.statuses("j", "k")).json == {"j": COMPLETED}


async def test_more_than_the_buffer_holds_is_answered_as_projected(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT, tail_buffer_bytes=1 << 20) as api:
        api.make_store()
        api.follow()
        job, other = in_partition(0, 2)
        api.emit(job, "created")
        await api.project()
        api.emit(job, "active")
        for _ in range(40):
            api.emit(other, "progress", message="x" * 4000)
            api.emit(other, "failed", output="x" * 60_000)
        api.emit(job, "completed")
        api.show()
        assert api.service.buffer.size <= 1 << 20
        assert api.service.buffer.dropped > 0
        stale = await api.statuses(job)
        assert stale.json[job]["state"] == "created"
        assert float(stale.headers["Jobtrail-Lag"]) > 0
        # A wait goes by the projections until they are where the buffer begins.
        task = await wait_for(api, job)
        api.emit(other, "progress")
        api.show()
        await api.project()
        assert (await task).json[job]["state"] == "completed"


@pytest.mark.parametrize("user", ["alice", "eve"])
async def test_who_waits_later_takes_no_event_from_who_waits_already(api: Api, user: str) -> None:
    """The projections may be ahead of the tail, and with them who begins to wait."""
    api.emit("j", "created", owner="alice")
    await api.project()
    api.show()
    first = await wait_for(api, "j")
    api.emit("j", "failed")
    api.emit("j", "active", attempt=1)
    await api.project()
    later = asyncio.create_task(api.statuses("j", headers=api.bearer(user), wait=-1))
    # It is there, and waits for the tail.
    await let_all_run()
    api.show()
    assert (await first).json["j"]["state"] == "failed"
    await held(api, 1)
    assert not later.done()
    later.cancel()


async def test_who_waits_later_does_not_wait_for_a_tail_that_does_not_come(api: Api) -> None:
    api.emit("j", "created", owner="alice")
    await api.project()
    api.show()
    first = await wait_for(api, "j")
    api.emit("j", "completed")
    await api.project()
    async with asyncio.timeout(30):
        later = await api.statuses("j", headers=api.bearer("alice"), wait=-1)
        assert later.json["j"]["state"] == (await first).json["j"]["state"] == "completed"
