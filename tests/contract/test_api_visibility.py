"""Nobody sees another's job: every way to read, every kind of caller, every kind of job.

A job that a caller may not see and one that does not exist have to give the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jobtrail.access.tokens import READ_ALL, WRITE, make_token
from jobtrail.core.position import holds, parse_position
from services.api.limits.limits import Timeouts
from tests.contract.api_service import Answer, Api, running
from tests.contract.conformance import DOCUMENT
from tests.feed_reader import Reader

#: alice's, seen by bob and by whoever is in ops; and one that nobody owns yet.
JOB, ORPHAN, BULK = "job-of-alice", "job-of-nobody", "bulk-of-alice"

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


# --- every operation of the document, asked by everyone for everything


FEED = "/jobs/events"


class Way(NamedTuple):
    """A request that an operation answers; `{name}` in it is whose job is asked for."""

    path: str
    body: Any = None
    #: What the answer is where everything is asked for rightly.
    status: int = 200


def _statuses(**fields: Any) -> Way:
    return Way("/jobs/statuses", {"jobIds": ["job-of-{name}"], **fields})


#: By the operations' names. One that is missing fails a test: say here how it is asked.
WAYS: dict[str, tuple[Way, ...]] = {
    "bulk": (Way("/jobs?bulkId=bulk-of-{name}"), Way("/jobs?bulkId=bulk-of-{name}&wait=1")),
    "search": (
        Way("/jobs/search?bulkId=bulk-of-{name}"),
        Way("/jobs/search?jobType=type-of-{name}&size=1"),
        Way("/jobs/search?owner={name}"),
    ),
    "summary": (Way("/jobs/summary?jobType=type-of-{name}"),),
    "statuses": (
        _statuses(),
        _statuses(includeUnknown=True),
        _statuses(wait=1),
        _statuses(wait=1, until="any", includeUnknown=True),
    ),
    "job": (Way("/jobs/job-of-{name}"),),
    "jobById": (Way("/job?id=job-of-{name}"),),
    "feed": (Way(FEED + "?bulkId=bulk-of-{name}"),),
    # The events themselves would have to come from a Kafka.
    "history": (Way("/jobs/job-of-{name}/history?fromOffset=1000"),),
    "historyById": (Way("/job/history?id=job-of-{name}&fromOffset=1000"),),
    # Who may write is told what is wrong with it.
    "ingest": (Way("/events", {"subject": "job-of-{name}"}, status=400),),
    "healthz": (Way("/healthz"),),
    # No projector runs in these tests that would say that it lives.
    "readyz": (Way("/readyz", status=503),),
    "metrics": (Way("/metrics"),),
    "openapi": (Way("/openapi.json"),),
    "docs": (Way("/docs"),),
    "asset": (Way("/docs/page.js"),),
}
#: Whose jobs there are; phantom has none. alice's are seen by bob and by whoever is in ops.
NAMES = ("alice", "zoe", "phantom")
VIEWERS: dict[str, list[str]] = {"alice": ["group:ops", "user:bob"], "zoe": []}
ASKERS: dict[str, set[str]] = {
    # caller: whose jobs they see
    "owner": {"alice"},
    "viewer": {"alice"},
    "member of a group": {"alice"},
    "other": set(),
    "administrator": {"alice", "zoe"},
    "writer": set(),
    "expired token": set(),
    "no token": set(),
}
OPERATIONS = [
    (path, method, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]


def asker(api: Api, caller: str) -> dict[str, str]:
    if caller == "no token":
        return {}
    if caller == "expired token":
        past = time.time() - 7200
        token = make_token(api.secret, "alice", (), [READ_ALL, WRITE], timedelta(hours=1), at=past)
    elif caller == "writer":
        token = make_token(api.secret, "eve", (), [WRITE], timedelta(hours=1))
    else:
        return headers_of(api, caller)
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def matrix(tmp_path: Path) -> AsyncIterator[Api]:
    """Run a service with a job of alice's and one of zoe's, both ended: nothing is waited for."""
    timeouts = Timeouts(unknown=0.02, position=0.2, sign_of_life=0.5)
    async with running(tmp_path, timeouts=timeouts) as api:
        api.make_store()
        for name, viewers in VIEWERS.items():
            job, kind = f"job-of-{name}", f"type-of-{name}"
            bulk = f"bulk-of-{name}"
            api.emit(job, "created", owner=name, viewers=viewers, jobType=kind, bulkId=bulk)
            api.emit(job, "completed", output={"secret": name})
        await api.project()
        api.follow()
        yield api


async def ask(api: Api, method: str, way: Way, name: str, headers: dict[str, str]) -> Answer:
    if way.path.startswith(FEED):
        return await hear(api, way.path.replace("{name}", name), headers)
    body = None
    if way.body is not None:
        body = json.dumps(way.body).replace("{name}", name).encode()
        headers = {**headers, "Content-Type": _FORMS.get(way.path, "application/json")}
    return await api.send(method.upper(), way.path.replace("{name}", name), headers, body)


async def hear(api: Api, path: str, headers: dict[str, str]) -> Answer:
    """Listen while everybody gets another job, until all of it was told."""
    async with api.session.get(api.url + path, headers=headers) as response:
        if response.status != 200:
            return Answer(response.status, response.headers, await response.read())
        reader, told = Reader(response), b""
        for name, viewers in VIEWERS.items():
            job = f"job-of-{name}-{api.seconds}"
            api.emit(job, "created", owner=name, viewers=viewers, bulkId=f"bulk-of-{name}")
        await api.project()
        api.show()
        while not holds(parse_position(reader.last_id or "0:0"), parse_position(api.end)):
            block = await reader.block()
            assert block is not None
            told += json.dumps(block.data).encode() if block.data else b""
    # What happened moved the log on.
    kept = {k: v for k, v in response.headers.items() if k != "Jobtrail-Position"}
    return Answer(response.status, kept, told)


_FORMS = {"/events": "application/cloudevents+json"}


def shape(answer: Answer, name: str) -> tuple[int, bytes, dict[str, str]]:
    """Return an answer without what the request itself names, and what differs by the moment."""
    # Signs of life come by the clock.
    body = answer.body.lstrip(b"\n").replace(name.encode(), b"?")
    moment = {"Content-Length", "Date", "Server-Timing", "Jobtrail-Lag"}
    return answer.status, body, {k: v for k, v in answer.headers.items() if k not in moment}


@pytest.mark.parametrize(
    ("path", "method", "operation"),
    OPERATIONS,
    ids=[one["operationId"] for _, _, one in OPERATIONS],
)
async def test_every_operation_shows_everyone_what_he_may_see(
    matrix: Api, path: str, method: str, operation: dict[str, Any]
) -> None:
    ways = WAYS.get(operation["operationId"])
    assert ways, f"WAYS does not say how {method.upper()} {path} is asked"
    for caller, sees in ASKERS.items():
        headers = asker(matrix, caller)
        for way in ways:
            answers = {name: await ask(matrix, method, way, name, headers) for name in NAMES}
            where = f"{caller}: {way}"
            refused = refusal(operation, caller)
            if refused or not operation["security"] or operation["security"][0]["bearer"]:
                expected = refused or way.status
                assert {answer.status for answer in answers.values()} == {expected}, where
                continue
            unknown = shape(answers["phantom"], "phantom")
            assert b"secret" not in answers["phantom"].body
            for name in ("alice", "zoe"):
                if name in sees:
                    assert answers[name].status == way.status, where
                    assert f"-of-{name}".encode() in answers[name].body, where
                    assert shape(answers[name], name) != unknown, where
                else:
                    assert shape(answers[name], name) == unknown, where


def refusal(operation: dict[str, Any], caller: str) -> int | None:
    """Return with what status the document has a caller refused, whatever they ask for."""
    if not operation["security"]:
        return None
    if caller in ("expired token", "no token"):
        return 401
    permissions = set(operation["security"][0]["bearer"])
    return 403 if permissions - ({WRITE} if caller == "writer" else set()) else None


def test_no_way_is_left_of_an_operation_that_is_gone() -> None:
    assert set(WAYS) == {operation["operationId"] for _, _, operation in OPERATIONS}


# --- what the matrix does not tell


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
