"""Nobody sees another's job: every way to read, every kind of caller, every kind of job.

A job that a caller may not see and one that does not exist have to give the same bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.api_service import Answer, Api, running

#: alice's, seen by bob and by whoever is in ops; and one that nobody owns yet.
JOB, ORPHAN, BULK = "job-of-alice", "job-of-nobody", "bulk-of-alice"
UNKNOWN_JOB, UNKNOWN_BULK = "job-of-phantom", "bulk-of-phantom"

CALLERS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    # caller: (token, sees the job, sees the one that nobody owns)
    "owner": ({"user": "alice"}, True, False),
    "viewer": ({"user": "bob"}, True, False),
    "member of a group": ({"user": "carol", "groups": ("ops",)}, True, False),
    "member of many groups": ({"user": "dave", "groups": ("x", "ops", "y")}, True, False),
    "administrator": ({"user": "root", "reads_all": True}, True, True),
    "other": ({"user": "eve"}, False, False),
    "member of another group": ({"user": "eve", "groups": ("dev",)}, False, False),
    "user called as the group": ({"user": "ops"}, False, False),
    "group called as the owner": ({"user": "eve", "groups": ("alice", "bob")}, False, False),
}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as api:
        api.make_store()
        viewers = ["group:ops", "user:bob"]
        api.emit(JOB, "created", bulkId=BULK, viewers=viewers, owner="alice", tags={"a": "b"})
        api.emit(ORPHAN, "completed", output={"secret": 1})
        await api.project()
        api.follow()
        yield api


def headers_of(api: Api, caller: str) -> dict[str, str]:
    who = CALLERS[caller][0]
    return api.bearer(who["user"], *who.get("groups", ()), reads_all=bool(who.get("reads_all")))


Ask = Callable[[Api, dict[str, str], str, str], Awaitable[Answer]]


async def by_statuses(api: Api, headers: dict[str, str], job: str, _bulk: str) -> Answer:
    return await api.statuses(job, headers=headers)


async def by_statuses_with_unknown(
    api: Api, headers: dict[str, str], job: str, _bulk: str
) -> Answer:
    return await api.statuses(job, headers=headers, includeUnknown=True)


async def by_wait(api: Api, headers: dict[str, str], job: str, _bulk: str) -> Answer:
    return await api.statuses(job, headers=headers, wait=1, until="any")


async def by_bulk(api: Api, headers: dict[str, str], _job: str, bulk: str) -> Answer:
    return await api.get(f"/jobs?bulkId={bulk}", headers)


async def by_bulk_wait(api: Api, headers: dict[str, str], _job: str, bulk: str) -> Answer:
    return await api.get(f"/jobs?bulkId={bulk}&wait=1", headers)


async def by_search_of_bulk(api: Api, headers: dict[str, str], _job: str, bulk: str) -> Answer:
    return await api.get(f"/jobs/search?bulkId={bulk}", headers)


WAYS: list[Ask] = [
    by_statuses,
    by_statuses_with_unknown,
    by_wait,
    by_bulk,
    by_bulk_wait,
    by_search_of_bulk,
]


def shape(answer: Answer) -> tuple[int, bytes]:
    """Return an answer without what the request itself names."""
    body = answer.body
    for name in (JOB, ORPHAN, UNKNOWN_JOB, BULK, UNKNOWN_BULK):
        body = body.replace(name.encode(), b"?")
    return answer.status, body


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_foreign_job_and_an_unknown_one_give_the_same_bytes(
    api: Api, caller: str, way: Ask
) -> None:
    headers = headers_of(api, caller)
    _who, sees, _sees_orphan = CALLERS[caller]
    if way in (by_wait, by_bulk_wait):
        # So that who sees the job has nothing to wait for.
        api.emit(JOB, "completed")
        api.show()
    asked = await way(api, headers, JOB, BULK)
    unknown = await way(api, headers, UNKNOWN_JOB, UNKNOWN_BULK)
    if sees:
        assert asked.status == 200
        assert JOB.encode() in asked.body
        assert shape(asked) != shape(unknown)
    else:
        assert shape(asked) == shape(unknown)
        same = {"Content-Length", "Date", "Server-Timing", "Jobtrail-Lag"}
        assert {k: v for k, v in asked.headers.items() if k not in same} == {
            k: v for k, v in unknown.headers.items() if k not in same
        }


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_job_that_nobody_owns_yet_is_the_administrators(api: Api, caller: str) -> None:
    headers = headers_of(api, caller)
    sees = CALLERS[caller][2]
    for wait in (0, 1):
        answer = await api.statuses(ORPHAN, headers=headers, wait=wait)
        assert answer.json == (
            {ORPHAN: {"id": ORPHAN, "state": "completed", "output": {"secret": 1}}} if sees else {}
        )


@pytest.mark.parametrize("caller", CALLERS)
async def test_listings_and_counts_hold_what_the_caller_sees(api: Api, caller: str) -> None:
    headers = headers_of(api, caller)
    _who, sees, sees_orphan = CALLERS[caller]
    expected = [job for job, seen in ((ORPHAN, sees_orphan), (JOB, sees)) if seen]
    for path in ("/jobs/search", "/jobs/search?owner=alice", "/jobs/search?tag=a:b"):
        found = (await api.get(path, headers)).json["jobs"]
        wanted = expected if path == "/jobs/search" else [job for job in expected if job == JOB]
        assert [job["id"] for job in found] == wanted
    counted = (await api.get("/jobs/summary", headers)).json["jobType"]
    assert sum(entry["total"] for entry in counted) == len(expected)
    assert [entry["jobType"] for entry in counted] == (
        (["bulkPolicy"] if sees else []) + ([None] if sees_orphan else [])
    )


@pytest.mark.parametrize("caller", CALLERS)
async def test_what_the_tail_knows_is_for_those_who_may_see_it(api: Api, caller: str) -> None:
    """The same for a job that the projections have not heard of yet."""
    fresh = "fresh-job"
    api.emit(fresh, "created", owner="alice", viewers=["group:ops", "user:bob"])
    api.emit(fresh, "failed", output=[1])
    api.show()
    headers = headers_of(api, caller)
    for wait in (0, 1):
        answer = await api.statuses(fresh, headers=headers, wait=wait)
        assert answer.json == (
            {fresh: {"id": fresh, "state": "failed", "output": [1]}} if CALLERS[caller][1] else {}
        )


async def test_a_job_that_is_taken_away_disappears_at_once(api: Api) -> None:
    """Resuming a cancelled job names its audience anew."""
    alice, bob = api.bearer("alice"), api.bearer("bob")
    api.emit(JOB, "cancelled")
    await api.project()
    api.show()
    assert (await api.statuses(JOB, headers=bob)).json[JOB]["state"] == "cancelled"
    api.emit(JOB, "created", owner="alice", viewers=[])
    api.show()
    assert (await api.statuses(JOB, headers=alice)).json[JOB]["state"] == "created"
    assert (await api.statuses(JOB, headers=bob)).json == {}
    await api.project()
    assert (await api.statuses(JOB, headers=bob)).json == {}
    assert (await api.get("/jobs/search", bob)).json["jobs"] == []


async def test_a_cursor_shows_a_caller_what_is_his(api: Api) -> None:
    """A cursor names a place, not a caller: it can be handed on, and gives nothing away."""
    for n in range(4):
        api.emit(f"eves-{n}", "created", owner="eve")
        api.emit(f"alices-{n}", "created", owner="alice")
    await api.project()
    first = (await api.get("/jobs/search?size=2", api.bearer("alice"))).json
    rest = (await api.get(first["next"] + "&size=9", api.bearer("eve"))).json["errors"]
    assert rest[0]["parameter"] == "size"
    following = first["next"].replace("size=2", "size=9")
    found = (await api.get(following, api.bearer("eve"))).json["jobs"]
    assert [job["id"] for job in found] == ["eves-2", "eves-1", "eves-0"]
