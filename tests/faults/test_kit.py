"""Everything is killed and every link is broken under load, and nothing is lost or told wrongly.

The short form of `make soak`. A seed is in each test's name: with the same one the same is drawn.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.faults.kit.keeping import Keeper, first_of
from tests.faults.kit.proxy import FAULTS, drawn
from tests.faults.kit.stage import Shape, Stage, staged
from tests.waiting import look_again

pytestmark = pytest.mark.timeout(1500)
KILLS = 20
#: Seconds that are waited for a process to be ready before it is killed all the same.
PATIENCE = 8.0
#: Seconds in which what was broken has to work again.
MENDED = 90.0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep out of the report what our clients say of a broker that is away: some lines a second."""
    caplog.set_level(logging.CRITICAL, logger="aiokafka")


async def again(stage: Stage, which: Sequence[Keeper], draw: random.Random) -> None:
    """Kill some processes `KILLS` times in all: some while they start, some once they work.

    While the broker is killed again and again, one may never be ready.
    """
    for number in range(KILLS):
        keeper = draw.choice(which)
        if number % 3:
            await first_of(keeper.ready.is_set, PATIENCE)
        await until(lambda one=keeper: bool(one.pids()), f"{keeper.name} is there")
        await asyncio.sleep(draw.uniform(0, 2))
        while not stage.kill(keeper):
            await look_again()


async def broker_again(stage: Stage, draw: random.Random) -> None:
    """Kill the broker, each time once it has acknowledged something since the last.

    Now and then all else gets on in between.
    """
    for number in range(KILLS):
        await stage.broker.is_ready()
        await (acknowledged(stage) if (number + 1) % 5 else works(stage))
        await asyncio.sleep(draw.uniform(0, 1))
        assert stage.kill(stage.broker)


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(MENDED):
            while not condition():
                await look_again()
    except TimeoutError:
        raise AssertionError(f"waited {MENDED:.0f} s in vain until {what}") from None


async def acknowledged(stage: Stage) -> None:
    """Wait until an event is acknowledged that was not yet."""
    before = stage.load.acknowledged
    await until(lambda: stage.load.acknowledged > before, "an event is acknowledged")


async def works(stage: Stage) -> None:
    """Wait until every process does what it is for, on every link."""
    await acknowledged(stage)
    written = dict(stage.load.position)
    await until(
        lambda: all(stage.position.get(p, 0) > at for p, at in written.items()),
        f"every partition gets on behind {written}",
    )
    async with asyncio.timeout(MENDED):
        for keeper in stage.apis:
            while not await stage.answers(keeper):
                await look_again()


async def nothing_is_wrong(stage: Stage) -> None:
    """Wait until all is level, and hold everything against the second model's fold."""
    await stage.settle()
    report = await stage.check()
    assert report.ok, report
    assert report.acknowledged == stage.load.acknowledged > 0
    assert not stage.clients.faults, stage.clients.words
    assert stage.clients.woken, "no wait was told of an end"
    assert all(listener.told for listener in stage.clients.listeners[:2])


@pytest.mark.parametrize("seed", [1])
async def test_everything_is_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    shape = Shape(seed, rate=300, waits=40, listeners=12, apis=1)
    async with staged(tmp_path, shape) as stage:
        async with asyncio.TaskGroup() as killing:
            killing.create_task(broker_again(stage, random.Random(f"{seed} broker")))
            killing.create_task(again(stage, stage.projectors, random.Random(f"{seed} folding")))
            killing.create_task(again(stage, stage.apis, random.Random(f"{seed} answering")))
        await works(stage)
        await nothing_is_wrong(stage)
    assert stage.broker.kills == stage.apis[0].kills == KILLS
    assert sum(keeper.kills for keeper in stage.projectors) == KILLS


@pytest.mark.parametrize("seed", [2])
async def test_every_link_is_broken_in_every_way(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    kinds = draw.sample(FAULTS, len(FAULTS))
    shape = Shape(seed, rate=300, waits=40, listeners=12, apis=1, proxied=True)
    async with staged(tmp_path, shape) as stage:
        assert len(stage.links) == 4
        for turn in range(len(kinds)):
            for number, link in enumerate(stage.links.values()):
                await link.apply(drawn(kinds[(turn + number) % len(kinds)], draw))
            await asyncio.sleep(draw.uniform(1, 3))
            for link in stage.links.values():
                await link.heal()
            await works(stage)
        await nothing_is_wrong(stage)
