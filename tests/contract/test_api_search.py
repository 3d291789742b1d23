"""`GET /jobs/search` and `GET /jobs/summary`: filters, order, pages and counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from jobtrail.core.partitions import partition_of
from services.api.limits.limits import Timeouts
from tests.contract.api_service import NOON, PARTITIONS, PROBLEM, Api, running

HOUR = 3600
TYPES = ("bulkPolicy", "export", "ingest")
OWNERS = ("alice", "bob")


class Jobs:
    """Thirty jobs that differ in everything a filter looks at; every three were created at once."""

    def __init__(self, api: Api) -> None:
        self.known: list[dict[str, Any]] = []
        for n in range(30):
            job = {
                "id": f"job-{(n * 7) % 30:02}",
                "jobType": TYPES[n % 3],
                "owner": OWNERS[n % 2],
                "bulkId": f"bulk,{n % 4}" if n % 5 else None,
                "createdAt": NOON + n // 3 * HOUR,
                "updatedAt": NOON + n // 3 * HOUR,
                "state": "created",
                "tags": {"n": str(n % 6), "tenant": "ac,me"} if n % 2 else {},
            }
            data = {k: job[k] for k in ("jobType", "owner", "bulkId", "tags") if job[k]}
            api.emit(str(job["id"]), "created", at=job["createdAt"], **data)
            self.known.append(job)
        for n, job in enumerate(self.known):
            if end := (None, "active", "completed", "failed", "retry", "cancelled", "expired")[
                n % 7
            ]:
                job["updatedAt"] = NOON + (40 + n) * HOUR
                job["state"] = end
                api.emit(str(job["id"]), end, at=job["updatedAt"])
        self.known.sort(key=lambda job: (-job["createdAt"], job["id"]))

    def ids(self, **equal: Any) -> list[str]:
        return [job["id"] for job in self.known if all(job[name] == equal[name] for name in equal)]


@pytest.fixture
async def jobs(api: Api) -> Jobs:
    jobs = Jobs(api)
    await api.project()
    api.show()
    return jobs


async def found(api: Api, query: str) -> list[str]:
    answer = await api.get(f"/jobs/search?{query}")
    assert answer.status == 200, answer.body
    return [job["id"] for job in answer.json["jobs"]]


# --- one job


async def test_a_job_has_the_contracts_fields_in_order(api: Api) -> None:
    api.emit(
        "j", "created", at=NOON + 0.5, bulkId="b-17", viewers=["user:z", "group:a"], tags={"k": "v"}
    )
    api.emit("j", "active", at=NOON + 1.000001)
    api.emit("j", "progress", at=NOON + 2, progress=0.25)
    api.emit("j", "retry", at=NOON + 3, error={"why": "net"})
    api.emit("j", "active", at=NOON + 4)
    api.emit("j", "failed", at=NOON + 5, output=[1, 2.50], error="no")
    await api.project()
    (job,) = (await api.get("/jobs/search")).json["jobs"]
    assert list(job.items()) == [
        ("id", "j"),
        ("state", "failed"),
        ("output", [1, 2.5]),
        ("jobType", "bulkPolicy"),
        ("owner", "alice"),
        ("bulkId", "b-17"),
        ("createdAt", "2026-11-23T13:00:00.500Z"),
        ("startedAt", "2026-11-23T13:00:01.000001Z"),
        ("updatedAt", "2026-11-23T13:00:05.000Z"),
        ("endedAt", "2026-11-23T13:00:05.000Z"),
        ("attempt", 1),
        ("progress", None),
        ("error", "no"),
        ("tags", {"k": "v"}),
        ("viewers", ["group:a", "user:z"]),
    ]


async def test_what_a_job_does_not_have_is_null(api: Api) -> None:
    api.emit("j", "progress")
    await api.project()
    (job,) = (await api.get("/jobs/search")).json["jobs"]
    empty = ["output", "jobType", "owner", "bulkId", "startedAt", "endedAt", "progress", "error"]
    assert [name for name, value in job.items() if value is None] == empty
    assert (job["state"], job["tags"], job["viewers"]) == ("created", {}, [])


async def test_an_output_comes_back_byte_for_byte(api: Api) -> None:
    output = b'{"a" : 1.10, "a":"\\u00e9", "big": 12345678901234567890123, "e": 1E5}'
    api.emit("j", "created")
    event = (
        b'{"specversion":"1.0","id":"x","source":"//test","type":"job.completed","subject":"j",'
        b'"data":{"output":' + output + b"}}"
    )
    api.write(b"j", event, partition_of("j", PARTITIONS))
    await api.project()
    assert output in (await api.get("/jobs/search")).body
    assert output in (await api.statuses("j")).body


# --- filters


@pytest.mark.parametrize(
    ("query", "keep"),
    [
        ("", lambda j: True),
        ("jobType=export", lambda j: j["jobType"] == "export"),
        ("jobType=export,ingest", lambda j: j["jobType"] != "bulkPolicy"),
        ("jobType[]=export&jobType=ingest", lambda j: j["jobType"] != "bulkPolicy"),
        ("jobType=nothing", lambda j: False),
        ("state=failed", lambda j: j["state"] == "failed"),
        ("state=failed,active", lambda j: j["state"] in ("failed", "active")),
        ("owner=bob", lambda j: j["owner"] == "bob"),
        ("owner=nobody", lambda j: False),
        ("bulkId=bulk,2", lambda j: j["bulkId"] == "bulk,2"),
        ("bulkId=bulk%2C2", lambda j: j["bulkId"] == "bulk,2"),
        ("tag=n:1", lambda j: j["tags"].get("n") == "1"),
        ("tag=tenant:ac%2Cme", lambda j: j["tags"].get("tenant") == "ac,me"),
        ("tag=n:1,tenant:ac%2Cme", lambda j: j["tags"].get("n") == "1"),
        ("tag=n:1&tag=n:3", lambda j: False),
        ("startDate=2026-11-23T16:00:00Z", lambda j: j["createdAt"] >= NOON + 3 * HOUR),
        ("startDate=2026-11-23T17:00:00%2B01:00", lambda j: j["createdAt"] >= NOON + 3 * HOUR),
        ("endDate=2026-11-23T16:00:00", lambda j: j["createdAt"] <= NOON + 3 * HOUR),
        ("startDate=2026-11-23&endDate=2026-11-23", lambda j: True),
        ("startDate=2026-11-24", lambda j: False),
        ("endDate=2026-11-22", lambda j: False),
        ("startDate=2026-11-24&endDate=2026-11-23", lambda j: False),
        ("updatedSince=2026-11-25T12:00:00Z", lambda j: j["updatedAt"] >= NOON + 47 * HOUR),
        (
            "jobType=export&state=completed,failed&owner=alice&startDate=2026-11-23",
            lambda j: (
                j["jobType"] == "export"
                and j["state"] in ("completed", "failed")
                and j["owner"] == "alice"
            ),
        ),
    ],
)
async def test_a_filter_keeps_what_it_says(api: Api, jobs: Jobs, query: str, keep: Any) -> None:
    wanted = [job["id"] for job in jobs.known if keep(job)]
    assert await found(api, query) == wanted
    # Page by page the same.
    pages: list[str] = []
    path = f"/jobs/search?{query}&size=4"
    while path:
        answer = (await api.get(path)).json
        assert 1 <= len(answer["jobs"]) <= 4 or not wanted
        pages += [job["id"] for job in answer["jobs"]]
        path = answer["next"]
    assert pages == wanted


# --- pages


@pytest.mark.parametrize("size", [1, 2, 3, 7, 29, 30, 31])
async def test_pages_show_every_job_once_in_order(api: Api, jobs: Jobs, size: int) -> None:
    seen: list[str] = []
    path, count = f"/jobs/search?size={size}", 0
    while path:
        answer = await api.get(path)
        content = answer.json
        seen += [job["id"] for job in content["jobs"]]
        path = content["next"]
        assert (answer.headers.get("Link") == f'<{path}>; rel="next"') == (path is not None)
        count += 1
    assert seen == jobs.ids()
    assert count == -(-30 // size)


async def test_new_jobs_shift_no_page(api: Api, jobs: Jobs) -> None:
    before = (await api.get("/jobs/search?size=10")).json
    for n in range(5):
        api.emit(f"newer-{n}", "created", at=NOON + 99 * HOUR)
        # At the very instant of the page's last job, on either side of it.
        api.emit(f"{'aj'[n % 2]}-tie-{n}", "created", at=NOON + 6 * HOUR)
    await api.project()
    after = (await api.get(before["next"].replace("size=10", "size=1000"))).json
    behind = [job["id"] for job in after["jobs"]]
    assert [job for job in behind if "tie" not in job] == jobs.ids()[10:]
    assert not any(job.startswith("newer") for job in behind)


@pytest.mark.parametrize("offset", [0, 1, 5, 29, 30, 31, 10**6, 10**15])
async def test_an_offset_passes_over_as_many(api: Api, jobs: Jobs, offset: int) -> None:
    answer = (await api.get(f"/jobs/search?size=7&offset={offset}")).json
    assert [job["id"] for job in answer["jobs"]] == jobs.ids()[offset : offset + 7]
    assert (answer["next"] is None) == (offset + 7 >= 30)
    if answer["next"]:
        following = await found(api, answer["next"].partition("?")[2])
        assert following == jobs.ids()[offset + 7 : offset + 14]


async def test_the_default_is_a_hundred_and_the_most_a_thousand(api: Api) -> None:
    for n in range(1001):
        api.emit(f"j{n:04}", "created", at=NOON)
    await api.project()
    assert await found(api, "") == [f"j{n:04}" for n in range(100)]
    assert len(await found(api, "size=1000")) == 1000


# --- counts


async def test_a_summary_counts_every_type_and_state(api: Api, jobs: Jobs) -> None:
    answer = (await api.get("/jobs/summary")).json["jobType"]
    states = ["active", "cancelled", "completed", "created", "expired", "failed", "retry"]
    assert [list(entry) for entry in answer] == [["jobType", "total", *states]] * 3
    assert answer == [
        {
            "jobType": name,
            "total": len(jobs.ids(jobType=name)),
            **{state: len(jobs.ids(jobType=name, state=state)) for state in states},
        }
        for name in TYPES
    ]


@pytest.mark.parametrize(
    ("query", "types", "first", "last"),
    [
        ("jobType=export", ["export"], 0, 99),
        ("jobType=ingest,export,nothing", ["export", "ingest"], 0, 99),
        ("startDate=2026-11-23T16:00:00Z", TYPES, 3, 99),
        ("endDate=2026-11-23T16:00:00Z", TYPES, 0, 3),
        ("startDate=2026-11-23T15:30:00Z&endDate=2026-11-23T20:00:00Z", TYPES, 2.5, 7),
        ("startDate=2026-11-23", TYPES, 0, 99),
        ("startDate=2026-11-24", [], 99, 99),
    ],
)
async def test_a_summary_counts_what_it_is_asked_for(
    api: Api, jobs: Jobs, query: str, types: list[str], first: float, last: float
) -> None:
    answer = (await api.get(f"/jobs/summary?{query}")).json["jobType"]
    for entry in answer:
        counts = [value for name, value in entry.items() if name not in ("jobType", "total")]
        assert sum(counts) == entry["total"]
    assert {entry["jobType"]: entry["total"] for entry in answer} == {
        name: sum(
            first * HOUR <= job["createdAt"] - NOON <= last * HOUR
            for job in jobs.known
            if job["jobType"] == name
        )
        for name in types
    }


async def test_nothing_is_counted_as_nothing(api: Api) -> None:
    assert (await api.get("/jobs/summary")).json == {"jobType": []}
    assert (await api.get("/jobs/search")).json == {"jobs": [], "next": None}


# --- how fresh


@pytest.mark.parametrize("path", ["/jobs/search", "/jobs/summary", "/jobs?bulkId=b"])
async def test_an_answer_says_what_it_holds_and_how_far_it_is_behind(api: Api, path: str) -> None:
    api.emit("j", "created", bulkId="b")
    await api.project()
    held = api.end
    api.show()
    level = await api.get(path)
    assert (level.headers["Jobtrail-Position"], level.headers["Jobtrail-Lag"]) == (held, "0")
    api.emit("j", "active")
    api.show()
    behind = await api.get(path)
    assert behind.headers["Jobtrail-Position"] == held
    assert float(behind.headers["Jobtrail-Lag"]) > 0
    await api.project()
    level = await api.get(path)
    assert (level.headers["Jobtrail-Position"], level.headers["Jobtrail-Lag"]) == (api.end, "0")


async def test_while_the_end_of_the_log_is_not_known_no_lag_is_claimed(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        api.make_store()
        answer = await api.get("/jobs/search")
        assert answer.headers["Jobtrail-Position"] == "0:0,1:0,2:0"
        assert answer.headers["Jobtrail-Lag"] == "unknown"
        api.follow()
        assert (await api.get("/jobs/search")).headers["Jobtrail-Lag"] == "0"
        # A log that has gone away does not leave the answer level with it.
        api.deafen()
        assert (await api.get("/jobs/search")).headers["Jobtrail-Lag"] == "unknown"


@pytest.mark.parametrize("path", ["/jobs/search", "/jobs/summary", "/jobs?bulkId=b"])
async def test_a_read_that_names_a_position_waits_for_it(api: Api, path: str) -> None:
    api.emit("first", "created", bulkId="b")
    await api.project()
    position = api.emit("second", "created", bulkId="b")
    wanted = {**api.bearer("alice"), "Jobtrail-Position": position}
    api.show()
    late = await api.get(path, wanted)
    assert (late.status, late.headers["Content-Type"]) == (503, PROBLEM)
    assert late.json["type"].endswith(":behind")
    assert "Retry-After" in late.headers
    await api.project()
    in_time = await api.get(path, wanted)
    assert in_time.status == 200
    assert b"second" in in_time.body or b'"total":2' in in_time.body


async def test_a_read_is_answered_when_its_position_is_reached(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=Timeouts(position=60)) as api:
        api.make_store()
        position = api.emit("j", "created")
        wanted = {**api.bearer("alice"), "Jobtrail-Position": position}
        reads = [asyncio.create_task(api.get("/jobs/search", wanted)) for _ in range(20)]
        await api.project()
        for answer in await asyncio.gather(*reads):
            assert [job["id"] for job in answer.json["jobs"]] == ["j"]


@pytest.mark.parametrize("header", ["", "x", "0:1,0:2", "9:1", "-1:0", "0:1;1:2", "0:" + "9" * 30])
async def test_what_is_no_position_is_refused(api: Api, header: str) -> None:
    headers = {**api.bearer("alice"), "Jobtrail-Position": header}
    for answer in (
        await api.get("/jobs/search", headers),
        await api.get("/jobs/summary", headers),
        await api.get("/jobs?bulkId=b", headers),
        await api.statuses("j", headers=headers),
    ):
        assert answer.status == 400
        assert [error["parameter"] for error in answer.errors] == ["Jobtrail-Position"]


async def test_values_with_any_characters_come_through(api: Api) -> None:
    for n, name in enumerate(["a b", "a+b", "a&b=c", "ü/%2C?#", "<x>", '"q"', "日本"]):
        api.emit(f"j{n}", "created", bulkId=name, jobType=name, tags={"k": name})
        api.emit(f"k{n}", "created", bulkId=name, jobType=name, tags={"k": name})
        await api.project()
        escaped = quote(name, safe="")
        for query in (f"bulkId={escaped}", f"jobType={escaped}", f"tag=k:{escaped}"):
            first = (await api.get(f"/jobs/search?{query}&size=1")).json
            second = (await api.get(first["next"])).json
            assert [first["jobs"][0]["id"], second["jobs"][0]["id"]] == [f"k{n}", f"j{n}"]


@pytest.mark.parametrize(
    "edge", ["startDate=0001-01-01T00:00:00%2B05:00", "endDate=9999-12-31T23:59:59-05:00"]
)
async def test_the_edge_of_time_has_a_next_page(api: Api, edge: str) -> None:
    for job in "ab":
        api.emit(job, "created")
    await api.project()
    first = await api.get(f"/jobs/search?size=1&{edge}")
    assert [job["id"] for job in first.json["jobs"]] == ["b"]
    rest = await api.get(first.json["next"])
    assert [job["id"] for job in rest.json["jobs"]] == ["a"]
