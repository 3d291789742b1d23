"""What one caller asks for is bounded, and costs that caller: pages, bulks, watches, bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobtrail.access.tokens import WRITE, make_token
from projections.ports.read import Filters, ProjectionReader
from services.api.limits.limits import Rate, Timeouts
from services.api.reads.reads import Limits, Reads
from services.api.store import Store
from tests.contract.api_service import PATIENT, PROBLEM, Answer, Api, running, wait_for
from tests.contract.test_api_limits import Clock, only_fault, taken
from tests.waiting import until


@contextlib.asynccontextmanager
async def service(folder: Path, jobs: int, **options: Any) -> AsyncIterator[Api]:
    """Run a service that has jobs of alice, every tenth of which is tagged."""
    async with running(folder, **options) as api:
        api.make_store()
        for number in range(jobs):
            tags = {"tags": {"rare": "yes"}} if number % 10 == 0 else {}
            api.emit(f"job-{number:04}", "created", owner="alice", bulkId="all", **tags)
        await api.project()
        api.follow()
        yield api


async def whole(api: Api, path: str | None, headers: dict[str, str]) -> tuple[list[str], int]:
    """Follow `next` to its end; return the ids that were found, and on how many pages."""
    found: list[str] = []
    pages = 0
    while path:
        answer = await api.get(path, headers)
        assert answer.status == 200
        found += [job["id"] for job in answer.json["jobs"]]
        path = answer.json["next"]
        pages += 1
        assert pages < 1000
    return found, pages


@contextlib.contextmanager
def reads_of_nothing() -> Iterator[Reads]:
    """Yield what reads a store that is not there."""

    def never() -> ProjectionReader:
        raise AssertionError

    reads = Reads(Store(never), Limits(10, 10, 1.0, 1.0, 10, 10), Rate(1.0, 1))
    try:
        yield reads
    finally:
        reads.close()


def refused(answer: Answer, status: int, name: str) -> None:
    """Assert that an answer is a refusal that says when to come back."""
    assert (answer.status, answer.headers["Content-Type"]) == (status, PROBLEM)
    assert answer.json["type"] == f"urn:jobtrail:problem:{name}"
    assert int(answer.headers["Retry-After"]) >= 1


# --- pages


async def test_a_page_is_short_and_goes_on_where_much_is_looked_at(tmp_path: Path) -> None:
    async with service(tmp_path, 2_500, max_read_rows=1_000) as api:
        alice = api.bearer("alice")
        newest_first = [f"job-{number:04}" for number in reversed(range(2_500))]
        assert await whole(api, "/jobs/search?size=400", alice) == (newest_first, 7)
        tagged = [name for name in newest_first if name.endswith("0")]
        assert await whole(api, "/jobs/search?size=200&tag=rare:yes", alice) == (tagged, 3)
        # Nothing is found on any of them, and none but the last says that there is no more.
        assert await whole(api, "/jobs/search?size=200&tag=rare:no", alice) == ([], 3)
        found, _pages = await whole(api, "/jobs/search?size=200&offset=2100", alice)
        assert found == newest_first[2100:]


async def test_what_was_too_long_for_the_event_loop_is_read_beside_it_at_once(
    tmp_path: Path,
) -> None:
    async with service(tmp_path, 6_000) as api:
        reads, rare = api.service.reads, Filters(tags=(("rare", "no"),))
        assert reads.is_brief("alice", rare, 0)
        answer = await api.get("/jobs/search?tag=rare:no&size=20", api.bearer("alice"))
        assert answer.json["jobs"] == []
        # Whatever the tag, but not for others, nor for what else she asks.
        assert not reads.is_brief("alice", Filters(tags=(("none", "x"),)), 0)
        assert reads.is_brief("bob", rare, 0)
        assert reads.is_brief("alice", Filters(), 0)
        # The same is found on either way.
        paths = [f"/jobs/search?tag=rare:yes&size=20&offset={at}" for at in (0, 20, 580)]
        beside = [(await api.get(path, api.bearer("alice"))).json for path in paths]
        async with asyncio.timeout(30):
            await until(lambda: reads.is_brief("alice", rare, 0))
        assert [(await api.get(path, api.bearer("alice"))).json for path in paths] == beside


def test_what_was_too_long_is_forgotten_where_very_many_were() -> None:
    with reads_of_nothing() as reads:
        for number in range(3_000):
            reads.was_too_long(f"user-{number}", Filters(), 1)
        assert not reads.is_brief("user-2999", Filters(), 7)
        assert reads.is_brief("user-0", Filters(), 7)


async def test_a_page_has_so_many_bytes(tmp_path: Path) -> None:
    async with service(tmp_path, 3, max_page_bytes=1 << 16) as api:
        for number in range(30):
            api.emit(f"large-{number:02}", "created", owner="alice", jobType="large")
            api.emit(f"large-{number:02}", "completed", output="x" * 30_000)
        await api.project()
        found, pages = await whole(api, "/jobs/search?size=30&jobType=large", api.bearer("alice"))
        assert found == [f"large-{number:02}" for number in reversed(range(30))]
        assert pages >= 15
        # An answer that has no pages is sent in parts.
        ids = [f"large-{number:02}" for number in range(30)]
        answer = await api.statuses(*ids, headers=api.bearer("alice"))
        assert list(answer.json) == ids
        assert {len(status["output"]) for status in answer.json.values()} == {30_000}


async def test_tags_are_bounded(tmp_path: Path) -> None:
    async with service(tmp_path, 3) as api:
        tags = [f"tag=t{number}:x" for number in range(33)]
        assert (await api.get("/jobs/search?" + "&".join(tags[:32]))).status == 200
        place, detail = only_fault(await api.get("/jobs/search?" + "&".join(tags)))
        assert place == "tag"
        assert "at most 32" in detail


async def test_all_is_found_by_one_whom_very_many_let_see_their_jobs(tmp_path: Path) -> None:
    async with service(tmp_path, 3, timeouts=PATIENT) as api:
        for number in range(300):
            api.emit(f"seen-{number:03}", "created", owner=f"u{number}", viewers=["user:mallory"])
            if number % 3 == 0:
                api.emit(f"seen-{number:03}", "failed")
        await api.project()
        api.show()
        mallory = api.bearer("mallory")
        newest_first = [f"seen-{number:03}" for number in reversed(range(300))]
        for size in (20, 150, 1000):
            found, _pages = await whole(api, f"/jobs/search?size={size}", mallory)
            assert found == newest_first
        found, _pages = await whole(api, "/jobs/search?state=failed&size=20", mallory)
        assert found == newest_first[2::3]
        (summary,) = (await api.get("/jobs/summary", mallory)).json["jobType"]
        assert (summary["total"], summary["failed"]) == (300, 100)
        answer = await api.statuses("seen-007", "job-0001", headers=mallory)
        assert list(answer.json) == ["seen-007"]


# --- bulks


async def test_a_large_bulk_is_whole(tmp_path: Path) -> None:
    bounds: dict[str, Any] = {"max_read_rows": 1_000, "max_page_bytes": 1 << 16}
    async with service(tmp_path, 2_500, timeouts=PATIENT, **bounds) as api:
        for caller in (api.bearer("alice"), api.bearer("root", reads_all=True)):
            answer = await api.get("/jobs?bulkId=all", caller)
            assert answer.json.keys() == {f"job-{number:04}" for number in range(2_500)}
        assert (await api.get("/jobs?bulkId=all", api.bearer("bob"))).status == 404


@pytest.mark.parametrize("who", ["bob", "alice"])
async def test_a_wait_for_a_bulk_looks_seldom(tmp_path: Path, who: str) -> None:
    async with service(tmp_path, 300, timeouts=PATIENT) as api:
        asked = 0
        tick = api.service.reads.read

        async def count(*arguments: Any, **options: Any) -> Any:
            nonlocal asked
            asked += 1
            return await tick(*arguments, **options)

        api.service.reads.read = count  # type: ignore[method-assign]
        waiting = asyncio.create_task(api.get("/jobs?bulkId=all&wait=-1", api.bearer(who)))
        for number in range(30):
            api.emit(f"other-{number}", "created", owner="carol")
            await api.project()
            api.show()
            api.service.progress.look()
        assert asked <= 3
        waiting.cancel()


async def test_a_wait_for_a_bulk_that_has_begun_is_answered_whatever_else_is_read(
    tmp_path: Path,
) -> None:
    """To refuse it then would cut the connection of who has waited for hours."""
    timeouts = Timeouts(unknown=60, position=60, sign_of_life=0.01)
    bounds: dict[str, Any] = {"max_reads_per_caller": 1, "max_page_bytes": 1 << 16}
    async with service(tmp_path, 1_500, timeouts=timeouts, **bounds) as api:
        for number in range(1, 1_500):
            api.emit(f"job-{number:04}", "completed")
        await api.project()
        api.show()
        url = f"{api.url}/jobs?bulkId=all&wait=-1"
        async with api.session.get(url, headers=api.bearer("alice")) as response:
            # It has begun.
            assert await response.content.readexactly(1) == b"\n"
            free = threading.Event()
            other = asyncio.create_task(
                api.service.reads.beside("alice", lambda _is_over: free.wait(60))
            )
            while not len(api.service.reads):
                await asyncio.sleep(0)
            api.emit("job-0000", "completed")
            await api.project()
            api.show()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while len(api.service.reads) < 2:
                        await asyncio.sleep(0)
            free.set()
            assert len(json.loads(await response.read())) == 1_500
        await other


# --- watches


async def test_watches_are_counted_by_caller(tmp_path: Path) -> None:
    async with service(tmp_path, 3, timeouts=PATIENT, max_waits=10, max_waits_per_caller=5) as api:
        # 160 in all, and half of them for each.
        unknown = [f"unknown-{number}" for number in range(200)]
        held = [await wait_for(api, *unknown[at : at + 40]) for at in (0, 40)]
        answer = await api.statuses("one-more", headers=api.bearer("alice"), wait=-1)
        refused(answer, 429, "too-many-waits")
        other = await wait_for(api, "job-0001", user="bob")
        for task in (*held, other):
            task.cancel()


async def test_jobs_of_waits_that_begin_are_counted(tmp_path: Path) -> None:
    """A wait for many jobs begins in several turns of the event loop; others begin in between."""
    async with service(tmp_path, 3, timeouts=PATIENT, max_waits=10) as api:
        # 160 in all; of the first one 100 are watched when the second one comes.
        asking = [
            asyncio.create_task(
                api.statuses(
                    *(f"{user}-{n}" for n in range(count)), headers=api.bearer(user), wait=-1
                )
            )
            for user, count in (("alice", 150), ("bob", 60))
        ]
        async with asyncio.timeout(20):
            (done,), (held,) = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        refused(done.result(), 429, "too-many-waits")
        held.cancel()


# --- places and prices


async def test_long_reads_of_a_caller_are_bounded(tmp_path: Path) -> None:
    async with service(tmp_path, 300, max_reads_per_caller=2, max_reads=3) as api:
        alice, path = api.bearer("alice"), "/jobs/search?size=1000"
        line = api.service.reads._line
        for _ in range(2):
            line._there["alice"] += 1
        refused(await api.get(path, alice), 429, "too-many-reads")
        assert (await api.get("/jobs/search?size=20", alice)).status == 200
        assert (await api.get(path, api.bearer("bob"))).status == 200
        line._there["carol"] += 1
        refused(await api.get(path, api.bearer("bob")), 503, "busy")
        line._there.clear()
        assert (await api.get(path, alice)).status == 200
        assert 'jobtrail_long_reads_refused_total{bound="caller"} 1.0' in await metrics(api)


async def test_a_long_read_has_its_time(tmp_path: Path) -> None:
    async with service(tmp_path, 300, max_read_seconds=0.01) as api:
        reads = api.service.reads
        reads.limits = reads.limits._replace(seconds=-1.0)
        reads._store._meter.every = 1  # type: ignore[union-attr]
        answer = await api.get("/jobs/search?size=1000&tag=rare:no", api.bearer("alice"))
        refused(answer, 503, "read-too-long")
        assert 'jobtrail_long_reads_refused_total{bound="deadline"} 1.0' in await metrics(api)


async def metrics(api: Api) -> str:
    return (await api.send("GET", "/metrics", {"Accept-Encoding": "identity"})).body.decode()


def test_a_caller_pays_for_what_a_request_costs() -> None:
    clock = Clock()
    rate = Rate(10.0, 20, clock)
    rate.take("alice")
    rate.charge("alice", 9.0)
    assert taken(rate) == 10
    # What costs more than there is takes what there is.
    clock.now += 1.0
    rate.charge("alice", 1e9)
    assert taken(rate) == 0
    clock.now += 1.0
    assert taken(rate) == 10


async def test_what_was_written_is_not_refused_for_the_size_of_its_answer(tmp_path: Path) -> None:
    most = 1 << 17
    bounds: dict[str, Any] = {"max_outgoing_bytes_per_caller": most, "writable": True}
    async with service(tmp_path, 1, **bounds) as api:
        batch = [
            {"specversion": "1.0", "id": f"e{n}", "source": "//s", "type": "job.active"}
            | {"subject": f"new-{n}"}
            for n in range(2_000)
        ]
        token = make_token(api.secret, "alice", permissions=[WRITE], lifetime=timedelta(hours=1))
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/cloudevents-batch+json",
            "Accept-Encoding": "identity",
        }
        body = json.dumps(batch).encode()
        outgoing, before = api.service.outgoing, sum(map(len, api.records.values()))
        # Less than may be under way, and what more of it there would be is too much.
        outgoing.take("alice", most - 1)
        answer = await api.send("POST", "/events", headers, body)
        assert (answer.status, len(answer.json["events"])) == (200, len(batch))
        assert sum(map(len, api.records.values())) == before + len(batch)
        outgoing.take("alice", 1, written=True)
        refused(await api.send("POST", "/events", headers, body), 429, "too-many-bytes")
        assert sum(map(len, api.records.values())) == before + len(batch)
        assert outgoing.size == most
