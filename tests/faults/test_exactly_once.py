"""Projectors killed with SIGKILL while events flow: each event takes effect once.

`FAULT_KILLS=1000` makes a long run of it.
"""

from __future__ import annotations

import asyncio
import os
import random
from typing import Final

import pytest

from jobtrail.settings import Settings
from tests.conftest import MakeLog
from tests.faults.flows import Traffic, applied, equals_fold, fold_of, losses, read_topic, until
from tests.processes import Process, projector

#: All in all; a long run takes 1,000.
KILLS: Final = int(os.environ.get("FAULT_KILLS", "12"))
#: Logs with a projector each, that are at it at the same time.
LINES: Final = 2
pytestmark = pytest.mark.timeout(240 + 30 * KILLS)


async def killed_again_and_again(settings: Settings, worker: Process, seed: int) -> None:
    """Kill a projector and start it anew, whatever it is at: starting, catching up, level."""
    chance = random.Random(seed)
    async with Traffic(settings, seed):
        await worker.spawn()
        for _ in range(KILLS // LINES):
            goal = applied(settings) + chance.randrange(3000)
            await until(lambda goal=goal: applied(settings) >= goal, f"{goal} events are applied")
            await worker.kill()
            await worker.spawn()
    log = await equals_fold(settings)
    assert losses(settings) == []
    letters = (await read_topic(settings, settings.dead_topic))[0]
    # One that died between a letter and its commit has written the letter again.
    places = {dict(letter.headers)["jobtrail-place"] for letter in letters}
    assert len(places) == sum(tally.dead for tally in fold_of(log).tallies().values())


async def test_killed_projectors_apply_each_event_once(
    make_log: MakeLog, running: list[Process]
) -> None:
    logs = [await make_log() for _ in range(LINES)]
    running += [projector(settings) for settings in logs]
    async with asyncio.TaskGroup() as lines:
        for seed, (settings, worker) in enumerate(zip(logs, running, strict=True)):
            lines.create_task(killed_again_and_again(settings, worker, seed))
