"""Positions that somebody makes up, on hundreds of connections: they keep nobody from the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import aiohttp
import pytest

from jobtrail.access.tokens import local_secret, make_token
from jobtrail.core.position import format_position
from tests.conftest import MakeLog
from tests.faults.flows import ends_of, write
from tests.faults.test_api_log_changes import jobs, served
from tests.processes import Process

CONNECTIONS = 400
#: Requests of each connection.
ROUNDS = 4


@pytest.mark.timeout(300)
async def test_made_up_positions_keep_nobody_from_the_log(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        place = await served(settings, running, session)
        await write(settings, jobs("job", 500))
        await place.level()
        ends = await ends_of(settings)
        token = make_token(local_secret(settings.data_dir), "mallory", (), (), timedelta(hours=1))
        answers: Counter[int] = Counter()

        async def make_up(number: int) -> None:
            for each in range(ROUNDS):
                partition = number % len(ends)
                offset = (number * ROUNDS + each) % ends[partition]
                position = format_position({partition: offset + 1}, {partition: 0})
                headers = {"Authorization": f"Bearer {token}", "Jobtrail-Position": position}
                async with session.get(f"{place.url}/jobs/search", headers=headers) as answer:
                    answers[answer.status] += 1

        making = asyncio.gather(*(make_up(number) for number in range(CONNECTIONS)))
        others: Counter[int] = Counter()
        while not making.done():
            # That it is not there can be told only while the tail hears from the log.
            others[(await place.get("/jobs/nothing"))[0]] += 1
            others[(await place.get("/jobs/job-1"))[0] + 1000] += 1
        await making
        assert others.keys() == {404, 1200}
        # The others were more than one caller may have waiting.
        assert answers[410] > 0
        assert answers.keys() <= {410, 429}
