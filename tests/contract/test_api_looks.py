"""Requests that are held until something is there: they are counted, and their looks have turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from projections.ports.read import Watermark
from services.api.limits.limits import Timeouts
from services.api.problems.problems import BEHIND, TOO_MANY_REQUESTS, TOO_MANY_WAITS
from services.api.routes.reach import Known, surely
from tests.contract.api_service import PATIENT, Answer, Api, running
from tests.waiting import until

MANY = 40


async def hold(api: Api, user: str, count: int) -> asyncio.Task[Answer]:
    """Wait for a bulk that nobody knows; return when the service holds so many."""
    task = asyncio.create_task(api.get("/jobs?bulkId=b&wait=60", api.bearer(user)))
    async with asyncio.timeout(30):
        await until(lambda: len(api.service.slots) == count)
    return task


async def test_waits_for_an_unknown_bulk_are_counted(tmp_path: Path) -> None:
    bounds = {"max_waits": 3, "max_waits_per_caller": 2}
    async with running(tmp_path, timeouts=PATIENT, **bounds) as api:
        api.make_store()
        api.follow()
        theirs = [await hold(api, "mallory", count) for count in (1, 2)]
        refused = await api.get("/jobs?bulkId=b&wait=60", api.bearer("mallory"))
        assert (refused.status, refused.json["type"]) == (429, TOO_MANY_WAITS.type)
        assert refused.headers["Retry-After"] == "1"
        hers = await hold(api, "alice", 3)
        refused = await api.get("/jobs?bulkId=b&wait=60", api.bearer("bob"))
        assert (refused.status, refused.json["type"]) == (429, TOO_MANY_WAITS.type)
        # Who does not wait is not held.
        assert (await api.get("/jobs?bulkId=b", api.bearer("bob"))).status == 404
        api.emit("j", "created", bulkId="b", viewers=["user:mallory"])
        api.emit("j", "completed")
        api.show()
        await api.project()
        answers = [await task for task in (*theirs, hers)]
        assert [list(answer.json) for answer in answers] == [["j"]] * 3
        assert len(api.service.slots) == 0


async def test_who_goes_away_frees_their_place(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        task = await hold(api, "alice", 1)
        task.cancel()
        async with asyncio.timeout(30):
            await until(lambda: not len(api.service.slots))


async def test_who_waits_for_the_same_looks_by_turns(tmp_path: Path) -> None:
    async with running(tmp_path, timeouts=PATIENT) as api:
        api.make_store()
        api.follow()
        loop = asyncio.get_running_loop()
        turn = 0
        there = False
        looks: Counter[tuple[str, int]] = Counter()

        def count() -> None:
            nonlocal turn
            turn += 1
            if len(looks) < 2 * MANY:
                loop.call_soon(count)

        def known(_held: Watermark) -> bool:
            return there

        async def ask(user: str) -> None:
            def read() -> tuple[None, Known | None]:
                if there:
                    looks[user, turn] += 1
                return None, None if there else known

            await surely(api.service, user, read)

        asking = [asyncio.create_task(ask(user)) for user in ("alice", "bob") for _ in range(MANY)]
        async with asyncio.timeout(30):
            while len(api.service.progress.waiting) < 2 * MANY:
                await asyncio.sleep(0)
            there = True
            count()
            await asyncio.gather(*asking)
        # One request of each at a time.
        assert sum(looks.values()) == 2 * MANY
        assert set(looks.values()) == {1}


async def test_each_look_but_the_first_has_its_price(tmp_path: Path) -> None:
    rate = {"max_request_rate": 0.1, "max_request_burst": 4}
    timeouts = Timeouts(unknown=0.05, position=1.2)
    async with running(tmp_path, timeouts=timeouts, **rate) as api:
        # Nothing is known of the log, so nothing is known not to be there.
        api.make_store()
        answer = await api.get("/jobs/nothing", api.bearer("mallory"))
        assert (answer.status, answer.json["type"]) == (503, BEHIND.type)
        answer = await api.get("/jobs/nothing", api.bearer("mallory"))
        assert (answer.status, answer.json["type"]) == (429, TOO_MANY_REQUESTS.type)
        # Others have their own.
        answer = await api.get("/jobs/nothing", api.bearer("alice"))
        assert (answer.status, answer.json["type"]) == (503, BEHIND.type)
