"""`GET /jobs/events`: each event once, to all who may see its job and to nobody else.

Here the log is a list in this process; coming back to a real one is in tests/e2e/test_feed.py.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from jsonschema import Draft202012Validator

from jobtrail.core.partitions import partition_of
from jobtrail.core.position import parse_position
from jobtrail.core.trail import CHUNK_ENTRIES
from projections.ports.read import Filters
from services.api.feed.feed import AT_ONCE
from tests.contract.api_service import PARTITIONS, PROBLEM, Api, running
from tests.contract.conformance import DOCUMENT
from tests.contract.conftest import Filled
from tests.contract.feeding import feed, happen
from tests.contract.store_checks import EVERYBODY, listed
from tests.contract.test_api_visibility import CALLERS, headers_of

# --- what is told


async def test_an_event_is_told_with_its_place_its_body_and_its_job(api: Api) -> None:
    async with feed(api) as reader:
        position = api.emit("job-1", "created", tags={"tenant": "acme"})
        await happen(api)
        block = await reader.block()
        assert block is not None
        assert block.event == "job.created"
        partition = partition_of("job-1", PARTITIONS)
        job = (await api.get("/jobs/job-1")).json
        (known,) = (await api.get("/jobs/search")).json["jobs"]
        assert block.data == {
            "type": "job.created",
            "time": "2026-11-23T13:00:01.000Z",
            "verdict": "applied",
            "state": "created",
            "partition": partition,
            "offset": 0,
            "event": json.loads(api.records[partition][0].value or b""),
            "job": job,
        }
        assert job == known
        schema = {"$ref": "#/components/schemas/ChangeData", "components": DOCUMENT["components"]}
        Draft202012Validator(schema).validate(block.data)
        assert block.id is not None
        assert parse_position(block.id)[partition] == parse_position(position)[partition]


async def test_events_come_in_the_order_of_the_log_each_once(api: Api) -> None:
    async with feed(api) as reader:
        expected: dict[str, list[str]] = {}
        for n in range(3 * AT_ONCE):
            job, kind = f"job-{n % 17}", ("created", "active", "progress")[min(n // 17, 2)]
            api.emit(job, kind)
            expected.setdefault(job, []).append(f"job.{kind}")
        await happen(api)
        found: dict[str, list[str]] = {}
        for job, kind in await reader.told(3 * AT_ONCE):
            found.setdefault(job, []).append(kind)
        assert found == expected
        assert parse_position(reader.last_id) == {p: len(r) for p, r in api.records.items()}


async def test_what_concerns_no_listener_is_not_kept(api: Api) -> None:
    async with feed(api, headers=api.bearer("alice")) as reader:
        before = api.service.feed.following
        for n in range(2 * AT_ONCE):
            api.emit(f"foreign-{n}", "created", owner="nobody-listens", viewers=["user:eve"])
        api.emit("unsaid", "active")
        await happen(api)
        position = api.emit("job-1", "created")
        await happen(api)
        assert await reader.told(1) == [("job-1", "job.created")]
        assert api.service.feed.following == before + 1
        # What is passed over counts as told.
        assert api.service.feed.position == {p: len(r) for p, r in api.records.items()}
        assert parse_position(reader.last_id).items() >= parse_position(position).items()


async def test_what_the_fold_ignored_is_not_told(api: Api) -> None:
    async with feed(api) as reader:
        api.emit("job-1", "created")
        api.emit("job-1", "completed")
        partition = partition_of("job-1", PARTITIONS)
        again = api.records[partition][-1].value
        api.write(b"job-1", again, partition)
        api.emit("job-1", "active")
        api.write(b"job-1", b"no event", partition)
        api.write(b"\xff", b"no event", partition)
        api.write(None, b"no event", partition)
        api.write(b"job-1", again, (partition + 1) % PARTITIONS)
        api.emit("job-2", "created")
        await happen(api)
        # No order is promised among partitions.
        assert sorted(await reader.told(3)) == [
            ("job-1", "job.completed"),
            ("job-1", "job.created"),
            ("job-2", "job.created"),
        ]


async def test_a_creation_that_comes_after_the_fact_is_told(api: Api) -> None:
    """It is what makes the job visible to its owner."""
    async with feed(api) as everybody, feed(api, headers=api.bearer("alice")) as reader:
        api.emit("job-1", "completed")
        await happen(api)
        # Told while nobody owns the job: later it would be hers, and she would be told of both.
        await everybody.changes(1)
        api.emit("job-1", "created", owner="alice")
        await happen(api)
        (change,) = await reader.changes(1)
        assert (change["type"], change["verdict"]) == ("job.created", "late")
        assert change["state"] == change["job"]["state"] == "completed"
        # One more says nothing new, and is left out.
        api.emit("job-1", "created", owner="mallory")
        api.emit("job-1", "failed", attempt=7)
        api.emit("job-2", "created", owner="alice")
        await happen(api)
        (change,) = await reader.changes(1)
        assert (change["job"]["id"], change["type"]) == ("job-2", "job.created")


async def test_a_body_with_line_ends_stays_one_event(api: Api) -> None:
    async with feed(api) as reader:
        value = {
            "specversion": "1.0",
            "id": "e",
            "source": "s",
            "type": "job.created",
            "subject": "job-1",
            "data": {"jobType": "t", "owner": "alice", "tags": {"text": "a\\b"}},
        }
        text = json.dumps(value, indent=1).replace("\n", "\r\n").encode()
        assert b"\r\n" in text
        api.write(b"job-1", text, partition_of("job-1", PARTITIONS))
        await happen(api)
        (change,) = await reader.changes(1)
        assert change["event"] == value


async def test_an_event_is_told_when_the_projections_hold_it(api: Api) -> None:
    """What a listener does upon it then finds the job as it was told."""
    async with feed(api, headers=api.bearer("alice")) as reader:
        before = api.service.feed.following
        api.emit("job-1", "created")
        api.show()
        api.service.progress.poll()
        assert api.service.feed.following == before
        await api.project()
        await reader.changes(1)
        assert len((await api.get("/jobs/search")).json["jobs"]) == 1


async def test_a_tail_that_is_behind_the_projections_tells_it_later(api: Api) -> None:
    async with feed(api) as reader:
        for n in range(10):
            api.emit(f"job-{n}", "created")
        await api.project()
        assert (await api.get("/jobs/search?size=1")).status == 200
        api.show()
        assert {job for job, _ in await reader.told(10)} == {f"job-{n}" for n in range(10)}


# --- from where on


async def test_a_new_listener_is_told_from_now_on(api: Api) -> None:
    api.emit("before", "created")
    await happen(api)
    async with feed(api) as reader:
        assert parse_position(reader.last_id) == parse_position(api.end)
        api.emit("after", "created")
        await happen(api)
        assert await reader.told(1) == [("after", "job.created")]


async def test_the_position_of_a_search_leads_on_to_what_came_since(api: Api) -> None:
    api.emit("job-1", "created")
    await happen(api)
    position = (await api.get("/jobs/search")).headers["Jobtrail-Position"]
    async with (
        feed(api) as keeper,
        feed(api, **{"Last-Event-ID": position}) as reader,
    ):
        api.emit("job-2", "created")
        await happen(api)
        assert await reader.told(1) == await keeper.told(1) == [("job-2", "job.created")]


async def test_who_was_told_more_elsewhere_is_not_told_it_again(api: Api) -> None:
    """Another process may have been faster."""
    async with feed(api) as keeper:
        api.emit("job-1", "created")
        await api.project()
        async with feed(api, **{"Last-Event-ID": api.end}) as reader:
            assert reader.last_id == api.end
            api.show()
            assert await keeper.told(1) == [("job-1", "job.created")]
            api.emit("job-2", "created")
            await happen(api)
            assert await reader.told(1) == [("job-2", "job.created")]


@pytest.mark.parametrize("position", ["", "x", "0:1,0:2", "3:0", "0:-1"])
async def test_what_is_no_position_is_refused(api: Api, position: str) -> None:
    answer = await api.get("/jobs/events", {"Last-Event-ID": position})
    assert (answer.status, answer.headers["Content-Type"]) == (400, PROBLEM)
    (error,) = answer.errors
    assert error["parameter"] == "Last-Event-ID"


async def test_a_position_that_is_not_there_yet_is_waited_for_and_then_refused(api: Api) -> None:
    answer = await api.get("/jobs/events", {"Last-Event-ID": "0:5"})
    # The log ends before it.
    assert (answer.status, answer.json["type"]) == (410, "urn:jobtrail:problem:log-changed")
    api.deafen()
    answer = await api.get("/jobs/events", {"Last-Event-ID": "0:5"})
    assert (answer.status, answer.json["type"]) == (503, "urn:jobtrail:problem:behind")


async def test_nothing_is_told_from_projections_that_recover(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        api.make_store({0: 5})
        api.follow()
        answer = await api.get("/jobs/events")
        assert (answer.status, answer.json["type"]) == (503, "urn:jobtrail:problem:recovering")


# --- to whom


@pytest.mark.parametrize("caller", CALLERS)
async def test_events_are_told_to_those_who_see_the_job(api: Api, caller: str) -> None:
    _who, sees, sees_orphan = CALLERS[caller]
    async with feed(api, headers=headers_of(api, caller)) as reader:
        api.emit("job-of-alice", "created", viewers=["group:ops", "user:bob"], owner="alice")
        api.emit("job-of-nobody", "completed")
        viewers = [f"user:{who['user']}" for who, *_ in CALLERS.values()]
        api.emit("job-of-all", "created", owner="nobody-else", viewers=sorted(set(viewers)))
        await happen(api)
        expected = {"job-of-all"}
        expected |= {"job-of-alice"} if sees else set()
        expected |= {"job-of-nobody"} if sees_orphan else set()
        assert {job for job, _ in await reader.told(len(expected))} == expected


async def test_a_job_that_is_taken_away_is_told_of_no_more(api: Api) -> None:
    async with feed(api, headers=api.bearer("bob")) as bobs, feed(api) as reader:
        api.emit("job-1", "created", viewers=["user:bob"])
        await happen(api)
        assert await bobs.told(1) == [("job-1", "job.created")]
        await reader.told(1)
        api.emit("job-1", "cancelled")
        await happen(api)
        await bobs.told(1)
        await reader.told(1)
        api.emit("job-1", "created", viewers=[])
        api.emit("job-2", "created", owner="bob")
        await happen(api)
        assert await bobs.told(1) == [("job-2", "job.created")]
        assert len(await reader.told(2)) == 2


FILTERS = {
    "jobType=export": "type",
    "jobType[]=export,other": "type",
    "state=failed": "failed",
    "owner=carol": "owner",
    "bulkId=bulk": "bulk",
    f"tag={quote('tenant:acme')}": "tag",
    "startDate=2027-01-01": "later",
    "updatedSince=2027-01-01": "later",
}


@pytest.mark.parametrize("query", FILTERS)
async def test_the_filters_are_those_of_search(api: Api, query: str) -> None:
    async with feed(api, f"?{query}") as reader:
        api.emit("none", "created")
        api.emit("type", "created", jobType="export")
        api.emit("owner", "created", owner="carol")
        api.emit("bulk", "created", bulkId="bulk")
        api.emit("tag", "created", tags={"tenant": "acme", "more": "x"})
        api.emit("failed", "failed")
        # 2027-02-01, as an event's own time says.
        later = json.dumps(
            {
                "specversion": "1.0",
                "id": "later",
                "source": "s",
                "type": "job.created",
                "subject": "later",
                "time": "2027-02-01T00:00:00Z",
                "data": {"jobType": "t", "owner": "alice"},
            }
        ).encode()
        api.write(b"later", later, partition_of("later", PARTITIONS))
        await happen(api)
        ((job, _kind),) = await reader.told(1)
        assert job == FILTERS[query]
        found = (await api.get(f"/jobs/search?{query}")).json["jobs"]
        assert [entry["id"] for entry in found] == [job]


async def test_the_state_is_the_one_after_the_event(api: Api) -> None:
    async with feed(api, "?state=active,completed") as reader:
        for kind in ("created", "active", "retry", "active", "completed"):
            api.emit("job-1", kind)
        await happen(api)
        found = await reader.changes(3)
        assert [change["state"] for change in found] == ["active", "active", "completed"]
        assert {change["job"]["state"] for change in found} == {"completed"}


def test_a_filter_matches_what_a_store_finds(filled: Filled) -> None:
    jobs = list(filled.model.jobs.values())
    created = sorted(job.created_at for job in jobs)
    updated = sorted(job.updated_at for job in jobs)
    some = jobs[len(jobs) // 3]
    tried: list[Filters] = [
        Filters(),
        Filters(job_types=(some.job_type or "x",)),
        Filters(states=(some.state,)),
        Filters(created_from=created[len(jobs) // 2]),
        Filters(created_to=created[len(jobs) // 2]),
        Filters(owner=some.owner or "x"),
        Filters(updated_since=updated[len(jobs) // 2]),
        *(Filters(bulk_id=job.bulk_id) for job in jobs[:50] if job.bulk_id is not None),
        *(Filters(tags=tuple(job.tags.items())) for job in jobs[:50] if job.tags),
        Filters(states=(some.state,), owner=some.owner, created_from=created[len(jobs) // 4]),
    ]
    for filters in tried:
        with filled.reader.snapshot() as snapshot:
            found = listed(snapshot, EVERYBODY, filters, size=len(jobs) + 1)
        assert {job.id for job in found} == {job.id for job in jobs if filters.match(job)}


async def test_a_long_job_is_told_of_whatever_else_has_its_key(api: Api) -> None:
    """A direct writer may put anything into any partition: that is in no trail."""
    home = PARTITIONS - 1
    hot = next(name for n in range(99) if partition_of(name := f"hot-{n}", PARTITIONS) == home)
    events = 5 * CHUNK_ENTRIES
    for _ in range(3 * events):
        api.write(None, b"filling", 0)
    api.emit(hot, "created")
    for n in range(events):
        api.emit(hot, "progress", progress=n / 10_000)
    await happen(api)
    async with feed(api) as reader:
        # By its number behind all of the job's, and looked at together with the first of these.
        api.write(hot.encode(), b"elsewhere", 0)
        for n in range(events):
            api.emit(hot, "progress", progress=(events + n) / 10_000)
        api.emit(hot, "completed")
        await happen(api)
        async with asyncio.timeout(30):
            found = await reader.changes(events + 1)
        last = len(api.records[home])
        assert [one["offset"] for one in found] == list(range(last - events - 1, last))
