"""Every bad input gets one problem that names all that is wrong, and nothing is done."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.api_service import PROBLEM, Answer, Api, running


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as api:
        api.make_store()
        api.follow()
        api.emit("j", "created", bulkId="b")
        await api.project()
        yield api


def assert_faults(answer: Answer, kind: str, *places: str) -> None:
    """Check the form of a problem and what it points at."""
    assert answer.status == 400, answer.body
    assert answer.headers["Content-Type"] == PROBLEM
    content = answer.json
    assert list(content) == ["type", "title", "status", "detail", "errors"]
    assert content["type"] == "urn:jobtrail:problem:invalid-request"
    assert content["status"] == 400
    assert [error[kind] for error in content["errors"]] == list(places)
    assert all(set(error) == {kind, "detail"} and error["detail"] for error in content["errors"])


@pytest.mark.parametrize(
    ("path", "places"),
    [
        ("/jobs", ["bulkId"]),
        ("/jobs?bulkID=b", ["bulkId", "bulkID"]),
        ("/jobs?bulkId=b&bulkId=b", ["bulkId"]),
        ("/jobs?bulkId=b&wait=-2", ["wait"]),
        ("/jobs?bulkId=b&wait=soon", ["wait"]),
        ("/jobs?bulkId=b&until=any", ["until"]),
        ("/jobs/search?status=active", ["status"]),
        ("/jobs/search?state=done", ["state"]),
        ("/jobs/search?startDate=23.11.2026", ["startDate"]),
        ("/jobs/search?endDate=2026-11-31", ["endDate"]),
        ("/jobs/search?updatedSince=now", ["updatedSince"]),
        ("/jobs/search?offset=-1", ["offset"]),
        ("/jobs/search?size=0", ["size"]),
        ("/jobs/search?size=1001", ["size"]),
        ("/jobs/search?tag=tenant", ["tag"]),
        ("/jobs/search?owner=%00", ["owner"]),
        ("/jobs/search?cursor=AAAA", ["cursor"]),
        ("/jobs/search?jobType=a,,b", ["jobType"]),
        ("/jobs/search?state=done&size=x&startDate=x&y", ["startDate", "state", "size", "y"]),
        ("/jobs/summary?state=active", ["state"]),
        ("/jobs/summary?startDate=x&endDate=y", ["startDate", "endDate"]),
        ("/healthz?x", ["x"]),
        ("/readyz?x", ["x"]),
        ("/metrics?x", ["x"]),
    ],
)
async def test_a_wrong_query_is_refused(api: Api, path: str, places: list[str]) -> None:
    assert_faults(await api.get(path), "parameter", *places)


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b"", [""]),
        (b"nope", [""]),
        (b"jobIds=a", [""]),
        (b'{"jobIds": ["a"]', [""]),
        (b"[" * 100_000, [""]),
        (["a"], [""]),
        ({}, ["/jobIds"]),
        ({"jobIds": []}, ["/jobIds"]),
        ({"jobIds": [f"j{n}" for n in range(1001)]}, ["/jobIds"]),
        ({"jobIds": ["a"], "wait": -2}, ["/wait"]),
        ({"jobIds": ["a"], "wait": 86_401}, ["/wait"]),
        ({"jobIds": ["a"], "pollInterval": 0}, ["/pollInterval"]),
        ({"jobIds": ["a"], "pollinterval": 1}, ["/pollinterval"]),
        (
            {"jobIds": ["a", 7], "wait": -2, "pollInterval": 0.5, "until": "one", "x": 1},
            ["/jobIds/1", "/wait", "/pollInterval", "/until", "/x"],
        ),
    ],
)
async def test_a_wrong_body_is_refused(api: Api, body: Any, places: list[str]) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert_faults(await api.ask("POST", "/jobs/statuses", body=raw), "pointer", *places)


async def test_a_query_beside_a_body_is_refused(api: Api) -> None:
    answer = await api.ask("POST", "/jobs/statuses?wait=5", body=b'{"jobIds": ["j"]}')
    assert_faults(answer, "parameter", "wait")


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "application/x-www-form-urlencoded", "text/plain"]
)
async def test_a_body_is_read_as_what_it_is(api: Api, content_type: str | None) -> None:
    """Clients of the reference send it with whatever their tool says by default."""
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await api.ask("POST", "/jobs/statuses", headers, b'{"jobIds": ["j"]}')
    assert answer.status == 200


@pytest.mark.parametrize("wait", ["", "&wait=1"])
async def test_an_unknown_bulk_is_not_found(api: Api, wait: str) -> None:
    answer = await api.get(f"/jobs?bulkId=nothing{wait}")
    assert (answer.status, answer.headers["Content-Type"]) == (404, PROBLEM)
    assert answer.json["type"] == "urn:jobtrail:problem:not-found"
    assert "nothing" not in answer.json["detail"]


async def test_a_thousand_ids_are_answered(api: Api) -> None:
    ids = [f"x{n}" for n in range(999)]
    answer = await api.statuses(*ids, "j", includeUnknown=True)
    assert list(answer.json) == [*ids, "j"]
    assert answer.json["x0"] == {"id": "x0", "state": None, "output": None}


@pytest.mark.parametrize("job", ["", "x" * 5000, "\x00", "a'b\"c", "日本", "../x", "null"])
async def test_any_text_may_be_an_id(api: Api, job: str) -> None:
    assert (await api.statuses(job, "j")).json.keys() == {"j"}
    assert (await api.statuses(job, includeUnknown=True)).json == {
        job: {"id": job, "state": None, "output": None}
    }
    assert (await api.statuses(job, "j", wait=1, until="any")).status == 200
