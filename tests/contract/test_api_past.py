"""`asOf`: what was true at an instant or a position, for who asks as for the jobs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from jobtrail.core.partitions import partition_of
from jobtrail.core.position import format_position, parse_position
from jobtrail.core.trail import CHUNK_ENTRIES
from services.api.limits.limits import Timeouts
from tests.contract.api_service import NOON, PARTITIONS, Answer, Api, running

DAY = 86_400
UNKNOWN = "never-there"


def at(seconds: int) -> str:
    """Return an instant so many seconds after noon, as a query has it."""
    minute, second = divmod(seconds, 60)
    return f"2026-11-23T13:{minute:02}:{second:02}Z"


async def job_at(api: Api, name: str, then: str, user: str = "", **who: Any) -> Any:
    """Return a job as it was, None for one that is not there for them."""
    headers = api.bearer(user, **who) if user else None
    answer = await api.get(f"/jobs/{name}?asOf={then}", headers)
    assert answer.status in (200, 404), answer.body
    return answer.json if answer.status == 200 else None


async def ids_at(api: Api, query: str, user: str = "") -> list[str]:
    """Return what a search finds, over all of its pages."""
    headers = api.bearer(user) if user else None
    found: list[str] = []
    path = f"/jobs/search?{query}"
    while path:
        answer = await api.get(path, headers)
        assert answer.status == 200, answer.body
        found += [job["id"] for job in answer.json["jobs"]]
        path = answer.json["next"]
        assert not path or "asOf=" in path
    return found


async def counts_at(api: Api, query: str, user: str = "") -> dict[str, dict[str, int]]:
    headers = api.bearer(user) if user else None
    answer = await api.get(f"/jobs/summary?{query}", headers)
    assert answer.status == 200, answer.body
    return {
        entry.pop("jobType"): {name: n for name, n in entry.items() if n}
        for entry in answer.json["jobType"]
    }


def live(api: Api) -> None:
    """Write the life of a job, ten seconds an event, and another beside it."""
    api.emit("life", "created", at=NOON, tags={"k": "1"}, bulkId="b")
    api.emit("life", "active", at=NOON + 10)
    api.emit("life", "progress", at=NOON + 20, progress=0.5, tags={"k": "2"})
    api.emit("life", "failed", at=NOON + 30, error={"code": 1}, output=[1])
    api.emit("life", "retry", at=NOON + 40, attempt=1)
    api.emit("life", "completed", at=NOON + 50, output={"rows": 3})
    api.emit("other", "created", at=NOON + 5, owner="bob", jobType="scan", viewers=["group:ops"])


async def test_a_job_is_at_each_instant_what_its_events_made_it(api: Api) -> None:
    live(api)
    await api.project()
    whole = (await api.get("/jobs/life")).json
    assert await job_at(api, "life", at(0).replace(":00Z", ":00.000Z")) is not None
    assert await job_at(api, "life", "2026-11-23T12:59:59.999999Z") is None
    seen = [await job_at(api, "life", at(second)) for second in (9, 19, 29, 39, 49)]
    assert [job["state"] for job in seen] == ["created", "active", "active", "failed", "retry"]
    assert [job["tags"]["k"] for job in seen] == ["1", "1", "2", "2", "2"]
    assert [job["progress"] for job in seen] == [None, None, 0.5, 0.5, None]
    assert [job["error"] for job in seen] == [None, None, None, {"code": 1}, None]
    assert [job["output"] for job in seen] == [None, None, None, [1], None]
    assert [job["attempt"] for job in seen] == [0, 0, 0, 0, 1]
    assert {job["createdAt"] for job in seen} == {whole["createdAt"]}
    for then in (at(50), "2026-11-24", "9999-12-31", api.end):
        assert await job_at(api, "life", then) == whole


async def test_a_job_is_at_each_position_what_lies_before_it(api: Api) -> None:
    live(api)
    await api.project()
    partition = partition_of("life", PARTITIONS)
    states = []
    for end in range(len(api.records[partition]) + 1):
        job = await job_at(api, "life", f"{partition}:{end}")
        states.append(job and job["state"])
    assert list(dict.fromkeys(states)) == [
        None, "created", "active", "failed", "retry", "completed",
    ]  # fmt: skip
    others = {p: len(records) for p, records in api.records.items() if p != partition}
    assert await job_at(api, "life", format_position(others)) is None


async def test_what_only_the_tail_knows_counts_for_a_job(api: Api) -> None:
    api.emit("life", "created", at=NOON)
    await api.project()
    api.emit("life", "active", at=NOON + 10)
    end = api.emit("life", "completed", at=NOON + 20)
    api.show()
    states = [(await job_at(api, "life", then))["state"] for then in (at(9), at(19), at(20), end)]
    assert states == ["created", "active", "completed", "completed"]


async def test_search_and_summary_tell_what_was(api: Api) -> None:
    live(api)
    await api.project()
    assert await ids_at(api, f"asOf={at(4)}") == ["life"]
    assert await ids_at(api, f"asOf={at(5)}") == ["other", "life"]
    assert await ids_at(api, f"asOf={at(29)}&state=active") == ["life"]
    assert await ids_at(api, f"asOf={at(50)}&state=active") == []
    assert await ids_at(api, f"asOf={at(19)}&tag=k:1") == ["life"]
    assert await ids_at(api, f"asOf={at(29)}&tag=k:1") == []
    assert await ids_at(api, f"asOf={at(29)}&updatedSince={at(20)}") == ["life"]
    assert await ids_at(api, f"asOf={at(19)}&updatedSince={at(20)}") == []
    assert await ids_at(api, f"asOf={at(29)}&bulkId=b&owner=alice&jobType=bulkPolicy") == ["life"]
    (page,) = (await api.get(f"/jobs/search?asOf={at(39)}&bulkId=b")).json["jobs"]
    assert page == await job_at(api, "life", at(39))
    assert await counts_at(api, f"asOf={at(4)}") == {"bulkPolicy": {"total": 1, "created": 1}}
    expected = {"bulkPolicy": {"total": 1, "failed": 1}, "scan": {"total": 1, "created": 1}}
    assert await counts_at(api, f"asOf={at(39)}") == expected
    assert await counts_at(api, f"asOf={at(39)}", "bob") == {"scan": expected["scan"]}
    assert await counts_at(api, f"asOf={at(39)}&startDate={at(1)}") == {"scan": expected["scan"]}
    assert await counts_at(api, f"asOf={at(39)}&jobType=scan") == {"scan": expected["scan"]}
    now = await counts_at(api, "")
    assert await counts_at(api, f"asOf={api.end}") == now
    assert await counts_at(api, "asOf=2027-01-01") == now


async def test_who_saw_a_job_then_is_told_and_nobody_else(api: Api) -> None:
    api.emit("moved", "created", at=NOON, owner="alice", viewers=["user:carol"])
    api.emit("moved", "cancelled", at=NOON + 10)
    api.emit("moved", "created", at=NOON + 20, owner="bob", jobType="scan")
    api.emit("late", "active", at=NOON)
    api.emit("late", "created", at=NOON + 5, owner="alice")
    api.emit("late", "completed", at=NOON + 10)
    await api.project()
    saw = {
        "alice": (["late", "moved"], ["late"]),
        "carol": (["moved"], []),
        "bob": ([], ["moved"]),
        "eve": ([], []),
    }
    for user, (before, after) in saw.items():
        for second, ids in ((15, before), (20, after)):
            assert sorted(await ids_at(api, f"asOf={at(second)}", user)) == ids
            for job in ("late", "moved"):
                known = await job_at(api, job, at(second), user)
                assert (known is not None) == (job in ids), (user, job, second)
            counted = (await counts_at(api, f"asOf={at(second)}", user)).values()
            assert sum(counts["total"] for counts in counted) == len(ids)
    # It came at once with what was before, by its position only later.
    partition = partition_of("late", PARTITIONS)
    first = next(n for n, r in enumerate(api.records[partition]) if r.key == b"late")
    assert await job_at(api, "late", f"{partition}:{first + 1}", "alice") is None
    admin = await job_at(api, "late", f"{partition}:{first + 1}")
    assert (admin["owner"], admin["jobType"]) == (None, None)
    assert (await job_at(api, "late", at(0), "alice"))["owner"] == "alice"


async def test_a_log_that_fails_tells_strangers_of_no_job(api: Api) -> None:
    api.emit("moved", "created", at=NOON, owner="alice")
    api.emit("moved", "cancelled", at=NOON + 10)
    api.emit("moved", "created", at=NOON + 20, owner="bob")
    await api.project()
    for lost in ({(partition_of("moved", PARTITIONS), n) for n in range(9)}, None):
        api.lost = lost
        for user in ("eve", "alice"):
            told = [
                await api.get(f"/jobs/{name}?asOf={at(15)}", api.bearer(user))
                for name in ("moved", UNKNOWN)
            ]
            assert [answer.status for answer in told] == [404, 404]
            assert told[0].body.replace(b"moved", b"") == told[1].body.replace(
                UNKNOWN.encode(), b""
            )
        own = await api.get(f"/jobs/moved?asOf={at(15)}", api.bearer("bob"))
        assert own.status == (410 if lost else 503)


async def test_a_job_of_others_can_not_be_told_from_none(api: Api) -> None:
    live(api)
    await api.project()
    eve = api.bearer("eve")
    for lost in (set(), {(p, n) for p in range(PARTITIONS) for n in range(9)}, None):
        api.lost = lost
        for then in (at(9), at(50), api.end):
            answers = [
                await api.get(f"/jobs/{name}?asOf={then}", eve) for name in ("life", UNKNOWN)
            ]
            assert [answer.status for answer in answers] == [404, 404]
            assert answers[0].body == answers[1].body


async def test_pages_of_the_past_follow_each_other(api: Api) -> None:
    for n in range(30):
        api.emit(f"j{n:02}", "created", at=NOON + n // 3, tags={"n": str(n % 2)})
    end = parse_position(api.end)
    for n in range(30):
        api.emit(f"j{n:02}", "completed" if n % 5 else "failed", at=NOON + 60, tags={"n": "2"})
    await api.project()
    api.show()
    everything = sorted((-(n // 3), f"j{n:02}") for n in range(30))
    ids = [job for _second, job in everything]
    for then in (at(59), format_position(end)):
        for size in (1, 7, 30, 1000):
            assert await ids_at(api, f"asOf={then}&size={size}&state=created") == ids
        for offset in (1, 29, 30, 1000):
            assert await ids_at(api, f"asOf={then}&size=4&offset={offset}") == ids[offset:]
        odd = [job for job in ids if int(job[1:]) % 2]
        for offset in (0, 3, 20):
            assert await ids_at(api, f"asOf={then}&size=4&tag=n:1&offset={offset}") == odd[offset:]
        assert await ids_at(api, f"asOf={then}&tag=n:2") == []
    first = await api.get(f"/jobs/search?asOf={at(59)}&size=3")
    assert first.headers["Link"] == f'<{first.json["next"]}>; rel="next"'
    for n in range(30, 40):
        api.emit(f"j{n}", "created", at=NOON + 70 + n)
    await api.project()
    assert (await api.get(first.json["next"])).json["jobs"][0]["id"] == ids[3]


async def test_answers_about_the_past_are_as_all_others(api: Api) -> None:
    live(api)
    await api.project()
    for path in ("/jobs/life?", "/jobs/search?", "/jobs/summary?"):
        first = await api.get(f"{path}asOf={at(29)}")
        assert first.headers["Jobtrail-Position"] == api.end
        again = await api.get(f"{path}asOf={at(29)}", {"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
        head = await api.ask("HEAD", f"{path}asOf={at(29)}")
        assert head.status == 200
        for wrong in ("", "soon", "3:", f"{PARTITIONS}:1", "0:1,0:2"):
            refused = await api.get(f"{path}asOf={wrong}")
            assert refused.status == 400
            assert [error["parameter"] for error in refused.errors] == ["asOf"]


async def test_a_position_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=Timeouts(position=60)) as api:
        api.make_store()
        api.emit("life", "created", at=NOON)
        await api.project()
        api.follow()
        end = api.emit("life", "active", at=NOON + 10)
        paths = [f"{p}?asOf={end}" for p in ("/jobs/life", "/jobs/search", "/jobs/summary")]
        asked = [asyncio.create_task(api.get(path)) for path in paths]
        while len(api.service.progress._waiting) < len(paths):
            await asyncio.sleep(0)
        await api.project()
        job, found, counted = [answer.json for answer in await asyncio.gather(*asked)]
        assert job["state"] == found["jobs"][0]["state"] == "active"
        assert counted["jobType"][0]["active"] == 1


async def test_a_position_that_does_not_come_is_not_there(api: Api) -> None:
    for path in ("/jobs/life", "/jobs/search", "/jobs/summary"):
        answer = await api.get(f"{path}?asOf=0:5")
        assert (answer.status, problem(answer)) == (410, "log-changed")
    api.deafen()
    answer = await api.get("/jobs/summary?asOf=0:5")
    assert (answer.status, problem(answer)) == (503, "behind")


async def test_what_the_log_has_lost_is_said_to_be_lost(api: Api) -> None:
    live(api)
    await api.project()
    partition = partition_of("life", PARTITIONS)
    first = next(n for n, r in enumerate(api.records[partition]) if r.key == b"life")
    api.lost = {(partition, first)}
    for path in ("/jobs/life?", "/jobs/search?"):
        answer = await api.get(f"{path}asOf={at(29)}")
        assert (answer.status, problem(answer)) == (410, "past-gone")
        assert (await api.get(f"{path}asOf={at(50)}")).status == 200
        api.lost = None
        answer = await api.get(f"{path}asOf={at(29)}")
        assert (answer.status, problem(answer)) == (503, "log-unavailable")
        api.lost = {(partition, first)}
    assert (await counts_at(api, f"asOf={at(29)}"))["bulkPolicy"] == {"total": 1, "active": 1}


async def test_a_store_that_recovers_tells_nothing_of_the_past(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        for path in ("/jobs/search", "/jobs/summary", "/jobs/life"):
            answer = await api.get(f"{path}?asOf={at(0)}")
            assert (answer.status, problem(answer)) == (503, "recovering")
        api.make_store(dict.fromkeys(range(PARTITIONS), 2))
        for path in ("/jobs/search", "/jobs/summary", "/jobs/life"):
            answer = await api.get(f"{path}?asOf={at(0)}")
            assert (answer.status, problem(answer)) == (503, "recovering")


def problem(answer: Answer) -> str:
    name: str = answer.json["type"].rpartition(":")[2]
    return name


async def test_nothing_tells_a_long_job_of_somebody_else_from_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    bounds = {"max_reads_per_caller": 1, "read_deadline": 0.2}
    async with running(tmp_path, **bounds) as api:
        api.make_store()
        api.follow()
        api.emit("long", "created")
        api.emit("given", "created", owner="bob")
        for number in range(2 * CHUNK_ENTRIES):
            api.emit("long", "progress", progress=number / 1_000)
            api.emit("given", "progress", progress=number / 1_000)
        # Somebody else's since: what they saw then has to be looked up.
        api.emit("given", "created", owner="alice")
        await api.project()
        api.show()
        free = threading.Event()
        reading = asyncio.create_task(
            api.service.reads.beside("mallory", lambda _is_over: free.wait(60))
        )
        await asyncio.sleep(0)
        try:
            # Of whom one has as many long reads as they may, the other would wait for hers.
            for user in ("mallory", "carol"):
                before = api.service.reads.refused.copy()
                for name in ("long", UNKNOWN, "given"):
                    if name == "given":
                        assert api.service.reads.refused == before
                    answer = await api.get(f"/jobs/{name}?asOf={at(2)}", api.bearer(user))
                    assert (answer.status, answer.json["status"]) == (404, 404)
            alice = await api.get(f"/jobs/long?asOf={at(2)}", api.bearer("alice"))
            assert alice.status == 503
        finally:
            free.set()
        await reading
