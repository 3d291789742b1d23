"""Every endpoint honours a position: held to it by the table of endpoints, so none is forgotten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from projections.ports.read import Caller
from services.api.limits.limits import Timeouts
from services.api.problems.problems import BEHIND, LOG_CHANGED, LOG_UNAVAILABLE, Problem
from services.api.reads.freshness import LAG, POSITION
from services.api.routes import ENDPOINTS
from services.api.routes.current_states import AT_ONCE, many_states
from services.api.serving.endpoint import STREAM, Endpoint
from tests.contract.api_service import PARTITIONS, PATIENT, Answer, Api, running
from tests.contract.feeding import feed


class Way(NamedTuple):
    """A request whose answer has to have the job `new`, of the bulk `b` and of alice."""

    path: str
    shows: Callable[[Any], bool]
    body: dict[str, Any] | None = None


def _listed(content: Any) -> bool:
    return [job["id"] for job in content["jobs"]] == ["new", "old"]


def _counted(content: Any) -> bool:
    return [entry["total"] for entry in content["jobType"]] == [2]


def _keyed(content: Any) -> bool:
    return "new" in content


def _itself(content: Any) -> bool:
    return bool(content["id"] == "new")


#: By the endpoint's name. The one that tells what happens is tried below.
WAYS: dict[str, list[Way]] = {
    "bulk": [Way("/jobs?bulkId=b", _keyed), Way("/jobs?bulkId=b&wait=1", _keyed)],
    "search": [Way("/jobs/search", _listed), Way("/jobs/search?asOf=2027-01-01", _listed)],
    "summary": [Way("/jobs/summary", _counted), Way("/jobs/summary?asOf=2027-01-01", _counted)],
    "statuses": [
        Way("/jobs/statuses", _keyed, {"jobIds": ["new", "old"]}),
        Way("/jobs/statuses", _keyed, {"jobIds": ["new", "old"], "wait": 1}),
        Way("/jobs/statuses", _keyed, {"jobIds": ["old", "new"], "wait": 1, "until": "any"}),
    ],
    "job": [Way("/jobs/new", _itself), Way("/jobs/new?asOf=2027-01-01", _itself)],
    "history": [Way("/jobs/new/history", _itself)],
    "jobById": [Way("/job?id=new", _itself), Way("/job?id=new&asOf=2027-01-01", _itself)],
    "historyById": [Way("/job/history?id=new", _itself)],
}
#: Those that read the log too.
HISTORIES = frozenset({"history", "historyById"})
#: Endpoints that read what the log was folded into: they say how fresh their answers are.
READING = [e for e in ENDPOINTS if any(LAG in answer.headers for answer in e.answers)]
CASES = [
    pytest.param(endpoint, way, id=f"{endpoint.name}-{number}")
    for endpoint in READING
    if STREAM not in endpoint.answers[0].media
    for number, way in enumerate(WAYS[endpoint.name])
]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path, timeouts=Timeouts(unknown=0.2, position=0.3)) as api:
        api.make_store()
        api.follow()
        api.emit("old", "created", bulkId="b")
        api.emit("old", "completed")
        await api.project()
        api.show()
        yield api


async def ask(api: Api, endpoint: Endpoint, way: Way, position: str) -> Answer:
    headers = {**api.bearer("alice"), POSITION: position}
    body = None if way.body is None else json.dumps(way.body).encode()
    return await api.ask(endpoint.method, way.path, headers, body)


def test_every_endpoint_that_asks_for_the_caller_reads_or_writes() -> None:
    """One that neither says how fresh it is nor takes a permission would slip through here."""
    for endpoint in ENDPOINTS:
        if not endpoint.public and endpoint.permission is None:
            assert endpoint in READING
    assert all(BEHIND in endpoint.problems for endpoint in READING)
    streams = {e.name for e in READING if STREAM in e.answers[0].media}
    assert WAYS.keys() == {endpoint.name for endpoint in READING} - streams


@pytest.mark.parametrize("shown", [False, True], ids=["nobody", "tail"])
@pytest.mark.parametrize(("endpoint", "way"), CASES)
async def test_no_answer_goes_without_the_write(
    api: Api, endpoint: Endpoint, way: Way, shown: bool
) -> None:
    """The projections don't hold it; the tail does, or does not."""
    position = api.emit("new", "created", bulkId="b")
    if shown:
        api.show()
    answer = await ask(api, endpoint, way, position)
    if answer.status == 503:
        # The log itself is not there in these tests: a history reads it.
        lost = endpoint.name in HISTORIES and shown
        assert answer.json["type"] == (LOG_UNAVAILABLE if lost else BEHIND).type
        assert "Retry-After" in answer.headers
    elif not shown:
        # The tail is level with a log that ends before: it is not the one that was written to.
        assert (answer.status, answer.json["type"]) == (410, LOG_CHANGED.type)
    else:
        assert answer.status == 200
        if endpoint.name not in HISTORIES:
            assert way.shows(answer.json)
    await api.project()
    answer = await ask(api, endpoint, way, position)
    if endpoint.name not in HISTORIES:
        assert answer.status == 200
        assert way.shows(answer.json)
    else:
        assert answer.status == 503
        assert answer.json["type"] == LOG_UNAVAILABLE.type


@pytest.mark.parametrize(("endpoint", "way"), CASES)
async def test_a_read_waits_for_its_position(tmp_path: Path, endpoint: Endpoint, way: Way) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        api.emit("old", "created", bulkId="b")
        api.emit("old", "completed")
        await api.project()
        position = api.emit("new", "created", bulkId="b")
        task = asyncio.create_task(ask(api, endpoint, way, position))
        while not api.service.progress.waiting:
            await api.metric("jobtrail_waits_held")
        assert not task.done()
        await api.project()
        if endpoint.name not in HISTORIES:
            answer = await task
            assert answer.status == 200
            assert way.shows(answer.json)
        else:
            assert (await task).json["type"] == LOG_UNAVAILABLE.type


async def test_a_listener_begins_behind_its_position(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        position = api.emit("new", "created")
        late = asyncio.create_task(_first(api, position))
        while not api.service.progress.waiting:
            await api.metric("jobtrail_waits_held")
        assert not late.done()
        await api.project()
        api.show()
        begin = await late
        assert position in begin.split(",")


async def _first(api: Api, position: str) -> str:
    async with feed(api, **{POSITION: position}) as reader:
        return reader.response.headers[POSITION]


async def test_no_state_is_older_than_the_position_of_its_answer(tmp_path: Path) -> None:
    """Of many jobs some are read at a time; the tail may lose events in between."""
    ids = [f"job-{number}" for number in range(2 * AT_ONCE)]
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        for job in ids:
            api.emit(job, "created")
        await api.project()
        api.follow()
        for job in ids:
            api.emit(job, "active")
        api.show()
        service, caller = api.service, Caller("root", reads_all=True)
        answer = many_states(service, caller, ids)
        _some, states = await anext(answer)
        assert {status["state"] for status in states.by_id.values() if status} == {"active"}
        for partition in range(PARTITIONS):
            service.tail.begin(partition, service.buffer.end(partition))
        with pytest.raises(Problem) as told:
            await anext(answer)
        assert told.value.status == 503
        with pytest.raises(Problem):
            await anext(many_states(service, caller, ids, states.fresh.position))
        # As the projections are, and said so.
        _some, states = await anext(many_states(service, caller, ids))
        assert {status["state"] for status in states.by_id.values() if status} == {"created"}
