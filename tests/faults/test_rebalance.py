"""Workers join and leave while events flow: nothing is lost, nothing is out of order."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import MakeLog
from tests.faults.flows import Traffic, all_get_on, applied, equals_fold, losses, until
from tests.faults.groups import give_up, settled
from tests.processes import Process, projector


@pytest.mark.timeout(420)
async def test_workers_that_join_and_leave_lose_nothing(
    make_log: MakeLog, running: list[Process]
) -> None:
    settings = await make_log()
    first, second, third = workers = [projector(settings, number) for number in range(3)]
    running.extend(workers)
    names = [f"projector-{number}" for number in range(3)]
    async with Traffic(settings, 3):
        await first.start()
        await until(lambda: applied(settings) > 0, "the first worker is at work")
        await asyncio.gather(second.start(), third.start())
        await settled(settings, *names)
        await all_get_on(settings)
        # A worker that is started anew under its name gets its partitions back.
        await second.kill()
        await second.start()
        assert await third.stop() == 0
        await third.start()
        await all_get_on(settings)
        # Two that leave for good, one by one.
        assert await third.stop() == 0
        await settled(settings, *names[:2])
        await first.kill()
        await give_up(settings, names[0])
        await settled(settings, names[1])
        await all_get_on(settings)
        await first.start()
        await settled(settings, *names[:2])
        await all_get_on(settings)
    await equals_fold(settings)
    assert losses(settings) == []
